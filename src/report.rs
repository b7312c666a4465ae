//! What a server says about its devices: the objects of `list --json`, status lines and table lines.

use std::fs;
use std::os::unix::fs::MetadataExt;

use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::target::OnFull;
use dm_targets::units::Sectors;
use libublk::sys;
use serde_json::{Value, json};

use crate::family::{DeviceStats, Served};
use crate::proto::{DeviceReport, Question};
use crate::server::{Entry, Failure, Server};

/// What the data thread knows of a device.
struct Facts {
    id: u32,
    size: Sectors,
    logical_block_bytes: u32,
    stats: DeviceStats,
    copies: u64,
    copy_bytes: u64,
    commits: u64,
    snapshot: Option<SnapshotFacts>,
}

struct SnapshotFacts {
    health: Health,
    chunk_bytes: u64,
    used: Sectors,
    total: Sectors,
    metadata: Sectors,
    exceptions: usize,
    persistent: bool,
    on_full: OnFull,
    discard_zeroes_cow: bool,
    discard_passdown_origin: bool,
}

/// Reports of all devices of a server, by id.
pub fn devices(server: &Server) -> Result<Vec<DeviceReport>, Failure> {
    let facts = server.family.call(|family| async move {
        let devices = family.devices.borrow();
        devices.iter().map(|(id, device)| facts(*id, &device.served, device.stats())).collect::<Vec<_>>()
    });
    let facts = facts.map_err(|error| error.to_string())?;
    let of = |id: u32| facts.iter().find(|facts| facts.id == id);
    Ok(server.devices.iter().filter_map(|(id, entry)| Some(report(entry, of(*id)?))).collect())
}

fn facts(id: u32, served: &Served, stats: DeviceStats) -> Facts {
    let mut facts = Facts {
        id,
        size: Sectors(0),
        logical_block_bytes: 512,
        stats,
        copies: 0,
        copy_bytes: 0,
        commits: 0,
        snapshot: None,
    };
    match served {
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
            let options = snapshot.options();
            facts.snapshot = Some(SnapshotFacts {
                health: snapshot.health(),
                chunk_bytes: snapshot.chunk_size().bytes(),
                used: usage.allocated,
                total: usage.total,
                metadata: usage.metadata,
                exceptions: snapshot.exceptions(),
                persistent: snapshot.store().is_persistent(),
                on_full: options.on_full,
                discard_zeroes_cow: options.discard_zeroes_cow,
                discard_passdown_origin: options.discard_passdown_origin,
            });
        }
    }
    facts
}

fn report(entry: &Entry, facts: &Facts) -> DeviceReport {
    let (status, table) = (status_args(facts), table_args(entry, facts));
    let line = |args: &str| format!("0 {} {} {args}", facts.size, target(entry)).trim_end().to_owned();
    DeviceReport {
        id: facts.id,
        name: entry.name.clone(),
        json: object(entry, facts),
        status: line(&status),
        table: line(&table),
    }
}

fn target(entry: &Entry) -> &'static str {
    match entry.added {
        Question::AddSnapshot(_) => "snapshot",
        _ => "snapshot-origin",
    }
}

fn status_args(facts: &Facts) -> String {
    let Some(snapshot) = &facts.snapshot else { return String::new() };
    match snapshot.health {
        Health::Invalid | Health::Invalidating => "Invalid".to_owned(),
        Health::Overflowed => "Overflow".to_owned(),
        Health::Valid => format!("{}/{} {}", snapshot.used, snapshot.total, snapshot.metadata),
    }
}

fn table_args(entry: &Entry, facts: &Facts) -> String {
    let disk = |id: &crate::open::DiskId, path: &str| match id {
        crate::open::DiskId::Block { .. } => id.to_string(),
        crate::open::DiskId::File { .. } => path.to_owned(),
    };
    let mut args = disk(&entry.origin, &entry.origin_path);
    if let (Some(snapshot), Some((id, path))) = (&facts.snapshot, &entry.cow) {
        let kind = match (snapshot.persistent, snapshot.on_full) {
            (true, OnFull::Overflow) => "PO",
            (true, OnFull::Invalidate) => "P",
            (false, _) => "N",
        };
        args += &format!(" {} {kind} {}", disk(id, path), snapshot.chunk_bytes / 512);
        match (snapshot.discard_zeroes_cow, snapshot.discard_passdown_origin) {
            (true, true) => args += " 2 discard_zeroes_cow discard_passdown_origin",
            (true, false) => args += " 1 discard_zeroes_cow",
            (false, _) => {}
        }
    }
    args
}

fn object(entry: &Entry, facts: &Facts) -> Value {
    let id = facts.id;
    let block = format!("/dev/ublkb{id}");
    let number = fs::metadata(&block).map(|metadata| metadata.rdev()).ok();
    let flag = |flag: u32| entry.info.flags & u64::from(flag) != 0;
    let snapshot = facts.snapshot.as_ref().map(|snapshot| {
        json!({
            "origin": entry.origin_path,
            "cow": entry.cow.as_ref().map(|(_, path)| path),
            "store": if snapshot.persistent { "persistent" } else { "transient" },
            "chunk_size_bytes": snapshot.chunk_bytes,
            "valid": snapshot.health.is_kept(),
            "overflow": snapshot.health == Health::Overflowed,
            "used_bytes": snapshot.used.bytes(),
            "total_bytes": snapshot.total.bytes(),
            "metadata_bytes": snapshot.metadata.bytes(),
            "exceptions": snapshot.exceptions,
            "merge": null,
        })
    });
    let stats = facts.stats;
    let mut object = json!({
        "id": id,
        "name": entry.name,
        "target": target(entry),
        "state": "live",
        "block_device": block,
        "char_device": format!("/dev/ublkc{id}"),
        "major": number.map(|number| libc::major(number)),
        "minor": number.map(|number| libc::minor(number)),
        "size_bytes": facts.size.bytes(),
        "logical_block_size": facts.logical_block_bytes,
        "read_only": entry.read_only,
        "queues": entry.info.queues,
        "queue_depth": entry.info.depth,
        "zero_copy": flag(sys::UBLK_F_AUTO_BUF_REG),
        "recovery": flag(sys::UBLK_F_USER_RECOVERY),
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
        None => object["origin"] = json!({ "path": entry.origin_path }),
    }
    object
}
