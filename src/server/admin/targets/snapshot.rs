//! Snapshots and their origin before the kernel adds a device: the disks are opened and claimed,
//! the store is read and checked, nothing is written.

use std::rc::Rc;

use dm_targets::device::OpenTarget;
use dm_targets::snapshot::format::StoreId;
use dm_targets::snapshot::store::Ownership;
use dm_targets::snapshot::table::Snapshot as Table;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sector, Sectors};

use super::content::{refuse_other, refused};
use super::disks::{Sharing, check_length};
use super::lost;
use super::reused_disks::ReusedDisk;
use super::segments::refresh;
use super::snapshot_open::{self, Found, NO_ORIGIN, Opening};
use super::wipe::zero_start;
use crate::failure::Reason;
use crate::protocol::{Cow, DeviceSpec, KnownDisk, KnownDisks, MergeOptions, Unmade, Which};
use crate::server::admin::devices::{Deps, no_device};
use crate::server::admin::foreign_disks::{refuse_foreign_disk, refuse_other_store};
use crate::server::admin::held::Held;
use crate::server::admin::machine::{Machine, OpenDisk, Records, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::new_device::NewDevice;
use crate::server::admin::open_origins::Origin;
use crate::server::admin::state::Administrator;
use crate::storage::signature::SignatureKind;
use crate::storage::{Access, DiskId, Limits};
use crate::ublk::{Params, device};

impl<M: Machine> Administrator<M> {
    pub(in crate::server::admin) fn prepare_origin(
        &mut self,
        path: &str,
        mut spec: DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        let Origin { disk, limits, read_only, shared, known } =
            self.claim_origin(path, &spec, again)?;
        let read_only = read_only || spec.options.read_only;
        let (len, size) = (spec.table.len, self.origin_size(disk)?);
        if !mutant::is(Mutant::OriginBehindDisk) {
            check_length(path, len, size, limits.logical_block_size)?;
        }
        let (target, ()) = self.open_target(move |thread: Rc<M::Thread>| async move {
            let origin = thread.group().origin(disk.key()).ok_or(NO_ORIGIN)?;
            Ok::<_, Reason>((
                OpenTarget { target: Target::Origin(origin), events: Rc::default() },
                (),
            ))
        })?;
        let mut deps = Deps::default();
        deps.insert(path, disk, known);
        let params = device::params(&[&limits], limits.volatile_cache, len, read_only, None);
        spec.force = shared;
        Ok(NewDevice { params, target, deps, read_only, spec, cow: None, note: None })
    }

    pub(in crate::server::admin) fn prepare_snapshot(
        &mut self,
        snapshot: &Table,
        spec: DeviceSpec,
        name: Option<&str>,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        let merges = matches!(spec.table.params, TargetParams::SnapshotMerge(_));
        if again.is_none() {
            self.refuse_new_snapshot(snapshot, &spec.table.params, merges)?;
        }
        let origin = self.claim_origin(&snapshot.origin, &spec, again)?;
        let (len, size) = (spec.table.len, self.origin_size(origin.disk)?);
        check_length(&snapshot.origin, len, size, origin.limits.logical_block_size)?;
        let (cow, mut cow_known) = self.claim_cow(&snapshot.cow, origin.disk, again)?;
        let unmade = again.and_then(|known| unmade_on(known.get(&snapshot.cow)?));
        let again = again.is_some();
        let forced = !again && spec.force && !merges;
        let overwrite = forced || unmade.is_some_and(|(unmade, _)| unmade.overwrites);
        let persistent = !snapshot.store.is_transient();
        if (!again || unmade.is_some()) && !overwrite {
            let wanted = persistent.then_some(SignatureKind::SnapshotStore);
            refuse_other(&cow, wanted, "a snapshot")?;
        }
        let owner = (origin.known.name.clone(), spec.other_origin);
        let (ownership, known) = self.store_of(&cow, unmade, persistent, owner)?;
        if !again {
            let of = (snapshot.origin.as_str(), &origin.known);
            self.refuse_store_of_others(&snapshot.cow, &known, &spec, of.1)?;
            self.refuse_other_name(&snapshot.cow, &cow_known, of)?;
            let zero = zero_start(&snapshot.cow, cow.limits().logical_block_size);
            let taken = !persistent || overwrite || spec.other_origin;
            self.refuse_copy((&snapshot.cow, &known), &zero, taken)?;
        }
        let losses = self.machine.records().losses(known.clone());
        let lost = persistent && lost::is_lost(&losses, &cow, again)?;
        let (cow_id, cow_limits) = (cow.id(), *cow.limits());
        let expected = spec.continues && !self.has_merged(name, &known);
        let opening = Opening {
            table: snapshot.clone(),
            len,
            overwrite,
            again,
            unmade: unmade.is_some(),
            allow_invalid: again || spec.allow_invalid,
            lost,
            continues: expected,
            losses,
            ownership,
            label: name.unwrap_or(&snapshot.cow).to_owned(),
            origin: origin.disk,
            merges,
            merge: spec.merge.clone(),
        };
        let (target, found) = self.open_snapshot(cow, opening, (&known, &origin))?;
        let (read_only, limits) = (spec.options.read_only, [&origin.limits, &cow_limits]);
        let params = params_of(snapshot, limits, &found, read_only, merges);
        cow_known.store = known.store;
        cow_known.unmade = found.is_new.then_some(Unmade { overwrites: overwrite });
        let deps = deps_of(snapshot, (origin.disk, origin.known), (cow_id, cow_known));
        let note = found.note(snapshot, cow_limits.logical_block_size, again || expected);
        let spec = served_spec((spec, origin.shared), snapshot, found.chunk, known.store);
        let cow = persistent.then_some(known);
        Ok(NewDevice { params, target, deps, read_only, spec, cow, note })
    }

    /// Refuses a snapshot on one of its own disks, and a merge below the users of a device.
    fn refuse_new_snapshot(
        &self,
        snapshot: &Table,
        table: &TargetParams,
        merges: bool,
    ) -> Result<(), Reason> {
        self.refuse_circle_of_snapshot(snapshot, table)?;
        let carrier = self.carrier_at(&snapshot.origin, None)?;
        self.refuse_used_carrier(carrier.filter(|_| merges))
    }

    /// The owner of the store that a snapshot of this origin has on a COW, and what identifies the
    /// COW.
    fn store_of(
        &self,
        cow: &M::Open,
        unmade: Option<(Unmade, StoreId)>,
        persistent: bool,
        (origin, adopt): (String, bool),
    ) -> Result<(Ownership, Cow), Reason> {
        let store = unmade.map_or_else(|| self.machine.new_store_id(), |(_, store)| Ok(store))?;
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
            return Err(refused(path, "the origin cannot be its own COW"));
        }
        let sharing = Sharing::of_sole(false, again.is_some());
        let (cow, _) = self.open_sharing(path, Access::ReadWrite, sharing)?;
        let known = self.recognized(path, &cow, again)?;
        refuse_other_store(path, again, cow.store()?)?;
        Ok((cow, known))
    }

    /// Refuses a store that belongs to a device that waits, or to one that was deleted.
    fn refuse_store_of_others(
        &self,
        path: &str,
        cow: &Cow,
        spec: &DeviceSpec,
        origin: &KnownDisk,
    ) -> Result<(), Reason> {
        self.refuse_cow_of_left_out(path, cow)?;
        self.refuse_store_of_another(path, cow, spec, origin)
    }

    /// Opens the origin for the family, unless a target has it open.
    fn claim_origin(
        &mut self,
        path: &str,
        spec: &DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<Origin, Reason> {
        if let Some(carrier) = self.carrier_at(path, again)? {
            return self.claim_carried(path, carrier, again);
        }
        let open = self.origins.of(None).cloned();
        if let Some(open) = open {
            if self.is_open(open.disk)? {
                let here = self.machine.disk_at(path);
                if here.is_some_and(|disk| disk != open.disk) {
                    return Err(format!("{path}: its server has another origin").into());
                }
                refuse_foreign_disk(path, again, &open.known)?;
                return Ok(open);
            }
        }
        if again.is_none() {
            self.refuse_beside_carried(path)?;
        }
        let sharing = Sharing::of(spec, again.is_some()).of_one(path, again);
        let (disk, shared) = self.open_as_it_is(path, sharing)?;
        let shared = shared || self.is_forced(path, &disk, sharing, spec);
        let (id, limits, read_only) = (disk.id(), *disk.limits(), disk.is_read_only());
        let unclaimed = sharing.is_unclaimed(path, again);
        if !spec.force && again.is_none() {
            self.refuse_ranged(path, id)?;
        }
        let known = self.recognized(path, &disk, again)?;
        let known = KnownDisk { shared, unclaimed, ..known };
        let origin = Origin { disk: id, limits, read_only, shared, known };
        self.begin_origin(origin, move |thread| {
            drop(thread.group().origin_or(id.key(), || thread.disk(disk)));
            Ok(())
        })
    }

    /// Refuses a disk as the origin beside a device that carries one and does not stand on it.
    fn refuse_beside_carried(&self, path: &str) -> Result<(), Reason> {
        for disk in self.origins.carried().map(|origin| origin.disk) {
            if self.is_open(disk)? {
                return Err(format!("{path}: its server has another origin").into());
            }
        }
        Ok(())
    }

    /// Makes a disk the family's origin, which `open` opens.
    fn begin_origin(
        &mut self,
        origin: Origin,
        open: impl FnOnce(&M::Thread) -> Result<(), Reason> + Send + 'static,
    ) -> Result<Origin, Reason> {
        self.part_from_gone(&origin.known, &[])?;
        let departures = self.machine.records().departures(&origin.known, &[])?;
        self.machine.call(move |thread| async move { open(&thread) })??;
        self.restore_departures_of(origin.disk, departures)?;
        self.origins.set(origin.clone());
        Ok(origin)
    }

    /// Opens the origin of a table that replaces one of a device, `over`, which has its disk: the
    /// handle stays, and with it the claim. Nothing is done if it has not.
    ///
    /// # Errors
    /// Another device of this server uses the disk, or the server has another origin.
    pub(in crate::server::admin) fn open_origin_of(
        &mut self,
        over: u32,
        path: &str,
        spec: &DeviceSpec,
    ) -> Result<(), Reason> {
        let reused = self.open_reused(path, Some(over))?;
        let Some(ReusedDisk { disk, place: Some(place), shared, unclaimed }) = reused else {
            return Ok(());
        };
        let (id, limits) = (disk.id(), *disk.limits());
        let other = self.origins.of(None).map(|origin| origin.disk).filter(|disk| *disk != id);
        if other.map_or(Ok(false), |origin| self.is_open(origin))? {
            return Err(format!("{path}: its server has another origin").into());
        }
        self.refuse_beside_carried(path)?;
        let known = KnownDisk { shared, unclaimed, ..self.recognized(path, &disk, None)? };
        if !spec.force && !mutant::is(Mutant::OriginOverRanges) {
            let all = (Sector(0), disk.size());
            self.refuse_overlap(path, id, all, Some(over))?;
            self.refuse_awaited(path, id, &known, all)?;
        }
        let read_only = limits.read_only;
        let origin = Origin { disk: id, limits, read_only, shared, known };
        let begun = self.begin_origin(origin, move |thread| {
            let device = thread.group().device(over);
            let disk = device.and_then(|device| device.target().disk_at(place));
            let disk = disk.ok_or_else(|| no_device(over))?;
            refresh(&disk, read_only)?;
            drop(thread.group().origin_or(id.key(), || disk));
            Ok(())
        });
        begun.map(drop)
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
        cow: M::Open,
        mut opening: Opening<<M::Records as Records>::Losses>,
        (known, origin): (&Cow, &Origin),
    ) -> Result<(Held<M::Handle>, Found), Reason> {
        if opening.again && mutant::is(Mutant::MergeOptionsForgotten) {
            opening.merge = None;
        }
        let Opening { ownership: Ownership { store, .. }, .. } = opening;
        let (path, persistent) = (cow.path(), !opening.table.store.is_transient());
        let journal = if persistent { self.machine.journal(&cow, store)? } else { None };
        let merged = self.machine.waker();
        let (target, found) = self.open_target(move |thread: Rc<M::Thread>| async move {
            snapshot_open::open(&thread, cow, journal, opening, merged).await
        })?;
        if let Some(kept) = &found.kept {
            self.refuse_missed((&path, known), origin, kept)?;
        }
        Ok((target, found))
    }
}

/// The disks of a snapshot: its origin's, and its COW's.
fn deps_of(
    snapshot: &Table,
    (origin, of_origin): (DiskId, KnownDisk),
    (cow, of_cow): (DiskId, KnownDisk),
) -> Deps {
    let mut deps = Deps::default();
    deps.insert(&snapshot.origin, origin, of_origin);
    deps.insert(&snapshot.cow, cow, of_cow);
    deps
}

/// The spec of a snapshot that has been opened, with the chunk size of its store, and the store if
/// that is merged; `shared`: its origin has other users.
fn served_spec(
    (spec, shared): (DeviceSpec, bool),
    snapshot: &Table,
    chunk: ChunkSize,
    store: Which,
) -> DeviceSpec {
    let table = Table { chunk_size: Some(chunk), ..snapshot.clone() };
    let (params, merge) = match spec.table.params {
        TargetParams::SnapshotMerge(_) => {
            let merge = MergeOptions { store, ..spec.merge.unwrap_or_default() };
            (TargetParams::SnapshotMerge(table), Some(merge))
        }
        _ => (TargetParams::Snapshot(table), spec.merge),
    };
    // `--force` as a permission to overwrite ends here; the origin is shared by all devices of the
    // family.
    let table = dm_targets::table::Table { params, ..spec.table };
    DeviceSpec { table, merge, force: shared, continues: false, ..spec }
}

/// A store that was on record before it was made, with its id.
fn unmade_on(cow: &KnownDisk) -> Option<(Unmade, StoreId)> {
    match (cow.unmade, cow.store) {
        (Some(unmade), Which::Id(store)) if !mutant::is(Mutant::UnmadeForgotten) => {
            Some((unmade, store))
        }
        _ => None,
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
