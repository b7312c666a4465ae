//! A line of the tab file: a device with its table and its options.

use std::fmt;
use std::path::{Path, PathBuf};

use dm_targets::table::{Table, TargetParams};

use super::options::Options;
use super::words::{Word, escaped, quoted, unescaped, words};
use crate::failure::Failure;
use crate::protocol::refuse_odd_name;

/// Where the links to devices by their names are.
pub const LINKS: &str = "/dev/ublk-dm/";

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A disk as a line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk<'a> {
    /// By an absolute path.
    Path(&'a str),
    /// By the name of a device of ublk-dm.
    Named(&'a str),
}

impl<'a> Disk<'a> {
    /// What a word of a line names.
    pub fn of(word: &'a str) -> Disk<'a> {
        match word.strip_prefix(LINKS) {
            Some(name) if !name.is_empty() && !name.contains('/') => Disk::Named(name),
            _ if word.contains('/') => Disk::Path(word),
            _ => Disk::Named(word),
        }
    }

    /// Refuses what may name another disk after the next start of the machine, or in another
    /// working directory.
    fn check(word: &str) -> Result<(), Failure> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let is_numbers = word.split_once(':').is_some_and(|(a, b)| is_number(a) && is_number(b));
        let by_number = word.strip_prefix("/dev/block/").is_some() || is_numbers;
        let why = if by_number {
            "the numbers of disks change when the machine starts again; name it by a link, such \
             as one in /dev/disk/by-id"
        } else if word.contains('/') && !Path::new(word).is_absolute() {
            "the path of a disk must be absolute"
        } else if word.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
            "the path of a disk must be written without `//`, `.` and `..`"
        } else {
            return Ok(());
        };
        Err(format!("{word}: {why}").into())
    }
}

/// A device that is to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its table, with the words of the line for its disks.
    pub table: Table,
    /// Its options.
    pub options: Options,
    /// Where it stands.
    pub place: Place,
}

impl Entry {
    /// Reads a line; `None`: it is empty or a comment.
    ///
    /// # Errors
    /// What is wrong with the line, without its place.
    pub(super) fn parse(line: &str, place: &Place) -> Result<Option<Entry>, Failure> {
        if is_comment(line) {
            return Ok(None);
        }
        let mut words = words(line)?.into_iter();
        let Some(name) = words.next() else { return Ok(None) };
        let name = unescaped(name.text());
        let refused = |why: Failure| why.context(&name);
        refuse_odd_name(&name)?;
        let (mut lines, mut options) = (Vec::new(), None);
        for word in words {
            match (word, &options) {
                (word, Some(_)) => return Err(refused(one_too_many(word.text()))),
                (Word::Quoted(line), None) => lines.push(line),
                (Word::Plain(text), None) if lines.is_empty() => return Err(refused(bare(&text))),
                (Word::Plain(text), None) => {
                    options = Some(Options::parse(&text).map_err(refused)?);
                }
            }
        }
        let table = table_of(&lines).map_err(refused)?;
        let entry =
            Entry { name, table, options: options.unwrap_or_default(), place: place.clone() };
        entry.check().map_err(|why| why.context(&entry.name))?;
        Ok(Some(entry))
    }

    fn check(&self) -> Result<(), Failure> {
        let Options { source, beside, other_origin, .. } = &self.options;
        let disks = self.table.params.devices();
        let words = disks.iter().chain(source).chain(beside);
        for word in words {
            Disk::check(word)?;
            if Disk::of(word) == Disk::Named(&self.name) {
                return Err(format!("{word}: the device cannot stand on itself").into());
            }
        }
        if let Some(source) = source {
            let TargetParams::Mirror(mirror) = &self.table.params else {
                return Err("option source: only a mirror has one".into());
            };
            if !mirror.legs.iter().any(|leg| leg.device == *source) {
                return Err(format!("option source={source}: not one of the legs").into());
            }
        }
        if *other_origin && !matches!(self.table.params, TargetParams::Snapshot(_)) {
            return Err("option other-origin: only a snapshot has one".into());
        }
        Ok(())
    }

