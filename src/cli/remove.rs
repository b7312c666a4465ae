//! `del` and `recover`: the deletion of devices, and a new server for those whose own has died.
//!
//! Rules kept here: a device is touched only after its cookie has been compared, because its number
//! may be another device's by now; a failure stops only the work that depends on it, and has a line
//! of its own.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use super::client::{Family, Known, must_answer, open_rundir};
use super::gone;
use super::keep::{self, Signals, Watch};
use super::order::{self, Part};
use super::table::place_of;
use super::takeover;
use super::unrecorded;
use super::verdict::verdict;
use crate::failure::{Failure, Kind, Reason, wrong_usage};
use crate::protocol::{self, Command, DeviceRef, DeviceReport, DeviceState, Reply};
use crate::rundir::{FamilyLock, RunDir, Server, State};
use crate::server::{self, process};
use crate::storage::ublk_devices_below;
use crate::ublk::{Control, apart, device};

/// A device that is to be deleted.
struct Doomed {
    device: DeviceReport,
    part: Part,
}

pub(super) fn del(words: &[String], all: bool, force: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let (words, mut problems) = unrecorded::delete(&rundir, &known.unrecorded, words, force);
    let (doomed, wrong) = doomed(&known, &words, all);
    problems.extend(wrong);
    let parts: Vec<Part> = doomed.iter().map(|doomed| doomed.part.clone()).collect();
    let mut kept: Vec<usize> = Vec::new();
    for at in order::deletion(&parts) {
        let Doomed { device, part } = &doomed[at];
        let above = kept.iter().find(|kept| !force && parts[**kept].stands_on(part));
        let origin = kept.iter().find(|kept| !force && parts[**kept].is_origin_of(part));
        let deleted = match (above, origin) {
            (Some(above), _) => {
                let above = &doomed[*above].device.name;
                Err(Failure::from(format!(
                    "{}: not deleted, because {above} depends on it",
                    device.name
                )))
            }
            // The origin would be written without its snapshot.
            (_, Some(origin)) => {
                let origin = &doomed[*origin].device.name;
                Err(Failure::from(format!(
                    "{}: not deleted, because its origin {origin} stays and would invalidate it",
                    device.name
                )))
            }
            (None, None) => del_one(&rundir, &known.families[part.server].key, device, force),
        };
        if let Err(why) = deleted {
            problems.push(why);
            kept.push(at);
        }
    }
    if all {
        for family in known.families.iter().filter(|family| family.devices.is_empty()) {
            problems.extend(del_stale(&rundir, &family.key));
        }
    }
    verdict(problems)
}

/// Completes what a dead server has left if none of its devices exists, and removes its files.
fn del_stale(rundir: &RunDir, key: &str) -> Vec<Reason> {
    let settle = || {
        let _lock = rundir.lock_family(key, "del")?;
        let Some(Server { lives: false, state: Some(state), .. }) = rundir.server(key) else {
            return Ok(Vec::new());
        };
        for device in &state.devices {
            if gone::exists(device)? {
                return Ok(Vec::new());
            }
        }
        Ok(gone::forget(rundir, key, &state.devices, Vec::new()).problems)
    };
    settle().unwrap_or_else(|why| vec![why])
}

/// The devices to delete, each once, and what is wrong with the words.
fn doomed(known: &Known, words: &[String], all: bool) -> (Vec<Doomed>, Vec<Reason>) {
    let mut problems = if all { known.problems.clone() } else { Vec::new() };
    let everything = if all { known.devices() } else { Vec::new() };
    let mut chosen: Vec<DeviceRef> = everything.iter().map(|device| device.device()).collect();
    for word in words {
        match known.find(word) {
            Ok((_, device)) if chosen.contains(&device.device()) => {}
            Ok((_, device)) => chosen.push(device.device()),
            Err(why) => problems.push(why),
        }
    }
    let mut doomed = Vec::new();
    for (server, family) in known.families.iter().enumerate() {
        for device in family.devices.iter().filter(|device| chosen.contains(&device.device())) {
            let is_origin =
                matches!(device.object.target.as_str(), "snapshot-origin" | "snapshot-merge");
            let below = ublk_devices_below(&device.disks);
            let part = Part { ids: [device.id].into(), below, server, is_origin };
            doomed.push(Doomed { device: device.clone(), part });
        }
    }
    doomed.sort_by_key(|doomed| doomed.device.id);
    (doomed, problems)
}

