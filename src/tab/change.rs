//! The text of a tab file with some lines changed.
//!
//! Rules kept here: a device's line stays in its place, whatever it was called before; its options
//! stay as they are written; and what names a device by its former name, in whichever line, names
//! it by the new one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dm_targets::table::Table;

use super::line::{Disk, Entry, LINKS, Place, line_of, line_with, name_on, options_on};
use super::options::Options;
use super::words::{escaped, raw_parts, unescaped};
use crate::failure::Failure;

/// A device as its line is to have it.
pub struct Line {
    /// Its name.
    pub name: String,
    /// The name that its line has until now, if it has one.
    pub was: String,
    /// Its table.
    pub table: Table,
    /// Its options, if it has no line yet; one that has gets from them what it lacks of `beside`.
    pub options: Options,
}

/// The new names of devices, by those that their lines have.
type Renamed = BTreeMap<String, String>;

/// The lines of devices in a text, as they are to stand there; the text with them; and which
/// devices have something that no line can have.
pub fn changed(text: &str, devices: &[Line]) -> (Vec<String>, String, Vec<Failure>) {
    let (mut lines, mut problems) = (Vec::new(), Vec::new());
    let new_name = |it: &Line| (it.was != it.name).then(|| (it.was.clone(), it.name.clone()));
    let renamed: Renamed = devices.iter().filter_map(new_name).collect();
    for device in devices {
        match renewed(text, device, &renamed) {
            Ok(line) => lines.push((device.was.as_str(), line)),
            Err(why) => problems.push(why),
        }
    }
    let text = with_lines(text, &lines, &renamed);
    (lines.into_iter().map(|(_, line)| line).collect(), text, problems)
}

/// The line of a device in a text in which it has a line already, whose options stay as they are
/// written; or a new line.
fn renewed(text: &str, device: &Line, renamed: &Renamed) -> Result<String, Failure> {
    let Line { name, was, table, options } = device;
    let Some((_, line)) = line_with_name(text, was) else {
        return line_of(name, table, options);
    };
    let mut written = with_names(&options_on(line).unwrap_or_default(), renamed);
    if let Some(beside) = options.beside.as_deref().filter(|_| !has_beside(&written)) {
        let added = Options { beside: Some(beside.to_owned()), ..Options::default() };
        let is_empty = written.is_empty() || written == "-";
        written = if is_empty { added.to_string() } else { format!("{written},{added}") };
    }
    line_with(name, table, &written)
}

fn has_beside(options: &str) -> bool {
    Options::parse(options).is_ok_and(|options| options.beside.is_some())
}

/// The text with these lines in the place of those that have these names, or at the end. Of all
/// other lines only those change that name a device by its former name.
fn with_lines(text: &str, lines: &[(&str, String)], renamed: &Renamed) -> String {
    let follow = |line: &str| following(line, renamed).unwrap_or_else(|| line.to_owned());
    let mut all: Vec<String> = text.lines().map(follow).collect();
    for (was, line) in lines {
        match line_with_name(text, was) {
            Some((at, _)) => all[at].clone_from(line),
            None => all.push(line.clone()),
        }
    }
    all.into_iter().map(|line| line + "\n").collect()
}

/// A line with the new names of the devices that it names; `None`: it names none of them.
fn following(line: &str, renamed: &Renamed) -> Option<String> {
    let place = Place { file: PathBuf::new(), line: 0 };
    let entry = Entry::parse(line, &place).ok().flatten()?;
    let table = entry.table.with_devices(|word| Ok::<_, Failure>(with_name(word, renamed))).ok()?;
    let was = options_on(line).unwrap_or_default();
    let options = with_names(&was, renamed);
    let is_changed = table != entry.table || options != was;
    is_changed.then(|| line_with(&entry.name, &table, &options).ok())?
}

/// The word of a disk with the new name of the device that it names.
fn with_name(word: &str, renamed: &Renamed) -> String {
    let Disk::Named(name) = Disk::of(word) else { return word.to_owned() };
    let Some(new) = renamed.get(name) else { return word.to_owned() };
    let links = if word.starts_with(LINKS) { LINKS } else { "" };
    format!("{links}{new}")
}

