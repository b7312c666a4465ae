//! Which family a device belongs to: the name of its server's files, and the lock that serializes
//! commands on the family.
//!
//! An origin's family is named after the origin. A mirror's is named after the first leg that the
//! mirror was made with, which may belong to another mirror by now: `message replace` puts another
//! disk in its place. Likewise a linear device's family and the first disk of its table, which
//! `load` replaces. A new device over a disk that the server of that name no longer has gets a name
//! of its own, with a number appended. A device without disks has a server of its own. A snapshot
//! of a mirror, or of a device made of ranges, joins that device's family, which has its server;
//! and so does a mirror, or a device made of ranges, over such devices of one family. `load` can
//! make the device of an origin of any other one, and back: a family is found by the tables of its
//! devices, and named after what it began with.
//!
//! Rule kept here: what was looked at without the lock is looked at again under it. One lock is
//! held at a time, so that no command waits for two families.

mod carrier;
mod lower;
mod passed_on;

use std::hash::Hasher;
use std::path::Path;

use dm_targets::hash::NumberHasher;
use dm_targets::mirror::table::Mirror;
use dm_targets::table::{FamilyKey, Table, TargetParams};

use self::carrier::key_with_carrier;
use self::lower::{key_of_device, key_of_lower};
use self::passed_on::passes_on;
use super::gone::exists;
use crate::failure::Failure;
use crate::protocol::DeviceState;
use crate::rundir::{FamilyLock, RunDir, Server, State, family_key};
use crate::storage::DiskId;

/// How the names of families begin that are made of ranges.
const LINES: &str = "linear-";

/// How often another command may change the family before its lock is acquired.
const TRIES: u32 = 16;

/// The parts of a new device that its family depends on.
pub(super) struct Wanted<'a> {
    /// The table of the device.
    pub table: &'a Table,
    /// Its disks are to be shared with other families.
    pub in_part: bool,
    /// The number of a device whose server it is to have.
    pub beside: Option<u32>,
    /// The name of the new device.
    pub name: Option<&'a str>,
    /// The name of the device that an earlier run of this command may have made.
    pub own_name: Option<&'a str>,
}

/// The family of a device, locked.
pub(super) struct Locked {
    pub key: String,
    pub lock: FamilyLock,
    /// The device that an earlier run of the command made, as the state file has it.
    pub own: Option<DeviceState>,
}

/// Finds the family of a device and waits for other commands on that family.
pub(super) fn lock(rundir: &RunDir, wanted: &Wanted<'_>, doing: &str) -> Result<Locked, Failure> {
    let FamilyKey { disk, prefix } = wanted.table.params.family();
    let Some(path) = disk else {
        let alone = || lock_alone(rundir, prefix, wanted, doing);
        return wanted.beside.map_or_else(alone, |id| lock_beside(rundir, id, doing));
    };
    let disk = DiskId::of_path(Path::new(path))?;
    let base = format!("{prefix}{}", family_key(disk));
    for _ in 0..TRIES {
        let (key, _) = find(rundir, wanted, &base, disk)?;
        let lock = rundir.lock_family(&key, doing)?;
        let (again, own) = find(rundir, wanted, &base, disk)?;
        if again == key {
            return Ok(Locked { key, lock, own });
        }
    }
    Err(format!("{path}: its server keeps changing because of other commands; try again").into())
}

/// The family of a device without disks, which has a server of its own. It is found by the device's
/// name, of which there is one: a device with the same name in that family is the same device.
fn lock_alone(
    rundir: &RunDir,
    prefix: &str,
    wanted: &Wanted<'_>,
    doing: &str,
) -> Result<Locked, Failure> {
    let name = wanted.name.unwrap_or_default();
    let key = format!("{prefix}none-{:016x}", hash_of(name));
    let lock = rundir.lock_family(&key, doing)?;
    Ok(Locked { key, lock, own: None })
}

/// The family of another device, for one without disks.
fn lock_beside(rundir: &RunDir, id: u32, doing: &str) -> Result<Locked, Failure> {
    for _ in 0..TRIES {
        let key = key_beside(&states_of(rundir, &rundir.keys()?), id)?;
        let lock = rundir.lock_family(&key, doing)?;
        if key_beside(&states_of(rundir, &rundir.keys()?), id)? == key {
            return Ok(Locked { key, lock, own: None });
        }
    }
    Err(format!("/dev/ublkb{id}: its server keeps changing because of other commands; try again")
        .into())
}

