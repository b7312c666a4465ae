//! Which devices of the tab file are brought up, and which has to wait for which. Nothing here asks
//! the kernel but through `find`.
//!
//! Rules kept here: a device comes after those that it stands on; and a snapshot comes before the
//! device through which its origin is written, which would else change the origin behind it.

use std::collections::{BTreeSet, VecDeque};

use crate::cli::order;
use crate::failure::Failure;
use crate::storage::DiskId;
use crate::tab::{Disk, Entry, Tab};

/// Finds the disk that a word names, if it is there.
pub type Find<'a> = &'a (dyn Fn(&str) -> Option<DiskId> + Sync);

/// The devices to bring up, each after those that it waits for.
pub struct Plan<'a> {
    pub entries: Vec<&'a Entry>,
}

impl<'a> Plan<'a> {
    /// The devices with these names, or all but those with `noauto`; and with them those on which
    /// they stand, and the snapshots of what is written through them. What is wrong with the names
    /// is returned as well.
    pub fn of(
        tab: &'a Tab,
        names: &[String],
        all: bool,
        find: Find<'_>,
    ) -> (Plan<'a>, Vec<Failure>) {
        let mut problems = Vec::new();
        let place = |name: &String| match tab.find(name) {
            Ok(found) => tab.entries.iter().position(|entry| entry.name == found.name),
            Err(why) => {
                problems.push(why);
                None
            }
        };
        let mut left: VecDeque<usize> = names.iter().filter_map(place).collect();
        let auto = tab.entries.iter().enumerate().filter(|(_, entry)| all && !entry.options.noauto);
        left.extend(auto.map(|(at, _)| at));
        let mut chosen = BTreeSet::new();
        while let Some(at) = left.pop_front() {
            if !chosen.insert(at) {
                continue;
            }
            let entry = &tab.entries[at];
            let all = tab.entries.iter().enumerate();
            let others = all.filter(|(_, other)| goes_with(other, entry, find));
            left.extend(others.map(|(at, _)| at));
        }
        let entries: Vec<&Entry> = chosen.into_iter().map(|at| &tab.entries[at]).collect();
        let must = |one: usize, other: usize| stands_on(entries[one], entries[other]);
        // Where a disk is not there yet, nothing says that it is another one.
        let should = |one: usize, other: usize| {
            writes_origin_of(entries[one], entries[other], find).unwrap_or(true)
        };
        let order = order::order(entries.len(), must, should);
        (Plan { entries: order.into_iter().map(|at| entries[at]).collect() }, problems)
    }

    /// Whether one device has to wait for the end of what is done for another one, which comes
    /// before it.
    pub fn must_wait(&self, one: usize, other: usize, find: Find<'_>) -> bool {
        waits_for(self.entries[one], self.entries[other], find).unwrap_or(true)
    }

    /// The devices on which one stands, as their indexes.
    pub fn below(&self, at: usize) -> impl Iterator<Item = usize> {
        let below = move |other: &usize| stands_on(self.entries[at], self.entries[*other]);
        (0..self.entries.len()).filter(below)
    }
}

/// Whether a device is brought up with another one: that stands on it, or it is a snapshot of what
/// is written through that.
pub fn goes_with(other: &Entry, entry: &Entry, find: Find<'_>) -> bool {
    let is_snapshot = is_snapshot_of(other, entry, find) == Some(true);
    stands_on(entry, other) || is_snapshot && !other.options.noauto
}

/// Whether a device waits for another one that comes before it. `None`: not known, because a disk
/// is not there.
pub fn waits_for(one: &Entry, other: &Entry, find: Find<'_>) -> Option<bool> {
    if stands_on(one, other) { Some(true) } else { writes_origin_of(one, other, find) }
}

/// Whether a device stands on itself, by way of others of the tab file or at once: it cannot be
/// brought up, nor what stands on it.
pub fn is_circle(tab: &Tab, entry: &Entry) -> bool {
    let below = |upper: &Entry| {
        let all = tab.entries.iter().enumerate();
        let found = all.filter(|(_, lower)| stands_on(upper, lower)).map(|(at, _)| at);
        found.collect::<Vec<_>>()
    };
    let (mut seen, mut next) = (BTreeSet::new(), below(entry));
    while let Some(at) = next.pop() {
        if seen.insert(at) {
            next.extend(below(&tab.entries[at]));
        }
    }
    seen.into_iter().any(|at| tab.entries[at].name == entry.name)
}

/// Whether a device stands on another one.
fn stands_on(one: &Entry, other: &Entry) -> bool {
    let disks = one.table.params.devices();
    disks.iter().chain(&one.options.beside).any(|word| is_device(word, other))
}

/// Whether a word names a device: by its name, or by the number that it is to have.
pub fn is_device(word: &str, entry: &Entry) -> bool {
    match Disk::of(word) {
        Disk::Named(name) => name == entry.name,
        Disk::Path(path) => {
            let number = path.strip_prefix("/dev/ublkb").and_then(|number| number.parse().ok());
            number.is_some() && number == entry.options.id
        }
    }
}

/// Whether a device is a snapshot of what is written through another one: of that device, or of its
/// origin. `None`: not known.
fn is_snapshot_of(snapshot: &Entry, other: &Entry, find: Find<'_>) -> Option<bool> {
    let Some(origin) = snapshot.origin_of_snapshot() else { return Some(false) };
    if is_device(origin, other) {
        return Some(true);
    }
    writes_origin_of(other, snapshot, find)
}