    /// The disk of which the device is a snapshot.
    pub fn origin_of_snapshot(&self) -> Option<&str> {
        match &self.table.params {
            TargetParams::Snapshot(snapshot) => Some(&snapshot.origin),
            _ => None,
        }
    }

    /// The disk that the users of the device write as an origin.
    pub fn origin_written(&self) -> Option<&str> {
        match &self.table.params {
            TargetParams::SnapshotOrigin { origin } => Some(origin),
            TargetParams::SnapshotMerge(merge) => Some(&merge.origin),
            _ => None,
        }
    }
}

/// Whether a line is empty or a comment.
pub(super) fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// The name on a line, whatever the rest is.
pub(super) fn name_on(line: &str) -> Option<String> {
    let first = match words(line) {
        Ok(words) => words.first().map(|word| unescaped(word.text())),
        Err(_) => line.split_whitespace().next().map(unescaped),
    };
    first.filter(|_| !is_comment(line))
}

fn table_of(lines: &[String]) -> Result<Table, Failure> {
    if lines.is_empty() {
        return Err("the table is missing: NAME \"TABLE LINE\"... [OPTIONS]".into());
    }
    if let Some(line) = lines.iter().find(|line| is_comment(line)) {
        return Err(format!("\"{line}\": no table line").into());
    }
    Ok(Table::parse_table(&lines.join("\n"))?)
}

fn one_too_many(word: &str) -> Failure {
    if word.starts_with('#') {
        return "a comment has a line of its own".into();
    }
    format!("{word}: one word too many: the options are one word, at the end, with commas").into()
}

fn bare(word: &str) -> Failure {
    let hint = "a table line stands in double quotes";
    format!("{word}: the table is missing before it; {hint}").into()
}

/// A line for a device.
///
/// # Errors
/// The table has something that no line can have.
pub fn line_of(name: &str, table: &Table, options: &Options) -> Result<String, Failure> {
    line_with(name, table, &options.to_string())
}

/// The same with options as they were written.
pub(super) fn line_with(name: &str, table: &Table, options: &str) -> Result<String, Failure> {
    let disks = table.params.devices();
    if let Some(word) = disks.iter().find(|word| word.contains(['\n', '\r'])) {
        let why = "a path with an end of line cannot stand in the tab file";
        return Err(format!("{name}: {word}: {why}").into());
    }
    let text = table.to_string();
    let mut words = vec![escaped(name, "")];
    words.extend(text.lines().map(quoted));
    words.extend((!options.is_empty()).then(|| options.to_owned()));
    Ok(words.join("  "))
}

