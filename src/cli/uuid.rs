//! Uuids: one that a device has is no other one's.

use super::gone::exists;
use super::without_table;
use crate::failure::Failure;
use crate::rundir::RunDir;

/// Refuses a uuid that a device has, or a device without a table; `name`: the one that is made of
/// that now.
pub(super) fn refuse_taken(rundir: &RunDir, uuid: Option<&str>, name: &str) -> Result<(), Failure> {
    let Some(uuid) = uuid else { return Ok(()) };
    let states = rundir.states_beside(None)?.into_iter().flat_map(|state| state.devices);
    let mut served = states.filter(|device| device.spec.options.uuid.as_deref() == Some(uuid));
    let served = served.find(|device| exists(device).unwrap_or(true)).map(|device| device.name);
    let reserved = without_table::all(rundir)?.into_iter();
    let mut reserved = reserved.filter(|one| one.options.uuid.as_deref() == Some(uuid));
    let reserved = reserved.find(|one| one.name != name).map(|one| one.name);
    served.or(reserved).map_or(Ok(()), |other| {
        Err(format!("the uuid {uuid} is taken by {other}; see `ublk-dm list -o name,uuid`").into())
    })
}
