//! `del`: the deletion of devices, whether their server lives or not.
//!
//! Rules kept here: a device is touched only after its cookie has been compared, because its number
//! may be another device's by now; a failure stops only the work that depends on it, and has a line
//! of its own; and a family whose disks or server hang delays no other one ([`side_by_side`]).

use std::sync::{Mutex, PoisonError};

use super::client::{Known, by_name, is_kept_without_force, must_answer, open_rundir};
use super::gone;
use super::notable;
use super::order::{self, Part};
use super::results::{self, Named};
use super::side_by_side;
use super::stand_in;
use super::unrecorded::{self, Unrecorded};
use super::verdict::verdict;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{self, Command, DeviceRef, DeviceReport, Reply};
use crate::rundir::{RunDir, Server, State};
use crate::server::{self, orphan};
use crate::storage::ublk_devices_below;
use crate::ublk::{Control, DeviceState, apart, device};

/// What is to be deleted, and what its place in the order depends on.
struct Doomed<'a> {
    what: What<'a>,
    part: Part,
}

enum What<'a> {
    /// A device of a server with this key.
    Device(&'a str, &'a DeviceReport),
    /// A device that no file knows of.
    Unrecorded(&'a Unrecorded),
    /// The files of a dead server with this key, none of whose devices exists.
    Files(&'a str),
}

/// A device that stays, by its name.
type Staying<'a> = (&'a str, Part);

/// What became of it.
#[derive(Default)]
struct Deleted {
    /// What the user must know of a device that is deleted.
    notes: Vec<String>,
    problems: Vec<Reason>,
}

pub(super) fn del(words: &[String], all: bool, force: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let (without_table, words) = &notable::del(&rundir, words, all)?;
    let known = Known::of(&rundir)?;
    let (doomed, mut problems) = doomed(&rundir, &known, words, all);
    let staying = staying(&known, &doomed);
    let parts: Vec<Part> = doomed.iter().map(|doomed| doomed.part.clone()).collect();
    let after = order::after_users(&parts);
    let must_wait = |one: usize, other: usize| {
        let stacked = parts[one].is_stacked_with(&parts[other]);
        // A family's devices have one lock.
        parts[one].server == parts[other].server || stacked || after.contains(&(one, other))
    };
    let kept: Mutex<Vec<usize>> = Mutex::default();
    let deleted = side_by_side::run(doomed.len(), must_wait, |at| {
        let mut deleted = Deleted::default();
        let before = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match before_it((&doomed, &staying), at, &before, force)
            .and_then(|()| doomed[at].what.delete(&rundir, force))
        {
            Ok(done) => deleted = done,
            Err(why) => {
                deleted.problems.push(why);
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(at);
            }
        }
        deleted
    });
    stand_in::delete_unused(&rundir, "del");
    let is_gone: Vec<bool> = deleted.iter().map(|one| one.problems.is_empty()).collect();
    for (at, Deleted { notes, problems: more }) in deleted.into_iter().enumerate() {
        // A snapshot's notes are about the origin that stays.
        if !carriers(&doomed, at).any(|carrier| is_gone[carrier]) {
            notes.iter().for_each(|note| log::warn!("{note}"));
        }
        problems.extend(more);
    }
    let deleted = doomed.iter().zip(&is_gone).filter(|(_, is_gone)| **is_gone);
    let deleted = deleted.filter_map(|(one, _)| one.what.named());
    let reserved = without_table.iter().map(|name| Named::without_table(name));
    problems.extend(results::devices("deleted", deleted.chain(reserved)).err());
    verdict(problems)
}