/// The states of all families; `None`: there is none, or it cannot be read.
fn states_of<'a>(rundir: &RunDir, keys: &'a [String]) -> Vec<(&'a str, Option<State>)> {
    keys.iter().map(|key| (key.as_str(), rundir.state(key).ok().flatten())).collect()
}

/// The family of the device that `--beside` names.
fn key_beside(states: &[(&str, Option<State>)], id: u32) -> Result<String, Failure> {
    let what = "no device of ublk-dm; see `ublk-dm list`";
    let key = key_of_device(states, id);
    key.map(str::to_owned).ok_or_else(|| format!("--beside: /dev/ublkb{id} is {what}").into())
}

/// A number for a name that is too long for the name of a socket.
fn hash_of(name: &str) -> u64 {
    let mut hash = NumberHasher::default();
    hash.write(name.as_bytes());
    hash.finish()
}

/// Finds the family among the state files, and the device of an earlier run if there is one.
fn find(
    rundir: &RunDir,
    wanted: &Wanted<'_>,
    base: &str,
    disk: DiskId,
) -> Result<(String, Option<DeviceState>), Failure> {
    let moves = !wanted.table.params.shares_origin();
    let keys = rundir.keys()?;
    let states = states_of(rundir, &keys);
    let own = own_among(&states, wanted, base);
    if let Some((key, own)) = own.filter(|(_, own)| exists(own).unwrap_or(true)) {
        return Ok((key.to_owned(), Some(own)));
    }
    if let Some(id) = wanted.beside {
        return Ok((key_beside(&states, id)?, None));
    }
    let joined = if wanted.in_part { None } else { key_of_lower(&states, wanted.table) };
    if let Some(key) = joined {
        let lives = matches!(rundir.server(key), Some(Server { connection: Some(_), .. }));
        if lives {
            return Ok((key.to_owned(), None));
        }
    }
    let carried = if moves { None } else { key_with_carrier(rundir, &states, base, disk)? };
    if let Some(key) = carried {
        return Ok((key, None));
    }
    let joins = |state: &State| !wanted.in_part || takes_another(state, wanted.table);
    let key = match moves {
        true => key_among(&states, base, disk, DiskId::of_path, joins),
        false => key_of_origin(&states, base, disk, DiskId::of_path),
    };
    Ok((key, None))
}

/// The family of an origin: that which is named after it, or one in which another device has got
/// the origin's table since, with `load`.
fn key_of_origin<E>(
    states: &[(&str, Option<State>)],
    base: &str,
    disk: DiskId,
    find: impl Fn(&Path) -> Result<DiskId, E>,
) -> String {
    let is_its = |device: &DeviceState| device.spec.table.params.shares_origin();
    let is_on = |device: &DeviceState| is_its(device) && is_first_on(device, disk, &find);
    let has = |state: &Option<State>| state.iter().flat_map(|state| &state.devices).any(&is_on);
    let own = states.iter().any(|(key, state)| *key == base && has(state));
    let other = states.iter().find(|(_, state)| has(state)).filter(|_| !own);
    other.map_or(base, |(key, _)| *key).to_owned()
}

/// Whether a disk is the one after which a family of this device would be named.
fn is_first_on<E>(
    device: &DeviceState,
    disk: DiskId,
    find: impl Fn(&Path) -> Result<DiskId, E>,
) -> bool {
    let word = device.spec.table.params.family().disk;
    device.disks.contains(&disk.block_number())
        && word.is_some_and(|word| find(Path::new(word)).is_ok_and(|found| found == disk))
}

/// The family with another name than `base` that has a device made of ranges of a disk; `None` if
/// the family of that name has devices.
fn key_with_lines<'a, E>(
    states: &[(&'a str, Option<State>)],
    base: &str,
    disk: DiskId,
    find: impl Fn(&Path) -> Result<DiskId, E>,
) -> Option<&'a str> {
    let is_lines = |device: &DeviceState| {
        let table = &device.spec.table;
        table.params.segments(table.len).is_some() && is_first_on(device, disk, &find)
    };
    let devices = |state: &Option<State>| {
        state.iter().flat_map(|state| state.devices.clone()).collect::<Vec<_>>()
    };
    let mut named = states.iter().filter(|(key, _)| *key == base);
    if named.any(|(_, state)| !devices(state).is_empty()) {
        return None;
    }
    let other = states.iter().find(|(_, state)| devices(state).iter().any(is_lines));
    other.map(|(key, _)| *key)
}

