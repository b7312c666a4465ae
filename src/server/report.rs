//! What a server says about its devices: the objects of `list --json`, status lines and table lines.

use std::collections::BTreeMap;

use dm_targets::mirror::legs::ErrorCounts;
use dm_targets::mirror::target::{LegReport, Progress, Status};
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::target::{OnFull, Options};
use dm_targets::table::{
    self, DiskLogState, LegHealth, Line, MirrorLog, MirrorLogStatus, MirrorStatus, SnapshotStatus, StoreType, Target,
};
use dm_targets::units::{ChunkSize, Sectors};
use serde_json::{Value, json};

use super::devices::{Entry, Named, NamedLeg, Over};
use super::health;
use crate::data::{Caller, Device, DeviceStats, Served};
use crate::failure::Reason;
use crate::protocol::{DeviceReport, InitialSync, Question};
use crate::ublk::device;

/// What the data thread knows of a device.
struct Facts {
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

/// What stands in the object of a leg.
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
    persistent: bool,
    options: Options,
}

/// Reports of all devices of a server, by id.
pub fn devices(entries: &BTreeMap<u32, Entry>, family: &Caller) -> Result<Vec<DeviceReport>, Reason> {
    let facts = family.call(|family| async move {
        let devices = family.devices.borrow();
        let now_ms = family.ring.host().now_ms();
        devices.iter().map(|(id, device)| facts(*id, device, now_ms)).collect::<Vec<_>>()
    });
    let facts = facts.map_err(|error| error.to_string())?;
    let of = |id: u32| facts.iter().find(|facts| facts.id == id);
    Ok(entries.iter().filter_map(|(id, entry)| Some(report(entry, of(*id)?))).collect())
}

fn facts(id: u32, device: &Device, now_ms: u64) -> Facts {
    let mut facts = Facts {
        id,
        size: Sectors(0),
        logical_block_bytes: 512,
        stats: device.stats(),
        suspended: device.is_suspended(),
        events: device.events.count(),
        copies: 0,
        copy_bytes: 0,
        commits: 0,
        snapshot: None,
        mirror: None,
    };
    match &device.served() {
        Served::Nothing => {}
        Served::Mirror(mirror) => {
            facts.size = mirror.len();
            facts.logical_block_bytes = mirror.logical_block_bytes();
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
        Served::Origin(origin) => {
            facts.size = origin.disk().size();
            facts.logical_block_bytes = origin.disk().limits().logical_block_bytes;
        }
        Served::Snapshot(snapshot) => {
            let (usage, copied) = (snapshot.usage(), snapshot.stats());
            facts.size = snapshot.len();
            facts.logical_block_bytes = snapshot.logical_block_bytes();
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
                persistent: snapshot.store().is_persistent(),
                options: snapshot.options(),
            });
        }
    }
    facts
}

fn report(entry: &Entry, facts: &Facts) -> DeviceReport {
    let target = target(entry, facts);
    let status = match (&facts.snapshot, &facts.mirror, &entry.over) {
        (Some(snapshot), ..) => snapshot.status.to_string(),
        (_, Some(mirror), Over::Mirror { legs, log }) => mirror_status(mirror, legs, log.as_ref()).to_string(),
        _ => String::new(),
    };
    let status = format!("0 {} {} {status}", facts.size, target.name()).trim_end().to_owned();
    let table = Line { len: facts.size, target }.to_string();
    let disks = entry.over.numbers();
    DeviceReport { id: facts.id, name: entry.name.clone(), json: object(entry, facts), status, table, disks }
}

fn mirror_status(mirror: &MirrorFacts, legs: &[NamedLeg], log: Option<&Named>) -> MirrorStatus {
    let status = &mirror.status;
    MirrorStatus {
        legs: legs.iter().zip(&status.legs).map(|(leg, health)| (leg.disk.on_table_line(), *health)).collect(),
        in_sync_regions: status.in_sync_regions,
        regions: status.regions,
        log: match (log, status.log) {
            (Some(log), Some(state)) => MirrorLogStatus::Disk { device: log.on_table_line(), state },
            _ => MirrorLogStatus::Core,
        },
    }
}