/// Refuses a device on which one stands that is kept, or whose origin is kept.
fn before_it(
    (doomed, staying): (&[Doomed], &[Staying]),
    at: usize,
    kept: &[usize],
    force: bool,
) -> Result<(), Reason> {
    let Doomed { what: What::Device(_, device), part } = &doomed[at] else { return Ok(()) };
    let first = |is_it: &dyn Fn(&Part) -> bool| {
        let kept = kept.iter().filter(|kept| !force && **kept < at).map(|kept| &doomed[*kept]);
        kept.filter(|kept| is_it(&kept.part)).find_map(|kept| match kept.what {
            What::Device(_, device) => Some(&device.name),
            _ => None,
        })
    };
    if let Some(above) = first(&|kept| kept.stands_on(part)) {
        let why = format!("{}: not deleted, because {above} depends on it", device.name);
        return Err(why.into());
    }
    // The origin would be written without its snapshot.
    if let Some(origin) = first(&|kept| kept.is_origin_of(part)) {
        return Err(format!(
            "{}: not deleted, because its origin {origin} stays and would invalidate it",
            device.name
        )
        .into());
    }
    if force { Ok(()) } else { carrier_can_go((doomed, staying), at, kept, device) }
}

/// Refuses a snapshot of a device of the same server that is to be deleted after it and is open, or
/// is kept by another device: it would stay, and be written without its snapshot.
fn carrier_can_go(
    (doomed, staying): (&[Doomed], &[Staying]),
    at: usize,
    kept: &[usize],
    snapshot: &DeviceReport,
) -> Result<(), Reason> {
    for below in carriers(doomed, at).filter(|carrier| *carrier > at) {
        let What::Device(_, carrier) = doomed[below].what else { continue };
        let stays = || {
            format!(
                "{}: not deleted, because its origin {} stays and would invalidate it",
                snapshot.name, carrier.name
            )
        };
        device::not_open(carrier.device().id).map_err(|why| why.context(stays()))?;
        let above = all_above(doomed, below);
        let stands = |part: &Part| {
            let mut below = above.iter().chain([&below]).map(|lower| &doomed[*lower].part);
            below.any(|lower| part.stands_on(lower))
        };
        if let Some((name, _)) = staying.iter().find(|(_, part)| stands(part)) {
            return Err(format!("{}: {name} depends on it", stays()).into());
        }
        for other in above.into_iter().filter(|other| *other != at) {
            let What::Device(_, user) = doomed[other].what else { continue };
            if kept.contains(&other) || is_kept_without_force(user) {
                return Err(format!("{}: {} depends on it", stays(), user.name).into());
            }
            // A device of another server has it open, and may be deleted before it.
            let server = doomed[other].part.server;
            let is_held = users_of(doomed, other).any(|user| doomed[user].part.server != server);
            if other > at && !is_held {
                device::not_open(user.device().id).map_err(|why| why.context(stays()))?;
            }
        }
    }
    Ok(())
}

