//! `list`, `status`, `table` and `features`.

use std::io;

use dm_targets::table::Table;
use serde::Serialize;
use serde_json::json;

use super::client::{Known, by_name, chosen, must_answer, open_rundir};
use super::terminal::print;
use super::verdict::verdict;
use crate::failure::Failure;
use crate::protocol::{DeviceObject, DeviceReport, Health, MergeState, RunState, TargetObject};
use crate::rundir::Reserved;
use crate::server::orphan;
use crate::ublk::{self, Control, kernels};

/// The version of the objects that are printed: keys are added, never renamed.
const VERSION: u32 = 1;

/// The object that `list --json` prints.
#[derive(Serialize)]
struct Listing<'a> {
    version: u32,
    devices: Vec<&'a DeviceObject>,
    /// Names that `create --notable` has taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    without_table: Vec<WithoutTable<'a>>,
}

/// A device without a table.
#[derive(Serialize)]
struct WithoutTable<'a> {
    name: &'a str,
    id: Option<u32>,
    inactive_table: Option<String>,
}

impl WithoutTable<'_> {
    fn of(one: &Reserved) -> WithoutTable<'_> {
        let inactive_table = one.loaded.as_ref().map(|spec| spec.table.to_string());
        WithoutTable { name: &one.name, id: one.id, inactive_table }
    }
}

/// The object that `status --json` prints for each device.
#[derive(Serialize)]
struct WithStatus<'a> {
    version: u32,
    #[serde(flatten)]
    object: &'a DeviceObject,
    status: &'a str,
}

/// An object as one line.
fn line_of(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(object).map_err(|error| Failure::from(io::Error::from(error)))
}

pub(super) fn list(json: bool) -> Result<(), Failure> {
    let known = Known::of(&open_rundir()?)?;
    if json {
        let devices = known.devices().into_iter().map(|device| &device.object).collect();
        let without_table = known.reserved.iter().map(WithoutTable::of).collect();
        print(&line_of(&Listing { version: VERSION, devices, without_table })?)?;
        return verdict(known.problems);
    }
    for device in known.devices() {
        let DeviceObject { block_device, target, .. } = &device.object;
        let (state, disks) = (state_word(&device.object), disks_of(&device.object));
        let merge = merge_words(&device.object).unwrap_or_default();
        let name = &device.name;
        print(&format!("{name:<14} {block_device:<16} {target:<16} {state:<9} {disks}{merge}"))?;
    }
    for Reserved { name, .. } in &known.reserved {
        print(&format!("{name:<14} {:<16} {:<16} no table", "-", "-"))?;
    }
    verdict(known.problems)
}

/// The state in a line of `list`.
fn state_word(device: &DeviceObject) -> &'static str {
    match device.health {
        Health::Failing => "failing",
        _ if device.answers || device.state != RunState::Live => device.state.word(),
        _ => "hangs",
    }
}

/// The merge of a device that has not ended, at the end of a line of `list`.
fn merge_words(device: &DeviceObject) -> Option<String> {
    let Some(TargetObject::Snapshot(snapshot)) = &device.parts else { return None };
    let merge = snapshot.merge.as_ref()?;
    let total = u128::from(merge.merged_bytes) + u128::from(merge.left_bytes);
    let done = (u128::from(merge.merged_bytes) * 100).checked_div(total);
    let done = done.map_or_else(String::new, |percent| format!(" {percent} %"));
    match merge.state {
        MergeState::Deferred => Some(" (merge deferred)".to_owned()),
        MergeState::Merging if merge.paused == Some(true) => Some(format!(" (merge paused{done})")),
        MergeState::Merging => Some(format!(" (merging{done})")),
        MergeState::Failed => Some(format!(" (merge stopped{done})")),
        MergeState::Done | MergeState::Invalid => None,
    }
}

/// What a device is made of, in a line of `list`.
fn disks_of(device: &DeviceObject) -> String {
    match &device.parts {
        Some(TargetObject::Snapshot(snapshot)) => {
            format!("{} cow {}", snapshot.origin, snapshot.cow)
        }
        Some(TargetObject::Mirror(mirror)) => {
            mirror.legs.iter().map(|leg| leg.path.as_str()).collect::<Vec<_>>().join(" ")
        }
        Some(TargetObject::Origin(origin)) => origin.path.clone(),
        Some(TargetObject::Linear(linear)) => linear.path.clone(),
        Some(TargetObject::Segments(segments)) => {
            let mut paths: Vec<&str> = Vec::new();
            for path in segments.iter().filter_map(|segment| segment.path.as_deref()) {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
            paths.join(" ")
        }
        None => String::new(),
    }
}

pub(super) fn status(words: &[String], json: bool) -> Result<(), Failure> {
    if !json {
        return lines(words, |device| device.status.clone());
    }
    let (devices, mut problems) = chosen(&open_rundir()?, words)?;
    problems.extend(
        devices
            .iter()
            .filter_map(|device| must_answer(device).err().map(|why| by_name(device, why))),
    );
    for DeviceReport { object, status, .. } in &devices {
        print(&line_of(&WithStatus { version: VERSION, object, status })?)?;
    }
    verdict(problems)
}

/// Prints the lines of every device whose server answers.
pub(super) fn lines(
    words: &[String],
    line: impl Fn(&DeviceReport) -> String,
) -> Result<(), Failure> {
    let (devices, mut problems) = chosen(&open_rundir()?, words)?;
    for device in &devices {
        let prefix = if words.len() == 1 { String::new() } else { format!("{}: ", device.name) };
        match must_answer(device).map_err(|why| by_name(device, why)) {
            Ok(()) => {
                // A table of several lines has a status line for each.
                for line in line(device).split('\n') {
                    print(&format!("{prefix}{line}"))?;
                }
            }
            Err(why) => problems.push(why),
        }
    }
    verdict(problems)
}

/// Prints the loaded tables, with the numbers of their disks.
pub(super) fn inactive(words: &[String]) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let known = Known::of(&rundir)?;
    let (devices, problems) = chosen(&rundir, words)?;
    let is_wanted = |one: &&Reserved| words.is_empty() || words.contains(&one.name);
    let reserved = known.reserved.iter().filter(is_wanted);
    let loaded = |one: &Reserved| one.loaded.as_ref().map(|spec| spec.table.to_string());
    let reserved = reserved.map(|one| (one.name.clone(), loaded(one)));
    let served = devices.into_iter().map(|device| (device.name, device.inactive));
    for (name, lines) in served.chain(reserved) {
        let prefix = if words.len() == 1 { String::new() } else { format!("{name}: ") };
        let table = lines.as_deref().map(Table::parse_table).transpose();
        let table = table.map_err(|error| Failure::from(error.to_string()).context(&name))?;
        match table.as_ref().map(orphan::with_numbers) {
            Some(lines) => {
                lines.split('\n').try_for_each(|line| print(&format!("{prefix}{line}")))?
            }
            None if words.len() == 1 => {}
            None => print(prefix.trim_end())?,
        }
    }
    verdict(problems)
}

