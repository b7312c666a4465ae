//! Snapshots and their origin, up to the moment where the kernel adds a device: disks opened and claimed, the store read
//! and judged, nothing written.

use std::path::Path;
use std::rc::Rc;

use dm_targets::snapshot::Event;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::journal::Notes;
use dm_targets::snapshot::store::Ownership;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::table::{Snapshot as Table, StoreType, TargetParams};
use dm_targets::units::{ChunkSize, Sectors};

use super::lost;
use crate::data::{Events, Family, Opened, Served};
use crate::failure::Reason;
use crate::protocol::DeviceSpec;
use crate::rundir::lost::LostStore;
use crate::server::control::{Prepared, Server};
use crate::server::devices::Deps;
use crate::storage::content;
use crate::storage::signature::SignatureKind;
use crate::storage::{Access, Claim, DiskId, Limits, OpenDisk, OpenErrorKind, disk_name, new_store_id};
use crate::ublk::device;

/// What the data thread found out about a snapshot it opened.
struct Found {
    chunk: ChunkSize,
    len: Sectors,
}

/// How a snapshot is opened.
struct Opening {
    /// Length of the device.
    len: Sectors,
    /// What stands on the COW is of no value.
    overwrite: bool,
    /// For a later server than the one that made it.
    again: bool,
    /// The device is wanted although its snapshot is invalid.
    allow_invalid: bool,
    /// Its store is recorded as lost.
    lost: bool,
    /// Which store a new one is, and the origin that it must have been made for.
    ownership: Ownership,
    /// Where that is recorded.
    losses: LostStore,
    /// What its messages call it.
    label: String,
    ticket: u64,
}

impl Server {
    pub(in crate::server) fn prepare_origin(&mut self, path: &str, spec: DeviceSpec) -> Result<Prepared, Reason> {
        if let Some(entry) = self.devices.values().find(|entry| entry.is_origin()) {
            let (id, name) = (entry.info.id, &entry.name);
            return Err(format!("{path} already has a device: /dev/ublkb{id} ({name})"));
        }
        let (origin, limits, read_only) = self.claim_origin(path, spec.force)?;
        let read_only = read_only || spec.options.read_only;
        let (len, size) = (spec.table.len, self.origin_size()?);
        check_length(path, len, size, limits.logical_block_size)?;
        let ticket = self.next_ticket();
        let open = move |family: Rc<Family>| async move {
            let origin = family.origin.borrow().clone().ok_or("the family has no origin")?;
            let opened = Opened { served: Served::Origin(origin), events: Rc::default() };
            family.opened.borrow_mut().insert(ticket, opened);
            Ok::<(), Reason>(())
        };
        self.family.call(open).map_err(|error| error.to_string())??;
        let mut deps = Deps::default();
        deps.insert(path, origin);
        let params = device::params(&[&limits], limits.volatile_cache, len, read_only, None);
        Ok(Prepared { params, ticket, deps, read_only, spec })
    }

    pub(in crate::server) fn prepare_snapshot(
        &mut self,
        snapshot: &Table,
        mut spec: DeviceSpec,
        name: Option<&str>,
        again: bool,
    ) -> Result<Prepared, Reason> {
        if !again {
            self.refuse_circle_of(&spec.table.params)?;
        }
        let (origin, origin_limits, _) = self.claim_origin(&snapshot.origin, spec.force)?;
        check_length(&snapshot.origin, spec.table.len, self.origin_size()?, origin_limits.logical_block_size)?;
        let cow = std::fs::metadata(&snapshot.cow).ok().and_then(|metadata| DiskId::of(&metadata));
        if cow == Some(origin) {
            return Err(format!("{}: the origin cannot be its own COW", snapshot.cow));
        }
        let cow =
            OpenDisk::open(&snapshot.cow, Access::ReadWrite, Claim::Exclusive).map_err(|error| error.to_string())?;
        let overwrite = !again && spec.force;
        let persistent = !snapshot.store.is_transient();
        if !again && !overwrite {
            let wanted = persistent.then_some(SignatureKind::SnapshotStore);
            content::refuse_other(&cow, wanted, "a snapshot")?;
        }
        let origin_path = Path::new(&snapshot.origin);
        let ownership = Ownership {
            store: new_store_id().map_err(|error| error.to_string())?,
            origin: disk_name(origin_path, origin),
            adopt: spec.other_origin,
        };
        let new = persistent.then_some(ownership.store);
        let losses = lost::record_of(&self.rundir, &cow, new, &ownership.origin)?;
        let lost = persistent && lost::is_lost(&losses, &cow, again)?;
        let (cow_id, cow_limits) = (cow.id, cow.limits);
        let ticket = self.next_ticket();
        let label = name.unwrap_or(&snapshot.cow).to_owned();
        let allow_invalid = again || spec.allow_invalid;
        let opening =
            Opening { len: spec.table.len, overwrite, again, allow_invalid, lost, losses, ownership, label, ticket };
        let found = self.open_snapshot(snapshot, cow, opening)?;
        let discard = snapshot.discard_zeroes_cow.then(|| device::discard_of_chunks(found.chunk.sectors()));
        let limits = [&origin_limits, &cow_limits];
        let read_only = spec.options.read_only;
        // Records that are only noted are lost with power: users must flush, whatever the COW is.
        let params = device::params(&limits, cow_limits.volatile_cache || persistent, found.len, read_only, discard);
        let mut deps = Deps::default();
        deps.insert(&snapshot.origin, origin);
        deps.insert(&snapshot.cow, cow_id);
        let chunk_size = Some(found.chunk);
        spec.table.params = TargetParams::Snapshot(Table { chunk_size, ..snapshot.clone() });
        Ok(Prepared { params, ticket, deps, read_only, spec })
    }

