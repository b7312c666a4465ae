//! The journal of a snapshot's COW, from the server's side: found before the store is opened, and put on the COW when the
//! snapshot gets no server again.

use std::path::PathBuf;
use std::rc::Rc;

use dm_targets::snapshot::format::StoreId;
use dm_targets::table::TargetParams;

use crate::data::Family;
use crate::failure::Reason;
use crate::protocol::DeviceState;
use crate::rundir::journal::owner::Owner;
use crate::rundir::journal::{self, FileNotes, Purpose};
use crate::rundir::{RunDir, family_key};
use crate::server::control::Server;
use crate::storage::{Access, Claim, DiskId, OpenDisk, content};

/// A COW's journal: where, whose, and whether something stands in it.
struct Journal {
    path: PathBuf,
    owner: Owner,
    is_left: bool,
}

/// The journal of the store on a COW, or of the one that is to be made there, which gets that id.
fn find(rundir: &RunDir, cow: &OpenDisk, new: Option<StoreId>) -> Result<Journal, Reason> {
    let (store, purpose) = match content::store_on(cow)? {
        Some(found) => (found.identity.map(|identity| identity.store), Purpose::GoOn),
        None => (new, Purpose::NewStore),
    };
    let owner = Owner::of(cow, store).map_err(|error| error.to_string())?;
    let (path, is_left) = journal::find(rundir.path(), cow, &owner, purpose)?;
    Ok(Journal { path, owner, is_left })
}

impl Server {
    /// The journal of a COW. Where there is no place for one its writes wait for their records; but what a dead server has
    /// left in one must be read.
    pub(super) fn journal(&self, cow: &OpenDisk, new: StoreId) -> Result<Option<FileNotes>, Reason> {
        let Journal { path, owner, is_left } = find(&self.rundir, cow, Some(new))?;
        match FileNotes::open(&path, &owner) {
            Ok(notes) => Ok(Some(notes)),
            Err(error) if is_left || path.exists() => Err(format!("{}: {error}", path.display())),
            Err(error) => {
                log::warn!("{}: {error}; writes wait for their records", path.display());
                Ok(None)
            }
        }
    }

    /// Removes what is noted for the store on a COW: it is invalid.
    pub(in crate::server) fn discard_journal(&self, cow: &str) -> Result<(), Reason> {
        let cow = OpenDisk::open(cow, Access::ReadOnly, Claim::Shared).map_err(|error| error.to_string())?;
        let Journal { path, is_left, .. } = find(&self.rundir, &cow, None)?;
        if is_left {
            journal::discard(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Records what a server that died has noted for a snapshot that gets no server again, so that its COW is complete for
    /// whoever opens it. Touches no disk if nothing is noted anywhere.
    pub fn record_noted(rundir: &RunDir, key: &str, device: &DeviceState) -> Result<(), Reason> {
        let mut spec = device.spec.clone();
        let TargetParams::Snapshot(snapshot) = spec.table.params.clone() else { return Ok(()) };
        let directory = rundir.path();
        let in_directory = |error| format!("{}: {error}", directory.display());
        if let Some(cow) = std::fs::metadata(&snapshot.cow).ok().as_ref().and_then(DiskId::of) {
            journal::remove_empty(directory, &family_key(cow)).map_err(in_directory)?;
        }
        if journal::left_in_directory(directory).map_err(in_directory)?.is_empty() {
            return Ok(());
        }
        let cow = OpenDisk::open(&snapshot.cow, Access::ReadOnly, Claim::Shared).map_err(|error| error.to_string())?;
        let found = find(rundir, &cow, None)?;
        drop(cow);
        if !found.is_left {
            return Ok(());
        }
        // Of the origin only the size is wanted, whoever uses it.
        spec.force = true;
        let mut server = Server::start(key, rundir)?;
        let recorded = server.prepare_snapshot(&snapshot, spec, Some(&device.name), true).and_then(|prepared| {
            let record = move |family: Rc<Family>| async move {
                let opened = family.opened.borrow_mut().remove(&prepared.ticket).ok_or("the snapshot is not open")?;
                opened.served.activate(&family.executor).await?;
                opened.served.close().await
            };
            server.family.call(record).map_err(|error| error.to_string())?
        });
        server.family.stop().map_err(|error| error.to_string())?;
        recorded
    }
}
