//! Reports of a device whose server is dead or does not answer: from its state file and the kernel.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use dm_targets::mirror::table::Leg;
use dm_targets::segments::table::{Segment, placed};
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::{ChunkSize, Sector, Sectors};

use super::merge_report;
use crate::protocol::{
    DeviceObject, DeviceOptions, DeviceReport, DeviceSpec, DeviceState, Health, LegObject,
    LinearObject, MirrorObject, OriginObject, RunState, SegmentObject, SnapshotObject, StoreWord,
    TargetObject,
};
use crate::storage::DiskId;

/// A report with everything that is known without the server; the rest is `null`.
///
/// `state` is the device's state in the kernel, and `pid` the server that does not answer.
pub fn report(device: &DeviceState, state: RunState, pid: Option<u32>) -> DeviceReport {
    report_with(device, state, pid, word)
}

/// The same with `word` for a disk on the table line: nothing is asked about the disks.
pub fn report_with(
    device: &DeviceState,
    state: RunState,
    pid: Option<u32>,
    word: impl Fn(&str) -> String,
) -> DeviceReport {
    let DeviceSpec { table, options, .. } = &device.spec;
    let len = size_of(device.id).unwrap_or(table.len);
    let target = table.params.name();
    let number = number_of(device.id);
    let object = DeviceObject {
        id: device.id,
        name: device.name.clone(),
        uuid: options.uuid.clone(),
        target: target.to_owned(),
        state,
        health: health_of(options, state),
        events: None,
        block_device: format!("/dev/ublkb{}", device.id),
        char_device: format!("/dev/ublkc{}", device.id),
        major: number.map(|number| number.0),
        minor: number.map(|number| number.1),
        size_bytes: len.bytes(),
        logical_block_size: None,
        read_only: options.read_only,
        queues: options.queues,
        queue_depth: options.depth,
        zero_copy: None,
        recovery: options.recovery,
        on_server_death: options.recovery.then_some(options.on_server_death),
        server_pid: pid,
        answers: false,
        parts: parts_of(&device.spec),
        stats: None,
    };
    let status = table.plain_status(len, state.word());
    let table = table.with_devices(|device| Ok::<_, Infallible>(word(device)));
    let table =
        table.map_or_else(|never| match never {}, |table| Table { len, ..table }.to_string());
    let (name, disks) = (device.name.clone(), device.disks.clone());
    let inactive = device.loaded.as_ref().map(|loaded| loaded.table.to_string());
    let (id, cookie) = (device.id, device.cookie);
    let merged = device.spec.has_merged();
    let durations = None;
    DeviceReport { id, cookie, name, object, status, table, inactive, merged, durations, disks }
}

/// The health of a device that no server reports.
fn health_of(options: &DeviceOptions, state: RunState) -> Health {
    let fails = options.fails() && state == RunState::Quiesced;
    if fails { Health::Failing } else { Health::Unknown }
}

