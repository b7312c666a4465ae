//! Sizes as people write them on the command line.

use std::fmt;

use crate::units::SECTOR_BYTES;

/// A size that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// It is not a whole number with a known unit.
    Malformed,
    /// It is more than 2^63-1 bytes, the longest any device or file can be.
    TooLarge,
}

/// A size in bytes from a whole number with a unit: none for bytes, `s` for 512-byte sectors, `k`, `m`, `g`, `t` or
/// `KiB`, `MiB`, `GiB`, `TiB` for powers of 1024, in upper or lower case. `KB` and its like are refused, because half of
/// the world means powers of 1000.
///
/// # Errors
/// [`SizeError`]: the text is something else, or the size fits no device.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // A digit is one byte, so the cut is between characters.
    let (number, unit) = text.split_at(digits);
    let unit_bytes = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "s" => SECTOR_BYTES,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(SizeError::Malformed),
    };
    if number.is_empty() {
        return Err(SizeError::Malformed);
    }
    // Nothing but digits, so a failure to parse is an overflow.
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let bytes: u64 = number.checked_mul(unit_bytes).ok_or(SizeError::TooLarge)?;
    if i64::try_from(bytes).is_err() { Err(SizeError::TooLarge) } else { Ok(bytes) }
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SizeError::Malformed => {
                "must be a whole number of bytes, or one with s (sectors), k, m, g, t, KiB, MiB, GiB or TiB"
            }
            SizeError::TooLarge => "is larger than any device can be",
        })
    }
}

impl std::error::Error for SizeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("8s", 4096),
            ("16k", 16384),
            ("16K", 16384),
            ("16KiB", 16384),
            ("3m", 3 << 20),
            ("3MiB", 3 << 20),
            ("2g", 2 << 30),
            ("2GiB", 2 << 30),
            ("16t", 16 << 40),
            ("16tib", 16 << 40),
            ("9223372036854775807", i64::MAX.unsigned_abs()),
            ("00000000000000000000000000000001", 1),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "k", "KiB", "-1", "+1", " 1", "1 ", "1 k", "1.5g", "0x10", "1KB", "1kb", "1b", "1p", "1kk", "½", "1é"]
        {
            assert_eq!(parse_size(text), Err(SizeError::Malformed), "{text}");
        }
        for text in [
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999999t",
            "8388608t",
            "18014398509481984s",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::TooLarge), "{text}");
        }
    }

    #[test]
    fn a_long_text_takes_one_pass() {
        for text in ["9".repeat(1 << 20), "0".repeat(1 << 20) + "1g", "k".repeat(1 << 20), " ".repeat(1 << 20)] {
            assert!(parse_size(&text).is_err() || parse_size(&text) == Ok(1 << 30), "{} bytes", text.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn no_text_panics(text in any::<String>(), number in any::<u128>(), unit in "[skmgtKMGTiB]{0,4}") {
            prop_assert!(parse_size(&text).is_ok_and(|bytes| i64::try_from(bytes).is_ok()) || parse_size(&text).is_err());
            if let Ok(bytes) = parse_size(&format!("{number}{unit}")) {
                prop_assert!(u128::from(bytes) >= number);
            }
        }

        #[test]
        fn sectors_are_512_bytes(sectors in 0..(1_u64 << 54)) {
            prop_assert_eq!(parse_size(&format!("{sectors}s")), Ok(sectors * 512));
        }
    }
}
