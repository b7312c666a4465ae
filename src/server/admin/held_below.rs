//! Snapshots whose COW is on a suspended device of their server: they cannot be opened until that
//! is resumed.
//!
//! Rule kept here: I9. A snapshot is not lost because a device below its COW is suspended when the
//! server dies. Before that end, writes to the origin that the snapshot needed waited; so what can
//! change the origin waits with the snapshot, and nothing waits for the device that is suspended.

use super::devices::is_persistent_snapshot;
use super::joined::MOST_LEVELS;
use super::mutant::{self, Mutant};
use super::origins::changes_origin_of;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::DeviceState;

/// Refuses to take over a snapshot whose COW a suspended device holds, and what can change its
/// origin. `all`: the devices of the server as they are on record.
pub(super) fn refuse_held_below(device: &DeviceState, all: &[DeviceState]) -> Result<(), Reason> {
    let snapshots = all.iter().filter(|one| is_persistent_snapshot(&one.spec) && !one.lost);
    for snapshot in snapshots {
        let Some(held) = suspended_below(snapshot, all, MOST_LEVELS) else { continue };
        let is_it = device.device() == snapshot.device();
        if is_it || changes_origin_of(snapshot, device) && !mutant::is(Mutant::HeldCowLost) {
            let (name, held) = (&snapshot.name, &held.name);
            return Err(Failure::new(
                Kind::Refused,
                format!(
                    "the COW of {name} is on {held}, which is suspended: `ublk-dm resume {held}`, \
                     then `ublk-dm recover --all`"
                ),
            ));
        }
    }
    Ok(())
}

/// The suspended device on which the COW of a snapshot, or another device, stands.
fn suspended_below<'a>(
    device: &DeviceState,
    all: &'a [DeviceState],
    most: usize,
) -> Option<&'a DeviceState> {
    device.joined().find_map(|lower| {
        let lower = all.iter().find(|one| one.device() == lower && most > 0)?;
        if lower.suspended { Some(lower) } else { suspended_below(lower, all, most - 1) }
    })
}
