//! Which device of this program uses a disk that is in use: another family's server is the process
//! that holds the disk, and users know the name of its device, not the process.
//!
//! A best effort for a message; no decision depends on it.

use std::path::Path;

use super::claims;
use crate::failure::{Kind, Reason};
use crate::protocol::DeviceState;
use crate::rundir::RunDir;
use crate::storage::{Access, Claim, OpenDisk, OpenError, OpenErrorKind, silent};
use crate::ublk::{Control, device};

/// The error of a disk that is in use, with the device that uses the disk if it is one of ours.
pub fn with_device(rundir: &RunDir, error: OpenError) -> OpenError {
    match error {
        OpenError { path, kind: OpenErrorKind::Busy { by } } => {
            let by = used_by(device_on(rundir, &path).as_ref(), by);
            OpenError { path, kind: OpenErrorKind::Busy { by } }
        }
        error => error,
    }
}

/// The same for a device whose disk is in use.
pub(super) fn using_device(rundir: &RunDir, id: u32, why: Reason) -> Reason {
    if why.kind != Kind::InUse {
        return why;
    }
    let path = format!("{}{id}", device::BLOCK_PATH);
    match device_on(rundir, Path::new(&path)) {
        Some(user) => why.ending(format!("; it is {}", as_disk_of(&user))),
        None => why,
    }
}

/// The use of a disk, as the end of "it is ...".
fn used_by(device: Option<&DeviceState>, by: Option<String>) -> Option<String> {
    let Some(device) = device else { return by };
    let disk = as_disk_of(device);
    Some(by.map_or(disk.clone(), |by| format!("{disk}, {by}")))
}

fn as_disk_of(device: &DeviceState) -> String {
    format!("a disk of {} ({}{})", device.name, device::BLOCK_PATH, device.id)
}

/// The device that is made of a disk. The disk is opened without a claim: what identifies it is
/// known only then.
fn device_on(rundir: &RunDir, path: &Path) -> Option<DeviceState> {
    let wanted = path.to_owned();
    let open = move || OpenDisk::open(wanted, Access::ReadOnly, Claim::Shared);
    let disk = silent::within_limit(path, open).ok()?.ok()?;
    let found = rundir.devices_on(None, disk.id, &claims::known(&disk), None).ok()?;
    if found.unread.is_some() {
        return None;
    }
    let mut control = Control::open().ok()?;
    let mut exists = |state: &DeviceState| {
        device::ours(&mut control, state.id, state.cookie).is_ok_and(|info| info.is_some())
    };
    found.devices.into_iter().find(|state| exists(state))
}
