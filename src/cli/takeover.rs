//! `--foreground` for devices that wait for a server: this process becomes their server, or has the
//! living one take them over.
//!
//! Rule kept here: the command succeeds only if every device that it names is served. A device that
//! cannot be opened is found before any other is touched: the others go on waiting, for a `recover`
//! that brings back as many as it can.

use std::os::unix::net::UnixStream;

use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::TargetParams;

use super::client::other_answer;
use crate::failure::{Failure, Reason};
use crate::offline;
use crate::protocol::{self, Command, DeviceState, Problem, Reply};
use crate::rundir::RunDir;
use crate::rundir::journal::find::{self, Purpose};
use crate::rundir::journal::owner::Owner;
use crate::storage::{Access, Claim, OpenDisk, content, ublk_devices_below};
use crate::ublk::{Control, DeviceState as DiskState, device};

/// Refuses disks that stand on a device whose server has died: reads of such a disk are not
/// answered, or fail. A device that the same server takes over with them, before them, does not
/// count.
pub(super) fn refuse_waiting(disks: &[(u32, u32)], own: &[u32]) -> Result<(), Reason> {
    let mut below = ublk_devices_below(disks);
    below.retain(|id| !own.contains(id));
    if below.is_empty() {
        return Ok(());
    }
    let mut control = Control::open()?;
    for id in below {
        let waits = |state| matches!(state, DiskState::Quiesced | DiskState::FailIo);
        if control.info(id).is_ok_and(|info| waits(info.state)) {
            let what = format!("a disk below, /dev/ublkb{id}, waits for a server itself");
            return Err(
                format!("{what}; recover that device first, or all devices with --all").into()
            );
        }
    }
    Ok(())
}

/// The disks of all these devices.
pub(super) fn disks_of(devices: &[DeviceState]) -> Vec<(u32, u32)> {
    devices.iter().flat_map(|device| device.disks.clone()).collect()
}

/// The devices of the same server on which these stand.
pub(super) fn lower_of(devices: &[DeviceState]) -> Vec<u32> {
    devices.iter().flat_map(DeviceState::lower).map(|lower| lower.id).collect()
}

/// Checks, as far as possible beforehand, that a waiting device can be taken over. Nothing is
/// changed: once its family has a server without it, its origin may be written, and the device is
/// recorded as lost.
pub(super) fn check(rundir: &RunDir, device: &DeviceState) -> Result<(), Reason> {
    let DeviceState { id, cookie, name, spec, .. } = device;
    let mut control = Control::open()?;
    let checked =
        refuse_unless_waiting(&mut control, *id, *cookie).and_then(|()| match &spec.table.params {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
                check_cow(rundir, snapshot)
            }
            // If an origin or a mirror cannot be opened, neither can the rest of its family.
            _ => Ok(()),
        });
    checked.map_err(|why| {
        why.context(format!("{name}: not recovered, nor any other device of its family"))
    })
}

/// Refuses a device that does not wait for a server.
fn refuse_unless_waiting(control: &mut Control, id: u32, cookie: u64) -> Result<(), Reason> {
    device::must_wait(id, device::ours(control, id, cookie)?).map(drop)
}

/// Checks that the COW is there, that all of its store can be read, and that no journal that may be
/// its own needs a decision first.
fn check_cow(rundir: &RunDir, snapshot: &Snapshot) -> Result<(), Reason> {
    let cow = OpenDisk::open(&snapshot.cow, Access::ReadOnly, Claim::Shared)?;
    if snapshot.store.is_transient() {
        return Ok(());
    }
    let Some(store) = content::store_on(&cow)? else { return Ok(()) };
    let owner = Owner::of(&cow, store.identity.map(|identity| identity.store));
    let owner = owner.map_err(|error| Failure::from(error).context(&snapshot.cow))?;
    find::find(rundir.path(), &cow, &owner, Purpose::GoOn)?;
    Ok(offline::read(&cow.path)?)
}