/// Those of the devices that are to be deleted which stand on one of them.
fn users_of<'a>(doomed: &'a [Doomed<'_>], below: usize) -> impl Iterator<Item = usize> + 'a {
    let all = doomed.iter().enumerate();
    let found = all.filter(move |(_, one)| one.part.stands_on(&doomed[below].part));
    found.map(|(above, _)| above)
}

/// The same, with those that stand on these, and so on.
fn all_above(doomed: &[Doomed<'_>], below: usize) -> Vec<usize> {
    let (mut all, mut next) = (Vec::new(), vec![below]);
    while let Some(one) = next.pop() {
        let new: Vec<usize> = users_of(doomed, one).filter(|user| !all.contains(user)).collect();
        all.extend(&new);
        next.extend(new);
    }
    all
}

/// The devices of its own server, among those that are to be deleted, of which a device is a
/// snapshot.
fn carriers<'a>(doomed: &'a [Doomed<'_>], at: usize) -> impl Iterator<Item = usize> + 'a {
    let Doomed { what, part } = &doomed[at];
    let is_snapshot = matches!(what, What::Device(_, device)
        if device.table.split(' ').nth(2) == Some("snapshot"));
    let is_below = |below: &Part| below.server == part.server && part.stands_on(below);
    let all = doomed.iter().enumerate();
    let found = all.filter(move |(_, one)| is_snapshot && is_below(&one.part));
    found.map(|(below, _)| below)
}

impl What<'_> {
    /// The device; `None`: it is none.
    fn named(&self) -> Option<Named> {
        match self {
            What::Device(_, device) => Some(Named::of(device)),
            What::Unrecorded(device) => Some(Named::new(device.id(), None)),
            What::Files(_) => None,
        }
    }

    /// Deletes it. An error means that it is kept.
    fn delete(&self, rundir: &RunDir, force: bool) -> Result<Deleted, Reason> {
        match self {
            What::Device(key, device) => {
                let notes =
                    del_one(rundir, key, device, force).map_err(|why| by_name(device, why))?;
                Ok(Deleted { notes, ..Deleted::default() })
            }
            What::Unrecorded(device) => device.delete(rundir, force).map(|()| Deleted::default()),
            What::Files(key) => {
                Ok(Deleted { problems: del_stale(rundir, key), ..Deleted::default() })
            }
        }
    }
}

/// Completes what a dead server has left if none of its devices exists, and removes its files.
fn del_stale(rundir: &RunDir, key: &str) -> Vec<Reason> {
    let complete = || {
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
    complete().unwrap_or_else(|why| vec![why])
}

/// What is to be deleted, each once and in order; and what is wrong with the words.
fn doomed<'a>(
    rundir: &RunDir,
    known: &'a Known,
    words: &[String],
    all: bool,
) -> (Vec<Doomed<'a>>, Vec<Reason>) {
    let mut problems = if all { known.problems.clone() } else { Vec::new() };
    let everything = if all { known.devices() } else { Vec::new() };
    let mut chosen: Vec<DeviceRef> = everything.iter().map(|device| device.device()).collect();
    let (unrecorded, words) = unrecorded::named(&known.unrecorded, words);
    for word in words {
        match known.find(word) {
            Ok((_, device)) if chosen.contains(&device.device()) => {}
            Ok((_, device)) => chosen.push(device.device()),
            Err(why) => problems.push(why),
        }
    }
    let mut devices: Vec<Doomed> = Vec::new();
    for (server, family) in known.families.iter().enumerate() {
        for device in family.devices.iter().filter(|device| chosen.contains(&device.device())) {
            let part = part_of(device, server);
            devices.push(Doomed { what: What::Device(&family.key, device), part });
        }
    }
    for (at, device) in unrecorded.into_iter().enumerate() {
        let server = known.families.len() + at;
        let part = Part { ids: [device.id()].into(), server, ..Part::default() };
        devices.push(Doomed { what: What::Unrecorded(device), part });
    }
    devices.sort_by_key(|doomed| doomed.part.ids.first().copied());
    let order =
        order::deletion(&devices.iter().map(|doomed| doomed.part.clone()).collect::<Vec<_>>());
    let mut devices: Vec<Option<Doomed>> = devices.into_iter().map(Some).collect();
    let mut doomed: Vec<Doomed> = order.into_iter().filter_map(|at| devices[at].take()).collect();
    let families = known.families.iter().enumerate().filter(|_| all);
    for (server, family) in families.filter(|(_, family)| family.devices.is_empty()) {
        let below = ublk_devices_below(&gone::disks(rundir, &family.key));
        let part = Part { below, server, ..Part::default() };
        doomed.push(Doomed { what: What::Files(&family.key), part });
    }
    (doomed, problems)
}

fn part_of(device: &DeviceReport, server: usize) -> Part {
    let is_origin = matches!(device.object.target.as_str(), "snapshot-origin" | "snapshot-merge");
    let below = ublk_devices_below(&device.disks);
    Part { ids: [device.id].into(), below, server, is_origin }
}

/// The devices that are not to be deleted.
fn staying<'a>(known: &'a Known, doomed: &[Doomed]) -> Vec<Staying<'a>> {
    let is_doomed = |id: u32| doomed.iter().any(|one| one.part.ids.contains(&id));
    let families = known.families.iter().enumerate();
    let all = families.flat_map(|(server, it)| it.devices.iter().map(move |one| (server, one)));
    let staying = all.filter(|(_, device)| !is_doomed(device.id));
    staying.map(|(server, device)| (device.name.as_str(), part_of(device, server))).collect()
}

