//! Numbers of bytes as people write and read them.

/// Reads `64`, `64KiB`, `8MiB` or `1k` (powers of two throughout).
pub(super) fn parse(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        unit => return Err(format!("{unit:?} is no unit of bytes; use none, KiB, MiB or GiB")),
    };
    let number: usize = digits.trim().parse().map_err(|_| format!("{text:?} is no number of bytes"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is more bytes than this machine can count"))
}

/// Writes a size as briefly as it is exact: `64 B`, `8 MiB`; others with one decimal.
pub(super) fn readable(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, factor) in UNITS {
        if bytes >= factor {
            let (whole, rest) = (bytes / factor, bytes % factor);
            return match rest * 10 / factor {
                0 if rest == 0 => format!("{whole} {unit}"),
                tenths => format!("{whole}.{tenths} {unit}"),
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let read = ["64", "1k", "64KiB", "8 MiB", "1g"].map(|text| parse(text).unwrap());
        assert_eq!(read, [64, 1024, 65536, 8 << 20, 1 << 30]);
        assert!(parse("").is_err() && parse("1x").is_err() && parse("-1").is_err());
        assert!(parse("99999999999999999999").is_err() && parse("18446744073709551615k").is_err());
    }

    #[test]
    fn sizes_are_shown_briefly() {
        let shown = [0, 64, 1024, 1536, 8 << 20, (1 << 30) + 1].map(readable);
        assert_eq!(shown, ["0 B", "64 B", "1 KiB", "1.5 KiB", "8 MiB", "1.0 GiB"]);
    }
}
