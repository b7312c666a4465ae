//! What a `resume` that has failed says of its device.

use crate::failure::Reason;

/// Nothing has changed.
pub(super) const STAYS_LOADED: &str = "; the table stays loaded, and the device is as it was";

/// The table is in place, and the device is not on record as running.
pub(super) fn runs_unrecorded(id: u32, why: Reason) -> Reason {
    why.context(format!("/dev/ublkb{id}: it runs, but the next server will find it suspended"))
}
