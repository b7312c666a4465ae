//! `del` and `recover`: the end of devices, and a new server for those whose own has died.

use std::time::Duration;

use super::client::{device_exists, open_rundir, reports, select};
use crate::failure::Failure;
use crate::protocol::{self, AddSnapshot, Answer, DeviceState, Question};
use crate::rundir::{RunDir, Server, State};
use crate::server::{self, process};
use crate::ublk::{Control, device};

/// How often the disks of a server that has just died are asked for ...
const RECORD_TRIES: u32 = 20;
/// ... and the pause between: the kernel closes its files two seconds later at most.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn del(words: &[String], all: bool, force: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let chosen = if all { reports(&rundir)? } else { select(&rundir, words)? };
    for key in rundir.keys()? {
        let of_family = |state: &State| state.devices.iter().any(|device| chosen.iter().any(|one| one.id == device.id));
        if !rundir.state(&key).is_some_and(|state| of_family(&state)) {
            continue;
        }
        // Whatever happens to this family, the others are not kept waiting.
        let _lock = rundir.lock_family(&key, "del")?;
        let Some(server) = rundir.server(&key) else { continue };
        let Some(state) = &server.state else { continue };
        let ids: Vec<u32> = state
            .devices
            .iter()
            .map(|device| device.id)
            .filter(|id| chosen.iter().any(|device| device.id == *id))
            .collect();
        match server.connection {
            _ if ids.is_empty() => {}
            Some(connection) => {
                let first = ids[0];
                let answer = protocol::ask(connection, &Question::Del { ids, force });
                if let Answer::Failed { message } = answer.map_err(|error| format!("/dev/ublkb{first}: {error}"))? {
                    return Err(message.into());
                }
            }
            None if server.lives => return Err(format!("/dev/ublkb{}: its server does not answer", ids[0]).into()),
            None => del_orphans(&rundir, &server, &ids, force)?,
        }
    }
    Ok(())
}

/// Deletes devices whose server has died. What waits for them gets errors.
pub(super) fn del_orphans(rundir: &RunDir, server: &Server, ids: &[u32], force: bool) -> Result<(), Failure> {
    if !force {
        return Err(format!(
            "/dev/ublkb{}: its server has died; --force deletes it, failing all I/O that waits",
            ids[0]
        )
        .into());
    }
    let mut control = Control::open().map_err(|error| error.to_string())?;
    for id in ids {
        device::stop(&mut control, *id)?;
        device::delete(&mut control, *id);
    }
    let devices = || server.state.iter().flat_map(|state| &state.devices);
    let recorded = devices().filter(|device| ids.contains(&device.id)).try_for_each(|device| match &device.added {
        Question::AddSnapshot(add) => record_noted(rundir, &server.key, device, add),
        _ => Ok(()),
    });
    // A deleted device's node may stay for a moment, as long as somebody has it open.
    if !devices().filter(|device| !ids.contains(&device.id)).any(|device| device_exists(device.id)) {
        rundir.remove(&server.key);
    }
    recorded
}

/// Puts what a dead server has noted where it belongs. The process may hold its disks for a moment longer.
pub(super) fn record_noted(rundir: &RunDir, key: &str, device: &DeviceState, add: &AddSnapshot) -> Result<(), Failure> {
    for left in (0..RECORD_TRIES).rev() {
        match server::Server::record_noted(rundir, key, add.clone()) {
            Err(_) if left > 0 => std::thread::sleep(RECORD_PAUSE),
            Err(error) => {
                let what = "deleted, but writes that it had acknowledged are not on its COW yet";
                return Err(format!("{}: {what}: {error}; add it again", device.name).into());
            }
            Ok(()) => break,
        }
    }
    Ok(())
}

/// Starts a new server for every family of the chosen devices whose own has died.
pub(super) fn recover(words: &[String], all: bool) -> Result<(), Failure> {
    let rundir = open_rundir()?;
    let chosen = if all { Vec::new() } else { select(&rundir, words)? };
    for key in rundir.keys()? {
        if rundir.server(&key).is_none_or(|server| server.lives) {
            continue;
        }
        // Whatever happens to this family, the others are not kept waiting.
        let _lock = rundir.lock_family(&key, "recover")?;
        let Some(server) = rundir.server(&key) else { continue };
        let Some(state) = server.state.filter(|_| !server.lives) else { continue };
        let devices: Vec<_> = state.devices.into_iter().filter(|device| device_exists(device.id)).collect();
        if !all && !devices.iter().any(|device| chosen.iter().any(|chosen| chosen.id == device.id)) {
            continue;
        }
        if devices.is_empty() {
            rundir.remove(&server.key);
            continue;
        }
        rundir.remove_socket(&server.key);
        let connection = process::start(&rundir, &server.key)?;
        let first = devices[0].id;
        let answer = protocol::ask(connection, &Question::Recover(devices));
        if let Answer::Failed { message } = answer.map_err(|error| format!("/dev/ublkb{first}: {error}"))? {
            return Err(message.into());
        }
    }
    Ok(())
}
