//! `del` and `recover`: the end of devices, and a new server for those whose own has died.
//!
//! Rules kept here: a device is touched only after its cookie has been compared, because its number may be another device's
//! by now; what fails keeps nothing from being done that does not depend on it, and has a line of its own.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::client::{Family, Known, must_answer, open_rundir, other_answer};
use super::order::{self, Part};
use super::table::place_of;
use super::verdict::verdict;
use crate::failure::{Failure, Reason, wrong_usage};
use crate::protocol::{self, Answer, DeviceReport, DeviceState, Question};
use crate::rundir::{RunDir, Server, State};
use crate::server::{self, process};
use crate::storage::ublk_devices_below;
use crate::ublk::{Control, DeviceState as DiskState, device};

/// How often the disks of a server that has just died are asked for ...
const RECORD_TRIES: u32 = 20;
/// ... and the pause between: the kernel closes its files two seconds later at most.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// A device that is to be deleted.
struct Doomed {
    device: DeviceReport,
    part: Part,
}

pub(super) fn del(words: &[String], all: bool, force: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let (doomed, mut problems) = doomed(&known, words, all);
    let parts: Vec<Part> = doomed.iter().map(|doomed| doomed.part.clone()).collect();
    let mut kept: Vec<usize> = Vec::new();
    for at in order::deletion(&parts) {
        let Doomed { device, part } = &doomed[at];
        let above = kept.iter().find(|kept| !force && parts[**kept].stands_on(part));
        let deleted = match above {
            Some(above) => {
                let above = &doomed[*above].device.name;
                Err(format!("{}: not deleted, because {above} stands on it", device.name))
            }
            None => del_one(&rundir, &known.families[part.server].key, device, force),
        };
        if let Err(why) = deleted {
            problems.push(why);
            kept.push(at);
        }
    }
    verdict(problems)
}

/// The devices that are meant, each once, and what is wrong with the words.
fn doomed(known: &Known, words: &[String], all: bool) -> (Vec<Doomed>, Vec<Reason>) {
    let mut problems = if all { known.problems.clone() } else { Vec::new() };
    let mut ids: Vec<u32> = if all { known.devices().iter().map(|device| device.id).collect() } else { Vec::new() };
    for word in words {
        match known.find(word) {
            Ok((_, device)) if ids.contains(&device.id) => {}
            Ok((_, device)) => ids.push(device.id),
            Err(why) => problems.push(why),
        }
    }
    let mut doomed = Vec::new();
    for (server, family) in known.families.iter().enumerate() {
        for device in family.devices.iter().filter(|device| ids.contains(&device.id)) {
            let is_origin = device.json["target"] == "snapshot-origin";
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
    // Whatever happens to this family, commands on others are not kept waiting.
    let _lock = rundir.lock_family(key, "del")?;
    let gone = || format!("/dev/ublkb{id}: it has just been deleted by another command");
    match rundir.server(key).ok_or_else(gone)? {
        Server { connection: Some(server), .. } => {
            match protocol::ask(server, &Question::Del { ids: vec![id], force }) {
                Ok(Answer::Deleted) => Ok(()),
                Ok(Answer::Failed { message }) => Err(message),
                Ok(_) => Err(format!("/dev/ublkb{id}: its server gave an answer to another question")),
                Err(error) => Err(format!("/dev/ublkb{id}: {error}")),
            }
        }
        Server { lives: true, .. } => Err(format!("/dev/ublkb{id}: its server does not answer")),
        Server { damaged: Some(why), .. } => Err(why),
        Server { state, .. } => del_orphan(rundir, key, state.ok_or_else(gone)?, id, force),
    }
}

/// Deletes a device whose server has died. What waits for it gets errors.
fn del_orphan(rundir: &RunDir, key: &str, mut state: State, id: u32, force: bool) -> Result<(), Reason> {
    if !force {
        return Err(format!("/dev/ublkb{id}: its server has died; --force deletes it, failing all I/O that waits"));
    }
    let mut control = Control::open().map_err(|error| error.to_string())?;
    let Some(at) = state.devices.iter().position(|device| device.id == id) else { return Ok(()) };
    let device = state.devices.remove(at);
    // Those that another program has deleted stay in the file: the origin's next server must know of them.
    let mut left = Vec::new();
    for device in &state.devices {
        if device::ours(&mut control, device.id, device.cookie)?.is_some() {
            left.push(device.clone());
        }
    }
    // Before it is gone: a device that stays will be served again, and change what this one would have shown.
    server::record_left_behind(rundir, key, &device, &left)?;
    // If its number is another device's by now, there is nothing left to delete.
    if device::ours(&mut control, id, device.cookie)?.is_some() {
        device::stop(&mut control, id)?;
        device::delete(&mut control, id)?;
    }
    let recorded = complete(rundir, key, &device);
    if left.is_empty() {
        rundir.remove(key);
        return recorded;
    }
    recorded.and(rundir.rewrite_state(key, &state))
}

/// Leaves a deleted device's COW as it must be. The dead process may hold its disks for a moment longer.
fn complete(rundir: &RunDir, key: &str, device: &DeviceState) -> Result<(), Reason> {
    for _ in 1..RECORD_TRIES {
        if server::complete(rundir, key, device).is_ok() {
            return Ok(());
        }
        std::thread::sleep(RECORD_PAUSE);
    }
    server::complete(rundir, key, device)
}

/// Takes over the devices of one dead server, and serves them in this process.
pub(super) fn recover_in_foreground(words: &[String], source: Option<&Path>) -> Result<ExitCode, Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let (family, first) = known.find(&words[0])?;
    for word in words {
        let (other, device) = known.find(word)?;
        if other.key != family.key {
            let hint = "give it a process of its own";
            return Err(wrong_usage(format!("{}: had another server than {}: {hint}", device.name, first.name)));
        }
    }
    let lock = rundir.lock_family(&family.key, "recover")?;
    let Some(Server { lives: false, state: Some(state), .. }) = rundir.server(&family.key) else {
        return Err(format!("{}: its server is alive, there is nothing to take over", first.name).into());
    };
    refuse_waiting(family)?;
    let devices = state.devices.into_iter().map(|device| with_source(device, source)).collect::<Result<_, _>>()?;
    rundir.remove_socket(&family.key);
    process::foreground(&rundir, &family.key, Question::Recover(devices), lock, taken_over)
}

/// Takes the answer of a server in this process: what could not be taken over is said, and the rest is served.
pub(super) fn taken_over(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Recovered { problems } => problems.iter().for_each(|why| log::error!("{why}")),
        _ => return Err(other_answer()),
    }
    Ok(())
}