    /// Opens the origin for the family, once.
    fn claim_origin(&mut self, path: &str, force: bool) -> Result<(DiskId, Limits, bool), Reason> {
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

    /// What the user of a device that has been opened should know.
    pub(in crate::server) fn note_of(&self, ticket: u64) -> Result<Option<String>, Reason> {
        let note = move |family: Rc<Family>| async move {
            let opened = family.opened.borrow().get(&ticket).cloned();
            let Some(Served::Snapshot(snapshot)) = opened.map(|opened| opened.served) else { return None };
            let invalid = snapshot.health() == Health::Invalid;
            invalid.then(|| {
                format!("{}: the snapshot on it is invalid: all I/O on its device fails", snapshot.cow().name())
            })
        };
        self.family.call(note).map_err(|error| error.to_string())
    }

    fn origin_size(&self) -> Result<Sectors, Reason> {
        let size = self
            .family
            .call(|family| async move { family.origin.borrow().as_ref().map(|origin| origin.disk().size()) });
        size.map_err(|error| error.to_string())?.ok_or_else(|| "the family has no origin".to_owned())
    }

    fn open_snapshot(&self, snapshot: &Table, cow: OpenDisk, opening: Opening) -> Result<Found, Reason> {
        let Opening { len, overwrite, again, allow_invalid, losses, lost, ownership, label, ticket } = opening;
        let (StoreType::Persistent { overflow } | StoreType::Transient { overflow }) = snapshot.store;
        let on_full = if overflow { OnFull::Overflow } else { OnFull::Invalidate };
        let Table { chunk_size, discard_zeroes_cow, discard_passdown_origin, .. } = *snapshot;
        let options = Options { on_full, discard_zeroes_cow, discard_passdown_origin };
        let persistent = !snapshot.store.is_transient();
        // What a transient store held died with the server that held it.
        let lost = lost || again && !persistent;
        let notes = if persistent { self.journal(&cow, ownership.store)? } else { None };
        let path = snapshot.cow.clone();
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
                ownership: Some(&ownership),
                lost,
                losses: Rc::new(losses),
                len: Some(len),
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
            if snapshot.health() == Health::Invalid && !allow_invalid {
                let hint = "zero its first sector to use it for a new one, or add it with --allow-invalid";
                return Err(format!("{path}: the snapshot on it is invalid; {hint}"));
            }
            let found = Found { chunk: snapshot.chunk_size(), len: snapshot.len() };
            let opened = Opened { served: Served::Snapshot(snapshot), events };
            family.opened.borrow_mut().insert(ticket, opened);
            Ok::<Found, Reason>(found)
        };
        self.family.call(open).map_err(|error| error.to_string())?
    }
}

/// What is lost is an error, what may be lost is a warning.
fn priority(event: &Event) -> log::Level {
    match event {
        Event::Invalidated(_) | Event::MarkFailed(..) => log::Level::Error,
        Event::Overflowed | Event::Filling(_) => log::Level::Warn,
    }
}

/// Refuses a table that is longer than its disk, or ends within a block, as the kernel does: what lies behind the end
/// would be acknowledged and be nowhere.
fn check_length(path: &str, len: Sectors, size: Sectors, block: u32) -> Result<(), Reason> {
    if len > size {
        return Err(format!("{path}: has {size} sectors, less than the {len} of the table"));
    }
    if len.bytes() % u64::from(block) != 0 {
        return Err(format!("{path}: its blocks have {block} bytes, and a length of {len} sectors ends within one"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_no_longer_than_its_disk_and_ends_with_a_block() {
        let check = |len| check_length("/dev/x", Sectors(len), Sectors(80), 4096);
        assert_eq!((check(80), check(8)), (Ok(()), Ok(())));
        assert!(check(88).unwrap_err().contains("less than the 88"));
        assert!(check(12).unwrap_err().contains("ends within one"));
    }
}
