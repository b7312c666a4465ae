//! The words of table lines: taken from a line, put into one, and shown in errors. Pure.
//!
//! Rules kept here: what the kernel takes is taken, and a word that was printed is read back as the same word.

use std::fmt;

/// A table line that cannot be used, in one line of text that names the argument and the reason. The kernel answers
/// each of them with `EINVAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError(String);

impl TableError {
    pub(crate) fn new(text: impl Into<String>) -> TableError {
        TableError(text.into())
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TableError {}

/// The words of a line, taken one by one. A backslash takes the next character's meaning away, as in the kernel.
pub(crate) struct Words {
    /// What errors begin with: the target, when it is known.
    pub(crate) target: String,
    words: std::vec::IntoIter<String>,
}

impl Words {
    /// Takes a line apart.
    pub(crate) fn new(text: &str) -> Result<Words, TableError> {
        if text.contains('\0') {
            return Err(TableError::new("the line holds a zero byte"));
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

    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.words.len()
    }

    /// An error that names the target.
    pub(crate) fn error(&self, text: impl fmt::Display) -> TableError {
        TableError(format!("{}{text}", self.target))
    }

    /// The next one, which is the argument `what`.
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

    /// The count that stands before optional words, and the words; nothing at all counts as none.
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
            return Err(self.error(format_args!("feature count {count}, but {} follow", self.left())));
        }
        Ok(self.words.by_ref().take(count).collect())
    }

    /// No word may be left.
    pub(crate) fn end(&mut self) -> Result<(), TableError> {
        match self.words.next() {
            Some(word) => Err(self.error(format_args!("{} is one argument too many", shown(&word)))),
            None => Ok(()),
        }
    }
}

/// The characters that end a word; only ASCII ones, so a name in any script is one word.
pub(crate) fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t'..='\r')
}

/// A word in quotes for an error, short enough for one line and on one line.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
