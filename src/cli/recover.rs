//! `recover`: a new server for devices whose own has died, and for those that a living server has
//! left out.
//!
//! Rules kept here: a failure stops only the work that depends on it, and has a line of its own;
//! and a family whose disks hang delays no other one ([`side_by_side`]).

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use dm_targets::table::TargetParams;

use super::client::{Family, Known, must_answer, open_rundir};
use super::disk_word::Disks;
use super::ending;
use super::gone;
use super::json;
use super::keep::{self, AtEnd, Signals, Watch};
use super::order::{self, Part};
use super::results::{self, Named};
use super::side_by_side;
use super::table::place_of;
use super::takeover;
use super::verdict::verdict;
use crate::failure::{Failure, Kind, Reason, wrong_usage};
use crate::protocol::{self, Command, DeviceRef, DeviceReport, DeviceState, Problem, Reply};
use crate::rundir::{FamilyLock, RunDir, Server};
use crate::server::process;
use crate::storage::ublk_devices_below;

/// How long the end of a server is waited for that was asked to end: as long as a command waits for
/// another one.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Takes over the devices of one dead server, and serves them in this process.
pub(super) fn in_foreground(words: &[String], source: Option<&Path>) -> Result<ExitCode, Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let (family, first) = family_of_all(&known, words)?;
    let lock = rundir.lock_family(&family.key, "recover")?;
    let state = match rundir.server(&family.key) {
        Some(Server { lives: false, state: Some(state), .. }) => state,
        Some(Server { connection: Some(server), state: Some(state), .. })
            if first.object.server_pid.is_none() =>
        {
            let [_] = words else {
                let hint = "recover each with a command of its own";
                return Err(wrong_usage(format!(
                    "{}: left out by a living server: {hint}",
                    words.join(", ")
                )));
            };
            let left_out =
                state.devices.into_iter().find(|device| device.device() == first.device());
            let left_out = left_out
                .ok_or_else(|| format!("{}: not in its server's state file", first.name))?;
            return keep_left_out(
                &rundir,
                &family.key,
                server,
                &with_source(left_out, source)?,
                lock,
            );
        }
        _ => {
            return Err(format!(
                "{}: its server is alive, so there is nothing to take over",
                first.name
            )
            .into());
        }
    };
    let own = takeover::lower_of(&state.devices);
    takeover::refuse_waiting(&takeover::disks_of(&state.devices), &own)?;
    let chosen = words
        .iter()
        .map(|word| Ok(known.find(word)?.1.device()))
        .collect::<Result<Vec<_>, Reason>>()?;
    let (mut devices, mut wanted) = (Vec::new(), Vec::new());
    for device in all_with_source(state.devices, source)? {
        wanted.extend(chosen.contains(&device.device()).then(|| device.clone()));
        devices.push(device);
    }
    wanted.iter().try_for_each(|device| takeover::check(&rundir, device))?;
    rundir.remove_socket(&family.key);
    let done = |reply| takeover::taken_over(reply, &wanted);
    process::foreground(&rundir, &family.key, Command::Recover(devices), lock, done)
}

/// The family of all these devices, and the first of them.
fn family_of_all<'a>(
    known: &'a Known,
    words: &[String],
) -> Result<(&'a Family, &'a DeviceReport), Failure> {
    let (family, first) = known.find(&words[0])?;
    for word in words {
        let (other, device) = known.find(word)?;
        if other.key != family.key {
            let hint = "recover each with a command of its own";
            return Err(wrong_usage(format!(
                "{}: did not have the same server as {}: {hint}",
                device.name, first.name
            )));
        }
    }
    Ok((family, first))
}

/// Has a living server take over a device that it left out, and keeps that device.
fn keep_left_out(
    rundir: &RunDir,
    key: &str,
    server: UnixStream,
    left_out: &DeviceState,
    lock: FamilyLock,
) -> Result<ExitCode, Failure> {
    let (signals, watch) = (Signals::catch()?, Watch::begin(rundir, key)?);
    takeover::by_server(server, left_out)?;
    keep::keep(rundir, key, left_out.device(), (&signals, watch), AtEnd::Deleted, lock)
}

/// The device with `source` as the leg that is right: a leg that was named when the mirror was
/// added is no longer valid as the source.
fn with_source(mut device: DeviceState, source: Option<&Path>) -> Result<DeviceState, Reason> {
    let Some(source) = source else {
        device.spec.source = None;
        return Ok(device);
    };
    let mut disks = Disks::new();
    disks.known_path(source)?;
    // The command line is right; the device has other legs, or none.
    let refused = |mut why: Failure| {
        why.kind = Kind::NotFound;
        why.context(&device.name)
    };
    device.spec.source = Some(place_of(&device.spec.table, source, &mut disks).map_err(refused)?);
    Ok(device)
}