/// The device that an earlier run of the command made: the same name over the same disks. A
/// mirror's legs may have been replaced since, all but one at a time; its family is still that of
/// its first leg.
fn own_among<'a>(
    states: &[(&'a str, Option<State>)],
    wanted: &Wanted<'_>,
    base: &str,
) -> Option<(&'a str, DeviceState)> {
    let name = wanted.own_name?;
    let legs =
        |mirror: &Mirror| mirror.legs.iter().map(|leg| leg.device.clone()).collect::<Vec<_>>();
    let same = |key: &str, old: &Table| match (&old.params, &wanted.table.params) {
        (TargetParams::Snapshot(old), TargetParams::Snapshot(new)) => {
            (&old.origin, &old.cow) == (&new.origin, &new.cow)
        }
        (TargetParams::SnapshotOrigin { .. }, TargetParams::SnapshotOrigin { .. }) => key == base,
        (TargetParams::Mirror(old), TargetParams::Mirror(new)) => {
            is_numbered(key, base) || legs(old).iter().any(|leg| legs(new).contains(leg))
        }
        _ => false,
    };
    let mut devices = states.iter().flat_map(|(key, state)| {
        state.iter().flat_map(|state| &state.devices).map(|device| (*key, device))
    });
    let is_own = |(key, device): &(&str, &DeviceState)| {
        let is_error = device.spec.table.params == TargetParams::Error;
        // The device of a snapshot that is kept over its merge has its own table loaded.
        let loaded = device.loaded.as_ref().filter(|_| is_error);
        let mut specs = loaded.into_iter().chain([&device.spec]);
        device.name == name && specs.any(|spec| same(key, &spec.table))
    };
    let (key, own) = devices.find(is_own)?;
    Some((key, own.clone()))
}

/// The family that such a device over a disk joins, or the name of a new family.
fn key_among<E>(
    states: &[(&str, Option<State>)],
    base: &str,
    disk: DiskId,
    find: impl Fn(&Path) -> Result<DiskId, E>,
    joins: impl Fn(&State) -> bool,
) -> String {
    let devices = |state: &State| state.devices.clone();
    let has = |state: &State| {
        devices(state).iter().any(|device| may_have(device, disk, &find)) && joins(state)
    };
    let mut known = states.iter().filter(|(key, _)| is_numbered(key, base));
    if let Some((key, _)) = known.find(|(_, state)| state.as_ref().is_some_and(&has)) {
        return (*key).to_owned();
    }
    // An origin's device that has got ranges of its disk since.
    let lines = key_with_lines(states, base, disk, &find).filter(|_| base.starts_with(LINES));
    if let Some(key) = lines {
        return key.to_owned();
    }
    // A server without a recorded device may have any disk: the command waits for its lock, and
    // then looks again.
    let is_others = |key: &str| {
        let state =
            states.iter().find(|(other, _)| *other == key).and_then(|(_, state)| state.as_ref());
        state.is_some_and(|state| !state.devices.is_empty() && !has(state))
    };
    let mut number = 1;
    let mut key = base.to_owned();
    while is_others(&key) {
        number += 1;
        key = format!("{base}-{number}");
    }
    key
}

/// Whether a family's server can have one more device, with this table: a mirror is alone in it,
/// unless the new device takes it.
fn takes_another(state: &State, table: &Table) -> bool {
    let is_mirror = |params: &TargetParams| matches!(params, TargetParams::Mirror(_));
    let stays =
        |device: &DeviceState| is_mirror(&device.spec.table.params) && !passes_on(device, table);
    let has_mirror = state.devices.iter().any(stays);
    let is_passed_on = state.devices.iter().any(|device| passes_on(device, table));
    state.devices.is_empty() || !has_mirror && (!is_mirror(&table.params) || is_passed_on)
}

/// Whether a family has the name `base`, or `base` with a number appended.
fn is_numbered(key: &str, base: &str) -> bool {
    let rest = key.strip_prefix(base).map(|rest| (rest, rest.strip_prefix('-')));
    rest.is_some_and(|(rest, number)| {
        rest.is_empty() || number.is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

/// Whether a device uses a disk; one with a path that no longer resolves may use it.
fn may_have<E>(
    device: &DeviceState,
    disk: DiskId,
    find: impl Fn(&Path) -> Result<DiskId, E>,
) -> bool {
    let params = &device.spec.table.params;
    if params.shares_origin() {
        return true;
    }
    let words = params.devices();
    // `disks` may still hold numbers of former disks; it holds those of all current ones.
    device.disks.contains(&disk.block_number())
        && words.iter().any(|word| find(Path::new(word)).map_or(true, |found| found == disk))
}

#[cfg(test)]
mod tests;
