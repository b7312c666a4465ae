//! `upgrade`: this program takes the place of the servers that run now, under devices in use.
//!
//! For each family: a server of this program starts and stands by; the old one leaves its devices,
//! as at SIGTERM; the new one takes them over, as `recover` does; and if it does not, the old
//! program does ([`crate::server::upgrade`] has the order, [`servers`] the processes).
//!
//! Rules kept here: what cannot be taken over is refused before anything is done; each family is
//! upgraded by itself, and a failure of one has a line of its own; and while devices have no
//! server, this process needs none of their disks: its memory is locked, and so is a copy of the
//! old program ([`program`]).

mod judge;
mod program;
mod servers;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};

use super::client::open_rundir;
use super::json;
use super::order::{self, Part};
use super::results;
use super::side_by_side;
use super::terminal::print;
use super::unnamed::refuse_upgrade;
use super::unrecorded;
use super::verdict::verdict;
use super::without_table;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::DeviceState;
use crate::rundir::{RunDir, Server};
use crate::server::environment;
use crate::server::upgrade::{Outcome, upgrade};
use crate::storage::ublk_devices_below;
use crate::ublk::device;
use judge::Old;
use program::Program;
use servers::Running;

/// How long the end of a process may take whose program cannot be read any more.
const DEATH_LIMIT: Duration = Duration::from_secs(1);

/// A family whose devices were named.
struct Chosen {
    key: String,
    devices: Vec<DeviceState>,
}

impl Chosen {
    /// Whether a device of the family has this number.
    fn has(&self, id: u32) -> bool {
        self.devices.iter().any(|device| device.id == id)
    }
}

/// What was done for a family: what its devices' users must know, and what failed.
struct Done {
    devices: Vec<DeviceState>,
    /// The word for the result.
    result: &'static str,
    /// The process that serves the devices, and the one that did.
    server: Option<u32>,
    was: Option<u32>,
    /// Both run the same program.
    same: Option<bool>,
    /// How long requests were held back.
    held: Option<Duration>,
    problems: Vec<Reason>,
    /// For the log.
    notes: Vec<String>,
}

/// Upgrades the servers of the named devices, or of all.
pub(super) fn run(words: &[String], all: bool) -> Result<(), Failure> {
    refuse_upgrade(words, all)?;
    let rundir = open_rundir()?;
    let (chosen, mut problems) = choose(&rundir, words, all)?;
    // Between two servers nothing ends this process that a user might do in passing.
    for signal in TERM_SIGNALS.iter().chain([&SIGHUP]) {
        signal_hook::flag::register(*signal, Arc::new(AtomicBool::new(false)))?;
    }
    if let Err(error) = environment::lock_memory() {
        log::warn!("mlockall: {error}");
    }
    let parts: Vec<Part> = chosen.iter().map(part_of).collect();
    let order = order::recovery(&parts);
    let must_wait =
        |one: usize, other: usize| parts[order[one]].is_stacked_with(&parts[order[other]]);
    let done = side_by_side::run(order.len(), must_wait, |at| one(&rundir, &chosen[order[at]]));
    // Until now nothing was written to where a waiting device may be.
    for done in done {
        let names = named(&done.devices);
        done.notes.iter().for_each(|note| log::info!("{names}: {note}"));
        let why = Failure::all(done.problems.clone());
        for device in &done.devices {
            if json::is_on() {
                results::show(|| object_of(&done, device, why.as_ref()))?;
            } else if done.result == UPGRADED {
                print(&line_of(&done, device))?;
            }
        }
        problems.extend(done.problems);
    }
    verdict(problems)
}

