//! The results of commands that change something: with `--json` an object; without it they print
//! nothing, or what their own file prints.

use serde::Serialize;
use serde_json::json;

use super::json;
use super::terminal::print;
use crate::failure::Failure;
use crate::protocol::{DeviceReport, DeviceState};
use crate::ublk::device::BLOCK_PATH;

/// A device that a command was about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Named {
    /// Its number; `None` for a device without a table.
    pub id: Option<u32>,
    /// Its name; `None`: its server is of an earlier version and has not told it.
    pub name: Option<String>,
    /// The path of its disk.
    pub block_device: Option<String>,
}

impl Named {
    /// A device with a number.
    pub fn new(id: u32, name: Option<String>) -> Named {
        Named { id: Some(id), name, block_device: Some(format!("{BLOCK_PATH}{id}")) }
    }

    /// A device that has been reported.
    pub fn of(device: &DeviceReport) -> Named {
        Named::new(device.id, Some(device.name.clone()))
    }

    /// A device that is on record.
    pub fn of_state(device: &DeviceState) -> Named {
        Named::new(device.id, Some(device.name.clone()))
    }

    /// A device without a table.
    pub fn without_table(name: &str) -> Named {
        Named { id: None, name: Some(name.to_owned()), block_device: None }
    }
}

/// Prints the object of a result, if objects are printed.
pub(super) fn show(object: impl FnOnce() -> serde_json::Value) -> Result<(), Failure> {
    if json::is_on() { print(&json::line_of(&object())?) } else { Ok(()) }
}

/// The devices for which a command on several has done something; `what`: the word for that.
pub(super) fn devices(what: &str, devices: impl Iterator<Item = Named>) -> Result<(), Failure> {
    show(|| json!({ (what): devices.collect::<Vec<_>>() }))
}

/// The result of a command on one device that has nothing more to tell.
pub(super) fn done(device: &Named) -> Result<(), Failure> {
    show(|| json!({ "device": device }))
}
