//! The words of a line: plain ones, and those in double quotes. A backslash keeps its meaning for
//! the table line that stands between the quotes, so nothing is escaped twice.

use crate::failure::Failure;

/// A word as it is written, without its quotes; a backslash and what follows it are both there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Plain(String),
    Quoted(String),
}

impl Word {
    /// The text between the quotes, or of the plain word.
    pub(super) fn text(&self) -> &str {
        match self {
            Word::Plain(text) | Word::Quoted(text) => text,
        }
    }
}

/// Splits a line.
pub(super) fn words(line: &str) -> Result<Vec<Word>, Failure> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(first) = chars.next() {
        if first.is_ascii_whitespace() {
            continue;
        }
        let is_quoted = first == '"';
        let mut text = if is_quoted { String::new() } else { String::from(first) };
        let mut is_escaped = first == '\\';
        let mut is_open = is_quoted;
        while let Some(next) = chars.peek().copied() {
            if !is_quoted && !is_escaped && next.is_ascii_whitespace() {
                break;
            }
            chars.next();
            if next == '"' && !is_escaped {
                if !is_quoted {
                    return Err("a quote in the middle of a word: it is written \\\"".into());
                }
                is_open = false;
                break;
            }
            text.push(next);
            is_escaped = next == '\\' && !is_escaped;
        }
        if is_open {
            return Err("a quote is not closed".into());
        }
        if is_quoted && chars.peek().is_some_and(|next| !next.is_ascii_whitespace()) {
            return Err("a blank is missing after a closing quote".into());
        }
        words.push(if is_quoted { Word::Quoted(text) } else { Word::Plain(text) });
    }
    Ok(words)
}

/// A word without the backslashes that escape.
pub(super) fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => plain.push(chars.next().unwrap_or('\\')),
            next => plain.push(next),
        }
    }
    plain
}

/// A word in the form that reads back as it is: `special` characters have a meaning where it
/// stands.
pub(super) fn escaped(text: &str, special: &str) -> String {
    let mut written = String::new();
    for (at, next) in text.chars().enumerate() {
        let opens_comment = at == 0 && next == '#';
        if matches!(next, '\\' | '"')
            || next.is_ascii_whitespace()
            || opens_comment
            || special.contains(next)
        {
            written.push('\\');
        }
        written.push(next);
    }
    written
}

/// A table line in quotes. Its own escapes stay; a quote in it is escaped, which means the quote
/// itself in a table line, too.
pub(super) fn quoted(line: &str) -> String {
    let mut written = String::from("\"");
    let mut is_escaped = false;
    for next in line.chars() {
        if next == '"' && !is_escaped {
            written.push('\\');
        }
        written.push(next);
        is_escaped = next == '\\' && !is_escaped;
    }
    written.push('"');
    written
}

/// The parts of a plain word between its commas, without the backslashes that escape.
pub(super) fn parts(text: &str) -> Vec<String> {
    raw_parts(text).iter().map(|part| unescaped(part)).collect()
}

/// The parts of a plain word between its commas, as they are written.
pub(super) fn raw_parts(text: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut is_escaped = false;
    for next in text.chars() {
        if next == ',' && !is_escaped {
            parts.push(std::mem::take(&mut part));
            continue;
        }
        part.push(next);
        is_escaped = next == '\\' && !is_escaped;
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_at_blanks_outside_of_quotes() {
        let plain = |text: &str| Word::Plain(text.to_owned());
        let quoted = |text: &str| Word::Quoted(text.to_owned());
        for (line, expected) in [
            ("", vec![]),
            ("  \t ", vec![]),
            ("a  b\tc", vec![plain("a"), plain("b"), plain("c")]),
            (r#"a "0 8 zero"  b"#, vec![plain("a"), quoted("0 8 zero"), plain("b")]),
            (r#""" x"#, vec![quoted(""), plain("x")]),
            (r#""/a\ b \" \\" x"#, vec![quoted(r#"/a\ b \" \\"#), plain("x")]),
            (r"a\ b c\\ d", vec![plain(r"a\ b"), plain(r"c\\"), plain("d")]),
            (r#"a\"b"#, vec![plain(r#"a\"b"#)]),
            ("größe é", vec![plain("größe"), plain("é")]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        for (line, why) in [
            (r#"a "0 8"#, "not closed"),
            (r#"a "0 8\""#, "not closed"),
            (r#"a "0 8"b"#, "a blank is missing"),
            (r#"a"b c""#, "in the middle"),
        ] {
            assert!(words(line).unwrap_err().contains(why), "{line}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["a", "a b", "a\\", "\"", "#x", "a,b", "\\,", "größe", "a\tb", "\\\\"] {
            let line = escaped(text, ",");
            let [Word::Plain(word)] = &words(&line).unwrap()[..] else { panic!("{line}") };
            assert_eq!(unescaped(word), text, "{line}");
            assert_eq!(parts(word), [text], "{line}");
        }
        for text in ["0 8 zero", r"0 8 linear /a\ b 0", r#"0 8 linear /a"b 0"#, r"/a\\", r#"\""#] {
            let line = quoted(text);
            let [Word::Quoted(word)] = &words(&line).unwrap()[..] else { panic!("{line}") };
            assert_eq!(unescaped(word), unescaped(text), "{line}");
        }
        assert_eq!(parts(r"a,b\,c,,d"), ["a", "b,c", "", "d"]);
    }
}
