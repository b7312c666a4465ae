//! `down`: the devices of the tab file are deleted, by the rules of `del` and in its order. One
//! that is not up is done.

use super::client::{Known, open_rundir};
use super::remove;
use super::results;
use super::unnamed;
use super::verdict::verdict;
use crate::failure::{Failure, Kind};
use crate::tab::files;

pub(super) fn down(names: &[String], all: bool) -> Result<(), Failure> {
    unnamed::refuse_listed("down", names, all)?;
    let rundir = open_rundir()?;
    let tab = files::read()?;
    let known = Known::of(&rundir)?;
    let (mut words, mut problems) = (Vec::new(), Vec::new());
    let mut find = |name: &str| match known.find(name) {
        Ok(_) => words.push(name.to_owned()),
        Err(why) if why.kind == Kind::NotFound && known.problems.is_empty() => {}
        Err(why) => problems.push(why),
    };
    if all {
        tab.entries.iter().for_each(|entry| find(&entry.name));
        problems.extend(tab.wrong.into_iter().map(|wrong| wrong.why));
    } else {
        let mut unlisted = Vec::new();
        for name in names {
            match tab.find(name) {
                Ok(entry) => find(&entry.name),
                Err(why) if why.kind == Kind::NotFound && known.find(name).is_ok() => {
                    unlisted.push(why.ending(format!("; `ublk-dm del {name}` deletes the device")));
                }
                Err(why) => unlisted.push(why),
            }
        }
        problems.extend(unlisted);
    }
    let done = match words.is_empty() {
        true => results::devices("deleted", std::iter::empty()),
        false => remove::del(&words, false, false),
    };
    problems.extend(done.err());
    verdict(problems)
}
