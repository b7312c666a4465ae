//! A server's reports about its devices: the objects of `list --json`, status lines and table
//! lines.

use std::collections::BTreeMap;
use std::convert::Infallible;

use dm_targets::mirror::status::{DiskLogState, LegHealth, MirrorLogStatus, MirrorStatus};
use dm_targets::mirror::table::{Leg, Mirror};
use dm_targets::mirror::target::{Progress, Status};

use super::admin::devices::{Deps, Device};
use super::facts::{Facts, LegFacts, MirrorFacts, SnapshotFacts};
use super::health;
use super::orphan;
use crate::protocol::{
    DeviceObject, DeviceReport, Health, LegObject, MergeOptions, MirrorObject, RecoveryObject,
    RunState, SnapshotObject, StatsObject, TargetObject,
};
use crate::ublk::device;

/// Returns reports of all devices of a server, by id.
pub fn devices(entries: &BTreeMap<u32, Device>, mut facts: Vec<Facts>) -> Vec<DeviceReport> {
    for facts in &mut facts {
        // A snapshot's size is rounded down to whole blocks of its disks.
        let entry = entries.get(&facts.id).filter(|_| facts.snapshot.is_none());
        facts.size = entry.map_or(facts.size, |entry| entry.spec.table.len);
    }
    let of = |id: u32| facts.iter().find(|facts| facts.id == id);
    entries.iter().filter_map(|(id, entry)| Some(report(entry, of(*id)?))).collect()
}

/// The report of a device whose data thread does not answer.
pub fn unanswered(entry: &Device) -> DeviceReport {
    let word = |word: &str| entry.deps.on_table_line(word);
    orphan::report_with(&entry.state(), state_of(entry.suspended), Some(std::process::id()), word)
}

fn report(entry: &Device, facts: &Facts) -> DeviceReport {
    let table = &entry.spec.table;
    let status = match (&facts.snapshot, &facts.mirror, entry.mirror()) {
        (Some(snapshot), ..) => snapshot.status.to_string(),
        (_, Some(facts), Some(mirror)) => mirror_status(facts, mirror, &entry.deps).to_string(),
        _ => String::new(),
    };
    let status = table.plain_status(facts.size, &status);
    let word = |word: &str| Ok::<_, Infallible>(entry.deps.on_table_line(word));
    let table =
        table.with_devices(word).map_or_else(|never| match never {}, |table| table.to_string());
    let (name, disks) = (entry.name.clone(), entry.deps.numbers());
    let cookie = entry.info.target_flags;
    let inactive = entry.loaded.as_ref().map(|loaded| loaded.table.to_string());
    let (id, object) = (facts.id, object(entry, facts));
    let merged = entry.spec.has_merged();
    let durations = facts.durations.clone();
    DeviceReport { id, cookie, name, object, status, table, inactive, merged, durations, disks }
}

fn mirror_status(facts: &MirrorFacts, mirror: &Mirror, deps: &Deps) -> MirrorStatus {
    let status = &facts.status;
    let leg = |(leg, health): (&Leg, &LegHealth)| (deps.on_table_line(&leg.device), *health);
    MirrorStatus {
        legs: mirror.legs.iter().zip(&status.legs).map(leg).collect(),
        in_sync_regions: status.in_sync_regions,
        regions: status.regions,
        log: match (mirror.log_device(), status.log) {
            (Some(log), Some(state)) => {
                MirrorLogStatus::Disk { device: deps.on_table_line(log), state }
            }
            _ => MirrorLogStatus::Core,
        },
    }
}

fn state_of(suspended: bool) -> RunState {
    if suspended { RunState::Suspended } else { RunState::Live }
}

fn health_of(facts: &Facts) -> Health {
    match (&facts.snapshot, &facts.mirror) {
        (Some(SnapshotFacts { merge: Some(merge), .. }), _) => health::of_merge(merge.phase),
        (Some(snapshot), _) => health::of_snapshot(&snapshot.status, snapshot.chunk_size.sectors()),
        (_, Some(mirror)) => {
            let Status { regions, in_sync_regions, log, .. } = mirror.status;
            let log_works = log.is_none_or(|log| log == DiskLogState::Alive);
            let legs = mirror.legs.iter().map(|leg| leg.health);
            health::of_mirror(
                legs,
                log_works,
                regions.saturating_sub(in_sync_regions),
                mirror.recovery.is_some(),
            )
        }
        _ => Health::Ok,
    }
}

