//! Devices of a dead server that are gone: another program has deleted them meanwhile.
//!
//! Rule kept here: I9. What their server's state file says of them is settled before it is
//! forgotten: one that is lost is marked or recorded as such, and what was acknowledged and noted
//! is put on its COW.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Reason};
use crate::protocol::DeviceState;
use crate::rundir::RunDir;
use crate::server;
use crate::ublk::{Control, device};

/// For how long the disks of a server that has just died are tried: the kernel closes its files two
/// seconds later at most.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// Whether a device is still there, and not another one under its number.
pub(super) fn exists(device: &DeviceState) -> Result<bool, Failure> {
    let mut control = Control::open().map_err(|error| error.to_string())?;
    Ok(device::ours(&mut control, device.id, device.cookie)?.is_some())
}

/// Does for the devices of a dead server, none of which is there, what is done for one that is
/// deleted, and removes the server's files. Returns what could not be done.
pub(super) fn forget(rundir: &RunDir, key: &str, gone: &[DeviceState]) -> Vec<Reason> {
    let settle = |device: &DeviceState| {
        log::info!(
            "{}: /dev/ublkb{} was deleted while its server was dead",
            device.name,
            device.id
        );
        complete(rundir, key, device).err()
    };
    let problems = gone.iter().filter_map(settle).collect();
    rundir.remove(key);
    log::info!(
        "{key}: none of its server's devices is left, nothing is to be recovered: its files are \
         removed"
    );
    problems
}

/// Leaves a deleted device's COW as it must be. The dead process may hold its disks for a moment
/// longer.
pub(super) fn complete(rundir: &RunDir, key: &str, device: &DeviceState) -> Result<(), Reason> {
    let begun = Instant::now();
    loop {
        let completed = server::complete(rundir, key, device);
        // One that has found out that a disk does not answer has taken longer.
        if completed.is_ok() || begun.elapsed() >= RECORD_PATIENCE {
            return completed;
        }
        std::thread::sleep(RECORD_PAUSE);
    }
}