/// Options as they are written, with the new names of the devices that they name.
fn with_names(options: &str, renamed: &Renamed) -> String {
    let with_new = |part: String| match part.split_once('=') {
        Some((name @ ("beside" | "source"), value)) => {
            let (value, new) = (unescaped(value), with_name(&unescaped(value), renamed));
            if value == new { part } else { format!("{name}={}", escaped(&new, ",")) }
        }
        _ => part,
    };
    raw_parts(options).into_iter().map(with_new).collect::<Vec<_>>().join(",")
}

/// The first line with a name, and its index.
fn line_with_name<'a>(text: &'a str, name: &str) -> Option<(usize, &'a str)> {
    text.lines().enumerate().find(|(_, line)| name_on(line).as_deref() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(was: &str, name: &str, table: &str) -> Line {
        Line {
            name: name.to_owned(),
            was: was.to_owned(),
            table: Table::parse_table(table).unwrap(),
            options: Options { id: Some(3), ..Options::default() },
        }
    }

    fn new_text(text: &str, lines: &[Line]) -> String {
        let (_, text, problems) = changed(text, lines);
        assert!(problems.is_empty(), "{problems:?}");
        text
    }

    #[test]
    fn a_new_text_changes_only_its_own_lines() {
        let text = "# mine\na \"0 8 zero\" nofail,x-y=1\n\n  b  \"0 8 linear /b 0\"\nwrong\n";
        let of = |name: &str| line(name, name, "0 16 linear /c 0");
        let new = new_text(text, &[of("a"), of("c"), of("b")]);
        let expected = "# mine\na  \"0 16 linear /c 0\"  nofail,x-y=1\n\nb  \"0 16 linear /c \
                        0\"\nwrong\nc  \"0 16 linear /c 0\"  id=3\n";
        assert_eq!(new, expected);
        assert_eq!(new_text(&new, &[]), new);
        assert_eq!(new_text("", &[of("c")]), "c  \"0 16 linear /c 0\"  id=3\n");
        assert_eq!(new_text("# no end", &[of("c")]).lines().count(), 2);
    }

    #[test]
    fn a_new_name_is_that_of_the_same_line_and_of_what_names_it() {
        let text = "# old\nold \"0 8 linear /a 0\" nofail\nm \"0 8 mirror core 1 8 2 old 0 /b 0\" \
                    x-y,source=old\nz \"0 8 zero\" beside=/dev/ublk-dm/old\nold wrong\no \"0 8 \
                    zero\" source\n";
        let new = new_text(text, &[line("old", "n,w", "0 8 linear /a 0")]);
        let expected = "# old\nn,w  \"0 8 linear /a 0\"  nofail\nm  \"0 8 mirror core 1 8 2 n,w 0 \
                        /b 0\"  x-y,source=n\\,w\nz  \"0 8 zero\"  beside=/dev/ublk-dm/n\\,w\nold \
                        wrong\no \"0 8 zero\" source\n";
        assert_eq!(new, expected);
        // Two devices have changed their names.
        let text = "a \"0 8 linear /a 0\" id=1\nb \"0 8 linear /b 0\" id=2\n";
        let lines = [line("b", "a", "0 8 linear /b 0"), line("a", "b", "0 8 linear /a 0")];
        let new = new_text(text, &lines);
        assert_eq!(new, "b  \"0 8 linear /a 0\"  id=1\na  \"0 8 linear /b 0\"  id=2\n");
    }

    #[test]
    fn a_line_gets_what_it_lacks_of_beside() {
        let with = |options: &str| {
            let mut device = line("a", "a", "0 8 zero");
            device.options.beside = Some("b".to_owned());
            new_text(&format!("a \"0 8 zero\" {options}\n"), &[device])
        };
        assert_eq!(with(""), "a  \"0 8 zero\"  beside=b\n");
        assert_eq!(with("-"), "a  \"0 8 zero\"  beside=b\n");
        assert_eq!(with("nofail"), "a  \"0 8 zero\"  nofail,beside=b\n");
        assert_eq!(with("beside=c,nofail"), "a  \"0 8 zero\"  beside=c,nofail\n");
    }
}
