//! The words of table lines: parsed, printed, and shown in errors; and sizes as people write them
//! on the command line. Pure.
//!
//! Rules kept here: what the kernel accepts is accepted, and a printed word is parsed back to the
//! same word.

use std::fmt;

use crate::units::SECTOR_BYTES;

/// A table line that cannot be used, in one line of text that names the argument and the reason.
/// The kernel answers each of them with `EINVAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError(String);

impl TableError {
    pub(crate) fn new(text: impl Into<String>) -> TableError {
        TableError(text.into())
    }

    /// The error of one of several lines, with the line's number.
    pub(crate) fn on_line(self, number: usize) -> TableError {
        TableError(format!("line {number}: {}", self.0))
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TableError {}

/// The words of a line, taken one by one. A backslash escapes the next character, as in the kernel.
pub(crate) struct Words {
    /// What errors begin with: the target, when it is known.
    pub(crate) target: String,
    words: std::vec::IntoIter<String>,
}

impl Words {
    /// Splits a line.
    pub(crate) fn new(text: &str) -> Result<Words, TableError> {
        if text.contains('\0') {
            return Err(TableError::new("the line contains a zero byte"));
        }
        let mut words = Vec::new();
        let mut word = String::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            if char == '\\' && chars.peek().is_some() {
                word.extend(chars.next());
            } else if !is_space(char) {
                word.push(char);
            } else if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        Ok(Words { target: String::new(), words: words.into_iter() })
    }

    /// How many words are left.
    pub(crate) fn left(&self) -> usize {
        self.words.len()
    }

    /// An error that names the target.
    pub(crate) fn error(&self, text: impl fmt::Display) -> TableError {
        TableError(format!("{}{text}", self.target))
    }

    /// The next word, which is the argument `what`.
    pub(crate) fn next(&mut self, what: &str) -> Result<String, TableError> {
        self.words.next().ok_or_else(|| self.error(format_args!("{what} is missing")))
    }

    /// A decimal number up to `max`.
    pub(crate) fn number(&mut self, what: &str, max: u64) -> Result<u64, TableError> {
        let word = self.next(what)?;
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        match word.parse::<u64>() {
            Ok(number) if digits && number <= max => Ok(number),
            _ if digits => Err(self.error(format_args!("{what} {}: too large", shown(&word)))),
            _ => Err(self.error(format_args!("{what} {}: not a decimal number", shown(&word)))),
        }
    }

    /// The count before optional words, and the words; a missing count counts as none.
    pub(crate) fn counted_features(&mut self, max: usize) -> Result<Vec<String>, TableError> {
        if self.left() == 0 {
            return Ok(Vec::new());
        }
        let count = self.number("feature count", u64::MAX)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > max {
            return Err(self.error(format_args!("feature count {count}: at most {max}")));
        }
        if count > self.left() {
            return Err(
                self.error(format_args!("feature count {count}, but {} follow", self.left()))
            );
        }
        Ok(self.words.by_ref().take(count).collect())
    }

    /// Fails if a word is left.
    pub(crate) fn end(&mut self) -> Result<(), TableError> {
        match self.words.next() {
            Some(word) => {
                Err(self.error(format_args!("{} is one argument too many", shown(&word))))
            }
            None => Ok(()),
        }
    }
}

/// The lines of a text with their numbers, from 1. An escaped end of line is part of a word.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let (mut rest, mut number) = (Some(text), 0);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_escaped = false;
        let end = text.bytes().position(|byte| {
            let ends = byte == b'\n' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        });
        number += 1;
        rest = end.map(|end| &text[end + 1..]);
        Some((number, end.map_or(text, |end| &text[..end])))
    })
}

/// The characters that end a word; only ASCII ones, so a name in any script is one word.
pub(crate) fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t'..='\r')
}

/// A word in quotes for an error, shortened, and on one line.
pub(crate) fn shown(word: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown = String::from("\"");
    for char in word.chars().take(LONGEST) {
        match char {
            '"' | '\\' => shown.extend(['\\', char]),
            _ if char.is_control() => shown.extend(char.escape_default()),
            _ => shown.push(char),
        }
    }
    shown.push_str(if word.chars().count() > LONGEST { "\"..." } else { "\"" });
    shown
}

/// A device word in the form that parses back to it.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            if char == '\\' || is_space(char) {
                f.write_str("\\")?;
            }
            write!(f, "{char}")?;
        }
        Ok(())
    }
}

/// A size that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// It is not a whole number with a known unit.
    Malformed,
    /// It is more than 2^63-1 bytes, the longest any device or file can be.
    TooLarge,
}

/// A size in bytes from a whole number with a unit: none for bytes, `s` for 512-byte sectors, `k`,
/// `m`, `g`, `t` or `KiB`, `MiB`, `GiB`, `TiB` for powers of 1024, in upper or lower case. `KB` and
/// its like are refused, because half of the world means powers of 1000.
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
    // Only digits, so a failure to parse is an overflow.
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let bytes: u64 = number.checked_mul(unit_bytes).ok_or(SizeError::TooLarge)?;
    if i64::try_from(bytes).is_err() { Err(SizeError::TooLarge) } else { Ok(bytes) }
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SizeError::Malformed => {
                "must be a whole number of bytes, or one with s (sectors), k, m, g, t, KiB, MiB, \
                 GiB or TiB"
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
    fn a_word_is_shown_on_one_line() {
        for (word, expected) in [
            ("x", "\"x\""),
            ("a \"b\" \\", "\"a \\\"b\\\" \\\\\""),
            ("a\nb\u{7}\u{85}", "\"a\\nb\\u{7}\\u{85}\""),
            ("größe", "\"größe\""),
        ] {
            assert_eq!(shown(word), expected);
        }
        assert_eq!(shown(&"é".repeat(64)), format!("\"{}\"", "é".repeat(64)));
        assert_eq!(shown(&"é".repeat(65)), format!("\"{}\"...", "é".repeat(64)));
    }

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
        for text in [
            "", "k", "KiB", "-1", "+1", " 1", "1 ", "1 k", "1.5g", "0x10", "1KB", "1kb", "1b",
            "1p", "1kk", "½", "1é",
        ] {
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
        for text in [
            "9".repeat(1 << 20),
            "0".repeat(1 << 20) + "1g",
            "k".repeat(1 << 20),
            " ".repeat(1 << 20),
        ] {
            assert!(
                parse_size(&text).is_err() || parse_size(&text) == Ok(1 << 30),
                "{} bytes",
                text.len()
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn no_text_panics(
            text in any::<String>(),
            number in any::<u128>(),
            unit in "[skmgtKMGTiB]{0,4}"
        ) {
            let fits = |bytes| i64::try_from(bytes).is_ok();
            prop_assert!(parse_size(&text).map_or(true, fits));
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
