//! COWs whose store is recorded as lost: refused when they are added, invalid when a dead server's device is taken over.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dm_targets::snapshot::format::StoreId;
use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::table::Snapshot as Table;

use crate::failure::Reason;
use crate::rundir::RunDir;
use crate::rundir::lost::{Cow, LostStore, Which};
use crate::storage::{Access, Claim, DiskId, OpenDisk, content, disk_name, lasting_name_of, names_of};

/// How long the COW of a deleted snapshot may take to say which store is on it: its disk may hang. What is recorded of one
/// that takes longer holds for whatever store is there.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The record of the store on a COW, or of the one that is to be made there, which gets the id of `new`; without that it
/// is none that lasts.
pub(super) fn record_of(
    rundir: &RunDir,
    cow: &OpenDisk,
    new: Option<StoreId>,
    origin: &str,
) -> Result<LostStore, Reason> {
    let store = match new {
        Some(new) => content::store_on(cow)?.map_or(Which::Id(new), which),
        None => Which::Unknown,
    };
    Ok(LostStore::of(rundir, known(&cow.path, cow.id, cow.number_in_boot(), store, origin)))
}

/// Has a later `add` refuse the COW of a snapshot that is gone.
///
/// # Errors
/// The COW is not there, or that cannot be recorded.
pub fn record_left(rundir: &RunDir, snapshot: &Table) -> Result<(), LeftError> {
    let (cow, origin) = (Path::new(&snapshot.cow), Path::new(&snapshot.origin));
    let Ok(id) = DiskId::of_path(cow) else { return Err(LeftError::NoCow) };
    // An origin that is not there may be any.
    let origin = DiskId::of_path(origin).map(|id| disk_name(origin, id)).unwrap_or_default();
    let (number, store) = within_limit(cow).unwrap_or((0, Which::Unknown));
    let cow = known(cow, id, number, store, &origin);
    LostStore::of(rundir, cow).record(Loss::OriginChanged).map_err(LeftError::NotRecorded)
}

/// Why the COW of a snapshot that is gone is not on record.
pub enum LeftError {
    /// It is not there, so nothing is known of it.
    NoCow,
    /// The record cannot be written.
    NotRecorded(Reason),
}

/// The number of a COW's disk and its store, if it answers.
fn within_limit(cow: &Path) -> Option<(u64, Which)> {
    let (tell, told) = mpsc::channel();
    let path = cow.to_owned();
    let look = move || {
        let disk = OpenDisk::open(&path, Access::ReadOnly, Claim::Shared).map_err(|error| error.to_string());
        let found = disk.and_then(|disk| {
            let found = content::store_on(&disk)?;
            Ok((disk.number_in_boot(), found.map_or(Which::Unknown, which)))
        });
        // Who asked may have given up.
        drop(tell.send(found));
    };
    let started = thread::Builder::new().name("look".to_owned()).spawn(look);
    let found = started.map_err(|error| error.to_string()).and_then(|_| {
        told.recv_timeout(ANSWER_LIMIT).unwrap_or_else(|_| Err(format!("{}: does not answer", cow.display())))
    });
    found.map_err(|why| log::warn!("{why}; it is recorded as lost by its name")).ok()
}

fn which(found: content::FoundStore) -> Which {
    found.identity.map_or(Which::WithoutId, |identity| Which::Id(identity.store))
}

fn known(path: &Path, id: DiskId, number: u64, store: Which, origin: &str) -> Cow {
    let (names, former) = (names_of(path, id), lasting_name_of(id, path));
    Cow { store, names, former, number, origin: origin.to_owned() }
}

/// Whether the store on a COW is lost and its device is to be invalid. `again`: the device exists and its server has died;
/// a new one is refused instead. What is recorded of a store that has gone from the COW is forgotten.
pub(super) fn is_lost(record: &LostStore, cow: &OpenDisk, again: bool) -> Result<bool, Reason> {
    let path = cow.path.display();
    let here = content::store_on(cow)?.is_some();
    record.tidy(here);
    if !here {
        return Ok(false);
    }
    let found =
        record.found().map_err(|error| format!("{path}: whether its store is lost cannot be known: {error}"))?;
    match found {
        None => Ok(false),
        Some(_) if again => Ok(true),
        Some(why) => {
            let hint = "zero its first sector to use it for a new one";
            Err(format!("{path}: the snapshot on it is lost: {why}; {hint}"))
        }
    }
}
