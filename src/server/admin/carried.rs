//! Snapshots of a device of the same server: the device *carries* their origin, and its own users
//! write through that origin. Such a snapshot is reached with one hop, and its origin needs no
//! other device.
//!
//! Rules kept here: I5 and I9 (whoever writes to such a device changes the origin, so the device
//! counts as the origin's wherever it matters what becomes of snapshots; it carries the origin
//! again before it is live under a later server, if a snapshot is or was on it). The device is
//! identified by its cookie, in the records of its snapshots. It ends after them. While it is
//! suspended, the operations of its snapshots wait, so no command waits for these.

use std::rc::Rc;

use super::devices::{Device, LeftOut, is_origins, no_device};
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::open_origins::Origin;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{Command, Cow, DeviceRef, DeviceSpec, DeviceState, KnownDisk, KnownDisks};
use crate::rundir::departed::Departure;
use crate::storage::{DiskId, Limits};
use crate::ublk::device::{BLOCK_PATH, as_disk, replaced};

/// What a snapshot is of the device that carries its origin.
const SNAPSHOT_OF: &str = "is a snapshot of it";

impl<M: Machine> Administrator<M> {
    /// Whether a device carries the origin of others, served or not.
    pub(super) fn is_carrier(&self, id: u32) -> bool {
        self.carriers().any(|carrier| carrier == id)
    }

    /// The numbers of all such devices, each as often as it has others.
    pub(super) fn carriers(&self) -> impl Iterator<Item = u32> {
        let open = self.origins.carried().filter_map(|origin| origin.known.device);
        let left = self.left_out.values().map(|left| &left.device);
        let undone = self.undone_later.iter().map(|new| &new.state);
        let recorded = left.chain(undone).filter_map(DeviceState::carrier);
        let served = self.devices.values().filter_map(|entry| entry.deps.carrier());
        open.chain(served).chain(recorded).map(|carrier| carrier.id)
    }

    /// A device whose origin another device carries, and what it is of that one: served, waiting,
    /// or not undone yet.
    fn carried_by(&self, id: u32, but: &[u32]) -> Option<String> {
        let is_on = |one: &DeviceState| {
            one.carrier().is_some_and(|carrier| carrier.id == id) && !but.contains(&one.id)
        };
        let found = self.all_states().into_iter().find(is_on)?;
        let what = if is_origins(&found.spec) { "is its origin's device" } else { SNAPSHOT_OF };
        Some(format!("{} {what}", found.name)).filter(|_| !mutant::is(Mutant::CarrierEnds))
    }

    /// Refuses a command that would end a device under its snapshots; `but`: those that end too.
    pub(super) fn refuse_carrier(&self, id: u32, but: &[u32], what: &str) -> Result<(), Reason> {
        if let Some(upper) = self.joined_by(id, but) {
            let why = format!("/dev/ublkb{id}: {upper} stands on it: {what}");
            return Err(Failure::new(Kind::InUse, why));
        }
        self.carried_by(id, but).map_or(Ok(()), |upper| {
            Err(Failure::new(Kind::InUse, format!("/dev/ublkb{id}: {upper}: {what}")))
        })
    }

    /// Refuses a command that would wait for operations which a suspended device holds, and those
    /// that a carried origin does not have yet.
    pub(super) fn refuse_on_carrier(&self, command: &Command) -> Result<(), Reason> {
        let ids: Vec<u32> = match command {
            Command::Suspend { device, .. } | Command::Resize { device, .. } => vec![device.id],
            Command::Resume { device } => {
                let entry = self.devices.get(&device.id);
                let loaded = entry.and_then(|entry| entry.loaded.as_ref());
                // It takes the mirror of the device that holds its I/O.
                let takes = |loaded| self.with_mirror(loaded, Some(device.id)).is_some();
                let waits = loaded.is_some_and(|loaded| !takes(loaded));
                if waits { vec![device.id] } else { Vec::new() }
            }
            Command::Del { devices, .. } => devices.iter().map(|device| device.id).collect(),
            Command::Merge { device, .. } | Command::Retire { device } => vec![device.id],
            _ => return Ok(()),
        };
        ids.into_iter().try_for_each(|id| self.refuse_held(id))
    }

