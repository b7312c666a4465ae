//! What is known of a device whose server is dead or does not answer: what its state file and the kernel say.

use std::fs;
use std::path::Path;

use dm_targets::table::{self, Line, MirrorLog, StoreType, Target};
use dm_targets::units::{ChunkSize, Sector, Sectors};
use serde_json::{Value, json};

use crate::protocol::{AddMirror, AddSnapshot, Common, DeviceReport, DeviceState, InitialSync, Question};
use crate::server::health;
use crate::storage::DiskId;

/// What a mirror gets whose command line names no region size, as far as its legs allow.
const DEFAULT_REGION_SECTORS: u64 = 1024;

/// A report with all that a server would say and that is known without it; the rest is `null`.
///
/// `state` is the kernel's word for the device, and `pid` the server that does not answer.
pub(super) fn report(device: &DeviceState, state: &str, pid: Option<u32>) -> DeviceReport {
    let len = size_of(device.id);
    let target = target_of(&device.added);
    let name = target.name();
    let mut json = json!({
        "id": device.id, "name": device.name, "target": name, "state": state, "health": health::UNKNOWN,
        "block_device": format!("/dev/ublkb{}", device.id), "char_device": format!("/dev/ublkc{}", device.id),
        "size_bytes": len.map(Sectors::bytes), "server_pid": pid, "answers": false, "stats": null,
    });
    let number = fs::read_to_string(format!("/sys/block/ublkb{}/dev", device.id)).unwrap_or_default();
    let number =
        number.trim().split_once(':').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    json["major"] = json!(number.map(|number| number.0));
    json["minor"] = json!(number.map(|number| number.1));
    if let Some(common) = common_of(&device.added) {
        json["read_only"] = json!(common.read_only);
        json["queues"] = json!(common.queues);
        json["queue_depth"] = json!(common.depth);
        json["recovery"] = json!(common.recovery);
    }
    let (key, object) = disks_of(&device.added);
    json[key] = object;
    let len = len.unwrap_or(Sectors(0));
    DeviceReport {
        id: device.id,
        name: device.name.clone(),
        json,
        status: format!("0 {len} {name} {state}"),
        table: Line { len, target }.to_string(),
        disks: device.disks.clone(),
    }
}

/// The size that the kernel has for the device.
fn size_of(id: u32) -> Option<Sectors> {
    let text = fs::read_to_string(format!("/sys/block/ublkb{id}/size")).ok()?;
    text.trim().parse().ok().map(Sectors)
}

fn common_of(added: &Question) -> Option<&Common> {
    match added {
        Question::AddSnapshot(add) => Some(&add.common),
        Question::AddOrigin(add) => Some(&add.common),
        Question::AddMirror(add) => Some(&add.common),
        _ => None,
    }
}

/// How a disk stands on a table line: by its number if it is there.
fn word(path: &Path) -> String {
    let path_text = path.display().to_string();
    DiskId::of_path(path).map_or(path_text.clone(), |id| id.on_table_line(&path_text))
}

fn target_of(added: &Question) -> Target {
    match added {
        Question::AddSnapshot(add) => snapshot(add),
        Question::AddMirror(add) => mirror(add),
        Question::AddOrigin(add) => Target::SnapshotOrigin { origin: word(&add.origin) },
        _ => Target::SnapshotOrigin { origin: String::new() },
    }
}

fn snapshot(add: &AddSnapshot) -> Target {
    Target::Snapshot(table::Snapshot {
        origin: word(&add.origin),
        cow: word(&add.cow),
        store: if add.persistent { StoreType::Persistent { overflow: add.overflow } } else { StoreType::Transient },
        chunk_size: add.chunk_sectors.and_then(ChunkSize::from_sectors),
        discard_zeroes_cow: add.discard_zeroes_cow,
        discard_passdown_origin: add.discard_passdown_origin,
    })
}

