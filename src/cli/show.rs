//! `list`, `status`, `table` and `features`.

use serde_json::{Value, json};

use super::client::{Known, answers, chosen, must_answer, open_rundir};
use super::terminal::print;
use super::verdict::verdict;
use crate::failure::Failure;
use crate::protocol::DeviceReport;
use crate::ublk::{self, Control, kernels};

pub(super) fn list(json: bool) -> Result<(), Failure> {
    let known = Known::of(&open_rundir()?)?;
    if json {
        let devices: Vec<&Value> = known.devices().into_iter().map(|device| &device.json).collect();
        print(&json!({ "version": 1, "devices": devices }).to_string())?;
        return verdict(known.problems);
    }
    for device in known.devices() {
        let text = |key: &str| device.json[key].as_str().unwrap_or("").to_owned();
        let state = if answers(device) || text("state") != "live" {
            text("state")
        } else {
            "hangs".to_owned()
        };
        let snapshot = &device.json["snapshot"];
        let legs = device.json["mirror"]["legs"].as_array().into_iter().flatten();
        let legs: Vec<&str> = legs.filter_map(|leg| leg["path"].as_str()).collect();
        let over = match (snapshot["origin"].as_str(), snapshot["cow"].as_str()) {
            (Some(origin), Some(cow)) => format!("{origin} cow {cow}"),
            _ if !legs.is_empty() => legs.join(" "),
            _ => device.json["origin"]["path"].as_str().unwrap_or("").to_owned(),
        };
        print(&format!(
            "{:<14} {:<16} {:<16} {state:<9} {over}",
            device.name,
            text("block_device"),
            text("target"),
        ))?;
    }
    verdict(known.problems)
}

pub(super) fn status(words: &[String], json: bool) -> Result<(), Failure> {
    if !json {
        return lines(words, |device| device.status.clone());
    }
    let (devices, mut problems) = chosen(&open_rundir()?, words)?;
    problems.extend(devices.iter().filter_map(|device| must_answer(device).err()));
    for device in devices {
        let mut object = device.json;
        object["status"] = device.status.into();
        print(&object.to_string())?;
    }
    verdict(problems)
}

/// Prints a line for every device whose server answers.
pub(super) fn lines(
    words: &[String],
    line: impl Fn(&DeviceReport) -> String,
) -> Result<(), Failure> {
    let (devices, mut problems) = chosen(&open_rundir()?, words)?;
    for device in &devices {
        let prefix = if words.len() == 1 { String::new() } else { format!("{}: ", device.name) };
        match must_answer(device) {
            Ok(()) => print(&format!("{prefix}{}", line(device)))?,
            Err(why) => problems.push(why),
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
                "version": 1,
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
    Ok(())
}
