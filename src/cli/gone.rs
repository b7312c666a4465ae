//! Devices of a dead server that are gone: another program has deleted them meanwhile.
//!
//! Rule kept here: I9. What their server's state file says of them is settled before it is
//! forgotten: one that is lost is marked or recorded as such, and what was acknowledged and noted
//! is put on its COW. Where neither works the state file goes on telling of it, and the command
//! fails; the next one tries again.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Reason};
use crate::protocol::DeviceState;
use crate::rundir::{RunDir, State};
use crate::server::{self, Incomplete};
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

/// What has become of the devices of a dead server, none of which is there.
pub(super) struct Settled {
    /// What could not be done.
    pub problems: Vec<Reason>,
    /// The server's files tell of something that nothing else tells of, and stay.
    pub keeps_files: bool,
}

/// Does for the devices of a dead server, none of which is there, what is done for one that is
/// deleted, and removes the server's files; those that `owed` tells of cannot be forgotten yet.
pub(super) fn forget(
    rundir: &RunDir,
    key: &str,
    gone: &[DeviceState],
    mut owed: Vec<DeviceState>,
) -> Settled {
    let (problems, others) = server::settle(gone, |device| {
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
        // What is settled need not be tried again. The file is as it was if that fails.
        let state = rundir.state(key).ok().flatten();
        let rewritten =
            state.map(|state| rundir.rewrite_state(key, &State { devices: owed, ..state }));
        if let Some(Err(why)) = rewritten {
            log::debug!("{why}");
        }
    } else {
        rundir.remove(key);
        log::info!(
            "{key}: none of its server's devices is left, nothing is to be recovered: its files \
             are removed"
        );
    }
    Settled { problems, keeps_files }
}

/// Leaves a deleted device's COW as it must be. The dead process may hold its disks for a moment
/// longer.
pub(super) fn complete(rundir: &RunDir, key: &str, device: &DeviceState) -> Result<(), Incomplete> {
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
