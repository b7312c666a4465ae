//! Mirrors: opened up to the moment where the kernel adds a device, given another table, and talked to.
//!
//! Which legs are up to date is put on record in the run directory before anything that depends on it is acknowledged
//! ([`crate::rundir`]); what that means for a server that takes over is decided by the target.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use dm_targets::mirror::Event;
use dm_targets::mirror::format::identity_of;
use dm_targets::mirror::leg_state::{LegState, Past};
use dm_targets::mirror::target::{LegParts, Mirror, Parts};
use dm_targets::table;
use dm_targets::units::{Sector, Sectors};

use crate::data::{Events, Family, Opened, Served};
use crate::failure::Reason;
use crate::protocol::{AddMirror, InitialSync, Leg, Question};
use crate::rundir::RunDir;
use crate::server::control::{Prepared, Server};
use crate::server::devices::{Named, NamedLeg, Over};
use crate::storage::content;
use crate::storage::signature::SignatureKind;
use crate::storage::{Access, Claim, DiskId, OpenDisk, lasting_name};
use crate::ublk::Discard;
use crate::ublk::device;

/// Unit of the dirty log unless the user says otherwise, 512 KiB: a recovery after a crash is short, and a log of 4 KiB
/// serves 12 GiB.
const DEFAULT_REGION: Sectors = Sectors(1024);

/// The disks of a mirror, open.
struct Disks {
    legs: Vec<OpenDisk>,
    log: Option<OpenDisk>,
    /// Length of the device.
    len: Sectors,
    /// Largest block size among the legs.
    block: Sectors,
}

impl Server {
    pub(in crate::server) fn prepare_mirror(&mut self, add: AddMirror, again: bool) -> Result<Prepared, Reason> {
        if !self.devices.is_empty() || self.origin.is_some() {
            return Err(format!("{}: in use by another device of this server", add.legs[0].path.display()));
        }
        let past = if again { self.past_of(&add) } else { Past::None };
        self.open_mirror(add, past)
    }

    /// What a server that died has left of a mirror.
    pub(in crate::server) fn past_of(&self, add: &AddMirror) -> Past {
        let left = self.rundir.legs(&self.key);
        if let (Err(why), None, None) = (&left, &add.log, add.source) {
            log::error!("the record of the legs cannot be used: {why}");
        }
        Past::TakenOver(left.ok())
    }

    pub(in crate::server) fn open_mirror(&mut self, add: AddMirror, past: Past) -> Result<Prepared, Reason> {
        let disks = open_disks(&add)?;
        let region = region_size(&add, &disks)?;
        if !matches!(past, Past::TakenOver(_)) {
            check_log(&disks, &add)?;
            check_legs(&disks, &add, &past)?;
        }
        let over = Over::Mirror {
            legs: disks.legs.iter().zip(&add.legs).map(|(disk, leg)| named_leg(disk.id, leg)).collect(),
            log: disks.log.iter().zip(&add.log).map(|(disk, path)| Named::new(disk.id, path)).next(),
        };
        let limits: Vec<_> = disks.legs.iter().map(|leg| &leg.limits).collect();
        // A leg with a volatile cache may join later, and what users do not flush then is not flushed to it. Flushes of legs
        // without one cost nothing.
        let params = device::params(&limits, true, disks.len, add.common.read_only, discard_of(&disks));
        let ticket = self.next_ticket();
        self.open_target(&add, disks, region, past, ticket)?;
        let (common, read_only) = (add.common.clone(), add.common.read_only);
        // Which leg was right was said of this moment: from now on the record knows.
        Ok(Prepared {
            params,
            common,
            ticket,
            over,
            read_only,
            added: Question::AddMirror(AddMirror { source: None, ..add }),
        })
    }

