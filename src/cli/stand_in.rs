//! Stand-ins: devices that only fail, each in the place of a mirror's leg that is not there. `up`
//! makes them, and whatever takes the last user of one away deletes it.
//!
//! Rules kept here: one is known by its uuid, whatever its name is by now, and a device that a user
//! has made is none; and one that nothing stands on is deleted only under the lock under which `up`
//! makes it and the mirror on it.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use dm_targets::table::TargetParams;

use super::client::other_answer;
use crate::failure::Reason;
use crate::protocol::{self, Command, DeviceReport, DeviceSpec, DeviceState, Reply};
use crate::rundir::{FamilyLock, RunDir};
use crate::storage::{DiskId, ublk_number};

/// How their uuids begin.
const MARK: &str = "LOST-";
/// What serializes the commands that make and delete them.
const LOCK: &str = "lost-legs";

/// How often the deletion of a new device is tried, and the pause in between.
const DELETE_TRIES: u32 = 50;
const DELETE_PAUSE: Duration = Duration::from_millis(100);

/// The name of the device that stands in for a leg of a mirror.
pub(super) fn name_of(mirror: &str, leg: usize) -> String {
    format!("{mirror}-lost-{leg}")
}

/// Its uuid.
pub(super) fn uuid_of(mirror: &str, leg: usize) -> String {
    format!("{MARK}{mirror}-{leg}")
}

/// Whether a device is a stand-in.
pub(super) fn is_one(device: &DeviceReport) -> bool {
    device.object.target == "error" && has_mark(device.object.uuid.as_deref())
}

fn is_recorded_one(device: &DeviceState) -> bool {
    let DeviceSpec { table, options, .. } = &device.spec;
    table.params == TargetParams::Error && has_mark(options.uuid.as_deref())
}

fn has_mark(uuid: Option<&str>) -> bool {
    uuid.is_some_and(|uuid| uuid.starts_with(MARK))
}

/// Excludes other commands that make or delete stand-ins.
pub(super) fn lock(rundir: &RunDir, doing: &str) -> Result<FamilyLock, Reason> {
    rundir.lock_family(LOCK, doing)
}

/// Deletes the stand-ins on which nothing stands any more. One that cannot be deleted is a warning:
/// it harms nobody.
pub(super) fn delete_unused(rundir: &RunDir, doing: &str) {
    if unused(rundir).is_empty() {
        return;
    }
    match lock(rundir, doing) {
        Ok(_lock) => delete_unused_locked(rundir),
        Err(why) => log::warn!("{why}"),
    }
}

/// The same under the lock.
pub(super) fn delete_unused_locked(rundir: &RunDir) {
    for (key, device) in unused(rundir) {
        if let Err(why) = delete(rundir, &key, &device) {
            log::warn!("{}: not deleted: {why}", device.name);
        }
    }
}

/// Deletes a device with this name that has just been made: udev may be looking at it.
pub(super) fn delete_named(rundir: &RunDir, name: &str) -> Result<(), Reason> {
    let found = recorded(rundir)?.into_iter().find(|(_, device)| device.name == name);
    let Some((key, device)) = found else { return Ok(()) };
    for _ in 1..DELETE_TRIES {
        if delete(rundir, &key, &device).is_ok() {
            return Ok(());
        }
        sleep(DELETE_PAUSE);
    }
    delete(rundir, &key, &device)
}

/// All devices on record, each with its family.
///
/// # Errors
/// A state file cannot be read: its devices are not known.
fn recorded(rundir: &RunDir) -> Result<Vec<(String, DeviceState)>, Reason> {
    let mut all = Vec::new();
    for key in rundir.keys()? {
        let devices = rundir.state(&key)?.map_or_else(Vec::new, |state| state.devices);
        all.extend(devices.into_iter().map(|device| (key.clone(), device)));
    }
    Ok(all)
}

fn unused(rundir: &RunDir) -> Vec<(String, DeviceState)> {
    // What is not known may stand on one.
    let Ok(mut all) = recorded(rundir) else { return Vec::new() };
    let is_any = all.iter().any(|(_, device)| is_recorded_one(device));
    let used = if is_any { numbers_below(&all) } else { BTreeSet::new() };
    all.retain(|(_, device)| is_recorded_one(device) && !used.contains(&device.id));
    all
}

/// The numbers of the ublk devices that are disks of devices, by their tables.
fn numbers_below(all: &[(String, DeviceState)]) -> BTreeSet<u32> {
    let tables = all.iter().flat_map(|(_, device)| {
        std::iter::once(&device.spec).chain(&device.loaded).map(|spec| &spec.table)
    });
    let words = tables.flat_map(|table| table.params.devices());
    words.filter_map(|word| ublk_number(DiskId::of_path(Path::new(word.as_str())).ok()?)).collect()
}

fn delete(rundir: &RunDir, key: &str, device: &DeviceState) -> Result<(), Reason> {
    let _lock = rundir.lock_family(key, "del")?;
    let server = rundir.server(key).and_then(|server| server.connection);
    let gone = || format!("its server has died: `ublk-dm recover {}`", device.name);
    let command = Command::Del { devices: vec![device.device()], force: false };
    match protocol::ask(server.ok_or_else(gone)?, &command)? {
        Reply::Deleted => Ok(()),
        Reply::DeletedNoted { notes } => {
            // A mirror that has just been made was not used.
            notes.iter().for_each(|note| log::info!("{note}"));
            Ok(())
        }
        Reply::Failed(why) => Err(why),
        _ => Err(other_answer()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(line: &str, uuid: &str) -> DeviceState {
        let mut device = DeviceState::of_line(1, "x", line);
        device.spec.options.uuid = Some(uuid.to_owned());
        device
    }

    #[test]
    fn a_stand_in_is_known_by_its_uuid() {
        let uuid = uuid_of("m", 0);
        assert_eq!((name_of("m", 0).as_str(), uuid.as_str()), ("m-lost-0", "LOST-m-0"));
        assert!(is_recorded_one(&device("0 64 error", &uuid)));
        assert!(!is_recorded_one(&device("0 64 error", "mine")), "a user's");
        assert!(!is_recorded_one(&device("0 64 zero", &uuid)), "it has another table");
        let name = "x".repeat(120);
        assert_eq!(crate::protocol::refuse_odd_uuid(&uuid_of(&name, 8)), Ok(()));
        assert!(crate::protocol::refuse_odd_name(&name_of(&name, 8)).is_ok(), "the longest name");
    }
}
