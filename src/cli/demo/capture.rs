//! What a receiver's capture is: lines, each with the topic of its kind; and the hashes by which readers prove
//! that they got them.
//!
//! A capture may hold anything: NMEA sentences, gpsd's JSON, comments, binary protocols that happen to contain
//! line feeds. A line is what stands between two line feeds, byte for byte.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The capture that comes with the program: an invented trip of a boat.
pub(super) const SHIPPED: &[u8] = include_bytes!("capture.nmea");
/// Longest line that a JSON subscriber sees whole, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest kind of sentence that becomes a topic of its own, in bytes.
const KIND_BYTES_MAX: usize = 16;
/// Where everything else goes.
const OTHER: &str = "gps.other";

/// The lines of a capture, without their line feeds. A last line without one counts.
pub(super) fn lines(capture: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = capture.strip_suffix(b"\n").unwrap_or(capture);
    let count = if capture.is_empty() { 0 } else { usize::MAX };
    whole.split(|byte| *byte == b'\n').take(count)
}

/// The topic for a line: `gps.GPGGA`, `gps.TPV`, `gps.other`.
pub(super) fn topic(line: &[u8]) -> String {
    let kind = match line.first() {
        Some(b'$' | b'!') => line[1..].split(|byte| *byte == b',' || *byte == b'*').next(),
        Some(b'{') => line
            .strip_prefix(br#"{"class":""#.as_slice())
            .and_then(|rest| rest.split(|byte| *byte == b'"').next()),
        _ => None,
    };
    let is_token = |kind: &&[u8]| {
        (1..=KIND_BYTES_MAX).contains(&kind.len()) && kind.iter().all(u8::is_ascii_alphanumeric)
    };
    match kind.filter(is_token) {
        Some(kind) => format!("gps.{}", String::from_utf8_lossy(kind)),
        None => OTHER.to_owned(),
    }
}

/// What was sent or received, topic by topic: how much, and a hash over all of it in order.
#[derive(Debug, Default)]
pub(super) struct Proof {
    topics: BTreeMap<String, (Sum, blake3::Hasher)>,
}

/// One topic of a [`Proof`], to be compared with another's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    hash: String,
}

/// A finished proof.
pub(super) type Sums = BTreeMap<String, Sum>;

impl Proof {
    /// Adds the next message of a topic.
    pub(super) fn add(&mut self, topic: &str, message: &[u8]) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_owned(), Default::default());
        }
        let Some((sum, hasher)) = self.topics.get_mut(topic) else { return };
        sum.messages += 1;
        sum.bytes += message.len() as u64;
        // The length keeps apart what two messages together and one long one would hash alike.
        hasher.update(&(message.len() as u64).to_le_bytes());
        hasher.update(message);
    }

    /// All sums.
    pub(super) fn finish(self) -> Sums {
        let finished = |(topic, (sum, hasher)): (String, (Sum, blake3::Hasher))| {
            (topic, Sum { hash: hasher.finalize().to_hex().to_string(), ..sum })
        };
        self.topics.into_iter().map(finished).collect()
    }
}

/// Messages and bytes of all topics together.
pub(super) fn total(sums: &Sums) -> (u64, u64) {
    sums.values().fold((0, 0), |(messages, bytes), sum| (messages + sum.messages, bytes + sum.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_byte_for_byte() {
        let found = |capture| lines(capture).collect::<Vec<&[u8]>>();
        assert_eq!(found(b"a\r\n\n\xb5b"), [b"a\r".as_slice(), b"", b"\xb5b"]);
        assert_eq!(found(b"a\n"), [b"a"]);
        assert_eq!(found(b"\n"), [b""]);
        assert_eq!(found(b"\n\n"), [b"", b""]);
        assert!(found(b"").is_empty());
    }

    #[test]
    fn topics_are_kinds_of_sentences() {
        let lines: [&[u8]; 8] = [
            b"$GPGGA,1*00\r",
            b"!AIVDM,2",
            br#"{"class":"TPV","mode":3}"#,
            b"# x",
            b"$,",
            b"$a.b,",
            b"\xb5\x62",
            b"",
        ];
        let topics = lines.map(topic);
        assert_eq!(topics[..3], ["gps.GPGGA", "gps.AIVDM", "gps.TPV"]);
        assert!(topics[3..].iter().all(|topic| topic == OTHER));
        assert_eq!(topic(format!("${},", "A".repeat(17)).as_bytes()), OTHER);
    }

    #[test]
    fn a_proof_sees_order_and_boundaries() {
        let sums = |messages: &[&[u8]]| {
            let mut proof = Proof::default();
            messages.iter().for_each(|message| proof.add("t", message));
            proof.finish()
        };
        assert_eq!(sums(&[b"ab", b"c"]), sums(&[b"ab", b"c"]));
        assert_ne!(sums(&[b"ab", b"c"]), sums(&[b"c", b"ab"]));
        assert_ne!(sums(&[b"ab", b"c"]), sums(&[b"a", b"bc"]));
        assert_eq!(total(&sums(&[b"ab", b"c"])), (2, 3));
    }

    #[test]
    fn the_shipped_capture_has_true_checksums_and_both_languages() {
        let mut sentences = 0;
        for line in lines(SHIPPED).filter(|line| line.first() == Some(&b'$')) {
            let text = std::str::from_utf8(line).unwrap().strip_suffix('\r').expect("NMEA ends in CR LF");
            let (body, sum) = text[1..].split_once('*').unwrap();
            let xor = body.bytes().fold(0, |sum, byte| sum ^ byte);
            assert_eq!(u8::from_str_radix(sum, 16).unwrap(), xor, "{text}");
            sentences += 1;
        }
        let json = lines(SHIPPED).filter(|line| line.first() == Some(&b'{'));
        let records: Vec<serde_json::Value> =
            json.map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert!(sentences > 200 && records.len() > 40, "{sentences} sentences, {} records", records.len());
    }
}
