//! COWs whose store is recorded as lost: refused when they are added, invalid when a dead server's device is taken over.

use crate::failure::Reason;
use crate::rundir::lost::LostStore;
use crate::storage::signature::SignatureKind;
use crate::storage::{OpenDisk, content};

/// Whether the store on a COW is lost and its device is to be invalid. `again`: the device exists and its server has died;
/// a new one is refused instead. What is recorded of a COW that has been wiped is forgotten.
pub(super) fn is_lost(record: &LostStore, cow: &OpenDisk, again: bool) -> Result<bool, Reason> {
    let path = cow.path.display();
    let found =
        record.found().map_err(|error| format!("{path}: whether its store is lost cannot be known: {error}"))?;
    let Some(why) = found else { return Ok(false) };
    if content::of(cow)?.is_none_or(|found| found.kind != SignatureKind::SnapshotStore) {
        record.forget().map_err(|error| error.to_string())?;
        return Ok(false);
    }
    if again {
        return Ok(true);
    }
    Err(format!("{path}: the snapshot on it is lost: {why}; zero its first sector to use it for a new one"))
}
