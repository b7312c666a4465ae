//! `status`, `table` and `features`.

use std::io;

use dm_targets::table::Table;
use serde::Serialize;
use serde_json::json;

use super::client::{Known, by_name, chosen, must_answer, open_rundir};
use super::terminal::print;
use super::verdict::verdict;
use crate::failure::Failure;
use crate::protocol::{DeviceObject, DeviceReport};
use crate::rundir::Reserved;
use crate::server::orphan;
use crate::ublk::{self, Control, kernels};

/// The version of the objects that are printed: keys are added, never renamed.
pub(super) const VERSION: u32 = 1;

/// The object that `status --json` prints for each device.
#[derive(Serialize)]
struct WithStatus<'a> {
    version: u32,
    #[serde(flatten)]
    object: &'a DeviceObject,
    status: &'a str,
}

/// An object as one line.
pub(super) fn line_of(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(object).map_err(|error| Failure::from(io::Error::from(error)))
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
    fn a_status_is_in_the_object_of_its_device() {
        let object = dead();
        let line = line_of(&WithStatus { version: VERSION, object: &object, status: "0 1 linear" })
            .unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["version"], &json["status"]), (&json!(1), &json!("0 1 linear")));
        assert_eq!(json["linear"], json!({ "path": "/dev/sda", "offset_bytes": 4096 }));
    }
}