fn del_one(rundir: &RunDir, key: &str, device: &DeviceReport, force: bool) -> Result<(), Reason> {
    must_answer(device)?;
    let id = device.id;
    // Whatever happens to this family, commands on other families do not wait.
    let _lock = rundir.lock_family(key, "del")?;
    let gone = || format!("/dev/ublkb{id}: it has just been deleted by another command");
    match rundir.server(key).ok_or_else(gone)? {
        Server { connection: Some(server), .. } => {
            match protocol::ask(server, &Command::Del { devices: vec![device.device()], force }) {
                Ok(Reply::Deleted) => Ok(()),
                Ok(Reply::DeletedNoted { notes }) => {
                    notes.iter().for_each(|note| log::warn!("{note}"));
                    Ok(())
                }
                Ok(Reply::Failed(why)) => Err(why),
                Ok(_) => Err(format!("/dev/ublkb{id}: its server sent an unexpected reply").into()),
                Err(error) => Err(Failure::from(error).context(format!("/dev/ublkb{id}"))),
            }
        }
        Server { lives: true, .. } => {
            let why = format!("/dev/ublkb{id}: its server does not answer");
            Err(Failure::new(Kind::NoAnswer, why))
        }
        Server { damaged: Some(why), .. } => Err(why),
        Server { state, .. } => {
            del_orphan(rundir, key, state.ok_or_else(gone)?, device.device(), force)
        }
    }
}

/// Deletes a device whose server has died. I/O that waits for the device fails.
fn del_orphan(
    rundir: &RunDir,
    key: &str,
    mut state: State,
    which: DeviceRef,
    force: bool,
) -> Result<(), Reason> {
    let id = which.id;
    if !force {
        return Err(device::orphaned(id));
    }
    let mut control = Control::open()?;
    let Some(at) = state.devices.iter().position(|device| device.device() == which) else {
        return Ok(());
    };
    let device = state.devices.remove(at);
    // Devices that another program has deleted stay in the file: the origin's next server must know
    // of them.
    let mut left = Vec::new();
    for device in &state.devices {
        if device::ours(&mut control, device.id, device.cookie)?.is_some() {
            left.push(device.clone());
        }
    }
    // Recorded before the device is deleted: the devices that stay will be served again, and change
    // what this device would have shown.
    server::record_left_behind(rundir, key, &device, &left)?;
    // If its number is another device's by now, there is nothing left to delete.
    apart::delete_apart(id, device.cookie)?;
    let recorded = gone::complete(rundir, key, &device);
    let is_owed = recorded.as_ref().is_err_and(|incomplete| incomplete.owed);
    let own = recorded.err().map(|incomplete| incomplete.why);
    if left.is_empty() {
        let owed = is_owed.then_some(device).into_iter().collect();
        let others = gone::forget(rundir, key, &state.devices, owed).problems;
        let problems: Vec<Reason> = own.into_iter().chain(others).collect();
        return Failure::all(problems).map_or(Ok(()), Err);
    }
    // What is recorded nowhere else stays in the file.
    let saved = if is_owed { Ok(()) } else { rundir.rewrite_state(key, &state) };
    Failure::all(own.into_iter().chain(saved.err()).collect()).map_or(Ok(()), Err)
}

/// Takes over the devices of one dead server, and serves them in this process.
pub(super) fn recover_in_foreground(
    words: &[String],
    source: Option<&Path>,
) -> Result<ExitCode, Failure> {
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
    takeover::refuse_waiting(&takeover::disks_of(&state.devices))?;
    let chosen = words
        .iter()
        .map(|word| Ok(known.find(word)?.1.device()))
        .collect::<Result<Vec<_>, Reason>>()?;
    let (mut devices, mut wanted) = (Vec::new(), Vec::new());
    for device in state.devices {
        let device = with_source(device, source)?;
        wanted.extend(chosen.contains(&device.device()).then(|| device.clone()));
        devices.push(device);
    }
    wanted.iter().try_for_each(|device| takeover::judge(&rundir, device))?;
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
    keep::keep(rundir, key, left_out.device(), (&signals, watch), lock)
}

