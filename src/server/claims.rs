//! Disks that must not be used because devices of other families use them, although no server has
//! claimed them, or a server has claimed the same bytes under another name.

use crate::failure::Failure;
use crate::protocol::{DeviceState, KnownDisk, Part};
use crate::rundir::RunDir;
use crate::storage::{self, DiskId, OpenDisk, OpenError, OpenErrorKind};
use crate::ublk::{Control, DeviceState as State, device};

/// How an open disk is recognized, here and by later servers.
pub fn known(disk: &OpenDisk) -> KnownDisk {
    known_as(disk.known.clone())
}

/// The same for a disk that is not open.
pub fn known_as(known: storage::Known) -> KnownDisk {
    let storage::Known { name, number, place } = known;
    KnownDisk { name, number, place, ..KnownDisk::default() }
}

/// Why a disk must not be used, by a command that has no family or by a server whose family is
/// `own`; `parts`: what of it is wanted without a claim.
pub fn claimed(
    rundir: &RunDir,
    own: Option<&str>,
    id: DiskId,
    disk: &KnownDisk,
    parts: Option<&[Part]>,
) -> Option<OpenErrorKind> {
    let found = match rundir.devices_on(own, id, disk, parts) {
        Ok(found) => found,
        Err(why) => return Some(OpenErrorKind::Unclear { why }),
    };
    let wanted = match (own, parts) {
        (None, _) => Wanted::ByCommand,
        (Some(_), None) => Wanted::Whole,
        (Some(_), Some(_)) => Wanted::InPart,
    };
    let held = found.devices.iter().find_map(|device| holds(device, wanted));
    held.or_else(|| found.unread.map(|why| OpenErrorKind::Unclear { why }))
}

/// Refuses a disk that a command has opened for writing.
///
/// # Errors
/// The disk belongs to a device.
pub fn refuse_claimed(rundir: &RunDir, disk: &OpenDisk) -> Result<(), OpenError> {
    let kind = claimed(rundir, None, disk.id, &known(disk), None);
    kind.map_or(Ok(()), |kind| Err(OpenError { path: disk.path.clone(), kind }))
}

/// Refuses a device of this run directory that no file has on record: what it is made of, and by
/// whom it is served, is not known.
///
/// # Errors
/// It is such a device.
pub fn refuse_unrecorded(rundir: &RunDir, id: u32) -> Result<(), Failure> {
    let Ok(info) = Control::open()?.info(id) else { return Ok(()) };
    let states = rundir.states_beside(None)?;
    let mut devices = states.iter().flat_map(|state| &state.devices);
    let is_recorded = devices.any(|one| one.id == id && device::is_ours(&info, one.cookie));
    if is_recorded || !device::has_mark(&info, rundir.mark()) {
        return Ok(());
    }
    let files = rundir.path().display();
    Err(format!(
        "/dev/ublkb{id}: not on record, or its state file in {files} cannot be read, so the server \
         that its snapshots need is not known"
    )
    .into())
}

/// What of a disk is wanted, and by whom.
#[derive(Clone, Copy)]
enum Wanted {
    /// By a command that writes to it, which cannot share it with a device.
    ByCommand,
    /// All of it, for a device.
    Whole,
    /// A part of it, for a device.
    InPart,
}

/// How a device holds its disks; `None` if the device is gone. A device that the kernel cannot be
/// asked about may exist.
fn holds(device: &DeviceState, wanted: Wanted) -> Option<OpenErrorKind> {
    let (id, name) = (device.id, device.name.clone());
    let found = Control::open().map_err(Failure::from);
    let found = found.and_then(|mut control| device::ours(&mut control, id, device.cookie));
    match found.ok().map(|info| info.map(|info| info.state)) {
        Some(None) => None,
        Some(Some(State::Live)) => {
            let how = match (device.known.values().any(|known| known.unclaimed), wanted) {
                (true, Wanted::ByCommand) => "which may share it with others",
                (true, Wanted::InPart) => "which uses some of the same sectors",
                (true, Wanted::Whole) => "which shares it: use --shared as well, for other sectors",
                (false, _) => "under this name or another",
            };
            let by = format!("a disk of {name} (/dev/ublkb{id}), {how}");
            Some(OpenErrorKind::Busy { by: Some(by) })
        }
        _ => Some(OpenErrorKind::Awaited { name, id }),
    }
}
