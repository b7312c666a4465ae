//! Snapshots and their origin, up to the moment where the kernel adds a device: disks opened and claimed, the store read
//! and judged, nothing written.

use std::path::Path;
use std::rc::Rc;

use dm_targets::snapshot::Event;
use dm_targets::snapshot::journal::Notes;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::units::{ChunkSize, Sectors};

use super::lost;
use crate::data::{Events, Family, Opened, Served};
use crate::failure::Reason;
use crate::protocol::{AddOrigin, AddSnapshot, Question};
use crate::rundir::RunDir;
use crate::rundir::journal::FileNotes;
use crate::rundir::lost::LostStore;
use crate::server::control::{Prepared, Server};
use crate::server::devices::{Entry, Named, Over};
use crate::storage::content;
use crate::storage::signature::SignatureKind;
use crate::storage::{Access, Claim, DiskId, Limits, OpenDisk, OpenErrorKind, lasting_name, lasting_name_of};
use crate::ublk::device;

/// What the data thread found out about a snapshot it opened.
struct Found {
    chunk: Sectors,
    len: Sectors,
}

impl Server {
    pub(in crate::server) fn prepare_origin(&mut self, add: AddOrigin) -> Result<Prepared, Reason> {
        let is_origin = |entry: &&Entry| matches!(entry.added, Question::AddOrigin(_));
        if let Some(entry) = self.devices.values().find(is_origin) {
            return Err(format!(
                "{} already has a device: /dev/ublkb{} ({})",
                add.origin.display(),
                entry.info.id,
                entry.name
            ));
        }
        let (origin, limits, read_only) = self.claim_origin(&add.origin, add.common.force)?;
        let read_only = read_only || add.common.read_only;
        let size = self.origin_size()?;
        let ticket = self.next_ticket();
        let open = move |family: Rc<Family>| async move {
            let origin = family.origin.borrow().clone().ok_or("the family has no origin")?;
            let opened = Opened { served: Served::Origin(origin), events: Rc::default() };
            family.opened.borrow_mut().insert(ticket, opened);
            Ok::<(), Reason>(())
        };
        self.family.call(open).map_err(|error| error.to_string())??;
        Ok(Prepared {
            params: device::params(&[&limits], limits.volatile_cache, size, read_only, None),
            common: add.common.clone(),
            ticket,
            over: Over::Origin { origin: Named::new(origin, &add.origin) },
            read_only,
            added: Question::AddOrigin(add),
        })
    }

    pub(in crate::server) fn prepare_snapshot(&mut self, add: AddSnapshot, again: bool) -> Result<Prepared, Reason> {
        let (origin, origin_limits, _) = self.claim_origin(&add.origin, add.common.force)?;
        let cow = std::fs::metadata(&add.cow).ok().and_then(|metadata| DiskId::of(&metadata));
        if cow == Some(origin) {
            return Err(format!("{}: the origin cannot be its own COW", add.cow.display()));
        }
        let cow = OpenDisk::open(&add.cow, Access::ReadWrite, Claim::Exclusive).map_err(|error| error.to_string())?;
        let overwrite = !again && add.common.force;
        if !again && !overwrite {
            let wanted = add.persistent.then_some(SignatureKind::SnapshotStore);
            content::refuse_other(&cow, wanted, "a snapshot")?;
        }
        let losses = LostStore::of(&self.rundir, &lasting_name(&cow), &lasting_name_of(origin, &add.origin));
        let lost = add.persistent && lost::is_lost(&losses, &cow, again)?;
        let (cow_id, cow_limits) = (cow.id, cow.limits);
        let ticket = self.next_ticket();
        let found = self.open_snapshot(&add, cow, overwrite, ticket, again, (losses, lost))?;
        let discard = add.discard_zeroes_cow.then(|| device::discard_of_chunks(found.chunk));
        let limits = [&origin_limits, &cow_limits];
        let read_only = add.common.read_only;
        Ok(Prepared {
            // Records that are only noted are lost with power: users must flush, whatever the COW is.
            params: device::params(&limits, cow_limits.volatile_cache || add.persistent, found.len, read_only, discard),
            common: add.common.clone(),
            ticket,
            over: Over::Snapshot { origin: Named::new(origin, &add.origin), cow: Named::new(cow_id, &add.cow) },
            read_only,
            added: Question::AddSnapshot(add),
        })
    }

    /// Opens the origin for the family, once.
    fn claim_origin(&mut self, path: &Path, force: bool) -> Result<(DiskId, Limits, bool), Reason> {
        if let Some((id, limits, read_only)) = &self.origin {
            return Ok((*id, *limits, *read_only));
        }
        let claim = if force { Claim::Shared } else { Claim::Exclusive };
        let disk = match OpenDisk::open(path, Access::ReadWrite, claim) {
            Err(error) if matches!(error.kind, OpenErrorKind::ReadOnly) => {
                OpenDisk::open(path, Access::ReadOnly, claim)
            }
            other => other,
        };
        let disk = disk.map_err(|error| error.to_string())?;
        let (id, limits) = (disk.id, disk.limits);
        let read_only = disk.access == Access::ReadOnly;
        self.family
            .call(move |family| async move { drop(family.origin_or(|| Some(disk))) })
            .map_err(|error| error.to_string())?;
        self.origin = Some((id, limits, read_only));
        Ok((id, limits, read_only))
    }

