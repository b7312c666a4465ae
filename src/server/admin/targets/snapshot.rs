//! Snapshots and their origin before the kernel adds a device: the disks are opened and claimed,
//! the store is read and checked, nothing is written.

use std::rc::Rc;

use dm_targets::device::{Events, Opened};
use dm_targets::snapshot::Event;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::journal::Journal;
use dm_targets::snapshot::store::Ownership;
use dm_targets::snapshot::table::{Snapshot as Table, StoreType};
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::table::TargetParams;
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sectors};

use super::content::refuse_other;
use super::continued::{self, Store};
use super::disks::{Sharing, check_length};
use super::lost;
use super::merge::{self, OpenedMerge, is_invalid};
use crate::failure::Reason;
use crate::protocol::{Cow, DeviceSpec, KnownDisk, KnownDisks, MergeOptions};
use crate::server::admin::devices::{Deps, LeftOut};
use crate::server::admin::foreign_disks::{refuse_foreign_disk, refuse_other_store};
use crate::server::admin::held::Held;
use crate::server::admin::machine::{Machine, OpenDisk, Records, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::new_device::NewDevice;
use crate::server::admin::state::Administrator;
use crate::storage::signature::SignatureKind;
use crate::storage::{Access, DiskId, Limits};
use crate::ublk::{Params, device};

/// An origin was opened, but no target keeps it open.
const NO_ORIGIN: &str = "the family has no origin";

/// What the data thread knows of a snapshot that it has opened.
struct Found {
    chunk: ChunkSize,
    len: Sectors,
    /// The store was on the COW already, and is valid.
    continued: Option<Store>,
}

impl Found {
    /// What the user of a new device must know of its store.
    fn note(&self, snapshot: &Table, block_bytes: u32) -> Option<String> {
        let place = (snapshot.cow.as_str(), block_bytes);
        let note = |store| continued::note(place, store, self.chunk, snapshot.chunk_size);
        self.continued.map(note)
    }
}

/// How a snapshot is opened.
struct Opening<L> {
    /// Length of the device.
    len: Sectors,
    /// The COW's content may be overwritten.
    overwrite: bool,
    /// Opened by a later server than the one that created it.
    again: bool,
    /// An invalid snapshot is accepted.
    allow_invalid: bool,
    /// Its store is recorded as lost.
    lost: bool,
    /// The id of a new store, and the origin that an existing store must belong to.
    ownership: Ownership,
    /// The record of the COW's losses.
    losses: L,
    /// Its name in log messages.
    label: String,
    origin: DiskId,
    /// It is merged into the origin.
    merges: bool,
    /// How its merge runs.
    merge: Option<MergeOptions>,
}

impl<M: Machine> Administrator<M> {
    pub(in crate::server::admin) fn prepare_origin(
        &mut self,
        path: &str,
        mut spec: DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        let (origin, limits, read_only) = self.claim_origin(path, spec.force, again)?;
        let read_only = read_only || spec.options.read_only;
        let (len, size) = (spec.table.len, self.origin_size(origin)?);
        if !mutant::is(Mutant::OriginBehindDisk) {
            check_length(path, len, size, limits.logical_block_size)?;
        }
        let (target, ()) = self.open_target(move |thread: Rc<M::Thread>| async move {
            let origin = thread.group().origin(origin.key()).ok_or(NO_ORIGIN)?;
            Ok::<_, Reason>((Opened { target: Target::Origin(origin), events: Rc::default() }, ()))
        })?;
        let mut deps = Deps::default();
        deps.insert(path, origin, self.origin_known.clone());
        let params = device::params(&[&limits], limits.volatile_cache, len, read_only, None);
        spec.force = self.origin_shared;
        Ok(NewDevice { params, target, deps, read_only, spec, cow: None, note: None })
    }

    pub(in crate::server::admin) fn prepare_snapshot(
        &mut self,
        snapshot: &Table,
        mut spec: DeviceSpec,
        name: Option<&str>,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        if again.is_none() {
            self.refuse_circle_of(&spec.table.params)?;
        }
        let (origin, origin_limits, _) = self.claim_origin(&snapshot.origin, spec.force, again)?;
        check_length(
            &snapshot.origin,
            spec.table.len,
            self.origin_size(origin)?,
            origin_limits.logical_block_size,
        )?;
        let (cow, mut cow_known) = self.claim_cow(&snapshot.cow, origin, again)?;
        let again = again.is_some();
        let merges = matches!(spec.table.params, TargetParams::SnapshotMerge(_));
        let overwrite = !again && spec.force && !merges;
        let persistent = !snapshot.store.is_transient();
        if !again && !overwrite {
            let wanted = persistent.then_some(SignatureKind::SnapshotStore);
            refuse_other(&cow, wanted, "a snapshot")?;
        }
        let (ownership, known) = self.store_of(&cow, persistent, spec.other_origin)?;
        if !again {
            self.refuse_cow_of_left_out(&snapshot.cow, &known)?;
            self.refuse_other_name(&snapshot.cow, &cow_known, &snapshot.origin)?;
        }
        let losses = self.machine.records().losses(known.clone());
        let lost = persistent && lost::is_lost(&losses, &cow, again)?;
        let (cow_id, cow_limits) = (cow.id(), *cow.limits());
        let (label, allow_invalid) =
            (name.unwrap_or(&snapshot.cow).to_owned(), again || spec.allow_invalid);
        let opening = Opening {
            len: spec.table.len,
            overwrite,
            again,
            allow_invalid,
            lost,
            losses,
            ownership,
            label,
            origin,
            merges,
            merge: spec.merge.clone(),
        };
        let (target, found) = self.open_snapshot(snapshot, cow, opening)?;
        let read_only = spec.options.read_only;
        let params = params_of(snapshot, [&origin_limits, &cow_limits], &found, read_only, merges);
        let mut deps = Deps::default();
        deps.insert(&snapshot.origin, origin, self.origin_known.clone());
        cow_known.store = known.store;
        deps.insert(&snapshot.cow, cow_id, cow_known);
        let note = found.note(snapshot, cow_limits.logical_block_size).filter(|_| !again);
        // `--force` as a permission to overwrite ends here; the origin is shared by all devices of
        // the family.
        spec.force = self.origin_shared;
        let table = Table { chunk_size: Some(found.chunk), ..snapshot.clone() };
        spec.table.params = match merges {
            true => TargetParams::SnapshotMerge(table),
            false => TargetParams::Snapshot(table),
        };
        let cow = persistent.then_some(known);
        Ok(NewDevice { params, target, deps, read_only, spec, cow, note })
    }

    /// The owner of the store that a snapshot of this origin has on a COW, and what identifies the
    /// COW.
    fn store_of(
        &self,
        cow: &M::Open,
        persistent: bool,
        adopt: bool,
    ) -> Result<(Ownership, Cow), Reason> {
        let (store, origin) = (self.machine.new_store_id()?, self.origin_known.name.clone());
        let known = lost::cow_of(cow, persistent.then_some(store), &origin)?;
        Ok((Ownership { store, origin, adopt }, known))
    }

    /// Opens a COW and claims it: not shared even by force, since the store would overwrite the
    /// data of another device.
    fn claim_cow(
        &mut self,
        path: &str,
        origin: DiskId,
        again: Option<&KnownDisks>,
    ) -> Result<(M::Open, KnownDisk), Reason> {
        if self.machine.disk_at(path) == Some(origin) {
            return Err(format!("{path}: the origin cannot be its own COW").into());
        }
        let sharing = Sharing::of(false, again.is_some());
        let (cow, _) = self.open_sharing(path, Access::ReadWrite, sharing)?;
        let known = self.recognized(path, &cow, again)?;
        refuse_other_store(path, again, cow.store()?)?;
        Ok((cow, known))
    }

    /// Refuses the COW of a device that waits for a server: its store belongs to that device, and
    /// may be invalid by now.
    fn refuse_cow_of_left_out(&self, path: &str, cow: &Cow) -> Result<(), Reason> {
        if mutant::is(Mutant::LeftOutCowTaken) {
            return Ok(());
        }
        let near =
            |left: &&LeftOut| left.device.cow.as_ref().is_some_and(|other| other.is_near(cow));
        let Some(LeftOut { device, .. }) = self.left_out.values().find(near) else { return Ok(()) };
        let hint = format!(
            "`ublk-dm recover {0}` recovers that device, `ublk-dm del --force {0}` deletes it",
            device.name
        );
        Err(format!("{path}: the COW of {}, which has no server: {hint}", device.name).into())
    }

    /// Opens the origin for the family, unless a target has it open.
    fn claim_origin(
        &mut self,
        path: &str,
        force: bool,
        again: Option<&KnownDisks>,
    ) -> Result<(DiskId, Limits, bool), Reason> {
        if let Some((id, limits, read_only)) = self.origin {
            if self.is_open(id)? {
                refuse_foreign_disk(path, again, &self.origin_known)?;
                return Ok((id, limits, read_only));
            }
        }
        let (disk, shared) = self.open_as_it_is(path, Sharing::of(force, again.is_some()))?;
        let (id, limits) = (disk.id(), *disk.limits());
        let read_only = disk.is_read_only();
        self.origin_known = self.recognized(path, &disk, again)?;
        let KnownDisk { name, number, .. } = &self.origin_known;
        let departures = self.machine.records().departures(name, *number)?;
        self.machine.call(move |thread| async move {
            drop(thread.group().origin_or(id.key(), || thread.disk(disk)));
        })?;
        self.restore_departures_of(id, departures)?;
        self.origin = Some((id, limits, read_only));
        self.origin_shared = shared;
        Ok((id, limits, read_only))
    }

    fn is_open(&self, origin: DiskId) -> Result<bool, Reason> {
        self.machine
            .call(move |thread| async move { thread.group().origin(origin.key()).is_some() })
    }

    /// The size of the origin's disk now: it may have grown since it was opened.
    fn origin_size(&self, origin: DiskId) -> Result<Sectors, Reason> {
        let size = self.machine.call(move |thread| async move {
            thread.group().origin(origin.key()).map(|origin| origin.disk().refresh_size())
        });
        size?.ok_or_else(|| NO_ORIGIN.into())
    }

    fn open_snapshot(
        &mut self,
        snapshot: &Table,
        cow: M::Open,
        opening: Opening<<M::Records as Records>::Losses>,
    ) -> Result<(Held<M::Caller>, Found), Reason> {
        let Opening {
            len,
            overwrite,
            again,
            allow_invalid,
            losses,
            lost,
            ownership,
            label,
            origin,
            merges,
            merge,
        } = opening;
        let merge = merge.filter(|_| !again || !mutant::is(Mutant::MergeOptionsForgotten));
        let (chunk_size, options) = (snapshot.chunk_size, options_of(snapshot));
        let persistent = !snapshot.store.is_transient();
        // The content of a transient store is lost with its server.
        let lost = lost || again && !persistent;
        let journal = if persistent { self.machine.journal(&cow, ownership.store)? } else { None };
        let path = snapshot.cow.clone();
        let merged = self.machine.waker();
        let open = move |thread: Rc<M::Thread>| async move {
            let group = thread.group();
            let origin = group.origin(origin.key()).ok_or(NO_ORIGIN)?;
            let cow = thread.disk(cow);
            let block_bytes = cow.limits().logical_block_bytes;
            let events = Rc::new(Events::default());
            let listener = listener(label, events.clone(), merged);
            let parts = Parts {
                executor: &group.executor,
                host: &group.host,
                copy: &group.copy,
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
                journal: journal.map(|journal| Rc::new(journal) as Rc<dyn Journal>),
                listener: Rc::new(listener),
            };
            if merges {
                let opened = merge::open(parts, &origin, events, allow_invalid, merge.as_ref());
                let OpenedMerge { opened, chunk, len } = opened.await?;
                return Ok((opened, Found { chunk, len, continued: None }));
            }
            let snapshot = Snapshot::open(parts).await?;
            refuse_unusable(&snapshot, (&path, block_bytes), again, allow_invalid)?;
            let is_continued =
                persistent && !snapshot.store().is_new() && snapshot.health() != Health::Invalid;
            let continued = is_continued.then(|| Store::with(snapshot.exceptions()));
            let found = Found { chunk: snapshot.chunk_size(), len: snapshot.len(), continued };
            Ok::<_, Reason>((Opened { target: Target::Snapshot(snapshot), events }, found))
        };
        self.open_target(open)
    }
}

/// The parameters of a snapshot's device, from the limits of its origin and its COW.
fn params_of(
    snapshot: &Table,
    limits: [&Limits; 2],
    found: &Found,
    read_only: bool,
    merges: bool,
) -> Params {
    let chunk = found.chunk.sectors();
    let discard =
        (snapshot.discard_zeroes_cow && !merges).then(|| device::discard_of_chunks(chunk));
    // Journaled exceptions are lost on power failure: users must flush, with any COW.
    let journals = !snapshot.store.is_transient() && !merges;
    // A flush of a merge is one of both disks.
    let origins = merges && limits[0].volatile_cache;
    let volatile_cache = limits[1].volatile_cache || origins || journals;
    device::params(&limits, volatile_cache, found.len, read_only, discard)
}

/// Refuses a snapshot whose store is not the one that the device had, or is invalid.
fn refuse_unusable(
    snapshot: &Snapshot,
    (path, block_bytes): (&str, u32),
    again: bool,
    allow_invalid: bool,
) -> Result<(), Reason> {
    if again && snapshot.store().is_new() {
        // The dead server had a store: the COW's content now is not this snapshot's.
        return Err(format!("{path}: it no longer holds a snapshot store").into());
    }
    if snapshot.health() == Health::Invalid && !allow_invalid {
        return Err(is_invalid(path, block_bytes));
    }
    Ok(())
}

/// What a table says of a snapshot beside its disks.
fn options_of(snapshot: &Table) -> Options {
    let (StoreType::Persistent { overflow } | StoreType::Transient { overflow }) = snapshot.store;
    let on_full = if overflow { OnFull::Overflow } else { OnFull::Invalidate };
    let Table { discard_zeroes_cow, discard_passdown_origin, .. } = *snapshot;
    Options { on_full, discard_zeroes_cow, discard_passdown_origin }
}

/// Logs a target's events and counts them; `merged`: what is called when a merge has ended.
fn listener(
    label: String,
    events: Rc<Events>,
    merged: Box<dyn Fn() + Send>,
) -> impl Fn(Event) + 'static {
    move |event| {
        log::log!(priority(&event), "{label}: {event}");
        events.notify();
        if matches!(event, Event::Merged) {
            merged();
        }
    }
}

/// Lost data is an error, data that may be lost is a warning.
fn priority(event: &Event) -> log::Level {
    match event {
        Event::Invalidated(_) | Event::MarkFailed(..) | Event::MergeFailed(_) => log::Level::Error,
        Event::Overflowed | Event::Filling(_) => log::Level::Warn,
        Event::Merged => log::Level::Info,
    }
}
