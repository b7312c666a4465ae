//! The table of a device as a command line describes it: flags and device-mapper's lines both
//! become a `DeviceSpec`.
//!
//! Rule kept here: a table is complete before a server sees it. What flags leave open (the length,
//! a region size) is measured on the disks now, so that a later server makes the same device again,
//! even if the disks have changed. A snapshot is taken of a disk, never of the device of an origin,
//! whose users would write past it.

use std::path::Path;

use dm_targets::mirror::table::{InitialSync, Leg, Mirror, MirrorLog};
use dm_targets::snapshot::format::DEFAULT_CHUNK_SECTORS;
use dm_targets::snapshot::table::{Snapshot, StoreType};
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::{ChunkSize, Sector, Sectors};

use super::args::{self, Add, Common};
use super::client::open_rundir;
use super::disk_word::Disks;
use super::gone::exists;
use crate::failure::{Failure, Kind, wrong_usage};
use crate::protocol::{DeviceOptions, DeviceSpec, OnServerDeath};
use crate::storage::{Access, Claim, DiskId, OpenDisk, ublk_number};

/// The default region size, 512 KiB: recovery after a crash is short, and a dirty log of 4 KiB
/// serves 12 GiB.
const DEFAULT_REGION: Sectors = Sectors(1024);

/// A device as the flags of `add` describe it.
pub(super) fn of_flags(add: &Add) -> Result<DeviceSpec, Failure> {
    let mut disks = Disks::new();
    let spec = match add {
        Add::Snapshot(add) => {
            let (other_origin, allow_invalid) = (add.other_origin, add.allow_invalid);
            let table = snapshot(add, &mut disks)?;
            DeviceSpec { other_origin, allow_invalid, ..spec(table, &add.common, None) }
        }
        Add::Origin(add) => {
            let origin = disks.path(&add.origin)?;
            let len = Measured::of(&origin)?.len;
            let table = Table { len, params: TargetParams::SnapshotOrigin { origin } };
            spec(table, &add.common, None)
        }
        Add::Mirror(add) => {
            let table = mirror(add, &mut disks)?;
            let source = add.source.as_ref().map(|source| place_of(&table, source, &mut disks));
            spec(table, &add.common, source.transpose()?)
        }
    };
    refuse_device_of_origin(&spec.table.params)?;
    Ok(DeviceSpec { named: disks.named(), ..spec })
}

/// A device as table lines describe it, their device words turned into paths by `disks`.
pub(super) fn of_lines(
    text: &str,
    common: &Common,
    source: Option<&Path>,
    mut disks: Disks,
) -> Result<DeviceSpec, Failure> {
    let table = Table::parse_table(text).map_err(|error| wrong_usage(error.to_string()))?;
    let table = table.with_devices(|word| disks.of_table(word))?;
    if let TargetParams::Mirror(mirror) = &table.params {
        refuse_twice(&mirror.legs, mirror.log_device(), table.len)?;
    }
    refuse_device_of_origin(&table.params)?;
    let source = source.map(|source| place_of(&table, source, &mut disks)).transpose()?;
    let named = disks.named();
    // Users of device-mapper see in the status that a snapshot is invalid, and need its device to
    // activate the others.
    Ok(DeviceSpec { degraded: true, allow_invalid: true, named, ..spec(table, common, source) })
}

/// The lines of a new device: of the command line, of a file, or of stdin.
pub(super) fn text_of(
    name: &str,
    lines: &[String],
    file: Option<&Path>,
) -> Result<String, Failure> {
    let text = match (lines, file) {
        ([_, ..], _) => lines.join("\n"),
        ([], Some(path)) if path != Path::new("-") => {
            std::fs::read_to_string(path).map_err(|error| unreadable(name, path, error))?
        }
        ([], _) => std::io::read_to_string(std::io::stdin())?,
    };
    if text.trim().is_empty() {
        let hint = "give each line with --table, or all of them in a file or on stdin";
        let why = wrong_usage(format!("the table is empty: {hint}"));
        return Err(named(name, "create", why));
    }
    Ok(text)
}

/// A file with a table that cannot be read; it may be the table itself that was given.
fn unreadable(name: &str, path: &Path, error: std::io::Error) -> Failure {
    let what = format!("{name}: cannot read the table from {}", path.display());
    let is_none = error.kind() == std::io::ErrorKind::NotFound;
    let hint = if is_none { "; a table line is given with --table" } else { "" };
    Failure::from(error).context(what).ending(hint)
}