/// A mirror as it was added, but for the leg that is right: which one was named then says nothing about now.
fn with_source(mut device: DeviceState, source: Option<&Path>) -> Result<DeviceState, Reason> {
    let source = source.map(|source| place_of(&device.spec.table, source)).transpose();
    device.spec.source = source.map_err(|failure| format!("{}: {}", device.name, failure.message))?;
    Ok(device)
}

/// Starts a new server for every family of the chosen devices whose own has died.
pub(super) fn recover(words: &[String], all: bool, source: Option<&Path>) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let mut problems = if all { known.problems.clone() } else { Vec::new() };
    let mut ids = Vec::new();
    for word in words {
        match known.find(word) {
            Ok((_, device)) => ids.push(device.id),
            Err(why) => problems.push(why),
        }
    }
    let is_chosen = |family: &&Family| all || family.devices.iter().any(|device| ids.contains(&device.id));
    let families: Vec<&Family> = known.families.iter().filter(is_chosen).collect();
    for at in order::recovery(&families.iter().map(|family| part_of(family)).collect::<Vec<_>>()) {
        let family = families[at];
        let is_left_out =
            |device: &&DeviceReport| (all || ids.contains(&device.id)) && device.json["server_pid"].is_null();
        let left_out: Vec<&DeviceReport> = family.devices.iter().filter(is_left_out).collect();
        problems.extend(recover_family(&rundir, family, &left_out, source));
    }
    verdict(problems)
}

/// A server's devices as one.
fn part_of(family: &Family) -> Part {
    let disks: Vec<(u32, u32)> = family.devices.iter().flat_map(|device| device.disks.clone()).collect();
    let ids = family.devices.iter().map(|device| device.id).collect();
    Part { ids, below: ublk_devices_below(&disks), ..Part::default() }
}

/// Refuses devices that stand on one whose server has died: it would not answer the new server that reads it.
fn refuse_waiting(family: &Family) -> Result<(), Reason> {
    let mut control = Control::open().map_err(|error| error.to_string())?;
    for id in part_of(family).below {
        if control.info(id).is_ok_and(|info| info.state == DiskState::Quiesced) {
            let what = format!("what is below, /dev/ublkb{id}, waits for a server itself");
            return Err(format!("{what}; recover that first, or all of them with --all"));
        }
    }
    Ok(())
}

/// Starts a new server for a family if its own has died; or has the one that lives take over the devices that were left out
/// when it was started. Returns what could not be done.
fn recover_family(rundir: &RunDir, family: &Family, left_out: &[&DeviceReport], source: Option<&Path>) -> Vec<Reason> {
    let key = &family.key;
    if left_out.is_empty() && !family.devices.is_empty() {
        return Vec::new();
    }
    // Whatever happens to this family, commands on others are not kept waiting.
    let _lock = match rundir.lock_family(key, "recover") {
        Ok(lock) => lock,
        Err(why) => return vec![why],
    };
    let state = match rundir.server(key) {
        Some(Server { connection: Some(server), .. }) => return recover_left_out(server, family, left_out),
        Some(Server { lives: false, state: Some(state), .. }) => state,
        _ => return Vec::new(),
    };
    // Those that another program has deleted as well: what became of a snapshot matters to its origin's server.
    let devices = state.devices;
    if family.devices.is_empty() {
        rundir.remove(key);
        return Vec::new();
    }
    let devices: Vec<DeviceState> = match devices.into_iter().map(|device| with_source(device, source)).collect() {
        Ok(devices) => devices,
        Err(why) => return vec![why],
    };
    let names = devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    rundir.remove_socket(key);
    let server = refuse_waiting(family).and_then(|()| process::start(rundir, key).map_err(|failure| failure.message));
    ask_to_recover(server, &Question::Recover(devices), &names)
}

fn recover_left_out(server: UnixStream, family: &Family, left_out: &[&DeviceReport]) -> Vec<Reason> {
    if left_out.is_empty() {
        return Vec::new();
    }
    let names = left_out.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    let question = Question::RecoverLeftOut { ids: left_out.iter().map(|device| device.id).collect() };
    ask_to_recover(refuse_waiting(family).map(|()| server), &question, &names)
}

fn ask_to_recover(server: Result<UnixStream, Reason>, question: &Question, names: &str) -> Vec<Reason> {
    match server.and_then(|server| protocol::ask(server, question).map_err(|error| error.to_string())) {
        Ok(Answer::Recovered { problems }) => problems,
        Ok(Answer::Failed { message }) => vec![format!("{names}: not recovered: {message}")],
        Ok(_) => vec![format!("{names}: the new server gave an answer to another question")],
        Err(why) => vec![format!("{names}: not recovered: {why}")],
    }
}
