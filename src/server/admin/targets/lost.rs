//! COWs whose store is recorded as lost: refused by `add`, invalid when a dead server's device is
//! taken over.

use dm_targets::snapshot::format::StoreId;

use super::wipe::zero_start;
use crate::failure::Reason;
use crate::protocol::{Cow, Which};
use crate::server::admin::machine::{Losses, OpenDisk};
use crate::server::admin::mutant::{self, Mutant};

/// A COW with the store on it, or with the new store that is to be created there with the id `new`;
/// without `new` the store is transient.
pub(super) fn cow_of(
    cow: &impl OpenDisk,
    new: Option<StoreId>,
    origin: &str,
) -> Result<Cow, Reason> {
    let store = match new {
        Some(new) => cow.store()?.map_or(Which::Id(new), |found| {
            found.map_or(Which::WithoutId, |identity| Which::Id(identity.store))
        }),
        None => Which::Unknown,
    };
    Ok(cow.as_cow(store, origin))
}

/// Whether the store on a COW is lost and its device is to be invalid. `again`: the device exists
/// and its server has died; a new device is refused instead. Records of stores that are no longer
/// on the COW are forgotten.
pub(super) fn is_lost(
    record: &impl Losses,
    cow: &impl OpenDisk,
    again: bool,
) -> Result<bool, Reason> {
    let path = cow.path();
    let here = cow.store()?.is_some();
    record.tidy(here);
    if !here {
        return Ok(false);
    }
    let found = record.found(again && !mutant::is(Mutant::LostByCopy)).map_err(|why| {
        why.context(format!("{path}: cannot determine whether its store is lost"))
    })?;
    match found {
        None => Ok(false),
        Some(_) if again => Ok(true),
        Some(why) => {
            let hint = zero_start(&path, cow.limits().logical_block_size);
            let what = "to use the disk for a new snapshot";
            Err(format!("{path}: the snapshot on it is lost: {why}; {hint} {what}").into())
        }
    }
}
