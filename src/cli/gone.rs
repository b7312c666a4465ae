//! Devices of a dead server that no longer exist: another program has deleted them.
//!
//! Rule kept here: I9. The entries of such devices in the state file are completed before they are
//! forgotten: a lost device is marked or recorded as lost, the departure of a valid snapshot is
//! recorded, and acknowledged writes in a device's journal are put on its COW. What cannot be
//! recorded stays in the state file and the command fails; the next command tries again.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Reason};
use crate::protocol::DeviceState;
use crate::rundir::{RunDir, State};
use crate::server::{self, Incomplete};
use crate::ublk::{Control, device};

/// How long the disks of a server that has just died are tried: the kernel closes its files at most
/// two seconds later.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// Whether a device still exists, and its number is not another device's by now.
pub(super) fn exists(device: &DeviceState) -> Result<bool, Failure> {
    let mut control = Control::open()?;
    Ok(device::ours(&mut control, device.id, device.cookie)?.is_some())
}

/// The disks of a server's devices according to its state file, whether the devices exist or not.
pub(super) fn disks(rundir: &RunDir, key: &str) -> Vec<(u32, u32)> {
    let devices = rundir.state(key).ok().flatten().map_or_else(Vec::new, |state| state.devices);
    devices.into_iter().flat_map(|device| device.disks).collect()
}

/// What became of the devices of a dead server, none of which exists any more.
pub(super) struct Forgotten {
    /// What failed, and why.
    pub problems: Vec<Reason>,
    /// The server's files hold something that is recorded nowhere else, and stay.
    pub keeps_files: bool,
}

/// Completes the devices of a dead server, none of which exists any more, as a deletion does, and
/// removes the server's files; the devices in `owed` cannot be forgotten yet.
pub(super) fn forget(
    rundir: &RunDir,
    key: &str,
    gone: &[DeviceState],
    mut owed: Vec<DeviceState>,
) -> Forgotten {
    let leave = |device: &DeviceState| server::record_left_behind(rundir, key, device, &[]);
    let (problems, others) = server::complete_gone(gone, leave, |device| {
        log::info!(
            "{}: /dev/ublkb{} was deleted while its server was dead",
            device.name,
            device.id
        );
        complete(rundir, key, device)
    });
    owed.extend(others);
    let keeps_files = !owed.is_empty();
    if keeps_files {
        // Completed devices need not be tried again. If the rewrite fails, the file is unchanged.
        let state = rundir.state(key).ok().flatten();
        let rewritten =
            state.map(|state| rundir.rewrite_state(key, &State { devices: owed, ..state }));
        if let Some(Err(why)) = rewritten {
            log::debug!("{why}");
        }
    } else {
        rundir.remove(key);
        log::info!(
            "{key}: none of its server's devices exists any more, so there is nothing to recover: \
             its files are removed"
        );
    }
    Forgotten { problems, keeps_files }
}

/// Leaves the COW of a deleted device as it must be. The dead process may hold the disks of the
/// device for a moment longer.
pub(super) fn complete(rundir: &RunDir, key: &str, device: &DeviceState) -> Result<(), Incomplete> {
    let begun = Instant::now();
    loop {
        let completed = server::complete(rundir, key, device);
        // An attempt at a disk that does not answer has taken longer than the limit.
        if completed.is_ok() || begun.elapsed() >= RECORD_PATIENCE {
            return completed;
        }
        std::thread::sleep(RECORD_PAUSE);
    }
}