/// The device's target and its parameters in effect.
fn target(entry: &Entry, facts: &Facts) -> Target {
    match (&entry.over, &facts.snapshot) {
        (Over::Snapshot { origin, cow }, Some(snapshot)) => snapshot_target(snapshot, origin, cow),
        (Over::Origin { origin } | Over::Snapshot { origin, .. }, _) => {
            Target::SnapshotOrigin { origin: origin.on_table_line() }
        }
        (Over::Mirror { legs, log }, _) => mirror_target(entry, facts, legs, log.as_ref()),
    }
}

fn snapshot_target(snapshot: &SnapshotFacts, origin: &Named, cow: &Named) -> Target {
    let overflow = snapshot.options.on_full == OnFull::Overflow;
    Target::Snapshot(table::Snapshot {
        origin: origin.on_table_line(),
        cow: cow.on_table_line(),
        store: if snapshot.persistent { StoreType::Persistent { overflow } } else { StoreType::Transient },
        chunk_size: Some(snapshot.chunk_size),
        discard_zeroes_cow: snapshot.options.discard_zeroes_cow,
        discard_passdown_origin: snapshot.options.discard_passdown_origin,
    })
}

fn mirror_target(entry: &Entry, facts: &Facts, legs: &[NamedLeg], log: Option<&Named>) -> Target {
    let leg = |leg: &NamedLeg| table::Leg { device: leg.disk.on_table_line(), offset: leg.offset };
    let (initial_sync, handle_errors, keep_log) = match &entry.added {
        Question::AddMirror(add) => (add.initial_sync, add.handle_errors, add.keep_log),
        _ => (InitialSync::FromLog, false, false),
    };
    Target::Mirror(table::Mirror {
        log: log.map_or(MirrorLog::Core, |log| MirrorLog::Disk { device: log.on_table_line() }),
        region_size: facts.mirror.as_ref().map_or(Sectors(0), |mirror| mirror.region_size),
        initial_sync: match initial_sync {
            InitialSync::FromLog => table::InitialSync::FromLog,
            InitialSync::Sync => table::InitialSync::Sync,
            InitialSync::NoSync => table::InitialSync::NoSync,
        },
        legs: legs.iter().map(leg).collect(),
        handle_errors,
        keep_log,
    })
}

/// The `mirror` object of `list --json`.
fn mirror_object(mirror: &MirrorFacts, legs: &[NamedLeg], log: Option<&Named>) -> Value {
    let leg = |(named, leg): (&NamedLeg, &LegFacts)| {
        json!({
            "path": named.disk.path,
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
        "legs": legs.iter().zip(&mirror.legs).map(leg).collect::<Vec<_>>(),
        "log": log.map_or("core", |log| log.path.as_str()),
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
    let left = progress.total.saturating_sub(progress.done).saturating_mul(mirror.region_size.bytes());
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
            health::of_mirror(legs, log_works, regions.saturating_sub(in_sync_regions), mirror.recovery.is_some())
        }
        _ => health::OK,
    }
}

fn object(entry: &Entry, facts: &Facts) -> Value {
    let id = facts.id;
    let block = format!("/dev/ublkb{id}");
    let over = match &entry.over {
        Over::Origin { origin } => (origin.path.as_str(), None),
        Over::Snapshot { origin, cow } => (origin.path.as_str(), Some(&cow.path)),
        Over::Mirror { .. } => ("", None),
    };
    let snapshot = facts.snapshot.as_ref().map(|snapshot| {
        json!({
            "origin": over.0,
            "cow": over.1,
            "store": if snapshot.persistent { "persistent" } else { "transient" },
            "chunk_size_bytes": snapshot.chunk_size.bytes(),
            "valid": snapshot.status.valid,
            "overflow": snapshot.status.overflowed,
            "used_bytes": snapshot.status.usage.allocated.bytes(),
            "total_bytes": snapshot.status.usage.total.bytes(),
            "metadata_bytes": snapshot.status.usage.metadata.bytes(),
            "exceptions": snapshot.exceptions,
            "merge": null,
        })
    });
    let stats = facts.stats;
    let mut object = json!({
        "id": id,
        "name": entry.name,
        "target": target(entry, facts).name(),
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
    match (snapshot, &facts.mirror, &entry.over) {
        (Some(snapshot), ..) => object["snapshot"] = snapshot,
        (_, Some(mirror), Over::Mirror { legs, log }) => object["mirror"] = mirror_object(mirror, legs, log.as_ref()),
        _ => object["origin"] = json!({ "path": over.0 }),
    }
    object
}
