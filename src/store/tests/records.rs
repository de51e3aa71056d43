//! Kept things as bytes: any of them comes back, and whatever else the bytes are is refused.

use super::*;
use crate::store::record::{self, Wrong};
use crate::store::{read_and_write, readable};
use proptest::collection::vec;
use proptest::prelude::*;

prop_compose! {
    fn sender()(name in ".{0,12}", uid: u32, pid: u32) -> Sender {
        Sender { name: name.into(), uid, pid }
    }
}

prop_compose! {
    fn obituary()(cause in ".{0,9}", reason in ".{0,30}", when: i64, by in proptest::option::of(sender())) -> Obituary {
        Obituary { cause: cause.into(), reason: reason.into(), when, by }
    }
}

prop_compose! {
    fn any_record()(
        bytes in vec(any::<u8>(), 0..200),
        priority in 0..=9_u8,
        attempts: u8,
        times: [i64; 3],
        from in sender(),
        topic in ".{0,20}",
        dead in proptest::option::of(obituary()),
    ) -> Record {
        let [since_millis, due_millis, expires_millis] = times;
        let (bytes, topic) = (bytes.into(), topic.into());
        Record { bytes, priority, attempts, since_millis, due_millis, expires_millis, from, topic, dead }
    }
}

proptest! {
    #[test]
    fn any_message_comes_back_as_it_was_under_its_own_key_only(record in any_record(), key: u128, bit in 0..128_u32) {
        let mut bytes = Vec::new();
        record::encode(key, &record, &mut bytes);
        prop_assert_eq!(bytes.len(), record::encoded_bytes(&record));
        prop_assert_eq!(record::view(key, &bytes).map(|view| view.to_record()), Ok(record));
        prop_assert_eq!(record::view(key ^ 1 << bit, &bytes), Err(Wrong::Checksum));
    }

    #[test]
    fn a_message_that_is_cut_longer_or_has_a_flipped_bit_is_refused(record in any_record(), at: prop::sample::Index, bit in 0..8_u8) {
        let mut bytes = Vec::new();
        record::encode(7, &record, &mut bytes);
        let at = at.index(bytes.len());
        prop_assert!(!readable(7, &bytes[..at]));
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(!readable(7, &bytes));
        bytes[at] ^= 1_u8 << bit;
        bytes.push(0);
        prop_assert!(!readable(7, &bytes));
    }

    /// As the fuzz target does: behind a right checksum, so that lengths and values decide.
    #[test]
    fn what_is_no_message_but_has_a_right_checksum_is_refused_or_means_one_thing(
        record in any_record(),
        kind in 0..6_u8,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut: prop::sample::Index,
    ) {
        let mut bytes = Vec::new();
        record::encode(7, &record, &mut bytes);
        bytes.truncate(bytes.len() - 8);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) % 3);
        let input = [&[kind][..], &7_u128.to_le_bytes(), &bytes].concat();
        if let Some((sealed, again)) = read_and_write(&input) {
            prop_assert_eq!(sealed, again);
        }
    }
}
