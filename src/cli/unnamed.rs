//! `del`, `up`, `down`, `upgrade` and `recover` without a device: the command line is wrong, and
//! the error says what could be named.

use crate::failure::{Failure, wrong_usage};
use crate::rundir::{RunDir, Server};

/// Refuses `del` without a device.
pub(super) fn refuse_del(devices: &[String], all: bool) -> Result<(), Failure> {
    if all || !devices.is_empty() {
        return Ok(());
    }
    Err(wrong_usage("del: no device is named; name one, or use --all for all devices".to_owned()))
}

/// Refuses `up` or `down` without a device.
pub(super) fn refuse_listed(verb: &str, names: &[String], all: bool) -> Result<(), Failure> {
    if all || !names.is_empty() {
        return Ok(());
    }
    let hint = "name one, or use --all for all devices of the tab file";
    Err(wrong_usage(format!("{verb}: no device is named; {hint}")))
}

/// Refuses `upgrade` without a device.
pub(super) fn refuse_upgrade(devices: &[String], all: bool) -> Result<(), Failure> {
    if all || !devices.is_empty() {
        return Ok(());
    }
    let what = "upgrade: no device is named; name one, or use --all for all devices";
    Err(wrong_usage(what.to_owned()))
}

/// Refuses `recover` without a device, and names the devices that wait.
pub(super) fn refuse_recover(devices: &[String], all: bool) -> Result<(), Failure> {
    if all || !devices.is_empty() {
        return Ok(());
    }
    let names = RunDir::open().map(|rundir| waiting(&rundir)).unwrap_or_default();
    let waiting = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    Err(wrong_usage(format!(
        "recover: no device is named; name one, or use --all for all whose server has died{waiting}"
    )))
}

/// The devices in the state files of dead servers. Files that cannot be read are skipped: this is
/// only a hint.
fn waiting(rundir: &RunDir) -> Vec<String> {
    let keys = rundir.keys().unwrap_or_default();
    let dead = keys.iter().filter_map(|key| match rundir.server(key) {
        Some(Server { lives: false, state: Some(state), .. }) => Some(state.devices),
        _ => None,
    });
    dead.flatten().map(|device| device.name).collect()
}
