//! The journal of a snapshot's COW, before a server opens the store.
//!
//! Rule kept here: a COW that does not answer is not waited for without limit.

use std::path::{Path, PathBuf};

use dm_targets::snapshot::format::StoreId;

use crate::failure::{Failure, Reason};
use crate::rundir::RunDir;
use crate::rundir::journal::find::{self, Purpose};
use crate::rundir::journal::owner::Owner;
use crate::rundir::journal::{self, FileJournal};
use crate::server::admin::machine::OpenDisk as _;
use crate::storage::{Access, Claim, OpenDisk, silent};

/// A COW's journal: its path, its owner, and whether it has entries.
struct Journal {
    path: PathBuf,
    owner: Owner,
    is_left: bool,
}

/// The journal of the store on a COW, or of the store to be created there with the id `new`.
fn find(rundir: &RunDir, cow: &OpenDisk, new: Option<StoreId>) -> Result<Journal, Reason> {
    let (store, purpose) = match cow.store()? {
        Some(identity) => (identity.map(|identity| identity.store), Purpose::GoOn),
        None => (new, Purpose::NewStore),
    };
    let owner = Owner::of(cow, store)?;
    let (path, is_left) = find::find(rundir.path(), cow, &owner, purpose)?;
    Ok(Journal { path, owner, is_left })
}

fn open_shared(cow: &str) -> Result<OpenDisk, Reason> {
    let (disk, path) = (Path::new(cow), cow.to_owned());
    let open = move || OpenDisk::open(path, Access::ReadOnly, Claim::Shared);
    silent::within_limit(disk, open)?.map_err(Failure::from)
}

/// The journal of a COW. If it cannot be created, writes wait for their commits; but a journal that
/// a dead server has left must be readable.
pub(super) fn open(
    rundir: &RunDir,
    cow: &OpenDisk,
    new: StoreId,
) -> Result<Option<FileJournal>, Reason> {
    let Journal { path, owner, is_left } = find(rundir, cow, Some(new))?;
    match FileJournal::open(&path, &owner) {
        Ok(journal) => Ok(Some(journal)),
        Err(error) if is_left || path.exists() => Err(Failure::at(&path, error)),
        Err(error) => {
            log::warn!(
                "{}: {error}; writes wait until their records are on the COW",
                path.display()
            );
            Ok(None)
        }
    }
}

/// Removes the journal of the store on a COW: the store is invalid.
pub(super) fn discard(rundir: &RunDir, cow: &str) -> Result<(), Reason> {
    let Journal { path, is_left, .. } = find(rundir, &open_shared(cow)?, None)?;
    if is_left {
        journal::discard(&path).map_err(|error| Failure::at(&path, error))?;
    }
    Ok(())
}

/// Whether the store on a COW has journal entries.
pub(super) fn is_left(rundir: &RunDir, cow: &str) -> Result<bool, Reason> {
    Ok(find(rundir, &open_shared(cow)?, None)?.is_left)
}