/// The device with `source` as the leg that is right: a leg that was named when the mirror was
/// added is no longer valid as the source.
fn with_source(mut device: DeviceState, source: Option<&Path>) -> Result<DeviceState, Reason> {
    let source = source.map(|source| place_of(&device.spec.table, source)).transpose();
    device.spec.source = source.map_err(|why| why.context(&device.name))?;
    Ok(device)
}

/// Starts a new server for every family of the chosen devices whose server has died.
pub(super) fn recover(words: &[String], all: bool, source: Option<&Path>) -> Result<(), Failure> {
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
    for at in order::recovery(&families.iter().map(|family| part_of(family)).collect::<Vec<_>>()) {
        let family = families[at];
        let is_left_out = |device: &&DeviceReport| {
            (all || chosen.contains(&device.device())) && device.object.server_pid.is_none()
        };
        let left_out: Vec<&DeviceReport> = family.devices.iter().filter(is_left_out).collect();
        problems.extend(recover_family(&rundir, family, &left_out, source));
    }
    verdict(problems)
}

/// A server's devices as one part.
fn part_of(family: &Family) -> Part {
    let disks: Vec<(u32, u32)> =
        family.devices.iter().flat_map(|device| device.disks.clone()).collect();
    let ids = family.devices.iter().map(|device| device.id).collect();
    Part { ids, below: ublk_devices_below(&disks), ..Part::default() }
}

/// Starts a new server for a family if its own has died; or has the living one take over the
/// devices that were left out at its start. Returns what could not be done.
fn recover_family(
    rundir: &RunDir,
    family: &Family,
    left_out: &[&DeviceReport],
    source: Option<&Path>,
) -> Vec<Reason> {
    let key = &family.key;
    if left_out.is_empty() && !family.devices.is_empty() {
        return Vec::new();
    }
    // Whatever happens to this family, commands on other families do not wait.
    let _lock = match rundir.lock_family(key, "recover") {
        Ok(lock) => lock,
        Err(why) => return vec![why],
    };
    let state = match rundir.server(key) {
        Some(Server { connection: Some(server), .. }) => return recover_left_out(server, left_out),
        Some(Server { lives: false, state: Some(state), .. }) => state,
        Some(Server { lives: true, .. }) => {
            let why = format!("{key}: its server does not answer");
            return vec![Failure::new(Kind::NoAnswer, why)];
        }
        Some(Server { damaged: Some(why), .. }) => return vec![why],
        _ => return Vec::new(),
    };
    if family.devices.is_empty() {
        return gone::forget(rundir, key, &state.devices, Vec::new()).problems;
    }
    // Devices that another program has deleted are included: the origin's server must know what
    // became of a snapshot.
    let devices = state.devices.into_iter();
    let devices: Vec<DeviceState> =
        match devices.map(|device| with_source(device, source)).collect() {
            Ok(devices) => devices,
            Err(why) => return vec![why],
        };
    let names = devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    let free = takeover::refuse_waiting(&takeover::disks_of(&devices));
    rundir.remove_socket(key);
    let server = free.and_then(|()| process::start(rundir, key));
    ask_to_recover(server, &Command::Recover(devices), &names)
}

fn recover_left_out(server: UnixStream, left_out: &[&DeviceReport]) -> Vec<Reason> {
    if left_out.is_empty() {
        return Vec::new();
    }
    let names = left_out.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    let command = Command::RecoverLeftOut {
        devices: left_out.iter().map(|device| device.device()).collect(),
    };
    let disks: Vec<_> = left_out.iter().flat_map(|device| device.disks.clone()).collect();
    ask_to_recover(takeover::refuse_waiting(&disks).map(|()| server), &command, &names)
}

fn ask_to_recover(
    server: Result<UnixStream, Reason>,
    command: &Command,
    names: &str,
) -> Vec<Reason> {
    match server.and_then(|server| Ok(protocol::ask(server, command)?)) {
        Ok(Reply::Recovered { problems }) => {
            problems.into_iter().map(|problem| problem.why).collect()
        }
        Ok(Reply::Failed(why)) => vec![why.context(format!("{names}: not recovered"))],
        Ok(_) => vec![format!("{names}: the new server sent an unexpected reply").into()],
        Err(why) => vec![why.context(format!("{names}: not recovered"))],
    }
}
