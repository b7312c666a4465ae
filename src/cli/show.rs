//! `status`, `table` and `features`.

use dm_targets::table::Table;
use serde::Serialize;
use serde_json::json;

use super::client::{Known, by_name, chosen, must_answer, open_rundir};
use super::json;
use super::results::{self, Named};
use super::terminal::print;
use super::verdict::verdict;
use crate::failure::Failure;
use crate::protocol::{DeviceObject, DeviceReport};
use crate::rundir::Reserved;
use crate::server::orphan;
use crate::ublk::{self, Control, kernels};

/// The object that `status --json` prints for each device.
#[derive(Serialize)]
struct WithStatus<'a> {
    #[serde(flatten)]
    object: &'a DeviceObject,
    status: &'a str,
}

pub(super) fn status(words: &[String]) -> Result<(), Failure> {
    if !json::is_on() {
        return lines(words, |device| device.status.clone());
    }
    let (devices, mut problems) = chosen(&open_rundir()?, words)?;
    problems.extend(
        devices
            .iter()
            .filter_map(|device| must_answer(device).err().map(|why| by_name(device, why))),
    );
    for DeviceReport { object, status, .. } in &devices {
        print(&json::line_of(&WithStatus { object, status })?)?;
    }
    verdict(problems)
}

/// Prints the tables of every device whose server answers.
pub(super) fn table(words: &[String]) -> Result<(), Failure> {
    if !json::is_on() {
        return lines(words, |device| device.table.clone());
    }
    let (devices, mut problems) = chosen(&open_rundir()?, words)?;
    for device in &devices {
        match must_answer(device).map_err(|why| by_name(device, why)) {
            Ok(()) => show_table(&Named::of(device), Some(&device.table), false)?,
            Err(why) => problems.push(why),
        }
    }
    verdict(problems)
}

/// Prints the object of a table; `inactive`: it is loaded, or none is.
fn show_table(device: &Named, lines: Option<&str>, inactive: bool) -> Result<(), Failure> {
    let lines: Option<Vec<&str>> = lines.map(|lines| lines.split('\n').collect());
    results::show(|| json!({ "device": device, "inactive": inactive, "table": lines }))
}

/// Prints the lines of every device whose server answers.
fn lines(words: &[String], line: impl Fn(&DeviceReport) -> String) -> Result<(), Failure> {
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
    let reserved = reserved.map(|one| (Named::without_table(&one.name), &one.name, loaded(one)));
    let served = devices.iter().map(|one| (Named::of(one), &one.name, one.inactive.clone()));
    for (device, name, lines) in served.chain(reserved) {
        let prefix = if words.len() == 1 { String::new() } else { format!("{name}: ") };
        let table = lines.as_deref().map(Table::parse_table).transpose();
        let table = table.map_err(|error| Failure::from(error.to_string()).context(name))?;
        match table.as_ref().map(orphan::with_numbers) {
            lines if json::is_on() => show_table(&device, lines.as_deref(), true)?,
            Some(lines) => {
                lines.split('\n').try_for_each(|line| print(&format!("{prefix}{line}")))?
            }
            None if words.len() == 1 => {}
            None => print(prefix.trim_end())?,
        }
    }
    verdict(problems)
}

pub(super) fn features() -> Result<(), Failure> {
    let bits = Control::open().and_then(|mut control| control.features())?;
    if json::is_on() {
        return results::show(|| {
            json!({
                "bits": bits,
                "features": ublk::feature_names(bits),
                "unknown": ublk::unknown_features(bits),
                "known_bug": kernels::known_bug(&kernels::release()),
            })
        });
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
        let with_status = WithStatus { object: &object, status: "0 1 linear" };
        let line = json::line_of(&with_status).unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["version"], &json["status"]), (&json!(1), &json!("0 1 linear")));
        assert_eq!(json["linear"], json!({ "path": "/dev/sda", "offset_bytes": 4096 }));
    }
}