/// The devices of a family, with `source` for its mirror: snapshots of that have no legs.
fn all_with_source(
    devices: Vec<DeviceState>,
    source: Option<&Path>,
) -> Result<Vec<DeviceState>, Reason> {
    let is_mirror =
        |device: &DeviceState| matches!(device.spec.table.params, TargetParams::Mirror(_));
    let has_mirror = devices.iter().any(is_mirror);
    let with = |device: DeviceState| {
        let is_for_it = is_mirror(&device) || !has_mirror;
        with_source(device, source.filter(|_| is_for_it))
    };
    devices.into_iter().map(with).collect()
}

/// Starts a new server for every family of the chosen devices whose server has died.
pub(super) fn recover(words: &[String], all: bool, source: Option<&Path>) -> Result<(), Failure> {
    let waiting = if json::is_on() { unserved()? } else { Vec::new() };
    let mut problems = recovered(words, all, source)?;
    if json::is_on() {
        problems.extend(show_served(&waiting).err());
    }
    verdict(problems)
}

/// The devices that have no server.
fn unserved() -> Result<Vec<DeviceRef>, Failure> {
    let known = Known::of(&open_rundir()?)?;
    let devices = known.devices().into_iter();
    let waiting = devices.filter(|device| device.object.server_pid.is_none());
    Ok(waiting.map(DeviceReport::device).collect())
}

/// Prints which of the devices that had no server have one.
fn show_served(waiting: &[DeviceRef]) -> Result<(), Failure> {
    let known = Known::of(&open_rundir()?)?;
    let devices = known.devices().into_iter();
    let served = devices.filter(|device| device.object.server_pid.is_some());
    let recovered = served.filter(|device| waiting.contains(&device.device()));
    results::devices("recovered", recovered.map(Named::of))
}

/// The same, and returns what could not be done.
pub(super) fn recovered(
    words: &[String],
    all: bool,
    source: Option<&Path>,
) -> Result<Vec<Reason>, Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let mut problems = if all { known.problems.clone() } else { Vec::new() };
    let mut chosen = Vec::new();
    for word in words {
        match known.find(word) {
            // A device whose server hangs is not served, and cannot be taken over.
            Ok((_, device)) => match must_answer(device) {
                Ok(()) => chosen.push(device.device()),
                Err(why) => problems.push(why),
            },
            Err(why) => problems.push(why),
        }
    }
    let is_chosen = |family: &&Family| {
        all || family.devices.iter().any(|device| chosen.contains(&device.device()))
    };
    let families: Vec<&Family> = known.families.iter().filter(is_chosen).collect();
    let parts: Vec<Part> = families.iter().map(|family| part_of(&rundir, family)).collect();
    let order = order::recovery(&parts);
    let must_wait =
        |one: usize, other: usize| parts[order[one]].is_stacked_with(&parts[order[other]]);
    let recovered = side_by_side::run(order.len(), must_wait, |at| {
        let family = families[order[at]];
        let is_left_out = |device: &&DeviceReport| {
            (all || chosen.contains(&device.device())) && device.object.server_pid.is_none()
        };
        let left_out: Vec<&DeviceReport> = family.devices.iter().filter(is_left_out).collect();
        let is_named = |device: &&DeviceReport| chosen.contains(&device.device());
        let named: Vec<&DeviceReport> = family.devices.iter().filter(is_named).collect();
        recover_family(&rundir, family, (&left_out, &named), source)
    });
    // Until now nothing was written to where a waiting device may be.
    for Recovered { problems: own, notes } in recovered {
        notes.iter().for_each(|note| log::warn!("{note}"));
        problems.extend(own);
    }
    Ok(problems)
}

/// Completes and forgets a dead server none of whose devices exists any more. Returns what could
/// not be done.
pub(super) fn forgotten(rundir: &RunDir, family: &Family) -> Vec<Reason> {
    recover_family(rundir, family, (&[], &[]), None).problems
}

/// A server's devices as one part.
fn part_of(rundir: &RunDir, family: &Family) -> Part {
    let ids = family.devices.iter().map(|device| device.id).collect();
    let disks = family.devices.iter().flat_map(|device| device.disks.clone()).collect();
    let disks = if family.devices.is_empty() { gone::disks(rundir, &family.key) } else { disks };
    Part { ids, below: ublk_devices_below(&disks), ..Part::default() }
}

/// What became of a family: what could not be done, and what its users should know.
#[derive(Default)]
struct Recovered {
    problems: Vec<Reason>,
    notes: Vec<String>,
}

impl From<Reason> for Recovered {
    fn from(why: Reason) -> Recovered {
        Recovered { problems: vec![why], notes: Vec::new() }
    }
}

