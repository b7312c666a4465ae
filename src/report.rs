//! What a server says about its devices: the objects of `list --json`, status lines and table lines.

use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::target::{OnFull, Options};
use dm_targets::table::{self, Line, SnapshotStatus, StoreType, Target};
use dm_targets::units::{ChunkSize, Sectors};
use serde_json::{Value, json};

use crate::device;
use crate::family::{Device, DeviceStats, Served};
use crate::proto::DeviceReport;
use crate::server::{Entry, Failure, Over, Server};

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
}

struct SnapshotFacts {
    status: SnapshotStatus,
    chunk_size: ChunkSize,
    exceptions: usize,
    persistent: bool,
    options: Options,
}

/// Reports of all devices of a server, by id.
pub fn devices(server: &Server) -> Result<Vec<DeviceReport>, Failure> {
    let facts = server.family.call(|family| async move {
        let devices = family.devices.borrow();
        devices.iter().map(|(id, device)| facts(*id, device)).collect::<Vec<_>>()
    });
    let facts = facts.map_err(|error| error.to_string())?;
    let of = |id: u32| facts.iter().find(|facts| facts.id == id);
    Ok(server.devices.iter().filter_map(|(id, entry)| Some(report(entry, of(*id)?))).collect())
}

fn facts(id: u32, device: &Device) -> Facts {
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
    };
    match &device.served {
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
    let status = facts.snapshot.as_ref().map_or(String::new(), |snapshot| snapshot.status.to_string());
    let status = format!("0 {} {} {status}", facts.size, target.name()).trim_end().to_owned();
    let table = Line { len: facts.size, target }.to_string();
    DeviceReport { id: facts.id, name: entry.name.clone(), json: object(entry, facts), status, table }
}

/// The device's target and its parameters in effect.
fn target(entry: &Entry, facts: &Facts) -> Target {
    let (origin, cow) = match &entry.over {
        Over::Origin { origin } => (origin.on_table_line(), String::new()),
        Over::Snapshot { origin, cow } => (origin.on_table_line(), cow.on_table_line()),
    };
    let Some(snapshot) = &facts.snapshot else { return Target::SnapshotOrigin { origin } };
    let overflow = snapshot.options.on_full == OnFull::Overflow;
    Target::Snapshot(table::Snapshot {
        origin,
        cow,
        store: if snapshot.persistent { StoreType::Persistent { overflow } } else { StoreType::Transient },
        chunk_size: Some(snapshot.chunk_size),
        discard_zeroes_cow: snapshot.options.discard_zeroes_cow,
        discard_passdown_origin: snapshot.options.discard_passdown_origin,
    })
}

fn object(entry: &Entry, facts: &Facts) -> Value {
    let id = facts.id;
    let block = format!("/dev/ublkb{id}");
    let over = match &entry.over {
        Over::Origin { origin } => (&origin.path, None),
        Over::Snapshot { origin, cow } => (&origin.path, Some(&cow.path)),
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
    match snapshot {
        Some(snapshot) => object["snapshot"] = snapshot,
        None => object["origin"] = json!({ "path": over.0 }),
    }
    object
}