/// The options of a line, as they are written.
pub(super) fn options_on(line: &str) -> Option<String> {
    match words(line).ok()?.pop() {
        Some(Word::Plain(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { file: "/etc/x.tab".into(), line: 7 }
    }

    fn entry(line: &str) -> Entry {
        Entry::parse(line, &place()).unwrap().unwrap()
    }

    #[test]
    fn a_line_is_a_device_and_reads_back() {
        for line in [
            r#"v  "0 8 linear /dev/disk/by-id/a 0""#,
            r#"v  "0 8 linear /dev/a\ b 0"  nofail,timeout=5"#,
            r#"v  "0 8 linear /dev/a\"b 0""#,
            r#"v  "0 8 linear /dev/a\\ 0""#,
            r#"big  "0 8 linear /a 0"  "8 8 zero"  "16 8 linear lower 3"  id=3"#,
            r#"m  "0 64 mirror disk 2 /l 16 2 /a 0 /b 0"  _netdev,source=/b"#,
            r#"s  "0 64 snapshot /dev/ublk-dm/m /c PO 0""#,
            r#"\#x  "0 8 error""#,
        ] {
            let entry = entry(line);
            let again = line_of(&entry.name, &entry.table, &entry.options);
            assert_eq!(again.unwrap(), line);
        }
        let spaced = entry("\t v\t\"0 8   zero\" - ");
        assert_eq!((spaced.name.as_str(), &spaced.options), ("v", &Options::default()));
        assert_eq!(spaced.place.to_string(), "/etc/x.tab:7");
        for comment in ["", "  ", "# v \"0 8 zero\"", "  #x"] {
            assert_eq!(Entry::parse(comment, &place()).unwrap(), None, "{comment}");
        }
    }

    #[test]
    fn what_a_word_names() {
        assert_eq!(Disk::of("srv"), Disk::Named("srv"));
        assert_eq!(Disk::of("/dev/ublk-dm/srv"), Disk::Named("srv"));
        assert_eq!(Disk::of("/dev/ublk-dm/"), Disk::Path("/dev/ublk-dm/"));
        assert_eq!(Disk::of("/dev/sda"), Disk::Path("/dev/sda"));
    }

    #[test]
    fn a_wrong_line_is_refused_and_says_why() {
        for (line, why) in [
            ("v", "v: the table is missing"),
            ("v nofail", "a table line stands in double quotes"),
            ("v 0 8 zero", "v: 0: the table is missing before it"),
            (r#"v "0 8 zero" nofail x"#, "x: one word too many"),
            (r#"v "0 8 zero" nofail "8 8 zero""#, "8 8 zero: one word too many"),
            (r#"v "0 8 zero" nofail # mine"#, "a comment has a line of its own"),
            (r#"v "0 8 zero" timeout=x"#, "v: option timeout=x"),
            (r#"v "" "0 8 zero""#, "no table line"),
            (r##"v "#" "0 8 zero""##, "no table line"),
            (r#"v "0 8 nonsense""#, "target \"nonsense\": unknown"),
            (r#"v "0 8 zero" "9 8 zero""#, "leaves a gap"),
            (r#"7 "0 8 zero""#, "it is a number"),
            (r#"a/b "0 8 zero""#, "it has a space or a slash"),
            (r#"a\ b "0 8 zero""#, "it has a space or a slash"),
            (r#""" "0 8 zero""#, "it is empty"),
            (r#"v "0 8 linear 8:16 0""#, "the numbers of disks change"),
            (r#"v "0 8 linear /dev/block/8:16 0""#, "the numbers of disks change"),
            (r#"v "0 8 linear ./disk 0""#, "must be absolute"),
            (r#"v "0 8 linear /dev/ublk-dm/../sda 0""#, "without `//`, `.` and `..`"),
            (r#"v "0 8 linear //dev/sda 0""#, "without `//`, `.` and `..`"),
            (r#"v "0 8 linear v 0""#, "cannot stand on itself"),
            (r#"v "0 8 zero" other-origin"#, "only a snapshot has one"),
            (r#"v "0 8 linear /a 0" beside=/dev/ublk-dm/v"#, "cannot stand on itself"),
            (r#"v "0 8 linear /a 0" source=/a"#, "only a mirror has one"),
            (r#"m "0 8 mirror core 1 8 2 /a 0 /b 0" source=/c"#, "not one of the legs"),
            (r#"v "0 8 zero"#, "a quote is not closed"),
        ] {
            let refused = Entry::parse(line, &place()).unwrap_err();
            assert!(refused.contains(why), "{line}: {refused}");
        }
        assert_eq!(name_on(r#"v "0 8"#).as_deref(), Some("v"));
        assert_eq!(name_on(r#"v nofail"#).as_deref(), Some("v"));
        assert_eq!(name_on("# v"), None);
    }

    #[test]
    fn what_no_line_can_have_is_refused() {
        let table = Table::parse("0 8 linear /a\\\nb 0").unwrap();
        let why = line_of("v", &table, &Options::default()).unwrap_err();
        assert!(why.contains("an end of line"), "{why}");
    }
}
