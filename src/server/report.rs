//! A server's reports about its devices: the objects of `list --json`, status lines and table
//! lines.

use std::collections::BTreeMap;
use std::convert::Infallible;

use dm_targets::device::Device as Served;
use dm_targets::mirror::legs::ErrorCounts;
use dm_targets::mirror::status::{DiskLogState, LegHealth, MirrorLogStatus, MirrorStatus};
use dm_targets::mirror::table::{Leg, Mirror};
use dm_targets::mirror::target::{LegReport, Progress, Status};
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::status::SnapshotStatus;
use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sectors};
use serde_json::{Value, json};

use super::admin::devices::{Deps, Device};
use super::health;
use super::orphan;
use crate::data::{DataThread, DeviceStats};
use crate::protocol::DeviceReport;
use crate::ublk::device;

/// The data thread's information about a device.
pub struct Facts {
    id: u32,
    size: Sectors,
    logical_block_bytes: u32,
    stats: DeviceStats,
    suspended: bool,
    events: u32,
    copies: u64,
    copy_bytes: u64,
    commits: u64,
    snapshot: Option<SnapshotFacts>,
    mirror: Option<MirrorFacts>,
}

/// The contents of a leg's JSON object.
struct LegFacts {
    health: LegHealth,
    default: bool,
    source: bool,
    stale: bool,
    errors: ErrorCounts,
}

impl LegFacts {
    fn of(leg: &LegReport) -> LegFacts {
        let LegReport { health, default, source, stale, errors, .. } = *leg;
        LegFacts { health, default, source, stale, errors }
    }
}

struct MirrorFacts {
    status: Status,
    legs: Vec<LegFacts>,
    region_size: Sectors,
    dirty_regions: u64,
    held: usize,
    recovery: Option<Progress>,
    now_ms: u64,
}

struct SnapshotFacts {
    status: SnapshotStatus,
    chunk_size: ChunkSize,
    exceptions: usize,
}

/// The data thread's information about all its devices.
pub fn look(thread: &DataThread) -> Vec<Facts> {
    let now_ms = thread.group.host.now_ms();
    let stats = |id: u32| thread.served(id).map(|served| served.stats()).unwrap_or_default();
    let devices = thread.group.devices();
    devices.iter().map(|(id, device)| facts(*id, device, stats(*id), now_ms)).collect()
}

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
    let state = if entry.suspended { "suspended" } else { "live" };
    let word = |word: &str| entry.deps.on_table_line(word);
    orphan::report_with(&entry.state(), state, Some(std::process::id()), word)
}

fn facts(id: u32, device: &Served, stats: DeviceStats, now_ms: u64) -> Facts {
    let mut facts = Facts {
        id,
        size: Sectors(0),
        logical_block_bytes: device.target().logical_block_bytes(),
        stats,
        suspended: device.is_suspended(),
        events: device.events().count(),
        copies: 0,
        copy_bytes: 0,
        commits: 0,
        snapshot: None,
        mirror: None,
    };
    match &device.target() {
        Target::Mirror(mirror) => {
            let recovery = mirror.recovery();
            facts.copy_bytes = recovery.map_or(0, |progress| progress.bytes);
            facts.mirror = Some(MirrorFacts {
                status: mirror.status(),
                legs: mirror.legs().iter().map(LegFacts::of).collect(),
                region_size: mirror.region_size(),
                dirty_regions: mirror.dirty_regions(),
                held: mirror.held(),
                recovery,
                now_ms,
            });
        }
        Target::Snapshot(snapshot) => {
            let (usage, copied) = (snapshot.usage(), snapshot.stats());
            facts.size = snapshot.len();
            (facts.copies, facts.copy_bytes) = (copied.copies, copied.copy_bytes);
            facts.commits = snapshot.store().commits();
            let health = snapshot.health();
            facts.snapshot = Some(SnapshotFacts {
                status: SnapshotStatus {
                    valid: health.is_kept(),
                    merge_failed: false,
                    overflowed: health == Health::Overflowed,
                    usage,
                },
                chunk_size: snapshot.chunk_size(),
                exceptions: snapshot.exceptions(),
            });
        }
        // These targets have no status beyond their tables.
        Target::Origin(_) | Target::Merge(_) | Target::Linear(_) | Target::Nothing => {}
    }
    facts
}