/// The device's object in `list --json`.
fn object(entry: &Device, facts: &Facts) -> DeviceObject {
    let id = facts.id;
    DeviceObject {
        id,
        name: entry.name.clone(),
        uuid: entry.spec.options.uuid.clone(),
        target: entry.spec.table.params.name().to_owned(),
        state: state_of(facts.suspended),
        health: health_of(facts),
        events: Some(facts.events),
        block_device: format!("/dev/ublkb{id}"),
        char_device: format!("/dev/ublkc{id}"),
        major: entry.number.map(|number| number.0),
        minor: entry.number.map(|number| number.1),
        size_bytes: facts.size.bytes(),
        logical_block_size: Some(facts.logical_block_bytes),
        read_only: entry.read_only,
        queues: entry.info.queues,
        queue_depth: entry.info.depth,
        zero_copy: Some(device::is_zero_copy(&entry.info)),
        recovery: device::is_recoverable(&entry.info),
        on_server_death: device::on_server_death(&entry.info),
        server_pid: Some(std::process::id()),
        answers: true,
        parts: parts(entry, facts),
        stats: Some(stats(facts)),
    }
}

fn stats(facts: &Facts) -> StatsObject {
    let stats = facts.stats;
    StatsObject {
        reads: stats.reads,
        read_bytes: stats.read_bytes,
        writes: stats.writes,
        write_bytes: stats.write_bytes,
        flushes: stats.flushes,
        discards: stats.discards,
        copies: facts.copies,
        copy_bytes: facts.copy_bytes,
        commits: facts.commits,
        errors: stats.errors,
    }
}

/// The target's own object: what its table says, and what the data thread knows.
fn parts(entry: &Device, facts: &Facts) -> Option<TargetObject> {
    let known = orphan::parts_of(&entry.spec)?;
    Some(match (known, &facts.snapshot, &facts.mirror) {
        (TargetObject::Snapshot(known), Some(facts), _) => {
            let merge = entry.spec.merge.as_ref();
            TargetObject::Snapshot(snapshot_object(known, facts, merge))
        }
        (TargetObject::Mirror(known), _, Some(facts)) => {
            TargetObject::Mirror(mirror_object(known, facts))
        }
        (known, ..) => known,
    })
}

fn snapshot_object(
    known: SnapshotObject,
    facts: &SnapshotFacts,
    options: Option<&MergeOptions>,
) -> SnapshotObject {
    let SnapshotFacts { status, chunk_size, exceptions, merge } = facts;
    SnapshotObject {
        chunk_size_bytes: Some(chunk_size.bytes()),
        valid: Some(status.valid),
        overflow: Some(status.overflowed),
        used_bytes: Some(status.usage.allocated.bytes()),
        total_bytes: Some(status.usage.total.bytes()),
        metadata_bytes: Some(status.usage.metadata.bytes()),
        exceptions: Some(*exceptions as u64),
        merge: merge.as_ref().map(|merge| merge.object(options)).or(known.merge),
        ..known
    }
}

fn mirror_object(known: MirrorObject, facts: &MirrorFacts) -> MirrorObject {
    let leg = |(known, leg): (LegObject, &LegFacts)| LegObject {
        health: Some(leg.health.letter()),
        default: Some(leg.default),
        source: Some(leg.source),
        stale: Some(leg.stale),
        read_errors: Some(leg.errors.reads),
        write_errors: Some(leg.errors.writes),
        flush_errors: Some(leg.errors.flushes),
        sync_errors: Some(leg.errors.syncs),
        ..known
    };
    MirrorObject {
        legs: known.legs.into_iter().zip(&facts.legs).map(leg).collect(),
        log_health: facts.status.log.map(DiskLogState::letter),
        region_size_bytes: facts.region_size.bytes(),
        regions: Some(facts.status.regions),
        in_sync_regions: Some(facts.status.in_sync_regions),
        dirty_regions: Some(facts.dirty_regions),
        held: Some(facts.held as u64),
        recovery: facts.recovery.map(|progress| recovery_object(progress, facts)),
        ..known
    }
}

fn recovery_object(progress: Progress, facts: &MirrorFacts) -> RecoveryObject {
    let elapsed_ms = facts.now_ms.saturating_sub(progress.started_ms).max(1);
    let rate = progress.bytes.saturating_mul(1000) / elapsed_ms;
    let left =
        progress.total.saturating_sub(progress.done).saturating_mul(facts.region_size.bytes());
    RecoveryObject {
        done_regions: progress.done,
        total_regions: progress.total,
        bytes: progress.bytes,
        bytes_per_second: rate,
        seconds_left: left.checked_div(rate),
    }
}

#[cfg(test)]
mod tests;
