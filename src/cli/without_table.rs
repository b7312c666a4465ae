//! Which names of the run directory are those of devices without a table.

use super::gone::exists;
use crate::failure::{Failure, Reason};
use crate::protocol::DeviceState;
use crate::rundir::{Reserved, RunDir};

/// Whether a device has a name.
pub(super) fn is_device(rundir: &RunDir, name: &str) -> bool {
    let is_it = |device: &DeviceState| device.name == name && exists(device).unwrap_or(true);
    let states = rundir.states_beside(None).unwrap_or_default();
    states.iter().flat_map(|state| &state.devices).any(is_it)
}

/// Why a command needs more than a name; with how a table is given to it.
pub(super) fn refused(word: &str) -> Failure {
    format!(
        "{word}: it has no table: `ublk-dm load {word} --table LINE` and `ublk-dm resume {word}` \
         make it a device"
    )
    .into()
}

/// All devices without a table that are none by now.
pub(super) fn all(rundir: &RunDir) -> Result<Vec<Reserved>, Reason> {
    let mut all = rundir.reserved()?;
    all.retain(|one| !is_device(rundir, &one.name));
    Ok(all)
}