fn report(entry: &Device, facts: &Facts) -> DeviceReport {
    let table = &entry.spec.table;
    let status = match (&facts.snapshot, &facts.mirror, entry.mirror()) {
        (Some(snapshot), ..) => snapshot.status.to_string(),
        (_, Some(facts), Some(mirror)) => mirror_status(facts, mirror, &entry.deps).to_string(),
        _ => String::new(),
    };
    let status = format!("0 {} {} {status}", facts.size, table.params.name()).trim_end().to_owned();
    let word = |word: &str| Ok::<_, Infallible>(entry.deps.on_table_line(word));
    let table =
        table.with_devices(word).map_or_else(|never| match never {}, |table| table.to_string());
    let (name, disks) = (entry.name.clone(), entry.deps.numbers());
    let cookie = entry.info.target_flags;
    DeviceReport { id: facts.id, cookie, name, json: object(entry, facts), status, table, disks }
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

/// The `mirror` object of `list --json`.
fn mirror_object(mirror: &MirrorFacts, table: &Mirror) -> Value {
    let leg = |(named, leg): (&Leg, &LegFacts)| {
        json!({
            "path": named.device,
            "offset_bytes": named.offset.bytes(),
            "health": leg.health.letter().to_string(),
            "default": leg.default,
            "source": leg.source,
            "stale": leg.stale,
            "read_errors": leg.errors.reads,
            "write_errors": leg.errors.writes,
            "flush_errors": leg.errors.flushes,
            "sync_errors": leg.errors.syncs,
        })
    };
    json!({
        "legs": table.legs.iter().zip(&mirror.legs).map(leg).collect::<Vec<_>>(),
        "log": table.log_device().unwrap_or("core"),
        "log_health": mirror.status.log.map(|state| state.letter().to_string()),
        "region_size_bytes": mirror.region_size.bytes(),
        "regions": mirror.status.regions,
        "in_sync_regions": mirror.status.in_sync_regions,
        "dirty_regions": mirror.dirty_regions,
        "held": mirror.held,
        "recovery": mirror.recovery.map(|progress| recovery_object(progress, mirror)),
    })
}

fn recovery_object(progress: Progress, mirror: &MirrorFacts) -> Value {
    let elapsed_ms = mirror.now_ms.saturating_sub(progress.started_ms).max(1);
    let rate = progress.bytes.saturating_mul(1000) / elapsed_ms;
    let left =
        progress.total.saturating_sub(progress.done).saturating_mul(mirror.region_size.bytes());
    json!({
        "done_regions": progress.done,
        "total_regions": progress.total,
        "bytes": progress.bytes,
        "bytes_per_second": rate,
        "seconds_left": left.checked_div(rate),
    })
}

fn health_of(facts: &Facts) -> &'static str {
    match (&facts.snapshot, &facts.mirror) {
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
        _ => health::OK,
    }
}

fn object(entry: &Device, facts: &Facts) -> Value {
    let id = facts.id;
    let block = format!("/dev/ublkb{id}");
    let stats = facts.stats;
    let mut object = json!({
        "id": id,
        "name": entry.name,
        "target": entry.spec.table.params.name(),
        "state": if facts.suspended { "suspended" } else { "live" },
        "health": health_of(facts),
        "events": facts.events,
        "block_device": block,
        "char_device": format!("/dev/ublkc{id}"),
        "major": entry.number.map(|number| number.0),
        "minor": entry.number.map(|number| number.1),
        "size_bytes": facts.size.bytes(),
        "logical_block_size": facts.logical_block_bytes,
        "read_only": entry.read_only,
        "queues": entry.info.queues,
        "queue_depth": entry.info.depth,
        "zero_copy": device::is_zero_copy(&entry.info),
        "recovery": device::is_recoverable(&entry.info),
        "server_pid": std::process::id(),
        "stats": {
            "reads": stats.reads, "read_bytes": stats.read_bytes,
            "writes": stats.writes, "write_bytes": stats.write_bytes,
            "flushes": stats.flushes, "discards": stats.discards,
            "copies": facts.copies, "copy_bytes": facts.copy_bytes,
            "commits": facts.commits, "errors": stats.errors,
        },
    });
    match (&entry.spec.table.params, &facts.snapshot, &facts.mirror) {
        (TargetParams::Snapshot(table), Some(snapshot), _) => {
            object["snapshot"] = snapshot_object(snapshot, table)
        }
        (TargetParams::Mirror(table), _, Some(mirror)) => {
            object["mirror"] = mirror_object(mirror, table)
        }
        (params, ..) => {
            if let Some((key, disks)) = orphan::disks_of(params) {
                object[key] = disks;
            }
        }
    }
    object
}

fn snapshot_object(snapshot: &SnapshotFacts, table: &Snapshot) -> Value {
    json!({
        "origin": table.origin,
        "cow": table.cow,
        "store": if table.store.is_transient() { "transient" } else { "persistent" },
        "chunk_size_bytes": snapshot.chunk_size.bytes(),
        "valid": snapshot.status.valid,
        "overflow": snapshot.status.overflowed,
        "used_bytes": snapshot.status.usage.allocated.bytes(),
        "total_bytes": snapshot.status.usage.total.bytes(),
        "metadata_bytes": snapshot.status.usage.metadata.bytes(),
        "exceptions": snapshot.exceptions,
        "merge": null,
    })
}