/// A wrong table of a command line, with the device that it was for.
pub(super) fn named(name: &str, verb: &str, why: Failure) -> Failure {
    if why.kind != Kind::Usage {
        return why;
    }
    why.context(name).ending(format!("; see `ublk-dm {verb} --help`"))
}

/// Refuses a snapshot whose origin is the device of an origin: what its users write goes to the
/// disk below, and would not be kept for the snapshot.
fn refuse_device_of_origin(params: &TargetParams) -> Result<(), Failure> {
    let (TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot)) = params else {
        return Ok(());
    };
    let path = &snapshot.origin;
    let Some(id) = DiskId::of_path(Path::new(path)).ok().and_then(ublk_number) else {
        return Ok(());
    };
    let states = open_rundir()?.states_beside(None)?;
    let devices = states.into_iter().flat_map(|state| state.devices);
    let found = devices.filter(|device| device.id == id && exists(device).unwrap_or(true));
    for device in found {
        if let TargetParams::SnapshotOrigin { origin } = &device.spec.table.params {
            let name = device.name;
            let what = "is the device of an origin, whose writes would not be kept for a snapshot";
            return Err(format!("{path}: {name} {what} of it: name its disk, {origin}").into());
        }
    }
    Ok(())
}

fn spec(table: Table, common: &Common, source: Option<usize>) -> DeviceSpec {
    let options = DeviceOptions {
        queues: common.queues,
        depth: common.depth,
        read_only: common.read_only,
        zero_copy: !common.no_zero_copy,
        recovery: !common.no_recovery,
        on_server_death: on_server_death(common.on_server_death),
        uuid: common.uuid.clone(),
    };
    let (degraded, allow_invalid, other_origin) = (false, false, false);
    DeviceSpec {
        table,
        options,
        force: common.force,
        unclaimed: common.shared,
        degraded,
        allow_invalid,
        source,
        lost: Vec::new(),
        continues: false,
        other_origin,
        merge: None,
        named: Vec::new(),
    }
}

/// The flag in the words of the protocol.
pub(super) fn on_server_death(flag: args::OnServerDeath) -> OnServerDeath {
    match flag {
        args::OnServerDeath::Wait => OnServerDeath::Wait,
        args::OnServerDeath::Fail => OnServerDeath::Fail,
    }
}

/// A word of the protocol as the flag.
pub(super) fn flag_of(policy: OnServerDeath) -> args::OnServerDeath {
    match policy {
        OnServerDeath::Wait => args::OnServerDeath::Wait,
        OnServerDeath::Fail => args::OnServerDeath::Fail,
    }
}

/// The properties of a disk that defaults depend on.
struct Measured {
    len: Sectors,
    block: Sectors,
}

impl Measured {
    /// Measures a disk, which may have other users.
    fn of(path: &str) -> Result<Measured, Failure> {
        let disk = OpenDisk::open(path, Access::ReadOnly, Claim::Shared)?;
        let block = Sectors::from_bytes(u64::from(disk.limits.logical_block_size));
        Ok(Measured { len: Sectors(disk.size_sectors), block })
    }
}

fn snapshot(add: &args::Snapshot, disks: &mut Disks) -> Result<Table, Failure> {
    let chunk_size = match add.chunk_size {
        None => None,
        Some(bytes) => {
            let whole = (bytes % 512 == 0).then(|| ChunkSize::from_sectors(bytes / 512)).flatten();
            let hint = "it must be a power of two between 512 bytes and 1 GiB";
            Some(whole.ok_or_else(|| wrong_usage(format!("chunk size of {bytes} bytes: {hint}")))?)
        }
    };
    let (origin, cow) = (disks.path(&add.origin)?, disks.path(&add.cow)?);
    let overflow = add.on_full == args::OnFull::Overflow;
    let measured = Measured::of(&origin)?;
    let (store, chunk_size) = match add.store {
        args::Store::Persistent => (StoreType::Persistent { overflow }, chunk_size),
        args::Store::Transient => {
            // There is no store on the COW that records a chunk size.
            let block = measured.block.0.max(Measured::of(&cow)?.block.0);
            let default = ChunkSize::from_sectors(DEFAULT_CHUNK_SECTORS.max(block));
            (StoreType::Transient { overflow }, chunk_size.or(default))
        }
    };
    let (discard_zeroes_cow, discard_passdown_origin) =
        (add.discard_zeroes_cow, add.discard_passdown_origin);
    let params =
        Snapshot { origin, cow, store, chunk_size, discard_zeroes_cow, discard_passdown_origin };
    let cow = &params.cow;
    params.check(false).map_err(|error| wrong_usage(format!("{cow}: {error}")))?;
    Ok(Table { len: measured.len, params: TargetParams::Snapshot(params) })
}

