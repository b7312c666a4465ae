//! `reap`: what dead servers have left and no server can take over.
//!
//! Rules kept here: a device that a server may still take over, that is in use, or that may just be
//! added, stays; and what is recorded nowhere else is recorded before the files that have it go.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::client::{Known, open_rundir};
use super::json;
use super::recover;
use super::results;
use super::terminal::print;
use super::unrecorded;
use super::verdict::verdict;
use crate::failure::{Failure, Reason};
use crate::protocol::DeviceRef;
use crate::rundir::RunDir;
use crate::rundir::journal::unused;
use crate::ublk::{Control, DeviceState, apart, device};

/// A device that has been without a disk and a record for so long is not being added: an `add`
/// whose disk is silent ends earlier.
pub(super) const LEAST_AGE: Duration = Duration::from_secs(120);

/// How long after a first look a second one is taken: a server that deletes a device has no record
/// of it and no disk for a moment, and the kernel shows a device as served for a moment after its
/// server has died.
pub(super) const SECOND_LOOK: Duration = Duration::from_secs(1);

/// A device that has no disk, and that no file knows of.
pub(super) struct NeverStarted(DeviceRef);

impl NeverStarted {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id
    }
}

/// What was deleted, and how that ends a line.
type Deleted<'a> = (&'a str, &'a str);
/// Says what was deleted.
type Say<'a> = &'a dyn Fn(Deleted<'_>) -> Result<(), Failure>;

/// Deletes all of it, and prints what.
pub(super) fn reap() -> Result<(), Failure> {
    let deleted = RefCell::new(Vec::new());
    let ended = run(&|(what, how)| match json::is_on() {
        true => {
            deleted.borrow_mut().push(what.to_owned());
            Ok(())
        }
        false => print(&format!("{what}: {how}")),
    });
    let shown = results::show(|| json!({ "deleted": deleted.take() }));
    ended.and(shown)
}

/// Deletes all of it, and prints nothing on stdout.
pub(super) fn reap_quietly() -> Result<(), Failure> {
    run(&|_| Ok(()))
}

fn run(say: Say<'_>) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let mut problems = forget_servers(&rundir, say)?;
    let known = Known::of(&rundir)?;
    // Those without a record are dealt with here.
    if known.unrecorded.is_empty() {
        problems.extend(known.problems.clone());
    }
    for device in &known.unrecorded {
        let done = unused(device.id()).and_then(|()| device.delete(&rundir, true));
        match done {
            Ok(()) => say((&format!("/dev/ublkb{}", device.id()), "deleted"))?,
            Err(why) => problems.push(why),
        }
    }
    for device in never_started(&rundir)? {
        let id = device.id();
        match apart::delete_apart(id, device.0.cookie) {
            Ok(()) => say((&format!("/dev/ublkc{id}"), "deleted; it was never started"))?,
            Err(why) => problems.push(why),
        }
    }
    for path in unused::unused(&rundir, LEAST_AGE)? {
        match unused::remove(&path, LEAST_AGE) {
            Ok(true) => say((&path.display().to_string(), "removed; it holds no writes"))?,
            Ok(false) => {}
            Err(error) => problems.push(Failure::at(&path, error)),
        }
    }
    verdict(problems)
}

/// Forgets the servers none of whose devices exists, as the next `recover` would.
fn forget_servers(rundir: &RunDir, say: Say<'_>) -> Result<Vec<Reason>, Failure> {
    let known = Known::of(rundir)?;
    let gone = known.families.iter().filter(|family| family.devices.is_empty());
    let mut problems = Vec::new();
    for family in gone {
        let why = recover::forgotten(rundir, family);
        if why.is_empty() && rundir.server(&family.key).is_none() {
            say((&family.key, "files removed"))?;
        }
        problems.extend(why);
    }
    Ok(problems)
}

/// Refuses a device that is in use.
pub(super) fn unused(id: u32) -> Result<(), Reason> {
    let path = format!("{}{id}", device::BLOCK_PATH);
    match device::seen_user(id)? {
        Some(by) => Err(format!(
            "{path}: it is {by}: `ublk-dm del --force {path}` deletes it and fails its I/O"
        )
        .into()),
        None => Ok(()),
    }
}

/// The devices of the run directory without a disk that no file knows of and that no process
/// serves or makes.
///
/// # Errors
/// The kernel or the run directory cannot be asked.
pub(super) fn never_started(rundir: &RunDir) -> Result<Vec<NeverStarted>, Failure> {
    let numbers = device::numbers()?;
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let mut control = Control::open()?;
    let mut found = Vec::new();
    for id in numbers {
        let Some(info) = device::info(&mut control, id)? else { continue };
        let ours = info.state == DeviceState::Dead && device::has_mark(&info, rundir.mark());
        if ours && is_abandoned(id) {
            found.push(DeviceRef { id, cookie: info.target_flags });
        }
    }
    let Some(recorded) = unrecorded::recorded(rundir)? else { return Ok(Vec::new()) };
    found.retain(|device| !recorded.contains(device));
    let is_dead = |device: &DeviceRef| {
        let now = device::ours(&mut control, device.id, device.cookie)?;
        Ok(now.is_some_and(|now| now.state == DeviceState::Dead))
    };
    let still = still_there(found, || std::thread::sleep(SECOND_LOOK), is_dead)?;
    Ok(still.into_iter().map(NeverStarted).collect())
}

/// Those of the devices that have no disk that have none after a pause either: one whose server
/// deletes it is gone then.
fn still_there(
    found: Vec<DeviceRef>,
    pause: impl Fn(),
    mut is_dead: impl FnMut(&DeviceRef) -> Result<bool, Failure>,
) -> Result<Vec<DeviceRef>, Failure> {
    let mut still = Vec::new();
    if !found.is_empty() {
        pause();
    }
    for device in found {
        if is_dead(&device)? {
            still.push(device);
        }
    }
    Ok(still)
}

/// Whether no process has a device open that was made some time ago. Its node tells both: the
/// driver lets one process open it.
fn is_abandoned(id: u32) -> bool {
    let path = format!("{}{id}", device::CHAR_PATH);
    let made = fs::metadata(&path).and_then(|node| node.modified());
    let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
    let is_old = age.is_ok_and(|age| age >= LEAST_AGE);
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    is_old && !opened.is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_device_that_is_just_being_deleted_is_left_alone() {
        let device = |id| DeviceRef { id, cookie: 7 };
        let has_paused = Cell::new(false);
        // The second one's server deletes it meanwhile.
        let is_dead = |one: &DeviceRef| Ok(!(has_paused.get() && one.id == 2));
        let found = vec![device(1), device(2), device(3)];
        let still = still_there(found, || has_paused.set(true), is_dead);
        assert_eq!(still.unwrap(), [device(1), device(3)]);
        let none = still_there(Vec::new(), || panic!("nobody waits for nothing"), |_| Ok(true));
        assert_eq!(none.unwrap(), []);
    }
}