fn mirror(add: &AddMirror) -> Target {
    let leg = |leg: &crate::protocol::Leg| table::Leg { device: word(&leg.path), offset: Sector(leg.offset_sectors) };
    Target::Mirror(table::Mirror {
        log: add.log.as_ref().map_or(MirrorLog::Core, |log| MirrorLog::Disk { device: word(log) }),
        region_size: Sectors(add.region_sectors.unwrap_or(DEFAULT_REGION_SECTORS)),
        initial_sync: match add.initial_sync {
            InitialSync::FromLog => table::InitialSync::FromLog,
            InitialSync::Sync => table::InitialSync::Sync,
            InitialSync::NoSync => table::InitialSync::NoSync,
        },
        legs: add.legs.iter().map(leg).collect(),
        handle_errors: add.handle_errors,
        keep_log: add.keep_log,
    })
}

/// The disks of a device, as `list --json` has them.
fn disks_of(added: &Question) -> (&'static str, Value) {
    match added {
        Question::AddSnapshot(add) => (
            "snapshot",
            json!({
                "origin": add.origin, "cow": add.cow,
                "store": if add.persistent { "persistent" } else { "transient" },
                "chunk_size_bytes": add.chunk_sectors.map(|sectors| sectors * 512),
                "valid": null, "overflow": null, "used_bytes": null, "total_bytes": null, "metadata_bytes": null,
                "exceptions": null, "merge": null,
            }),
        ),
        Question::AddMirror(add) => {
            let leg = |leg: &crate::protocol::Leg| json!({ "path": leg.path, "offset_bytes": leg.offset_sectors * 512, "health": null });
            let object = json!({
                "legs": add.legs.iter().map(leg).collect::<Vec<_>>(),
                "log": add.log.as_deref().map_or("core".into(), Path::to_string_lossy),
                "region_size_bytes": add.region_sectors.map(|sectors| sectors * 512),
                "regions": null, "in_sync_regions": null, "dirty_regions": null, "recovery": null,
            });
            ("mirror", object)
        }
        Question::AddOrigin(add) => ("origin", json!({ "path": add.origin })),
        _ => ("origin", Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn common() -> Common {
        Common {
            name: None,
            id: None,
            queues: 1,
            depth: 64,
            read_only: true,
            zero_copy: true,
            recovery: true,
            force: false,
        }
    }

    fn state_of(name: &str, added: Question) -> DeviceState {
        let (suspended, loaded) = (false, None);
        DeviceState { id: 1_048_575, cookie: 0, name: name.to_owned(), disks: Vec::new(), added, suspended, loaded }
    }

    #[test]
    fn a_dead_snapshot_shows_its_table_and_disks() {
        let added = Question::AddSnapshot(AddSnapshot {
            origin: PathBuf::from("/nonsense/o"),
            cow: PathBuf::from("/nonsense/c"),
            chunk_sectors: Some(8),
            persistent: true,
            overflow: true,
            discard_zeroes_cow: false,
            discard_passdown_origin: false,
            len_sectors: None,
            common: common(),
        });
        let report = report(&state_of("s", added), "quiesced", None);
        assert_eq!(report.table, "0 0 snapshot /nonsense/o /nonsense/c PO 8");
        assert_eq!(report.status, "0 0 snapshot quiesced");
        assert_eq!(report.json["snapshot"]["cow"], "/nonsense/c");
        assert_eq!(report.json["snapshot"]["chunk_size_bytes"], 4096);
        assert_eq!((&report.json["queue_depth"], &report.json["read_only"]), (&json!(64), &json!(true)));
        assert_eq!((&report.json["health"], &report.json["size_bytes"]), (&json!("unknown"), &Value::Null));
    }

    #[test]
    fn a_dead_mirror_shows_its_legs() {
        let leg = |path: &str| crate::protocol::Leg { path: PathBuf::from(path), offset_sectors: 8 };
        let added = Question::AddMirror(AddMirror {
            legs: vec![leg("/nonsense/a"), leg("/nonsense/b")],
            log: None,
            region_sectors: Some(16),
            initial_sync: InitialSync::FromLog,
            handle_errors: false,
            keep_log: false,
            source: None,
            len_sectors: None,
            common: common(),
        });
        let report = report(&state_of("m", added), "dead", Some(7));
        assert_eq!(report.table, "0 0 mirror core 1 16 2 /nonsense/a 8 /nonsense/b 8");
        assert_eq!(report.json["mirror"]["legs"][1]["path"], "/nonsense/b");
        assert_eq!(report.json["server_pid"], 7);
    }
}