pub(super) fn features(json: bool) -> Result<(), Failure> {
    let bits = Control::open().and_then(|mut control| control.features())?;
    if json {
        let names = ublk::feature_names(bits);
        return print(
            &json!({
                "version": VERSION,
                "bits": bits,
                "features": names,
                "unknown": ublk::unknown_features(bits),
                "known_bug": kernels::known_bug(&kernels::release()),
            })
            .to_string(),
        );
    }
    if let Some(bug) = kernels::known_bug(&kernels::release()) {
        log::warn!("{bug}");
    }
    for feature in ublk::FEATURES {
        let has = if bits & feature.flag != 0 { "yes" } else { "no" };
        print(&format!("{:<24} {has:<4} {:<6} {}", feature.name, feature.since, feature.purpose))?;
    }
    match ublk::unknown_features(bits) {
        0 => Ok(()),
        unknown => print(&format!("{unknown:<#24x} yes  bits that this version does not know")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device whose server has died, as an earlier version's server reported it.
    fn dead() -> DeviceObject {
        let object = json!({
            "id": 3, "name": "l", "target": "linear", "state": "quiesced", "health": "unknown",
            "block_device": "/dev/ublkb3", "char_device": "/dev/ublkc3", "major": null,
            "minor": null, "size_bytes": 512, "server_pid": null, "answers": false, "stats": null,
            "read_only": false, "queues": 1, "queue_depth": 64, "recovery": true,
            "linear": { "path": "/dev/sda", "offset_bytes": 4096 },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_listing_has_a_version_and_a_list() {
        let object = dead();
        let line = line_of(&Listing {
            version: VERSION,
            devices: vec![&object],
            without_table: Vec::new(),
        })
        .unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["version"], &json["devices"][0]["name"]), (&json!(1), &json!("l")));
        let (devices, without_table) = (Vec::new(), Vec::new());
        let empty = line_of(&Listing { version: VERSION, devices, without_table }).unwrap();
        assert_eq!(empty, r#"{"version":1,"devices":[]}"#);
        let line = line_of(&WithStatus { version: VERSION, object: &object, status: "0 1 linear" })
            .unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["version"], &json["status"]), (&json!(1), &json!("0 1 linear")));
        assert_eq!(json["linear"], json!({ "path": "/dev/sda", "offset_bytes": 4096 }));
    }

    #[test]
    fn a_merge_is_in_the_line_of_its_device_until_it_has_ended() {
        let words = |state: &str, merged: u64, left: u64, paused: bool| {
            let mut object = serde_json::to_value(dead()).unwrap();
            object["linear"].take();
            object["snapshot"] = json!({ "origin": "/o", "cow": "/c", "store": "persistent",
                "chunk_size_bytes": 4096, "valid": true, "overflow": false, "used_bytes": 0,
                "total_bytes": 0, "metadata_bytes": 0, "exceptions": 0,
                "merge": { "state": state, "merged_bytes": merged, "left_bytes": left,
                    "error": null, "paused": paused } });
            let object = object.as_object_mut().unwrap();
            object.remove("linear");
            merge_words(&serde_json::from_value(json!(object)).unwrap())
        };
        for (state, merged, left, paused, said) in [
            ("merging", 12, 88, false, Some(" (merging 12 %)")),
            ("merging", 12, 88, true, Some(" (merge paused 12 %)")),
            ("merging", 0, 0, false, Some(" (merging)")),
            ("failed", u64::MAX, u64::MAX, false, Some(" (merge stopped 50 %)")),
            ("deferred", 0, 0, false, Some(" (merge deferred)")),
            ("done", 1, 0, false, None),
        ] {
            assert_eq!(words(state, merged, left, paused).as_deref(), said, "{state}");
        }
        assert_eq!(merge_words(&dead()), None);
    }

    #[test]
    fn a_server_that_does_not_answer_hangs_and_one_that_is_gone_does_not() {
        let object = dead();
        assert_eq!((state_word(&object), disks_of(&object).as_str()), ("quiesced", "/dev/sda"));
        let failing = DeviceObject { health: Health::Failing, ..object.clone() };
        assert_eq!(state_word(&failing), "failing");
        let hangs = DeviceObject { state: RunState::Live, ..object.clone() };
        assert_eq!(state_word(&hangs), "hangs");
        let lives = DeviceObject { state: RunState::Live, answers: true, ..object };
        assert_eq!(state_word(&lives), "live");
    }
}