/// Starts a new server for a family if its own has died; or has the living one take over the
/// devices that were left out at its start.
fn recover_family(
    rundir: &RunDir,
    family: &Family,
    (left_out, named): (&[&DeviceReport], &[&DeviceReport]),
    source: Option<&Path>,
) -> Recovered {
    let key = &family.key;
    if left_out.is_empty() && !family.devices.is_empty() {
        match ending::has_ended(rundir, key, END_LIMIT) {
            Ok(true) => {}
            Ok(false) => return Recovered::default(),
            Err(why) => return why.into(),
        }
    }
    // Whatever happens to this family, commands on other families do not wait.
    let _lock = match rundir.lock_family(key, "recover") {
        Ok(lock) => lock,
        Err(why) => return why.into(),
    };
    let state = match rundir.server(key) {
        Some(Server { connection: Some(server), state, .. }) => {
            let devices = state.map_or_else(Vec::new, |state| state.devices);
            return recover_left_out(server, left_out, &takeover::lower_of(&devices));
        }
        Some(Server { lives: false, state: Some(state), .. }) => state,
        Some(Server { lives: true, .. }) => {
            let why = format!("{key}: its server does not answer");
            return Failure::new(Kind::NoAnswer, why).into();
        }
        Some(Server { damaged: Some(why), .. }) => return why.into(),
        None if !named.is_empty() => return ending::gone(named).into(),
        _ => return Recovered::default(),
    };
    if family.devices.is_empty() {
        let problems = gone::forget(rundir, key, &state.devices, Vec::new()).problems;
        return Recovered { problems, notes: Vec::new() };
    }
    // Devices that another program has deleted are included: the origin's server must know what
    // became of a snapshot.
    let is_there = |one: &DeviceReport| state.devices.iter().any(|it| it.device() == one.device());
    let gone: Vec<&DeviceReport> = named.iter().copied().filter(|one| !is_there(one)).collect();
    let gone = (!gone.is_empty()).then(|| ending::gone(&gone));
    let devices = match all_with_source(state.devices, source) {
        Ok(devices) => devices,
        Err(why) => return why.into(),
    };
    let names = devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    let own = takeover::lower_of(&devices);
    let free = takeover::refuse_waiting(&takeover::disks_of(&devices), &own);
    rundir.remove_socket(key);
    let server = free.and_then(|()| process::start(rundir, key));
    let mut recovered = ask_to_recover(server, &Command::Recover(devices), &names);
    recovered.problems.extend(gone);
    recovered
}

/// Has a living server take over devices that it has left out; `own`: its devices that carry the
/// origins of others.
fn recover_left_out(server: UnixStream, left_out: &[&DeviceReport], own: &[u32]) -> Recovered {
    if left_out.is_empty() {
        return Recovered::default();
    }
    let names = left_out.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    let command = Command::RecoverLeftOut {
        devices: left_out.iter().map(|device| device.device()).collect(),
    };
    let disks: Vec<_> = left_out.iter().flat_map(|device| device.disks.clone()).collect();
    ask_to_recover(takeover::refuse_waiting(&disks, own).map(|()| server), &command, &names)
}

/// What a server could not do, with the device's name.
fn why_of(problem: Problem) -> Reason {
    let Problem { name, why, .. } = problem;
    match name {
        Some(name) => why.of_device(&name),
        None => why,
    }
}

fn ask_to_recover(server: Result<UnixStream, Reason>, command: &Command, names: &str) -> Recovered {
    let why = match server.and_then(|server| Ok(protocol::ask(server, command)?)) {
        Ok(Reply::Recovered { problems, notes }) => {
            let problems = problems.into_iter().map(why_of).collect();
            return Recovered { problems, notes };
        }
        Ok(Reply::Failed(why)) | Err(why) => why.context(format!("{names}: not recovered")),
        Ok(_) => format!("{names}: the new server sent an unexpected reply").into(),
    };
    why.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a message about a leg that the mirror does not have: the command line alone is right.
    #[test]
    fn a_source_that_the_device_does_not_have_is_no_wrong_usage() {
        let of_table = |table: &str| -> DeviceState {
            let state = r#"{"id":7,"cookie":7,"name":"m","disks":[],"spec":{"table":"TABLE",
                "force":false,"degraded":false,"source":1,"options":{"queues":1,"depth":1,
                "read_only":false,"zero_copy":true,"recovery":true}}}"#;
            serde_json::from_str(&state.replace("TABLE", table)).unwrap()
        };
        let mirror = || of_table("0 8 mirror core 1 8 2 /a 0 /b 0");
        for (device, why) in [
            (mirror(), "m: --source /c: not one of the legs"),
            (of_table("0 8 linear /a 0"), "m: --source names a leg of a mirror"),
        ] {
            let refused = with_source(device, Some(Path::new("/c"))).unwrap_err();
            assert!(refused.starts_with(why) && refused.code() == 1, "{refused}");
        }
        let named = |source| with_source(mirror(), source).unwrap().spec.source;
        assert_eq!((named(Some(Path::new("/b"))), named(None)), (Some(1), None));
        // Its snapshot is recovered with it.
        let family = vec![mirror(), of_table("0 8 snapshot /dev/ublkb7 /c P 8")];
        let all = all_with_source(family, Some(Path::new("/b"))).unwrap();
        let sources: Vec<_> = all.iter().map(|device| device.spec.source).collect();
        assert_eq!(sources, [Some(1), None]);
    }
}
