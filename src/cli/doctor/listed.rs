//! What `doctor` looks at in the tab file: lines that cannot be used, and devices that are not up.

use std::path::{Path, PathBuf};

use dm_targets::table::TargetParams;

use super::finding::{Finding, Mend};
use super::left::wiped;
use crate::cli::client::Known;
use crate::cli::unrecorded::Unrecorded;
use crate::cli::up::plan::{Find, Plan, is_circle};
use crate::cli::up::unmerged;
use crate::protocol::DeviceReport;
use crate::rundir::{RunDir, lost};
use crate::storage::{self, DiskId};
use crate::tab::{Disk, Entry, Options, Tab, files};

/// Looks at the tab file. `deleted`: the numbers of devices without a record that this command has
/// found before, and may have deleted.
pub(super) fn examine(known: &Known, rundir: &RunDir, deleted: &[u32]) -> Vec<Finding> {
    let tab = match files::read() {
        Ok(tab) => tab,
        Err(why) => return vec![Finding::unseen("tab", &why)],
    };
    let mut found: Vec<Finding> =
        tab.wrong.iter().map(|wrong| Finding::unseen("tab", &wrong.why)).collect();
    let is_up = |name: &str| known.devices().iter().any(|device| device.name == name);
    let missing = tab.entries.iter().filter(|entry| !entry.options.noauto && !is_up(&entry.name));
    // What cannot be read is a finding of its own.
    let lost = lost::all(rundir).unwrap_or_default();
    let there: Vec<u32> = known.unrecorded.iter().map(Unrecorded::id).collect();
    found.extend(missing.map(|entry| {
        match of_lost(entry, &lost) {
            Some(lost) => lost,
            None if is_circle(&tab, entry) => of_circle(entry),
            None => of_half_merged(entry, &tab, known)
                .or_else(|| of_taken(entry, &tab, &there))
                .or_else(|| of_deleted(entry, &tab, deleted))
                .unwrap_or_else(|| of_missing(entry, known)),
        }
    }));
    found
}

/// The disk that a word names, if it is there.
fn disk(word: &str, known: &Known) -> Option<DiskId> {
    let path = match Disk::of(word) {
        Disk::Path(path) => path.into(),
        Disk::Named(name) => path_of(name, known)?,
    };
    DiskId::of_path(&path).ok()
}

fn path_of(name: &str, known: &Known) -> Option<PathBuf> {
    let devices = known.devices();
    let device = devices.into_iter().find(|device| device.name == name)?;
    Some(device.object.block_device.clone().into())
}

/// An origin's device, or a snapshot, that is not up, if a part of the snapshot has been merged
/// into the origin: its COW must not be wiped, and the origin alone is a mixture.
fn of_half_merged(entry: &Entry, tab: &Tab, known: &Known) -> Option<Finding> {
    let (find, path) = (&|word: &str| disk(word, known), &|name: &str| path_of(name, known));
    let problem = |what| Finding::problem("unmerged", what).of(&entry.name);
    if let Some(snapshot) = unmerged::into(entry, tab, find, path).first() {
        let name = &snapshot.name;
        let what = format!(
            "a part of its snapshot {name} has been merged into it, and the rest is only on the \
             COW: without that its disk is a mixture; `up` goes on with the merge"
        );
        return Some(problem(what).by_hand(format!("ublk-dm up {}", entry.name)));
    }
    if !unmerged::is_half_merged(entry, path) {
        return None;
    }
    let what = "a part of it has been merged into its origin, and the rest is only on its COW";
    let Some(origin) = unmerged::origins_device(entry, tab, find) else {
        return Some(problem(format!("{what}: `ublk-dm up {}` says what merges it", entry.name)));
    };
    let by = &origin.name;
    let device = known.devices().into_iter().find(|device| device.name == *by);
    Some(match device.map(|device| device.object.target.as_str()) {
        Some("snapshot-merge") => Finding::advice(
            "unmerged",
            format!(
                "it is being merged into {by}; `ublk-dm up {}` takes its COW again when that has \
                 ended",
                entry.name
            ),
        )
        .of(&entry.name),
        Some(_) => problem(format!("{what}, while {by} shows the origin without it"))
            .by_hand(format!("ublk-dm down {by} && ublk-dm up {by}")),
        None => problem(what.to_owned()).by_hand(format!("ublk-dm up {by}")),
    })
}

/// The number among these of a device without a record that may be one of the tab file, or one with
/// which that is brought up: any, if a line leaves the number open.
fn number_of(entry: &Entry, tab: &Tab, numbers: &[u32]) -> Option<u32> {
    let first = *numbers.first()?;
    let nothing: Find<'_> = &|_| None;
    let with = |one: &Entry| {
        let (plan, _) = Plan::of(tab, std::slice::from_ref(&one.name), false, nothing);
        plan.entries.into_iter().map(|entry| entry.name.clone()).collect::<Vec<_>>()
    };
    let goes_with = |other: &Entry| {
        other.name == entry.name
            || with(entry).contains(&other.name)
            || with(other).contains(&entry.name)
    };
    let own = |other: &Entry| match other.options.id {
        None => Some(first),
        Some(id) => numbers.contains(&id).then_some(id),
    };
    own(entry).or_else(|| tab.entries.iter().filter(|it| goes_with(it)).find_map(own))
}