    fn open_target(
        &self,
        add: &AddMirror,
        disks: Disks,
        region_size: Sectors,
        past: Past,
        ticket: u64,
    ) -> Result<(), Reason> {
        let offsets = add.legs.iter().map(|leg| Sector(leg.offset_sectors));
        let known: Vec<_> = offsets.zip(identities(add, &disks.legs)).collect();
        let (handle_errors, keep_log) = (add.handle_errors, add.keep_log);
        let label = add.common.name.clone().unwrap_or_else(|| add.legs[0].path.display().to_string());
        let (rundir, key) = (self.rundir.clone(), self.key.clone());
        let (initial_sync, source) = (add.initial_sync, add.source);
        let open = move |family: Rc<Family>| async move {
            let Disks { legs, log, len, .. } = disks;
            let legs = legs.into_iter().zip(known);
            let legs = legs.map(|(disk, (offset, identity))| LegParts { disk: family.disk(disk), offset, identity });
            let host = family.ring.host();
            let events = Rc::new(Events::default());
            let happened = events.clone();
            let note = Rc::new(Note { rundir, key, label, failing: Cell::new(false) });
            let recorder = note.clone();
            let parts = Parts {
                executor: &family.executor,
                host: &host,
                copy: &family.copy,
                legs: legs.collect(),
                log: log.map(|disk| family.disk(disk)),
                len,
                region_size,
                initial_sync: match initial_sync {
                    InitialSync::FromLog => table::InitialSync::FromLog,
                    InitialSync::Sync => table::InitialSync::Sync,
                    InitialSync::NoSync => table::InitialSync::NoSync,
                },
                handle_errors,
                keep_log,
                source,
                past,
                recorder: Rc::new(move |state: &LegState| recorder.record(state)),
                listener: Rc::new(move |event| {
                    note.tell(&event);
                    happened.happen();
                }),
            };
            let mirror = Mirror::open(parts).await.map_err(|error| error.to_string())?;
            let opened = Opened { served: Served::Mirror(mirror), events };
            family.opened.borrow_mut().insert(ticket, opened);
            Ok::<(), Reason>(())
        };
        self.family.call(open).map_err(|error| error.to_string())?
    }
}

/// Opens legs and log. A disk may hold several legs, side by side.
fn open_disks(add: &AddMirror) -> Result<Disks, Reason> {
    let mut legs: Vec<OpenDisk> = Vec::new();
    for leg in &add.legs {
        let id = std::fs::metadata(&leg.path).ok().and_then(|metadata| DiskId::of(&metadata));
        let ours = legs.iter().any(|other| Some(other.id) == id);
        let claim = if add.common.force || ours { Claim::Shared } else { Claim::Exclusive };
        legs.push(OpenDisk::open(&leg.path, Access::ReadWrite, claim).map_err(|error| error.to_string())?);
    }
    let log = match &add.log {
        None => None,
        Some(path) => {
            let id = std::fs::metadata(path).ok().and_then(|metadata| DiskId::of(&metadata));
            if legs.iter().any(|leg| Some(leg.id) == id) {
                return Err(format!("{}: a leg cannot be the log as well", path.display()));
            }
            Some(OpenDisk::open(path, Access::ReadWrite, Claim::Exclusive).map_err(|error| error.to_string())?)
        }
    };
    let block = legs.iter().map(|leg| u64::from(leg.limits.logical_block_size)).max().unwrap_or(512) / 512;
    let left = |(disk, leg): (&OpenDisk, &Leg)| disk.size_sectors.saturating_sub(leg.offset_sectors);
    let least = legs.iter().zip(&add.legs).map(left).min().unwrap_or(0);
    let len = add.len_sectors.unwrap_or(least / block * block);
    for pair in legs.iter().zip(&add.legs) {
        let (path, offset) = (pair.1.path.display(), pair.1.offset_sectors);
        if len == 0 || len > left(pair) {
            let (len, size) = (len.max(block), pair.0.size_sectors);
            return Err(format!("{path}: {len} sectors from sector {offset} do not fit on a disk of {size} sectors"));
        }
        if offset % (u64::from(pair.0.limits.logical_block_size) / 512) != 0 {
            let block = pair.0.limits.logical_block_size;
            return Err(format!(
                "{path}: offset of {offset} sectors: not a multiple of its block size of {block} bytes"
            ));
        }
    }
    if len % block != 0 {
        return Err(format!(
            "length of {len} sectors: not a multiple of the legs' block size of {} bytes",
            block * 512
        ));
    }
    let ranges: Vec<_> = legs.iter().zip(&add.legs).map(|(disk, leg)| (disk.id, leg.offset_sectors)).collect();
    for (at, (id, offset)) in ranges.iter().enumerate() {
        if ranges[..at].iter().any(|(other, start)| other == id && start.abs_diff(*offset) < len) {
            return Err(format!("{}: given for two legs that overlap", add.legs[at].path.display()));
        }
    }
    Ok(Disks { legs, log, len: Sectors(len), block: Sectors(block) })
}

fn region_size(add: &AddMirror, disks: &Disks) -> Result<Sectors, Reason> {
    let largest = Sectors(1 << (63 - disks.len.0.leading_zeros()));
    let region = add.region_sectors.map_or(DEFAULT_REGION.min(largest).max(disks.block), Sectors);
    let leg = |leg: &Leg| table::Leg { device: String::new(), offset: Sector(leg.offset_sectors) };
    let table = table::Mirror {
        log: table::MirrorLog::Core,
        region_size: region,
        initial_sync: table::InitialSync::FromLog,
        legs: add.legs.iter().map(leg).collect(),
        handle_errors: add.handle_errors,
        keep_log: add.keep_log,
    };
    table.check(disks.len).map_err(|error| error.to_string())?;
    if region.0 % disks.block.0 != 0 {
        let block = disks.block.bytes();
        return Err(format!("region size {region}: not a multiple of the legs' block size of {block} bytes"));
    }
    Ok(region)
}