fn mirror(add: &args::Mirror, disks: &mut Disks) -> Result<Table, Failure> {
    let (min, max) = (Mirror::MIN_LEGS, Mirror::MAX_LEGS);
    if !(min..=max).contains(&add.legs.len()) {
        let (count, legs) = (add.legs.len(), if add.legs.len() == 1 { "leg" } else { "legs" });
        return Err(wrong_usage(format!(
            "{count} {legs}: a mirror has {min} to {max}; give --leg for each"
        )));
    }
    let legs = add.legs.iter().map(|word| disks.leg(word)).collect::<Result<Vec<_>, _>>()?;
    let log = match add.log.as_str() {
        "core" => MirrorLog::Core,
        word => MirrorLog::Disk { device: disks.path(Path::new(word))? },
    };
    if let Some(bytes) = add.region_size {
        if bytes % 512 != 0
            || !(bytes / 512).is_power_of_two()
            || bytes / 512 < Mirror::MIN_REGION.0
        {
            return Err(wrong_usage(format!(
                "region size of {bytes} bytes: it must be a power of two from 1 KiB"
            )));
        }
    }
    // What does not depend on the disks is said whether they are there or not.
    refuse_twice(&legs, log_path(&log), Sectors(1))?;
    let (len, block) = fitting(&legs)?;
    refuse_twice(&legs, log_path(&log), len)?;
    let largest = Sectors(1 << (63 - len.0.max(1).leading_zeros()));
    let initial_sync = match (add.sync, add.nosync) {
        (true, _) => InitialSync::Sync,
        (_, true) => InitialSync::NoSync,
        _ => InitialSync::FromLog,
    };
    let params = Mirror {
        log,
        region_size: add
            .region_size
            .map_or(DEFAULT_REGION.min(largest).max(block), Sectors::from_bytes),
        initial_sync,
        legs,
        handle_errors: add.handle_errors,
        keep_log: add.keep_log,
    };
    Ok(Table { len, params: TargetParams::Mirror(params) })
}

/// Refuses a path that a mirror of this length would use for two things. Other names of one disk
/// are found by the server, which opens the disks.
fn refuse_twice(legs: &[Leg], log: Option<&str>, len: Sectors) -> Result<(), Failure> {
    for (at, leg) in legs.iter().enumerate() {
        let path = &leg.device;
        if log == Some(path.as_str()) {
            return Err(wrong_usage(format!("{path}: a leg cannot also be the log")));
        }
        let overlaps =
            |other: &Leg| other.device == *path && other.offset.0.abs_diff(leg.offset.0) < len.0;
        if legs[..at].iter().any(overlaps) {
            return Err(wrong_usage(format!("{path}: given for two legs that overlap")));
        }
    }
    Ok(())
}

fn log_path(log: &MirrorLog) -> Option<&str> {
    match log {
        MirrorLog::Core => None,
        MirrorLog::Disk { device } => Some(device),
    }
}

/// The longest mirror that every leg has room for, and the largest block size among the legs.
fn fitting(legs: &[Leg]) -> Result<(Sectors, Sectors), Failure> {
    let measured =
        legs.iter().map(|leg| Measured::of(&leg.device)).collect::<Result<Vec<_>, _>>()?;
    let block = measured.iter().map(|disk| disk.block).max().unwrap_or(Sectors(1));
    let left = |(disk, leg): (&Measured, &Leg)| {
        disk.len.0.saturating_sub(leg.offset.0) / block.0 * block.0
    };
    let len = measured.iter().zip(legs).map(left).min().unwrap_or(0);
    if len == 0 {
        let at = measured.iter().zip(legs).position(|pair| left(pair) == 0).unwrap_or(0);
        let (Leg { device, offset: Sector(offset) }, size) = (&legs[at], measured[at].len);
        let why = format!("nothing is left from sector {offset} on a disk of {size} sectors");
        return Err(format!("{device}: {why}").into());
    }
    Ok((Sectors(len), block))
}

/// The index of the leg that `--source` names.
pub(super) fn place_of(table: &Table, source: &Path, disks: &mut Disks) -> Result<usize, Failure> {
    let TargetParams::Mirror(Mirror { legs, .. }) = &table.params else {
        return Err(wrong_usage("--source names a leg of a mirror, and the table has none"));
    };
    let word = disks.known_path(source)?;
    let place = legs.iter().position(|leg| leg.device == word);
    place.ok_or_else(|| wrong_usage(format!("--source {word}: not one of the legs")))
}
