//! What `doctor` looks at in the tab file: lines that cannot be used, and devices that are not up.

use std::path::Path;

use dm_targets::table::TargetParams;

use super::finding::{Finding, Mend};
use super::left::wiped;
use crate::cli::client::Known;
use crate::cli::up::plan::is_circle;
use crate::protocol::DeviceReport;
use crate::rundir::{RunDir, lost};
use crate::storage::{self, DiskId};
use crate::tab::{Disk, Entry, Options, files};

/// Looks at the tab file.
pub(super) fn examine(known: &Known, rundir: &RunDir) -> Vec<Finding> {
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
    found.extend(missing.map(|entry| match of_lost(entry, &lost) {
        Some(lost) => lost,
        None if is_circle(&tab, entry) => of_circle(entry),
        None => of_missing(entry, known),
    }));
    found
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
