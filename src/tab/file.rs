//! The text of a tab file: what its lines say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::line::{Entry, Place, name_on};
use crate::failure::{Failure, Kind};

/// What the tab file and the files beside it say.
#[derive(Debug, Default)]
pub struct Tab {
    /// The tab file itself.
    pub path: PathBuf,
    /// The devices, in the order of their lines.
    pub entries: Vec<Entry>,
    /// The lines that cannot be used.
    pub wrong: Vec<Wrong>,
}

/// A line, or a file, that cannot be used.
#[derive(Debug)]
pub struct Wrong {
    /// Where it stands and what is wrong.
    pub why: Failure,
    /// The name on the line.
    pub name: Option<String>,
    /// The words on the line, whatever they mean; `None`: nothing of the file is known.
    pub words: Option<Vec<String>>,
}

impl Wrong {
    fn of(line: &str, place: &Place, mut why: Failure) -> Wrong {
        // The command line is right.
        why.kind = Kind::Refused;
        let ends = |next: char| next.is_whitespace() || matches!(next, '"' | ',' | '=');
        let words = line.split(ends).filter(|word| !word.is_empty());
        let words = Some(words.map(str::to_owned).collect());
        Wrong { why: why.context(place), name: name_on(line), words }
    }

    /// Whether the line may have a disk, of which `is_it` says whether a word names it.
    pub fn may_have(&self, is_it: impl Fn(&str) -> bool) -> bool {
        self.words.as_ref().is_none_or(|words| words.iter().any(|word| is_it(word)))
    }
}

impl Tab {
    /// Adds the lines of one more file.
    pub(super) fn add(&mut self, file: &Path, text: &str) {
        for (at, line) in text.lines().enumerate() {
            let place = Place { file: file.to_owned(), line: at + 1 };
            match Entry::parse(line, &place) {
                Ok(entry) => self.entries.extend(entry),
                Err(why) => self.wrong.push(Wrong::of(line, &place, why)),
            }
        }
    }

    /// Takes out the names that stand on several lines: which of them is meant is not known.
    pub(super) fn take_out_twins(&mut self) {
        let names: Vec<String> = self.entries.iter().map(|entry| entry.name.clone()).collect();
        let count = |name: &String| names.iter().filter(|other| *other == name).count();
        let (twins, single) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition::<Vec<Entry>, _>(|entry| count(&entry.name) > 1);
        self.entries = single;
        let mut said = BTreeSet::new();
        for twin in &twins {
            let places = twins.iter().filter(|other| other.name == twin.name);
            let places: Vec<_> = places.map(|other| other.place.to_string()).collect();
            let why = format!("{}: on several lines: {}", twin.name, places.join(", "));
            let words = Some(twin.table.params.devices());
            let name = Some(twin.name.clone());
            if said.insert(twin.name.clone()) {
                self.wrong.push(Wrong { why: why.into(), name, words });
            } else {
                // Its disks may be others.
                let first = self.wrong.iter_mut().rfind(|wrong| wrong.name == name);
                first.into_iter().for_each(|first| {
                    first.words.iter_mut().for_each(|all| all.extend(twin.table.params.devices()));
                });
            }
        }
    }

    /// The device with a name.
    ///
    /// # Errors
    /// The line with that name cannot be used, or there is none.
    pub fn find(&self, name: &str) -> Result<&Entry, Failure> {
        if let Some(found) = self.entries.iter().find(|entry| entry.name == name) {
            return Ok(found);
        }
        let wrong = self.wrong.iter().find(|wrong| wrong.name.as_deref() == Some(name));
        Err(wrong.map_or_else(|| self.none(name), |wrong| wrong.why.clone()))
    }

    fn none(&self, name: &str) -> Failure {
        // It may stand in what cannot be read.
        if let Some(unread) = self.wrong.iter().find(|wrong| wrong.words.is_none()) {
            return unread.why.clone().context(name);
        }
        let why = format!("{name}: not in {}, nor beside it", self.path.display());
        Failure::new(Kind::NotFound, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tab(files: &[&str]) -> Tab {
        let mut tab = Tab { path: "/t".into(), ..Tab::default() };
        for (at, text) in files.iter().enumerate() {
            tab.add(Path::new(&format!("/t{at}")), text);
        }
        tab.take_out_twins();
        tab
    }

    fn names(tab: &Tab) -> Vec<&str> {
        tab.entries.iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn wrong_lines_have_a_place_and_the_others_count() {
        let tab = tab(&["# a\n\na \"0 8 zero\"\nb \"0 8 nonsense /dev/x\"\nc \"0 8 zero\"\n", "d"]);
        assert_eq!(names(&tab), ["a", "c"]);
        let why: Vec<_> = tab.wrong.iter().map(|wrong| wrong.why.to_string()).collect();
        assert!(why[0].starts_with("/t0:4: b: target \"nonsense\""), "{why:?}");
        assert!(why[1].starts_with("/t1:1: d: the table is missing"), "{why:?}");
        assert!(tab.find("a").is_ok() && tab.find("b").unwrap_err().contains("nonsense"));
        assert!(tab.find("e").unwrap_err().contains("e: not in /t, nor beside it"));
        assert!(tab.wrong[0].may_have(|word| word == "/dev/x"));
        assert!(!tab.wrong[0].may_have(|word| word == "/dev/y"));
    }

    #[test]
    fn a_name_on_two_lines_is_that_of_none() {
        let tab = tab(&["a \"0 8 zero\"\nb \"0 8 linear /x 0\"", "b \"0 8 linear /y 0\"\n"]);
        assert_eq!(names(&tab), ["a"]);
        let why = tab.find("b").unwrap_err();
        assert_eq!(why.to_string(), "b: on several lines: /t0:2, /t1:1");
        assert_eq!(tab.wrong.len(), 1);
        assert!(tab.wrong[0].may_have(|word| word == "/y"));
    }
}