/// Deletes a device, and returns what its user must know.
fn del_one(
    rundir: &RunDir,
    key: &str,
    device: &DeviceReport,
    force: bool,
) -> Result<Vec<String>, Reason> {
    must_answer(device)?;
    let id = device.id;
    // Whatever happens to this family, commands on other families do not wait.
    let _lock = rundir.lock_family(key, "del")?;
    let gone = || format!("/dev/ublkb{id}: it has just been deleted by another command");
    match rundir.server(key).ok_or_else(gone)? {
        Server { connection: Some(server), .. } => {
            match protocol::ask(server, &Command::Del { devices: vec![device.device()], force }) {
                Ok(Reply::Deleted) => Ok(Vec::new()),
                Ok(Reply::DeletedNoted { notes }) => Ok(notes),
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

/// Deletes a device whose server has died, and returns what its user must know. I/O that waits for
/// the device fails.
fn del_orphan(
    rundir: &RunDir,
    key: &str,
    mut state: State,
    which: DeviceRef,
    force: bool,
) -> Result<Vec<String>, Reason> {
    let id = which.id;
    let mut control = Control::open()?;
    let Some(at) = state.devices.iter().position(|device| device.device() == which) else {
        return if force { Ok(Vec::new()) } else { Err(device::orphaned(id)) };
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
    if let Some(upper) = left.iter().find(|other| other.carrier() == Some(which)) {
        let upper = &upper.name;
        return Err(
            format!("/dev/ublkb{id}: {upper} is a snapshot of it: delete that first").into()
        );
    }
    if let Some(upper) = left.iter().find(|other| other.joined().any(|lower| lower == which)) {
        let upper = &upper.name;
        return Err(format!("/dev/ublkb{id}: {upper} stands on it: delete that first").into());
    }
    // Last: force overrules nothing of the above.
    if !force {
        let info = device::ours(&mut control, id, device.cookie)?;
        let stopped = info.filter(|info| info.state == DeviceState::Dead);
        let why = stopped.map(|info| device::no_longer_waits(id, &info));
        return Err(why.unwrap_or_else(|| device::orphaned(id)));
    }
    // Recorded before the device is deleted: the devices that stay will be served again, and change
    // what this device would have shown.
    server::record_left_behind(rundir, key, &device, &left)?;
    let block_bytes = orphan::block_bytes_of(id).unwrap_or(0);
    let note = server::left_by_dead_server(&device, &left, block_bytes);
    let notes = note.map(|note| format!("/dev/ublkb{id}: deleted; {note}")).into_iter().collect();
    // If its number is another device's by now, there is nothing left to delete.
    apart::delete_apart(id, device.cookie)?;
    let recorded = gone::complete(rundir, key, &device);
    let is_owed = recorded.as_ref().is_err_and(|incomplete| incomplete.owed);
    let own = recorded.err().map(|incomplete| incomplete.why);
    if left.is_empty() {
        let owed = is_owed.then_some(device).into_iter().collect();
        let others = gone::forget(rundir, key, &state.devices, owed).problems;
        return with_notes(own.into_iter().chain(others).collect(), notes);
    }
    // What is recorded nowhere else stays in the file.
    let saved = if is_owed { Ok(()) } else { rundir.rewrite_state(key, &state) };
    with_notes(own.into_iter().chain(saved.err()).collect(), notes)
}

/// The notes of a device that is deleted; if there are problems, these first.
fn with_notes(problems: Vec<Reason>, notes: Vec<String>) -> Result<Vec<String>, Reason> {
    match Failure::all(problems) {
        None => Ok(notes),
        Some(why) => Err(why.and_notes(notes)),
    }
}