/// The families of the named devices, from their state files: a server of another version may
/// report its devices in another form.
fn choose(
    rundir: &RunDir,
    words: &[String],
    all: bool,
) -> Result<(Vec<Chosen>, Vec<Reason>), Failure> {
    let (mut known, mut problems) = (Vec::new(), Vec::new());
    for key in rundir.keys()? {
        match rundir.state(&key) {
            Ok(Some(state)) if !state.devices.is_empty() => {
                known.push(Chosen { key, devices: state.devices });
            }
            Ok(_) => {}
            Err(why) => problems.push(why),
        }
    }
    if all {
        if problems.is_empty() {
            let is_known = |id| known.iter().any(|family| family.has(id));
            let unknown = unrecorded::find(rundir, &device::numbers()?, is_known)?;
            problems.extend(unknown.iter().map(|device| device.problem(rundir)));
        }
        return Ok((known, problems));
    }
    let unread = problems.first().cloned();
    problems.clear();
    let reserved = without_table::all(rundir).unwrap_or_default();
    let mut wanted = vec![false; known.len()];
    for word in words {
        let found = known.iter().map(|family| family.devices.iter().any(|one| names(one, word)));
        let found: Vec<bool> = found.collect();
        wanted.iter_mut().zip(&found).for_each(|(wanted, found)| *wanted |= found);
        if reserved.iter().any(|one| one.name == *word) {
            problems.push(without_table::refused(word));
        } else if !found.contains(&true) {
            let none =
                Failure::new(Kind::NotFound, format!("{word}: no such device; see `ublk-dm list`"));
            let why = unread.clone().map_or(none, |why| {
                why.context(format!("{word}: no such device among those that are known"))
            });
            problems.push(why.of_device(word));
        }
    }
    let chosen = known.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
    Ok((chosen.map(|(family, _)| family).collect(), problems))
}

/// Whether a word names a device: by name, id or path.
fn names(device: &DeviceState, word: &str) -> bool {
    let id = device.id;
    device.name == word || id.to_string() == word || format!("/dev/ublkb{id}") == word
}

/// A family as one part of a stack.
fn part_of(family: &Chosen) -> Part {
    let ids = family.devices.iter().map(|device| device.id).collect();
    let disks: Vec<_> = family.devices.iter().flat_map(|device| device.disks.clone()).collect();
    Part { ids, below: ublk_devices_below(&disks), ..Part::default() }
}

const UPGRADED: &str = "upgraded";
const UNCHANGED: &str = "unchanged";
const ROLLED_BACK: &str = "rolled_back";
const WAITS: &str = "waits";