    fn origin_size(&self) -> Result<Sectors, Reason> {
        let size = self
            .family
            .call(|family| async move { family.origin.borrow().as_ref().map(|origin| origin.disk().size()) });
        size.map_err(|error| error.to_string())?.ok_or_else(|| "the family has no origin".to_owned())
    }

    fn open_snapshot(
        &self,
        add: &AddSnapshot,
        cow: OpenDisk,
        overwrite: bool,
        ticket: u64,
        again: bool,
        (losses, lost): (LostStore, bool),
    ) -> Result<Found, Reason> {
        let on_full = if add.overflow { OnFull::Overflow } else { OnFull::Invalidate };
        let (discard_zeroes_cow, discard_passdown_origin) = (add.discard_zeroes_cow, add.discard_passdown_origin);
        let options = Options { on_full, discard_zeroes_cow, discard_passdown_origin };
        let chunk_size = match add.chunk_sectors {
            None => None,
            Some(sectors) => Some(ChunkSize::from_sectors(sectors).ok_or_else(|| bad_chunk_size(sectors))?),
        };
        // What a transient store held died with the server that held it.
        let lost = lost || again && !add.persistent;
        let notes = if add.persistent { self.notes(&cow)? } else { None };
        let path = add.cow.display().to_string();
        let (persistent, len) = (add.persistent, add.len_sectors.map(Sectors));
        let label = add.common.name.clone().unwrap_or_else(|| add.cow.display().to_string());
        let open = move |family: Rc<Family>| async move {
            let origin = family.origin.borrow().clone().ok_or("the family has no origin")?;
            let cow = family.disk(cow);
            let host = family.ring.host();
            let events = Rc::new(Events::default());
            let happened = events.clone();
            let parts = Parts {
                executor: &family.executor,
                host: &host,
                copy: &family.copy,
                origin: origin.disk(),
                cow: &cow,
                chunk_size,
                persistent,
                overwrite,
                lost,
                losses: Rc::new(losses),
                len,
                options,
                notes: notes.map(|notes| Rc::new(notes) as Rc<dyn Notes>),
                listener: Rc::new(move |event| {
                    log::log!(priority(&event), "{label}: {event}");
                    happened.happen();
                }),
            };
            let snapshot = Snapshot::open(parts).await.map_err(|error| error.to_string())?;
            if again && snapshot.store().is_new() {
                // A server that dies has had a store: what is there now is somebody else's.
                return Err(format!("{path}: there is no snapshot store on it any more"));
            }
            let found = Found { chunk: snapshot.chunk_size().sectors(), len: snapshot.len() };
            let opened = Opened { served: Served::Snapshot(snapshot), events };
            family.opened.borrow_mut().insert(ticket, opened);
            Ok::<Found, Reason>(found)
        };
        self.family.call(open).map_err(|error| error.to_string())?
    }
}

impl Server {
    /// Records what a server that died has noted for a snapshot that gets no server again, so that its COW is complete for
    /// whoever opens it. Touches no disk if nothing is noted.
    pub fn record_noted(rundir: &RunDir, key: &str, mut add: AddSnapshot) -> Result<(), Reason> {
        let cow = std::fs::metadata(&add.cow).map_err(|error| format!("{}: {error}", add.cow.display()))?;
        let Some(path) = DiskId::of(&cow).map(|cow| rundir.records(cow)) else { return Ok(()) };
        if !FileNotes::exist(&path).map_err(|error| format!("{}: {error}", path.display()))? {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(format!("{}: {error}", path.display()))
                }
                _ => Ok(()),
            };
        }
        // Of the origin only the size is wanted, whoever uses it.
        add.common.force = true;
        let mut server = Server::start(key, rundir)?;
        let recorded = server.prepare_snapshot(add, true).and_then(|prepared| {
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

    /// Where the records of a COW are noted. Where there is no such place, and none can be made, its writes wait for their
    /// records; but what is noted there must be read.
    fn notes(&self, cow: &OpenDisk) -> Result<Option<FileNotes>, Reason> {
        let path = self.rundir.records(cow.id);
        match FileNotes::open(&path, cow) {
            Ok(notes) => Ok(Some(notes)),
            Err(error) if path.exists() => Err(format!("{}: {error}", path.display())),
            Err(error) => {
                log::warn!("{}: {error}; writes wait for their records", path.display());
                Ok(None)
            }
        }
    }
}

/// What is lost is an error, what may be lost is a warning.
fn priority(event: &Event) -> log::Level {
    match event {
        Event::Invalidated(_) | Event::MarkFailed(..) => log::Level::Error,
        Event::Overflowed | Event::Filling(_) => log::Level::Warn,
    }
}

fn bad_chunk_size(sectors: u64) -> Reason {
    format!("chunk size of {sectors} sectors: it must be a power of two of at least one sector and at most 1 GiB")
}