/// The major and minor of the device's disk in the kernel.
fn number_of(id: u32) -> Option<(u32, u32)> {
    let text = fs::read_to_string(format!("/sys/block/ublkb{id}/dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The device's size in the kernel.
fn size_of(id: u32) -> Option<Sectors> {
    let text = fs::read_to_string(format!("/sys/block/ublkb{id}/size")).ok()?;
    text.trim().parse().ok().map(Sectors)
}

/// The device's block size in the kernel, in bytes.
pub fn block_bytes_of(id: u32) -> Option<u32> {
    let path = format!("/sys/block/ublkb{id}/queue/logical_block_size");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A table's lines with the numbers of the disks that exist.
pub fn with_numbers(table: &Table) -> String {
    let table = table.clone().with_devices(|device| Ok::<_, Infallible>(word(device)));
    table.map_or_else(|never| match never {}, |table| table.to_string())
}

/// A disk on a table line: its number if the disk exists.
fn word(path: &str) -> String {
    DiskId::of_path(Path::new(path)).map_or_else(|_| path.to_owned(), |id| id.on_table_line(path))
}

/// What a table says of its target, as in `list --json`; what only a server knows is `null`.
pub fn parts_of(spec: &DeviceSpec) -> Option<TargetObject> {
    match &spec.table.params {
        TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
            Some(TargetObject::Snapshot(SnapshotObject {
                origin: snapshot.origin.clone(),
                cow: snapshot.cow.clone(),
                store: if snapshot.store.is_transient() {
                    StoreWord::Transient
                } else {
                    StoreWord::Persistent
                },
                chunk_size_bytes: snapshot.chunk_size.map(ChunkSize::bytes),
                valid: None,
                overflow: None,
                used_bytes: None,
                total_bytes: None,
                metadata_bytes: None,
                exceptions: None,
                merge: spec.deferred_merge().map(merge_report::deferred),
            }))
        }
        TargetParams::Mirror(mirror) => Some(TargetObject::Mirror(MirrorObject {
            legs: mirror.legs.iter().map(unknown_leg).collect(),
            log: mirror.log_device().unwrap_or("core").to_owned(),
            log_health: None,
            region_size_bytes: mirror.region_size.bytes(),
            regions: None,
            in_sync_regions: None,
            dirty_regions: None,
            held: None,
            recovery: None,
        })),
        TargetParams::SnapshotOrigin { origin } => {
            Some(TargetObject::Origin(OriginObject { path: origin.clone() }))
        }
        TargetParams::Linear(linear) => Some(TargetObject::Linear(LinearObject {
            path: linear.device.clone(),
            offset_bytes: linear.offset.bytes(),
        })),
        TargetParams::Error | TargetParams::Zero => None,
        TargetParams::Segments(segments) => {
            Some(TargetObject::Segments(placed(segments).map(segment_object).collect()))
        }
    }
}

fn segment_object((start, segment): (Sector, &Segment)) -> SegmentObject {
    let linear = segment.params.linear();
    SegmentObject {
        start_bytes: start.bytes(),
        size_bytes: segment.len.bytes(),
        target: segment.params.name().to_owned(),
        path: linear.map(|linear| linear.device.clone()),
        offset_bytes: linear.map(|linear| linear.offset.bytes()),
    }
}

fn unknown_leg(leg: &Leg) -> LegObject {
    LegObject {
        path: leg.device.clone(),
        offset_bytes: leg.offset.bytes(),
        health: None,
        default: None,
        source: None,
        stale: None,
        read_errors: None,
        write_errors: None,
        flush_errors: None,
        sync_errors: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::OnServerDeath;

    fn state_of(name: &str, line: &str) -> DeviceState {
        let mut device = DeviceState::of_line(1_048_575, name, line);
        device.spec.options.read_only = true;
        device
    }

    #[test]
    fn a_dead_snapshot_shows_its_table_and_disks() {
        let line = "0 64 snapshot /nonsense/o /nonsense/c PO 8";
        let report = report(&state_of("s", line), RunState::Quiesced, None);
        assert_eq!(report.table, line);
        assert_eq!(report.status, "0 64 snapshot quiesced");
        let json = serde_json::to_value(&report.object).unwrap();
        assert_eq!(
            json,
            json!({
                "uuid": null,
                "id": 1_048_575, "name": "s", "target": "snapshot", "state": "quiesced",
                "health": "unknown", "events": null,
                "block_device": "/dev/ublkb1048575", "char_device": "/dev/ublkc1048575",
                "major": null, "minor": null, "size_bytes": 32768, "logical_block_size": null,
                "read_only": true, "queues": 1, "queue_depth": 64, "zero_copy": null,
                "recovery": true, "on_server_death": "wait", "server_pid": null, "answers": false,
                "stats": null,
                "snapshot": {
                    "origin": "/nonsense/o", "cow": "/nonsense/c", "store": "persistent",
                    "chunk_size_bytes": 4096, "valid": null, "overflow": null, "used_bytes": null,
                    "total_bytes": null, "metadata_bytes": null, "exceptions": null, "merge": null,
                },
            })
        );
    }

    #[test]
    fn a_device_whose_requests_fail_says_so() {
        let mut state = state_of("l", "0 64 linear /nonsense/a 8");
        state.spec.options.on_server_death = OnServerDeath::Fail;
        let health = |state, run| report(state, run, None).object.health;
        assert_eq!(health(&state, RunState::Quiesced), Health::Failing);
        assert_eq!(health(&state, RunState::Dead), Health::Unknown, "it has no requests");
        let json = serde_json::to_value(report(&state, RunState::Quiesced, None).object).unwrap();
        let shown = (&json["state"], &json["health"], &json["on_server_death"]);
        assert_eq!(shown, (&json!("quiesced"), &json!("failing"), &json!("fail")));
        state.spec.options.recovery = false;
        let json = serde_json::to_value(report(&state, RunState::Dead, None).object).unwrap();
        assert!(json["on_server_death"].is_null(), "it ends with its server: {json}");
    }

    #[test]
    fn a_dead_linear_device_shows_its_disk() {
        let line = "0 64 linear /nonsense/a 8";
        let report = report(&state_of("l", line), RunState::Quiesced, None);
        assert_eq!((report.table.as_str(), report.status.as_str()), (line, "0 64 linear quiesced"));
        let json = serde_json::to_value(&report.object).unwrap();
        assert_eq!(json["linear"], json!({ "path": "/nonsense/a", "offset_bytes": 4096 }));
    }

    #[test]
    fn a_dead_device_of_several_lines_shows_each() {
        let lines = "0 8 linear /nonsense/a 8\n8 16 error\n24 40 zero";
        let report = report(&state_of("l", lines), RunState::Quiesced, None);
        let status = "0 8 linear quiesced\n8 16 error quiesced\n24 40 zero quiesced";
        assert_eq!((report.table.as_str(), report.status.as_str()), (lines, status));
        let json = serde_json::to_value(&report.object).unwrap();
        assert_eq!((&json["target"], &json["size_bytes"]), (&json!("segments"), &json!(32768)));
        let segment = |start: u64, size: u64, target: &str| {
            json!({
                "start_bytes": start, "size_bytes": size, "target": target, "path": null,
                "offset_bytes": null,
            })
        };
        let mut linear = segment(0, 4096, "linear");
        (linear["path"], linear["offset_bytes"]) = (json!("/nonsense/a"), json!(4096));
        let others = [segment(4096, 8192, "error"), segment(12288, 20480, "zero")];
        assert_eq!(json["segments"], json!([linear, others[0], others[1]]));
    }

    #[test]
    fn a_dead_mirror_shows_its_legs() {
        let line = "0 64 mirror core 1 16 2 /nonsense/a 8 /nonsense/b 8";
        let report = report(&state_of("m", line), RunState::Dead, Some(7));
        assert_eq!(report.table, line);
        let json = serde_json::to_value(&report.object).unwrap();
        let leg = |path: &str| {
            json!({
                "path": path, "offset_bytes": 4096, "health": null, "default": null,
                "source": null, "stale": null, "read_errors": null, "write_errors": null,
                "flush_errors": null, "sync_errors": null,
            })
        };
        assert_eq!(
            json["mirror"],
            json!({
                "legs": [leg("/nonsense/a"), leg("/nonsense/b")], "log": "core",
                "log_health": null, "region_size_bytes": 8192, "regions": null,
                "in_sync_regions": null, "dirty_regions": null, "held": null, "recovery": null,
            })
        );
        assert_eq!(json["server_pid"], 7);
    }
}