/// Discards go to all legs or to none.
fn discard_of(disks: &Disks) -> Option<Discard> {
    let limits = || disks.legs.iter().map(|leg| &leg.limits);
    let max = limits().map(|limits| limits.discard_max_bytes).min().unwrap_or(0) / 512;
    let granularity = limits().map(|limits| limits.discard_granularity).max().unwrap_or(0);
    (max > 0).then(|| Discard {
        alignment: 0,
        granularity: granularity.max(512),
        max_sectors: u32::try_from(max).unwrap_or(u32::MAX),
        max_write_zeroes_sectors: 0,
    })
}

/// Refuses a log device that holds something else.
fn check_log(disks: &Disks, add: &AddMirror) -> Result<(), Reason> {
    match &disks.log {
        Some(log) if !add.common.force => content::refuse_other(log, Some(SignatureKind::MirrorLog), "a dirty log"),
        _ => Ok(()),
    }
}

/// Refuses to recover over a leg that holds something other than the source does.
fn check_legs(disks: &Disks, add: &AddMirror, past: &Past) -> Result<(), Reason> {
    if add.common.force || add.initial_sync == InitialSync::NoSync {
        return Ok(());
    }
    if let Some(log) = disks.log.as_ref().filter(|_| add.initial_sync == InitialSync::FromLog) {
        if content::of(log)?.is_some_and(|found| found.kind == SignatureKind::MirrorLog) {
            return Ok(());
        }
    }
    let known = match past {
        Past::Replaced(Some(state)) => state.source_among(&identities(add, &disks.legs)),
        _ => None,
    };
    let source = add.source.or(known).unwrap_or(0);
    let expected = content::of(&disks.legs[source]).map_err(|error| {
        format!("{error}; all would be copied from it, so name a leg that can be read with --source")
    })?;
    for (at, leg) in disks.legs.iter().enumerate() {
        // What stands before a leg's offset is none of the mirror's business.
        if at == source || add.legs[at].offset_sectors != 0 {
            continue;
        }
        let found = match content::of(leg) {
            // A table line means what it means to the kernel: a dead leg is one, and the mirror starts without it.
            Err(error) if add.len_sectors.is_some() => {
                log::warn!("{error}: the mirror starts without this leg");
                continue;
            }
            found => found?,
        };
        if let Some(found) = found.filter(|found| Some(*found) != expected) {
            return Err(format!(
                "{}: holds {} (at byte {}), which the recovery from {} would destroy; wipe it, or use --force",
                leg.path.display(),
                found.name,
                found.offset,
                disks.legs[source].path.display()
            ));
        }
    }
    Ok(())
}

/// What the legs are called for good. Where two have one name (serial numbers that somebody has set), paths must do.
fn identities(add: &AddMirror, disks: &[OpenDisk]) -> Vec<u64> {
    let named: Vec<u64> = disks.iter().zip(&add.legs).map(|(disk, leg)| identity(disk, leg)).collect();
    if named.iter().collect::<HashSet<_>>().len() == named.len() {
        return named;
    }
    let path = |leg: &Leg| identity_of(&format!("{} {}", leg.path.display(), leg.offset_sectors));
    add.legs.iter().map(path).collect()
}

/// What a leg is known by in the log.
pub(in crate::server) fn identity(disk: &OpenDisk, leg: &Leg) -> u64 {
    identity_of(&format!("{} {}", lasting_name(disk), leg.offset_sectors))
}

pub(in crate::server) fn named_leg(id: DiskId, leg: &Leg) -> NamedLeg {
    NamedLeg { disk: Named::new(id, &leg.path), offset: Sector(leg.offset_sectors) }
}

/// Hears of a mirror, and puts the state of its legs on record.
struct Note {
    rundir: RunDir,
    key: String,
    label: String,
    /// The last attempt to write the record failed, and that was said.
    failing: Cell<bool>,
}

impl Note {
    fn tell(&self, event: &Event) {
        match event {
            Event::InSync => log::info!("{}: {event}", self.label),
            _ => log::warn!("{}: {event}", self.label),
        }
    }

    /// Called by the target before it acknowledges anything that depends on the state.
    fn record(&self, state: &LegState) -> Result<(), String> {
        let written = self.rundir.write_legs(&self.key, state).map_err(|error| error.to_string());
        let failed_before = self.failing.replace(written.is_err());
        match &written {
            Err(error) if !failed_before => log::error!(
                "{}: which of its legs are up to date cannot be recorded in the run directory: {error}; writes that depend \
                 on it fail until it can",
                self.label
            ),
            Ok(()) if failed_before => log::warn!("{}: the state of its legs is on record again", self.label),
            _ => {}
        }
        written
    }
}