/// Whether the users of one device write to the origin of a snapshot, by another way than the
/// snapshot's own disk. `None`: not known, because a disk is not there.
pub(super) fn writes_origin_of(one: &Entry, snapshot: &Entry, find: Find<'_>) -> Option<bool> {
    let (Some(written), Some(origin)) = (one.origin_written(), snapshot.origin_of_snapshot())
    else {
        return Some(false);
    };
    same(written, origin, find)
}

/// Whether two words name one disk. `None`: not known, because a disk is not there.
pub(super) fn same(one: &str, other: &str, find: Find<'_>) -> Option<bool> {
    match (Disk::of(one), Disk::of(other)) {
        (one, other) if one == other => Some(true),
        (Disk::Named(_), Disk::Named(_)) => Some(false),
        // What exists is no device that does not.
        (Disk::Named(name), Disk::Path(path)) | (Disk::Path(path), Disk::Named(name)) => {
            let path = find(path)?;
            Some(find(name) == Some(path))
        }
        _ => Some(find(one)? == find(other)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tab(text: &str) -> Tab {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tab");
        std::fs::write(&path, text).unwrap();
        let tab = crate::tab::files::read_at(path);
        assert!(tab.wrong.is_empty(), "{:?}", tab.wrong);
        tab
    }

    /// `/d/N` and `/link/N` are the disk N, but for `/d/late`.
    fn find(word: &str) -> Option<DiskId> {
        let minor = word.rsplit('/').next()?.parse().ok()?;
        Some(DiskId::Block { major: 1, minor })
    }

    fn planned(text: &str, names: &[&str]) -> Vec<String> {
        let tab = tab(text);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (plan, problems) = Plan::of(&tab, &names, names.is_empty(), &find);
        assert!(problems.is_empty());
        plan.entries.iter().map(|entry| entry.name.clone()).collect()
    }

    const STACK: &str = r#"
        top   "0 64 snapshot m /d/5 P 8"
        srv   "0 64 snapshot-origin /link/1"
        two   "0 64 snapshot /dev/ublk-dm/top /d/7 P 8"
        mon   "0 64 snapshot /d/1 /d/2 P 8"
        tue   "0 64 snapshot /d/1 cow P 8" noauto
        m     "0 64 mirror core 1 16 2 /dev/ublkb9 0 /d/4 0"
        leg   "0 64 linear /d/8 0" id=9
        cow   "0 64 linear /d/3 0" noauto
        solo  "0 64 zero"
    "#;

    #[test]
    fn each_comes_after_what_it_waits_for() {
        let order = planned(STACK, &[]);
        assert_eq!(order, ["mon", "srv", "leg", "m", "top", "two", "solo"].map(str::to_owned));
    }

    #[test]
    fn what_is_named_brings_what_it_needs() {
        let named = |names: &[&str]| planned(STACK, names);
        assert_eq!(named(&["solo"]), ["solo"]);
        assert_eq!(named(&["tue"]), ["cow", "tue"], "a snapshot may be up without its origin");
        assert_eq!(named(&["srv"]), ["mon", "srv"], "not one with noauto");
        assert_eq!(named(&["srv", "tue"]), ["mon", "cow", "tue", "srv"]);
        assert_eq!(named(&["leg"]), ["leg"]);
        assert_eq!(named(&["m"]), ["leg", "m", "top", "two"], "what is written, and its snapshots");
    }

    #[test]
    fn a_circle_is_found_at_each_of_its_lines() {
        let tab = tab("a \"0 8 linear b 0\"\nb \"0 8 linear c 0\"\nc \"0 8 linear a 0\"\n\
                       d \"0 8 linear a 0\"\ne \"0 8 linear /d/1 0\"\n");
        let circle = |entry: &&Entry| is_circle(&tab, entry);
        let names = tab.entries.iter().filter(circle).map(|entry| entry.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "c"], "d only stands on it");
    }

    #[test]
    fn a_disk_that_is_not_there_may_be_any() {
        let text = r#"
            o "0 64 snapshot-origin /d/1"
            s "0 64 snapshot /d/late /d/2 P 8"
        "#;
        assert_eq!(planned(text, &[]), ["s", "o"]);
        assert_eq!(planned(text, &["o"]), ["o"]);
        assert_eq!(same("/d/1", "/d/late", &find), None);
        assert_eq!(same("/d/late", "/d/late", &find), Some(true));
        assert_eq!(same("a", "b", &find), Some(false));
        assert_eq!(same("/dev/ublk-dm/a", "a", &find), Some(true));
    }

    #[test]
    fn a_snapshot_that_stands_on_its_origins_device_comes_after_it() {
        let text = r#"
            s "0 64 snapshot /d/1 o P 8"
            o "0 64 snapshot-origin /d/1"
            a "0 64 linear b 0"
            b "0 64 linear a 0"
        "#;
        assert_eq!(planned(text, &[]), ["o", "s", "a", "b"], "a circle loses nothing");
    }

    #[test]
    fn names_that_are_not_there_are_said() {
        let tab = tab(STACK);
        let (plan, problems) = Plan::of(&tab, &["x".to_owned(), "solo".to_owned()], false, &find);
        assert_eq!((plan.entries.len(), problems.len()), (1, 1));
    }
}