/// Makes sure that a living server serves a device of its family: a device that it left out is
/// taken over now.
pub(super) fn by_server(server: UnixStream, wanted: &DeviceState) -> Result<(), Failure> {
    let mut control = Control::open()?;
    if is_served(&mut control, wanted)? {
        return Ok(());
    }
    let DeviceState { name, id, cookie, .. } = wanted;
    refuse_unless_waiting(&mut control, *id, *cookie)
        .map_err(|why| not_recovered(name, Some(why)))?;
    let own: Vec<u32> = wanted.lower().map(|lower| lower.id).collect();
    refuse_waiting(&wanted.disks, &own).map_err(|why| not_recovered(name, Some(why)))?;
    match protocol::ask(server, &Command::RecoverLeftOut { devices: vec![wanted.device()] }) {
        Ok(reply) => taken_over(reply, std::slice::from_ref(wanted)),
        Err(error) => Err(not_recovered(name, Some(error.into()))),
    }
}

/// Handles the reply of a server that was to take over devices. Problems of other devices are
/// logged, and those devices wait; the command fails if one of `wanted` is not served.
pub(super) fn taken_over(reply: Reply, wanted: &[DeviceState]) -> Result<(), Failure> {
    let (problems, notes) = match reply {
        Reply::Recovered { problems, notes } => (problems, notes),
        Reply::Failed(why) => return Err(why),
        _ => return Err(other_answer()),
    };
    let mut control = Control::open()?;
    for device in wanted {
        // A merge that was left to this moment has ended its device.
        let may_end = device.spec.deferred_merge().is_some();
        if may_end && device::ours(&mut control, device.id, device.cookie)?.is_none() {
            continue;
        }
        if !is_served(&mut control, device)? {
            return Err(why_not(device, problems));
        }
    }
    problems.iter().for_each(|problem| log::error!("{}", problem.why));
    notes.iter().for_each(|note| log::warn!("{note}"));
    Ok(())
}

/// Whether requests to a device are answered.
fn is_served(control: &mut Control, device: &DeviceState) -> Result<bool, Reason> {
    Ok(device::ours(control, device.id, device.cookie)?
        .is_some_and(|info| info.state == DiskState::Live))
}

/// The reason that a server reported for a device that it could not take over; all that it reported
/// if none is the device's own.
fn why_not(device: &DeviceState, problems: Vec<Problem>) -> Reason {
    let is_own = |problem: &&Problem| problem.device == Some(device.device());
    let own: Vec<Failure> = problems.iter().filter(is_own).map(|one| one.why.clone()).collect();
    Failure::all(own).unwrap_or_else(|| {
        let all = problems.into_iter().map(|problem| problem.why).collect();
        not_recovered(&device.name, Failure::all(all))
    })
}

fn not_recovered(name: &str, why: Option<Failure>) -> Failure {
    why.unwrap_or_else(|| "its server did not report why".into())
        .context(format!("{name}: not recovered"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    fn snapshot(id: u32, name: &str) -> DeviceState {
        let state = r#"{"id":ID,"cookie":7,"name":"NAME","disks":[],"spec":{
            "table":"0 8 snapshot /o /c P 8","force":false,"degraded":false,"source":null,
            "options":{"queues":1,"depth":1,"read_only":false,"zero_copy":true,"recovery":true}}}"#;
        let state = state.replace("ID", &id.to_string()).replace("NAME", name);
        serde_json::from_str(&state).unwrap()
    }

    #[test]
    fn the_reason_is_the_devices_own_whatever_it_says() {
        let (one, other) = (snapshot(1, "s1"), snapshot(10, "s10"));
        let problems = vec![
            Problem::of(&other, "s1: not recovered: said of s10".into()),
            Failure::from("s1: not recovered: of none").into(),
            Problem::of(&one, Failure::new(Kind::InUse, "/dev/ublkb1: busy")),
        ];
        let why = why_not(&one, problems.clone());
        assert_eq!((why.to_string().as_str(), why.kind), ("/dev/ublkb1: busy", Kind::InUse));
        // The number is another device's.
        let replaced = DeviceState { cookie: 8, ..one };
        let all = "s1: not recovered: s1: not recovered: said of s10; s1: not recovered: of none; \
                   /dev/ublkb1: busy";
        assert_eq!(why_not(&replaced, problems).to_string(), all);
        assert!(why_not(&replaced, Vec::new()).starts_with("s1: not recovered: "));
    }
}