    /// The device that carries the origin of a served device.
    fn on_carrier(&self, id: u32) -> Option<u32> {
        Some(self.devices.get(&id)?.deps.carrier()?.id)
    }

    /// Refuses a device whose operations a suspended one holds.
    pub(super) fn refuse_held(&self, id: u32) -> Result<(), Reason> {
        match self.held_by(id).filter(|_| !mutant::is(Mutant::HeldAwaited)) {
            None => Ok(()),
            Some(Device { name, info, .. }) => {
                let is_carrier = self.on_carrier(id) == Some(info.id);
                let on =
                    if is_carrier { "of which it is a snapshot" } else { "on which it stands" };
                let what = "is suspended and holds its I/O: resume that one first";
                Err(format!("/dev/ublkb{id}: {name}, {on}, {what}").into())
            }
        }
    }
}

impl<M: Machine> Administrator<M> {
    /// The device of this server that carries the origin at a path, or is to carry it; `again`:
    /// what the disks of an existing device were.
    pub(super) fn carrier_at(
        &self,
        path: &str,
        again: Option<&KnownDisks>,
    ) -> Result<Option<DeviceRef>, Reason> {
        if let Some(known) = again {
            return Ok(known.get(path).and_then(|known| known.device));
        }
        let Some(DiskId::Block { major, minor }) = self.machine.disk_at(path) else {
            return Ok(None);
        };
        let own = self.devices.values().find(|entry| entry.number == Some((major, minor)));
        let Some(entry) = own.filter(|entry| entry.spec.table.params.can_carry_origin()) else {
            return Ok(None);
        };
        self.refuse_to_carry(entry).map_err(|why| why.context(path))?;
        Ok(Some(DeviceRef { id: entry.info.id, cookie: entry.info.target_flags }))
    }

    /// Why a device cannot carry an origin now.
    fn refuse_to_carry(&self, entry: &Device) -> Result<(), Reason> {
        let (id, name) = (entry.info.id, &entry.name);
        self.refuse_unfinished(id)?;
        let why = if entry.suspended || entry.waits {
            format!("{name} is suspended: resume it first")
        } else if entry.loaded.is_some() {
            format!("{name} has a table loaded: resume it first")
        } else if entry.read_only {
            format!("{name} is read-only: make a snapshot of its disk")
        } else if let Some(upper) = self.joined_by(id, &[]) {
            format!("{upper} stands on {name}")
        } else {
            return Ok(());
        };
        Err(why.into())
    }

    /// Refuses a merge into the origin that a device carries which has users of its own: the merge
    /// writes past them. As long as it lasts the device's node is read-only.
    pub(super) fn refuse_used_carrier(&self, carrier: Option<DeviceRef>) -> Result<(), Reason> {
        let Some(DeviceRef { id, .. }) = carrier else { return Ok(()) };
        if mutant::is(Mutant::MergedUnderUsers) {
            return Ok(());
        }
        let hint = "a merge goes on below its users: use the origin's device instead";
        self.machine.not_open(id).map_err(|why| why.without_end().ending(format!("; {hint}")))
    }

    /// Refuses a deleted snapshot of another device. A device that was deleted and made again is
    /// another one: nothing tells whether what is below it has changed meanwhile.
    pub(super) fn refuse_store_of_another(
        &self,
        path: &str,
        cow: &Cow,
        spec: &DeviceSpec,
        origin: &KnownDisk,
    ) -> Result<(), Reason> {
        let is_taken = spec.other_origin || spec.force || mutant::is(Mutant::CarriedAgain);
        if origin.device.is_none() || is_taken {
            return Ok(());
        }
        match self.machine.records().left_another(cow, origin.number)? {
            false => Ok(()),
            true => Err(format!(
                "{path}: the snapshot on it was deleted, and was of another origin, or of a device \
                 that was deleted, too; only if it was of this one, and nothing has been written \
                 to what is below that since, `add snapshot --other-origin` takes it (in the \
                 tab file, the option other-origin)"
            )
            .into()),
        }
    }