/// Upgrades one family.
fn one(rundir: &RunDir, family: &Chosen) -> Done {
    let mut done = Done {
        devices: family.devices.clone(),
        result: UNCHANGED,
        server: None,
        was: None,
        same: None,
        held: None,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    if let Err(why) = try_one(rundir, family, &mut done) {
        done.problems.push(of_family(&done.devices, "not upgraded", why));
    }
    done
}

/// Why something was not done for a family, whose devices it names, each once.
fn of_family(devices: &[DeviceState], what: &str, why: Reason) -> Reason {
    let why = match devices {
        [DeviceState { id, name, .. }] => {
            why.without_start(&format!("/dev/ublkb{id}")).without_start(name)
        }
        _ => why,
    };
    let why = why.context(format!("{}: {what}", named(devices)));
    match devices.first() {
        Some(first) => why.of_device(&first.name),
        None => why,
    }
}

/// The names of devices.
fn named(devices: &[DeviceState]) -> String {
    devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The server of a family, and what it has on record of its devices.
fn old_server(rundir: &RunDir, key: &str, done: &mut Done) -> Result<Old, Reason> {
    let (devices, connection) = match rundir.server(key) {
        Some(Server { connection: Some(connection), state: Some(state), .. }) => {
            (state.devices, connection)
        }
        Some(Server { damaged: Some(why), .. }) => return Err(why),
        Some(Server { lives: true, .. }) => {
            return Err(Failure::new(Kind::NoAnswer, "its server does not answer"));
        }
        _ => {
            done.result = WAITS;
            return Err(without_server());
        }
    };
    done.devices = devices;
    judge::server(connection).map_err(|why| {
        if matches!(rundir.server(key), Some(Server { lives: true, .. })) {
            return why;
        }
        done.result = WAITS;
        died(why, &done.devices)
    })
}

/// The same as [`one`]. An error is from before anything was done, and the old server goes on.
fn try_one(rundir: &RunDir, family: &Chosen, done: &mut Done) -> Result<(), Reason> {
    let key = &family.key;
    let _lock = rundir.lock_family(key, "upgrade")?;
    let old = old_server(rundir, key, done)?;
    (done.server, done.was) = (Some(old.pid), Some(old.pid));
    let devices = done.devices.clone();
    judge::devices(&devices)?;
    let program = Program::of(old.pid).map_err(|why| {
        if !servers::has_ended(&old.process, DEATH_LIMIT) {
            return why;
        }
        (done.server, done.result) = (None, WAITS);
        without_server()
    })?;
    done.same = Some(program.is_this());
    let mut running = Running::new(rundir, key, old, program, devices);
    let outcome = upgrade(&mut running);
    done.notes = std::mem::take(&mut running.notes);
    done.held = running.held;
    done.server = running.serves();
    let and_back = "not upgraded, and served by the old program again";
    let and_waits = "not upgraded, and no server serves it now";
    let hint = format!("; run `ublk-dm recover {}`", first(&done.devices));
    match outcome {
        Outcome::Upgraded => {
            done.result = UPGRADED;
            done.problems.extend(running.problems);
        }
        Outcome::Unchanged(why) => {
            if !running.old_has_ended(DEATH_LIMIT) {
                return Err(why.ending("; the old server goes on"));
            }
            (done.result, done.server) = (WAITS, None);
            return Err(died(why, &done.devices));
        }
        Outcome::RolledBack(why) => {
            done.result = ROLLED_BACK;
            done.problems.push(of_family(&done.devices, and_back, why));
            done.problems.extend(running.problems);
        }
        Outcome::Waits(why, back) => {
            done.result = WAITS;
            let back = format!("; nor does the old program: {back}");
            let why = of_family(&done.devices, and_waits, why);
            done.problems.push(why.ending(back).ending(hint));
        }
    }
    Ok(())
}

/// Why devices are not upgraded whose server has died meanwhile; `why` is what failed.
fn died(why: Reason, devices: &[DeviceState]) -> Reason {
    let first = first(devices);
    let hint = format!("; `ublk-dm recover {first}` has a server of this program take over");
    let errno = why.errno().map(Errno::from_raw_os_error);
    let is_unheard = matches!(
        errno,
        Some(Errno::CONNREFUSED | Errno::CONNRESET | Errno::PIPE | Errno::NOENT | Errno::SRCH)
    );
    match is_unheard {
        // It says only that nobody has answered.
        true => Failure::new(why.kind, format!("its server has died{hint}")),
        false => why.ending(format!("; its server has died meanwhile{hint}")),
    }
}

/// Why devices are not upgraded that wait for a server.
fn without_server() -> Reason {
    "it has no server; `ublk-dm recover` has a server of this program take over".into()
}

fn first(devices: &[DeviceState]) -> &str {
    devices.first().map_or("--all", |device| device.name.as_str())
}

/// A device of an upgraded family, for people.
fn line_of(done: &Done, device: &DeviceState) -> String {
    let DeviceState { id, name, .. } = device;
    let process = |pid: Option<u32>| pid.map_or("?".to_owned(), |pid| pid.to_string());
    let (now, was) = (process(done.server), process(done.was));
    let mut line = format!("{name}: /dev/ublkb{id}: served by process {now} (before: {was})");
    if device.suspended {
        line.push_str("; it stays suspended");
    } else if let Some(held) = done.held {
        line.push_str(&format!("; its I/O was held for {} ms", held.as_millis()));
    }
    if done.same == Some(true) {
        line.push_str("; the program is the same: it was restarted");
    }
    line
}

/// A device of a family, as an object.
fn object_of(done: &Done, device: &DeviceState, why: Option<&Failure>) -> serde_json::Value {
    let held = done.held.filter(|_| !device.suspended);
    json!({
        "id": device.id,
        "name": device.name,
        "block_device": format!("/dev/ublkb{}", device.id),
        "result": done.result,
        "server_pid": done.server,
        "old_server_pid": done.was,
        "same_program": done.same,
        "suspended": device.suspended,
        "held_ms": held.map(|held| u64::try_from(held.as_millis()).unwrap_or(u64::MAX)),
        "error": why.map(ToString::to_string),
    })
}
