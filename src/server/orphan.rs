//! Reports of a device whose server is dead or does not answer: from its state file and the kernel.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use dm_targets::mirror::table::Leg;
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::{ChunkSize, Sectors};
use serde_json::{Value, json};

use crate::protocol::{DeviceReport, DeviceSpec, DeviceState};
use crate::server::health;
use crate::storage::DiskId;

/// A report with everything that is known without the server; the rest is `null`.
///
/// `state` is the kernel's name for the device's state, and `pid` the server that does not answer.
pub fn report(device: &DeviceState, state: &str, pid: Option<u32>) -> DeviceReport {
    report_with(device, state, pid, word)
}

/// The same with `word` for a disk on the table line: nothing is asked about the disks.
pub fn report_with(
    device: &DeviceState,
    state: &str,
    pid: Option<u32>,
    word: impl Fn(&str) -> String,
) -> DeviceReport {
    let DeviceSpec { table, options, .. } = &device.spec;
    let len = size_of(device.id).unwrap_or(table.len);
    let name = table.params.name();
    let mut json = json!({
        "id": device.id, "name": device.name, "target": name, "state": state,
        "health": health::UNKNOWN,
        "block_device": format!("/dev/ublkb{}", device.id),
        "char_device": format!("/dev/ublkc{}", device.id),
        "size_bytes": len.bytes(), "server_pid": pid, "answers": false, "stats": null,
        "read_only": options.read_only, "queues": options.queues, "queue_depth": options.depth,
        "recovery": options.recovery,
    });
    let number =
        fs::read_to_string(format!("/sys/block/ublkb{}/dev", device.id)).unwrap_or_default();
    let number = number
        .trim()
        .split_once(':')
        .and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    json["major"] = json!(number.map(|number| number.0));
    json["minor"] = json!(number.map(|number| number.1));
    if let Some((key, object)) = disks_of(&table.params) {
        json[key] = object;
    }
    let status = format!("0 {len} {name} {state}");
    let table = table.with_devices(|device| Ok::<_, Infallible>(word(device)));
    let table =
        table.map_or_else(|never| match never {}, |table| Table { len, ..table }.to_string());
    let (name, disks) = (device.name.clone(), device.disks.clone());
    DeviceReport { id: device.id, cookie: device.cookie, name, json, status, table, disks }
}

/// The device's size in the kernel.
fn size_of(id: u32) -> Option<Sectors> {
    let text = fs::read_to_string(format!("/sys/block/ublkb{id}/size")).ok()?;
    text.trim().parse().ok().map(Sectors)
}

/// A disk on a table line: its number if the disk exists.
fn word(path: &str) -> String {
    DiskId::of_path(Path::new(path)).map_or_else(|_| path.to_owned(), |id| id.on_table_line(path))
}

/// The disks of a device and its table's parameters, as in `list --json`; fields that only a server
/// knows are `null`.
pub fn disks_of(params: &TargetParams) -> Option<(&'static str, Value)> {
    match params {
        TargetParams::Snapshot(snapshot) => {
            let object = json!({
                "origin": snapshot.origin, "cow": snapshot.cow,
                "store": if snapshot.store.is_transient() { "transient" } else { "persistent" },
                "chunk_size_bytes": snapshot.chunk_size.map(ChunkSize::bytes),
                "valid": null, "overflow": null, "used_bytes": null, "total_bytes": null,
                "metadata_bytes": null,
                "exceptions": null, "merge": null,
            });
            Some(("snapshot", object))
        }
        TargetParams::Mirror(mirror) => {
            let leg = |leg: &Leg| {
                let (path, offset) = (&leg.device, leg.offset.bytes());
                json!({ "path": path, "offset_bytes": offset, "health": null })
            };
            let object = json!({
                "legs": mirror.legs.iter().map(leg).collect::<Vec<_>>(),
                "log": mirror.log_device().unwrap_or("core"),
                "region_size_bytes": mirror.region_size.bytes(),
                "regions": null, "in_sync_regions": null, "dirty_regions": null, "recovery": null,
            });
            Some(("mirror", object))
        }
        TargetParams::SnapshotOrigin { origin } => Some(("origin", json!({ "path": origin }))),
        TargetParams::Linear(linear) => Some((
            "linear",
            json!({ "path": linear.device, "offset_bytes": linear.offset.bytes() }),
        )),
        TargetParams::SnapshotMerge(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DeviceOptions, KnownDisks};

    fn state_of(name: &str, line: &str) -> DeviceState {
        let options = DeviceOptions {
            queues: 1,
            depth: 64,
            read_only: true,
            zero_copy: true,
            recovery: true,
        };
        let table = Table::parse(line).unwrap();
        let spec = DeviceSpec {
            table,
            options,
            force: false,
            degraded: false,
            allow_invalid: false,
            source: None,
            other_origin: false,
        };
        DeviceState {
            id: 1_048_575,
            cookie: 0,
            name: name.to_owned(),
            disks: Vec::new(),
            spec,
            suspended: false,
            loaded: None,
            cow: None,
            lost: false,
            known: KnownDisks::default(),
        }
    }

    #[test]
    fn a_dead_snapshot_shows_its_table_and_disks() {
        let line = "0 64 snapshot /nonsense/o /nonsense/c PO 8";
        let report = report(&state_of("s", line), "quiesced", None);
        assert_eq!(report.table, line);
        assert_eq!(report.status, "0 64 snapshot quiesced");
        assert_eq!(report.json["snapshot"]["cow"], "/nonsense/c");
        assert_eq!(report.json["snapshot"]["chunk_size_bytes"], 4096);
        assert_eq!(
            (&report.json["queue_depth"], &report.json["read_only"]),
            (&json!(64), &json!(true))
        );
        assert_eq!(
            (&report.json["health"], &report.json["size_bytes"]),
            (&json!("unknown"), &json!(32768))
        );
    }

    #[test]
    fn a_dead_linear_device_shows_its_disk() {
        let line = "0 64 linear /nonsense/a 8";
        let report = report(&state_of("l", line), "quiesced", None);
        assert_eq!((report.table.as_str(), report.status.as_str()), (line, "0 64 linear quiesced"));
        assert_eq!(report.json["linear"], json!({ "path": "/nonsense/a", "offset_bytes": 4096 }));
    }

    #[test]
    fn a_dead_mirror_shows_its_legs() {
        let line = "0 64 mirror core 1 16 2 /nonsense/a 8 /nonsense/b 8";
        let report = report(&state_of("m", line), "dead", Some(7));
        assert_eq!(report.table, line);
        assert_eq!(report.json["mirror"]["legs"][1]["path"], "/nonsense/b");
        assert_eq!(report.json["server_pid"], 7);
    }
}