    /// Has a device carry the family's origin. It is not opened and not claimed: whoever writes to
    /// it changes the origin.
    pub(super) fn claim_carried(
        &mut self,
        path: &str,
        carrier: DeviceRef,
        again: Option<&KnownDisks>,
    ) -> Result<Origin, Reason> {
        if self.completes {
            return self.claim_stand_in(path, again);
        }
        let DeviceRef { id, cookie } = carrier;
        if self.ours(id, cookie)?.is_none() && !mutant::is(Mutant::CarrierByNumber) {
            return Err(replaced(id));
        }
        let (disk, known) = self.machine.node(id).ok_or_else(|| no_device(id))?;
        let known = KnownDisk { device: Some(carrier), ..known };
        let limits = as_disk(&self.machine.params(id)?);
        self.carry(id, disk, &known, path)?;
        let origin = Origin { disk, limits, read_only: false, shared: false, known };
        self.origins.set(origin.clone());
        Ok(origin)
    }

    /// Has a device carry an origin that knows the snapshots which have left it.
    fn carry(
        &mut self,
        id: u32,
        disk: DiskId,
        known: &KnownDisk,
        path: &str,
    ) -> Result<(), Reason> {
        let departures = self.departures_of(known)?;
        let (key, path) = (disk.key(), path.to_owned());
        let errand = Errand { id: None, verb: "add", keeps_server: false };
        let job = move |thread: Rc<M::Thread>| async move {
            thread.group().carry(id, key, &path).await.map(drop)
        };
        self.wait_for(errand, job, |_, _| {})??;
        self.restore_departures_of(disk, departures)
    }

    fn departures_of(&self, known: &KnownDisk) -> Result<Vec<Departure>, Reason> {
        self.machine.records().departures(known, &[])
    }

    /// Has a device that is about to be started again carry its origin if a snapshot has left that
    /// or was left out: the loss is recorded with the next change by the device's users.
    pub(super) fn carry_again(&mut self, device: &DeviceState) -> Result<(), Reason> {
        if !device.spec.table.params.can_carry_origin() || mutant::is(Mutant::NotCarriedAgain) {
            return Ok(());
        }
        let Some((_, known)) = self.machine.node(device.id) else { return Ok(()) };
        let is_open = self.origins.of(Some(device.device())).is_some();
        if is_open || self.departures_of(&known)?.is_empty() {
            return Ok(());
        }
        let path = format!("{BLOCK_PATH}{}", device.id);
        self.claim_carried(&path, device.device(), None).map(drop)
    }

