//! Which devices a command is about: those of its words, the one that options name, or all.

use super::complaint::{self, absent};
use super::devices::{All, Number, One};
use super::grammar::Asked;
use super::select::Selection;
use crate::cli::terminal::print;
use crate::cli::verdict::verdict;
use crate::failure::Failure;

impl All {
    /// Calls a function with each device that a command is about, and whether its lines begin with
    /// its name: those of its words, the one of `-u` or `-j` and `-m`, or all. Ends at the first
    /// failure, as dmsetup does. `ioctl`: what fails if there is no such device.
    pub fn each(
        &self,
        asked: &Asked,
        ioctl: Option<&str>,
        mut act: impl FnMut(&One, bool) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let missing = |word: &str| {
            let none = ioctl.map_or_else(absent, |ioctl| complaint::no_device(ioctl, word));
            self.problems.first().map_or(none, |why| why.clone().context(word))
        };
        if asked.words.is_empty() && asked.names_one() {
            let found = match &asked.uuid {
                Some(uuid) => self.with_uuid(uuid),
                None => asked.number().and_then(|number| self.numbered(number)),
            };
            return act(found.ok_or_else(absent)?, false);
        }
        for word in &asked.words {
            let one = self.named(word).ok_or_else(|| missing(word))?;
            act(one, asked.words.len() > 1)?;
        }
        Ok(())
    }

    /// The same for commands that are about all devices if none is named.
    pub fn each_or_all(
        &self,
        asked: &Asked,
        ioctl: Option<&str>,
        mut act: impl FnMut(&One, bool) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let selection = Selection::of(asked.select.as_deref())?;
        let mut act = |one: &One, prefix: bool| match selection.has(self, one)? {
            true => act(one, prefix),
            false => Ok(()),
        };
        if !asked.words.is_empty() || asked.names_one() {
            return self.each(asked, ioctl, act);
        }
        if self.ones.is_empty() && self.problems.is_empty() {
            return print("No devices found");
        }
        self.ones.iter().try_for_each(|one| act(one, true))?;
        verdict(self.problems.clone())
    }
}

impl Asked {
    /// Whether a device is named by an option.
    pub fn names_one(&self) -> bool {
        self.uuid.is_some() || self.number().is_some()
    }

    /// The number of `-j` and `-m`.
    fn number(&self) -> Option<Number> {
        self.major.zip(self.minor)
    }
}