/// A device that is not up while one without a record is there that may be it, or stands with it.
fn of_taken(entry: &Entry, tab: &Tab, there: &[u32]) -> Option<Finding> {
    let id = number_of(entry, tab, there)?;
    let what = format!(
        "a device of {} that is not up; /dev/ublkb{id}, which is not on record, has its number or \
         may use its disks: that one has to end first",
        entry.place
    );
    Some(Finding::problem("not-up", what).of(&entry.name))
}

/// A device that is not up and was, or stood with, a device that was deleted without a record.
fn of_deleted(entry: &Entry, tab: &Tab, deleted: &[u32]) -> Option<Finding> {
    let id = number_of(entry, tab, deleted)?;
    let again = match &entry.table.params {
        TargetParams::Snapshot(snapshot) => format!(
            "; if what is lost matters to this snapshot, `{}` before that makes a new one",
            wiped(&snapshot.cow)
        ),
        _ => String::new(),
    };
    let what = format!(
        "a device of {} that is not up: it was not brought up, because /dev/ublkb{id} was deleted \
         without a record, and what was written and not flushed may be lost{again}",
        entry.place
    );
    let mend = format!("ublk-dm up {}", entry.name);
    Some(Finding::problem("not-up", what).of(&entry.name).by_hand(mend))
}

/// A device of the tab file that cannot be brought up.
fn of_circle(entry: &Entry) -> Finding {
    let what = format!("a device of {} that stands on itself, by way of its disks", entry.place);
    Finding::problem("tab", what).of(&entry.name)
}

/// A snapshot of the tab file that is not up, and whose store is on record as lost: to bring it up
/// is refused.
fn of_lost(entry: &Entry, lost: &[(String, String)]) -> Option<Finding> {
    let TargetParams::Snapshot(snapshot) = &entry.table.params else { return None };
    let names = storage::names_at(Path::new(&snapshot.cow));
    lost.iter().find(|(cow, _)| names.contains(cow))?;
    let (place, name) = (&entry.place, &entry.name);
    let what = format!(
        "a snapshot of {place} that is not up, and is lost; when its COW has been wiped, \
         `ublk-dm up {name}` makes a new one"
    );
    Some(Finding::problem("snapshot-lost", what).of(name).by_hand(wiped(&snapshot.cow)))
}

/// A device of the tab file that is not up.
fn of_missing(entry: &Entry, known: &Known) -> Finding {
    let place = &entry.place;
    let origin = entry.origin_of_snapshot();
    let user = origin.and_then(|origin| user_of(origin, known));
    let is_written = user.is_some() || origin.is_some_and(|origin| is_up(origin, known));
    let again = if is_written { way_out(entry) } else { String::new() };
    let finding = match user {
        Some(by) => Finding::problem(
            "snapshot-not-up",
            format!(
                "a snapshot of {place} that is not up, while its origin is {by}: each change \
                 there that is not copied ends the snapshot{again}"
            ),
        ),
        None => Finding::advice("not-up", format!("a device of {place} that is not up{again}")),
    };
    let Options { force, other_origin, .. } = entry.options;
    // These may overwrite something: a person decides.
    let mend = match force || other_origin {
        true => Mend::ByHand(format!("ublk-dm up {}", entry.name)),
        false => Mend::Up(entry.name.clone()),
    };
    finding.of(&entry.name).mend(mend)
}

/// What to do if a snapshot is not brought up because it has missed something, as the end of a
/// sentence: the command ends the snapshot, so nothing is said where it can have missed nothing.
fn way_out(entry: &Entry) -> String {
    let TargetParams::Snapshot(snapshot) = &entry.table.params else { return String::new() };
    format!(
        "; if `up` refuses it because its origin was in use without it, `{}` and `up` make a new \
         one",
        wiped(&snapshot.cow)
    )
}

/// Whether an origin is a device that is up.
fn is_up(origin: &str, known: &Known) -> bool {
    known.devices().iter().any(|device| match Disk::of(origin) {
        Disk::Named(name) => device.name == name,
        Disk::Path(path) => device.object.block_device == path,
    })
}

/// Who uses an origin, as the end of "it is ...".
fn user_of(origin: &str, known: &Known) -> Option<String> {
    let path = match Disk::of(origin) {
        Disk::Path(path) => path.to_owned(),
        Disk::Named(name) => {
            let devices = known.devices();
            let device = devices.iter().find(|device| device.name == name)?;
            device.object.block_device.clone()
        }
    };
    let by = storage::user_of(DiskId::of_path(Path::new(&path)).ok()?)?;
    // The server of other snapshots of it claims it, and writes nothing to it.
    let keeps = |device: &&DeviceReport| {
        device.object.server_pid.is_some_and(|pid| by.contains(&format!("process {pid} (")))
    };
    let devices = known.devices();
    let mut its = devices.into_iter().filter(keeps).peekable();
    let only_keeps = its.peek().is_some() && its.all(|device| device.object.target == "snapshot");
    (!only_keeps).then_some(by)
}