    /// Records as lost what has left the origin that a device carries, before the device gets
    /// another table: what that one shows is not what the snapshots were taken of. After an error
    /// the table stays loaded.
    pub(super) fn lose_departed(&mut self, id: u32, table: &DeviceSpec) -> Result<(), Reason> {
        let lost = match mutant::is(Mutant::ReplacedUnnoticed) {
            true => Ok(()),
            false => self.lose_departed_of(id),
        };
        let Err(why) = lost else { return Ok(()) };
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.loaded = Some(table.clone());
        }
        Err(why.context(format!("/dev/ublkb{id}: the old table stays in place")))
    }

    /// Records as lost what has left the origin that a device carries: the device is about to show
    /// something else.
    pub(super) fn lose_departed_of(&self, id: u32) -> Result<(), Reason> {
        let lost = self.machine.call(move |thread| async move {
            let carried = thread.group().device(id).and_then(|device| device.carried());
            carried.is_none_or(|origin| origin.lose_departed().is_ok())
        })?;
        match lost {
            true => Ok(()),
            false => Err("it cannot be recorded that its deleted snapshots are lost".into()),
        }
    }

    /// Has devices carry no origin any more that has no snapshot here, and none that has left it.
    pub(super) fn put_down_unused(&mut self) {
        if mutant::is(Mutant::CarriesForNone) {
            return;
        }
        let open = self.origins.carried().filter_map(|origin| origin.known.device);
        let unused =
            open.map(|carrier| carrier.id).filter(|id| self.carried_by(*id, &[]).is_none());
        for id in unused.collect::<Vec<u32>>() {
            let put_down = self.machine.call(move |thread: Rc<M::Thread>| async move {
                thread.group().put_down_unused(id)
            });
            match put_down {
                Ok(true) => self.origins.end(id),
                Ok(false) => {}
                Err(why) => log::error!("{why}"),
            }
        }
    }

    /// An origin for a snapshot that is only completed, of which nothing is read: the device that
    /// carried it has no server here.
    fn claim_stand_in(&mut self, path: &str, again: Option<&KnownDisks>) -> Result<Origin, Reason> {
        let disk = DiskId::Block { major: 0, minor: 0 };
        let opened = self.machine.call(move |thread| async move {
            let zeroes = thread.zeroes()?;
            drop(thread.group().origin_or(disk.key(), || zeroes));
            Ok::<_, Reason>(())
        });
        opened??;
        let known = again.and_then(|known| known.get(path)).cloned().unwrap_or_default();
        let limits = Limits::NO_DISK;
        let origin = Origin { disk, limits, read_only: false, shared: false, known };
        self.origins.set(origin.clone());
        Ok(origin)
    }

    /// Holds back what changes the origin through a device: the users of one that carries it, whose
    /// snapshots continue.
    pub(super) fn hold_writer(&mut self, id: u32) -> Result<Result<(), Reason>, Reason> {
        if !self.is_carrier(id) {
            return self.hold(id, false, "recover");
        }
        let job = move |thread: Rc<M::Thread>| async move {
            if let Some(device) = thread.group().device(id) {
                device.hold_users().await;
            }
        };
        let then = move |admin: &mut Administrator<M>, ()| drop(admin.release_writer(id));
        let held = self.wait_for(Errand::on(id, "recover"), job, then);
        held.map(Ok).inspect_err(|_| drop(self.release_writer(id)))
    }

    /// Ends [`Administrator::hold_writer`].
    pub(super) fn release_writer(&mut self, id: u32) -> Result<(), Reason> {
        if !self.is_carrier(id) {
            return self.let_through(id, true, "recover");
        }
        self.let_users_in(id)
    }

    /// Refuses a waiting device whose origin is carried by one that was left out.
    pub(super) fn refuse_without_carrier(&self, device: &DeviceState) -> Result<(), Reason> {
        let Some(carrier) = device.carrier() else { return Ok(()) };
        let left = self.left_out.get(&carrier.id);
        match left.is_some_and(|left| left.device.device() == carrier) {
            true => Err(without_carrier(carrier, left)),
            false => Ok(()),
        }
    }

    /// Whether a snapshot is kept by a server that ends, because its origin will be written.
    pub(super) fn is_beside_carrier(&self, id: u32) -> bool {
        let carrier = self.on_carrier(id).filter(|carrier| self.devices.contains_key(carrier));
        let carrier = carrier.filter(|_| !mutant::is(Mutant::SnapshotBeforeOrigin));
        carrier.is_some_and(|carrier| self.refuse_used(carrier).is_err())
    }

    /// Refuses to end a device that is in use. One that carries an origin ends after its snapshots,
    /// so it must not turn out only then that a process has it open.
    pub(super) fn refuse_used(&self, id: u32) -> Result<(), Reason> {
        match self.is_carrier(id) && !mutant::is(Mutant::OpenCarrierUnseen) {
            true => self.machine.not_open(id),
            false => self.machine.not_in_use(id),
        }
    }
}

/// Why a device is left out whose origin is carried by one that has no server.
pub(super) fn without_carrier(carrier: DeviceRef, left: Option<&LeftOut>) -> Reason {
    let name =
        left.map_or_else(|| format!("/dev/ublkb{}", carrier.id), |it| it.device.name.clone());
    format!("it is a snapshot of {name}, which has no server: recover that one with it").into()
}
