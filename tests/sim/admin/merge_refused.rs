//! What `merge` refuses, before it has changed anything.

use dm_targets::sim::image::Image;
use dm_targets::snapshot::table::StoreType;
use dm_targets::table::TargetParams;
use dm_targets::units::Sectors;

use super::merge_command::{paused, snapshot_of};
use super::merging::{self, O, S};
use super::town::{Town, What};
use crate::protocol::{Command, Reply};
use crate::server::admin::mutant::{self, Mutant};

/// What is refused has changed nothing: the snapshot and the origin are as they were.
pub(super) fn refused(town: &mut Town, what: What, force: bool, words: &str) -> Result<(), String> {
    let (mut snap, mut plain) = (snapshot_of(town), town.origin.clone());
    let Err(why) = town.merge(what, force) else { return Err("it is merged".to_owned()) };
    if !why.contains(words) {
        return Err(why);
    }
    if town.on_record().0 {
        return Err(format!("it is refused, and on record: {why}"));
    }
    town.shows(&mut plain)?;
    snap.judge(&town.read(S).ok_or("the snapshot does not answer")??)
}

pub(super) fn open_device(town: &Town, what: What, open: bool) {
    let id = town.devices[&what].id;
    town.site.kernel.borrow_mut().devices.get_mut(&id).unwrap().open = open;
}

/// A mounted snapshot is not merged, nor one that is open, unless by force.
fn mounted_snapshot() -> Result<(), String> {
    let mut town = merging::town();
    town.set_use(S, true);
    refused(&mut town, S, false, "its device ends with the merge")?;
    refused(&mut town, S, true, "its device ends with the merge")?;
    town.set_use(S, false);
    open_device(&town, S, true);
    refused(&mut town, S, false, "it is open")?;
    town.merge(S, true)
}

/// What is mounted on the origin would see its content change.
fn mounted_origin() -> Result<(), String> {
    let mut town = merging::town();
    town.set_use(O, true);
    refused(&mut town, S, false, "a file system on it would see its content change")?;
    town.merge(S, true)
}

#[test]
fn a_device_that_is_in_use_is_not_merged() {
    mounted_snapshot().unwrap();
    mounted_origin().unwrap();
    for (mutant, test) in [
        (Mutant::MountedMerged, mounted_snapshot as fn() -> Result<(), String>),
        (Mutant::MergedUnderMount, mounted_origin),
    ] {
        mutant::set(Some(mutant));
        let wrong = test();
        mutant::set(None);
        assert!(wrong.is_err(), "{mutant:?}: nothing is noticed");
    }
}

#[test]
fn what_is_no_snapshot_with_an_origin_is_not_merged() {
    let mut town = merging::town();
    refused(&mut town, O, true, "it is no snapshot").unwrap();
    town.suspend(O).unwrap();
    let why = town.merge(S, true).unwrap_err();
    assert!(why.contains("is suspended"), "{why}");
    town.resume(O).unwrap();
    town.load_table(false).unwrap();
    refused(&mut town, S, false, "has a table loaded").unwrap();
    town.del(O, false).unwrap();
    let why = town.merge(S, true).unwrap_err();
    assert!(why.contains("`ublk-dm add origin --origin /o`"), "{why}");
    // The origin's device waits for a server, and so does the snapshot's.
    for waits in [O, S] {
        let mut town = merging::town();
        town.add(What::Snap(1)).unwrap();
        town.kill("o");
        let device = town.devices[&waits].device();
        town.site.files(|files| files.forget_records());
        town.attach(if waits == S { 1 } else { 0 }, false);
        drop(town.recover());
        if !town.processes.contains_key("o") {
            continue;
        }
        let command = Command::Merge {
            device,
            force: true,
            defer: false,
            keep: false,
            bytes_per_second: None,
        };
        let why = town.ask("o", command).unwrap_err();
        assert!(why.contains("waits for a server"), "{why}");
    }
}

#[test]
fn a_second_merge_is_refused() {
    let mut town = merging::town();
    town.add(What::Snap(1)).unwrap();
    paused(&mut town).unwrap();
    town.strike_gone();
    let why = town.merge(What::Snap(1), true).unwrap_err();
    assert!(why.contains("another snapshot is being merged"), "{why}");
    let why = town.merge(O, true).unwrap_err();
    assert!(why.contains("a snapshot is being merged into it already"), "{why}");
    town.judge(What::Snap(1)).unwrap();
}

/// A town whose snapshot's COW is too small for its writes.
pub(super) fn full_cow(overflow: bool) -> Result<Town, String> {
    let mut town = Town::new(1, true);
    town.add(O)?;
    town.site.put(1, Image::zeroes(Sectors(8)));
    let mut spec = Town::spec(S);
    if let TargetParams::Snapshot(table) = &mut spec.table.params {
        table.store = StoreType::Persistent { overflow };
    }
    let added = town.ask("o", Command::Add { name: None, id: None, spec })?;
    let Reply::Added { path, .. } = added else { return Err("it is not added".into()) };
    town.added(S, &path)?;
    for sector in [0, 2, 4] {
        town.write(S, sector);
    }
    Ok(town)
}

/// A snapshot that has refused a write is not merged.
fn overflowed() -> Result<(), String> {
    refused(&mut full_cow(true)?, S, true, "Overflow")
}

#[test]
fn an_invalid_snapshot_is_not_merged() {
    let mut town = full_cow(false).unwrap();
    let why = town.merge(S, true).unwrap_err();
    assert!(why.contains("it is invalid") && town.has(S) && !town.on_record().0, "{why}");
}

#[test]
fn an_overflowed_snapshot_is_not_merged() {
    overflowed().unwrap();
    mutant::set(Some(Mutant::OverflowedMerged));
    let wrong = overflowed();
    mutant::set(None);
    assert!(wrong.is_err(), "nothing is noticed");
}
