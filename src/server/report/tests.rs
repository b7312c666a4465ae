//! The whole object of each target in `list --json`, key by key: a contract with scripts.

use dm_targets::mirror::legs::ErrorCounts;
use dm_targets::snapshot::format::Usage;
use dm_targets::snapshot::status::SnapshotStatus;
use dm_targets::units::{ChunkSize, Sectors};
use serde_json::{Value, json};

use super::*;
use crate::data::DeviceStats;

fn device(line: &str) -> Device {
    let mut device = Device::of_line(3, "d", line);
    (device.info.queues, device.info.flags, device.number) = (2, u64::MAX, Some((259, 4)));
    device.read_only = true;
    device.spec.options.read_only = true;
    device.spec.options.queues = 2;
    device
}

fn facts(snapshot: Option<SnapshotFacts>, mirror: Option<MirrorFacts>) -> Facts {
    let stats = DeviceStats {
        reads: 1,
        read_bytes: 2,
        writes: 3,
        write_bytes: 4,
        flushes: 5,
        discards: 6,
        errors: 7,
    };
    Facts {
        id: 3,
        size: Sectors(64),
        logical_block_bytes: 512,
        stats,
        durations: None,
        suspended: false,
        events: 9,
        copies: 10,
        copy_bytes: 11,
        commits: 12,
        snapshot,
        mirror,
    }
}

/// The object of a device in `list --json`, as a script reads it.
fn printed(device: Device, facts: Facts) -> Value {
    let report = devices(&[(3, device)].into(), vec![facts]).remove(0);
    // As a command reads it from the server, and prints it.
    let line = serde_json::to_string(&report).unwrap();
    let report: DeviceReport = serde_json::from_str(&line).unwrap();
    serde_json::from_str(&serde_json::to_string(&report.object).unwrap()).unwrap()
}

/// What every device has, and `more`.
fn common(target: &str, health: &str, more: Value) -> Value {
    let mut object = json!({
        "uuid": null,
        "id": 3, "name": "d", "target": target, "state": "live", "health": health, "events": 9,
        "block_device": "/dev/ublkb3", "char_device": "/dev/ublkc3", "major": 259, "minor": 4,
        "size_bytes": 32768, "logical_block_size": 512, "read_only": true, "queues": 2,
        "queue_depth": 64, "zero_copy": true, "recovery": true, "on_server_death": "fail",
        "server_pid": std::process::id(),
        "stats": {
            "reads": 1, "read_bytes": 2, "writes": 3, "write_bytes": 4, "flushes": 5,
            "discards": 6, "copies": 10, "copy_bytes": 11, "commits": 12, "errors": 7,
        },
    });
    for (key, value) in more.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

#[test]
fn a_snapshot_has_all_its_keys() {
    let usage = Usage { allocated: Sectors(64), total: Sectors(4096), metadata: Sectors(16) };
    let status = SnapshotStatus { valid: true, merge_failed: false, overflowed: false, usage };
    let chunk_size = ChunkSize::from_sectors(32).unwrap();
    let facts = facts(Some(SnapshotFacts { status, chunk_size, exceptions: 5, merge: None }), None);
    let object = json!({ "snapshot": {
        "origin": "/o", "cow": "/c", "store": "persistent", "chunk_size_bytes": 16384,
        "valid": true, "overflow": false, "used_bytes": 32768, "total_bytes": 2_097_152,
        "metadata_bytes": 8192, "exceptions": 5, "merge": null,
    }});
    assert_eq!(
        printed(device("0 64 snapshot /o /c P 32"), facts),
        common("snapshot", "ok", object)
    );
}

#[test]
fn a_mirror_has_all_its_keys() {
    let leg = |health, source| LegFacts {
        health,
        default: source,
        source,
        stale: !source,
        errors: ErrorCounts { reads: 1, writes: 2, flushes: 3, syncs: 4 },
    };
    let facts_of = |recovery| MirrorFacts {
        status: Status {
            legs: vec![LegHealth::Alive, LegHealth::Dead],
            in_sync_regions: 2,
            regions: 4,
            log: Some(DiskLogState::Alive),
        },
        legs: vec![leg(LegHealth::Alive, true), leg(LegHealth::Dead, false)],
        region_size: Sectors(16),
        dirty_regions: 1,
        held: 6,
        recovery,
        now_ms: 3000,
    };
    let leg = |path, offset: u64, health, source: bool| {
        json!({
            "path": path, "offset_bytes": offset, "health": health, "default": source,
            "source": source, "stale": !source, "read_errors": 1, "write_errors": 2,
            "flush_errors": 3, "sync_errors": 4,
        })
    };
    let object = |recovery: Value| {
        json!({ "mirror": {
            "legs": [leg("/a", 0, "A", true), leg("/b", 4096, "D", false)], "log": "/l",
            "log_health": "A", "region_size_bytes": 8192, "regions": 4, "in_sync_regions": 2,
            "dirty_regions": 1, "held": 6, "recovery": recovery,
        }})
    };
    let line = "0 64 mirror disk 2 /l 16 2 /a 0 /b 8";
    let now = printed(device(line), facts(None, Some(facts_of(None))));
    assert_eq!(now, common("mirror", "degraded", object(Value::Null)));

    let progress = Progress { done: 1, total: 3, bytes: 8192, started_ms: 1000 };
    let now = printed(device(line), facts(None, Some(facts_of(Some(progress)))));
    let recovery = json!({
        "done_regions": 1, "total_regions": 3, "bytes": 8192, "bytes_per_second": 4096,
        "seconds_left": 4,
    });
    assert_eq!(now, common("mirror", "degraded", object(recovery)));
}

#[test]
fn an_origin_and_a_linear_device_have_their_disks() {
    let origin = printed(device("0 64 snapshot-origin /o"), facts(None, None));
    assert_eq!(origin, common("snapshot-origin", "ok", json!({ "origin": { "path": "/o" } })));
    let linear = printed(device("0 64 linear /o 8"), facts(None, None));
    let disk = json!({ "linear": { "path": "/o", "offset_bytes": 4096 } });
    assert_eq!(linear, common("linear", "ok", disk));
}

#[test]
fn what_the_data_thread_does_not_answer_is_null() {
    let report = unanswered(&device("0 64 linear /o 8"));
    let object = serde_json::to_value(&report.object).unwrap();
    for key in ["events", "logical_block_size", "zero_copy", "stats"] {
        assert_eq!(object[key], Value::Null, "{key}");
        assert!(object.as_object().unwrap().contains_key(key), "{key}");
    }
    assert_eq!((&object["answers"], &object["health"]), (&json!(false), &json!("unknown")));
}
