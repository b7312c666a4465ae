//! The targets and devices of one process: origins with their snapshots, a mirror, or the linear
//! devices of a disk. Everything that they share is here, and is used by one thread.
//!
//! Rules kept here: a snapshot joins its origin after its store has been written, and leaves it
//! before its target is closed; one that leaves while its origin continues to change is marked
//! invalid first (I9). An origin that a device carries stays as long as the device, so that it
//! knows the snapshots that have left it (I9), and has the copy client of its height: its copies
//! may wait for those of the device.

mod joins;
mod stacks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use crate::copy;
use crate::device::{Device, OpenTarget};
use crate::disk::shared::SharedDisks;
use crate::disk::{Disk, DiskKey, Host};
use crate::exec::Executor;
use crate::mirror::target::Mirror;
use crate::mutant::{self, Mutant};
use crate::origins::Origins;
use crate::snapshot::merge::Merge;
use crate::snapshot::origin::Origin;
use crate::snapshot::store::Unmade;
use crate::snapshot::target::Snapshot;
use crate::stack;
use crate::target::Target;
use crate::units::Sectors;

/// What is lost with a target.
type Closed = Result<(), String>;

/// The targets and devices of a process.
pub struct Group {
    /// Runs their tasks.
    pub executor: Executor,
    /// Lends memory and time.
    pub host: Rc<dyn Host>,
    /// Copies their chunks and regions.
    pub copy: copy::Client,
    /// The disks that devices made of ranges have in common.
    pub shared_disks: SharedDisks<DiskKey>,
    origins: Origins,
    /// Copy the chunks of origins that devices carry, one for each height of these devices; made
    /// with the first of it.
    upper: RefCell<Vec<copy::Client>>,
    /// The operations of those origins.
    stacks: RefCell<Vec<stack::Watch>>,
    /// Targets that have no device, kept by their callers.
    held: RefCell<Vec<Weak<OpenTarget>>>,
    devices: RefCell<BTreeMap<u32, Rc<Device>>>,
}

impl Group {
    /// A group without devices.
    pub fn new(executor: Executor, host: Rc<dyn Host>, copy: copy::Client) -> Group {
        let (held, devices) = (RefCell::default(), RefCell::default());
        let (origins, shared_disks) = (Origins::default(), SharedDisks::default());
        let (upper, stacks) = (RefCell::default(), RefCell::default());
        Group { executor, host, copy, shared_disks, origins, upper, stacks, held, devices }
    }

    /// The origin of a disk, if a target needs it.
    pub fn origin(&self, key: DiskKey) -> Option<Rc<Origin>> {
        self.origins.get(key)
    }

    /// The origin of a disk, opened if there is none. It is removed when a target has ended and
    /// none needs it.
    pub fn origin_or(&self, key: DiskKey, open: impl FnOnce() -> Disk) -> Rc<Origin> {
        self.origins.get_or(key, || Origin::new(open(), self.copy.clone()))
    }

    /// Whether a disk has been changed by way of its origin, or by an earlier table of a device
    /// that is still there.
    pub fn is_origin_changed(&self, key: DiskKey) -> bool {
        let now = self.origins.get(key).is_some_and(|origin| origin.is_changed());
        now || self.devices.borrow().values().any(|device| device.has_changed(key))
    }

    /// Counts an opened target without a device among those that need their origin, for as long as
    /// the caller keeps it.
    pub fn hold(&self, opened: OpenTarget) -> Rc<OpenTarget> {
        let opened = Rc::new(opened);
        let mut held = self.held.borrow_mut();
        held.retain(|one| one.strong_count() > 0);
        held.push(Rc::downgrade(&opened));
        opened
    }

    /// Removes origins that no target needs any more.
    pub fn forget_unused_origins(&self) {
        let held = self.held.borrow();
        let held = held.iter().filter_map(Weak::upgrade).map(|opened| opened.target.clone());
        let devices = self.devices.borrow();
        let served = devices.values().map(|device| device.target());
        let carried = devices.values().filter_map(|device| device.carried()).map(Target::Origin);
        let served = served.chain(carried);
        self.origins.forget_unused(&held.chain(served).collect::<Vec<_>>());
    }

    /// Restores what the new store of a target has overwritten that has no device, or no longer has
    /// one, and closes the target.
    ///
    /// # Errors
    /// It cannot be restored.
    pub async fn unmake(&self, opened: OpenTarget) -> Result<Unmade, String> {
        let unmade = match &opened.target {
            Target::Snapshot(snapshot) => {
                let unmade = snapshot.store().unmake().await.map_err(|error| error.to_string())?;
                if unmade.is_gone() {
                    self.origins.forget_departed(snapshot);
                }
                unmade
            }
            _ => Unmade::NotNew,
        };
        drop(opened);
        self.forget_unused_origins();
        Ok(unmade)
    }

    /// What the user of a new snapshot must know of it if it shows a mixture: see
    /// [`Origin::mixture`].
    pub fn mixture(&self, snapshot: &Snapshot) -> Option<String> {
        self.origins.of(snapshot)?.mixture(snapshot)
    }

    /// A device.
    pub fn device(&self, id: u32) -> Option<Rc<Device>> {
        self.devices.borrow().get(&id).cloned()
    }

    /// The mirror that a device has as its target.
    ///
    /// # Errors
    /// There is no such device, or it has another target.
    pub fn mirror(&self, id: u32) -> Result<Rc<Mirror>, String> {
        match self.device(id).map(|device| device.target()) {
            Some(Target::Mirror(mirror)) => Ok(mirror),
            Some(_) => Err(format!("/dev/ublkb{id}: only a mirror takes messages")),
            None => Err(format!("/dev/ublkb{id}: no such device; see `ublk-dm list`")),
        }
    }

    /// The merge that a device has as its target, if it has one.
    pub fn merge(&self, id: u32) -> Option<Rc<Merge>> {
        match self.device(id)?.target() {
            Target::Merge(merge) => Some(merge),
            _ => None,
        }
    }

    /// All devices, by id.
    pub fn devices(&self) -> BTreeMap<u32, Rc<Device>> {
        self.devices.borrow().clone()
    }

    /// Makes an opened target usable and gives it a device; `serve` serves the device's queues. A
    /// snapshot joins its origin last.
    ///
    /// # Errors
    /// The target cannot be used, or its queues cannot be served. The target has been closed then.
    pub async fn add(
        &self,
        id: u32,
        opened: OpenTarget,
        serve: impl FnOnce(Rc<Device>) -> Result<(), String>,
    ) -> Result<(), String> {
        let target = opened.target.clone();
        self.activate(id, &target).await?;
        let device = Rc::new(Device::new(opened));
        if let Err(why) = serve(device.clone()) {
            // No write has been acknowledged that could be lost.
            drop(target.close().await);
            return Err(format!("cannot serve the queues: {why}"));
        }
        if let Some(why) = self.refuse(id, &target) {
            drop(target.close().await);
            return Err(why);
        }
        // From here on the origin has a user.
        self.devices.borrow_mut().insert(id, device);
        let joined = self.join(&target).await;
        if joined.is_err() {
            self.devices.borrow_mut().remove(&id);
            drop(target.close().await);
            self.forget_unused_origins();
        }
        joined
    }

    /// Why a target cannot be used beside the other devices.
    ///
    /// A snapshot: a device that has ended while it was opened may have been its origin's last
    /// user, and no write would be preserved for it (I5). An origin and a merge into it: a write of
    /// the one would not reach what the other one shows.
    fn refuse(&self, id: u32, target: &Target) -> Option<String> {
        let others = self.devices.borrow();
        let others = others.iter().filter(|(other, _)| **other != id);
        let mut others = others.map(|(other, device)| (*other, device.target()));
        let other = match target {
            Target::Snapshot(snapshot) => {
                return match self.origins.of(snapshot) {
                    None if mutant::is(Mutant::ServedWithoutOrigin) => None,
                    Some(_) => None,
                    None => Some("its origin was closed in the meantime: try again".to_owned()),
                };
            }
            Target::Origin(origin) => others.find(|(_, other)| {
                matches!(other, Target::Merge(merge) if Rc::ptr_eq(merge.origin(), origin))
            }),
            Target::Merge(merge) => others.find(|(_, other)| {
                matches!(other, Target::Origin(origin) if Rc::ptr_eq(merge.origin(), origin))
            }),
            Target::Mirror(_)
            | Target::Linear(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => None,
        };
        let (other, _) = other.filter(|_| !mutant::is(Mutant::MergeBesideOrigin))?;
        Some(format!("/dev/ublkb{other} is the origin's device: an origin has one device only"))
    }

    /// Makes a target usable beside the other devices.
    async fn activate(&self, id: u32, target: &Target) -> Result<(), String> {
        self.refuse(id, target).map_or(Ok(()), Err)?;
        target.activate(&self.executor).await
    }

    /// Closes the target of a suspended device; none replaces it until [`Group::put_target`]. An
    /// origin outlives its device's target: its snapshots stay, and with them the origin, for the
    /// next target of that disk.
    ///
    /// # Errors
    /// What is lost with it.
    pub async fn take_target(&self, id: u32) -> Result<(), String> {
        let Some(device) = self.device(id) else { return Ok(()) };
        self.leave(&device.target(), false).await;
        let taken = device.take_target().await;
        self.forget_unused_origins();
        taken
    }

    /// Gives a suspended device a target that has been opened. A snapshot joins its origin last,
    /// and counts among those that need it until then (I5).
    ///
    /// # Errors
    /// The target cannot be used.
    pub async fn put_target(&self, id: u32, opened: OpenTarget) -> Result<(), String> {
        let device = self.device(id).ok_or("the device is gone")?;
        let held = self.hold(opened);
        let begun = self.begin(id, &held.target).await;
        if begun.is_ok() {
            device.put_target(OpenTarget::clone(&held));
        }
        drop(held);
        self.forget_unused_origins();
        begun
    }

    /// Puts a target that has been opened in the place of a suspended device's, and closes that
    /// one; until the new one can be used, the old one stays. A snapshot leaves its origin in
    /// between; `outlived`: as in [`Group::remove`]. Returns what is lost with the old one, and
    /// whether it was a snapshot whose COW says that it is invalid.
    ///
    /// # Errors
    /// The new target cannot be used: the device is as it was.
    pub async fn exchange_target(
        &self,
        id: u32,
        opened: OpenTarget,
        outlived: bool,
    ) -> Result<(Closed, bool), String> {
        let device = self.device(id).ok_or("the device is gone")?;
        let held = self.hold(opened);
        let begun = self.begin(id, &held.target).await;
        let old = device.target();
        let mut closed = Ok(());
        if begun.is_ok() {
            self.remember_exchange(&device, &old);
            self.leave(&old, outlived).await;
            closed = device.take_target().await;
            device.put_target(OpenTarget::clone(&held));
        }
        drop(held);
        self.forget_unused_origins();
        let is_lost = |one: &Snapshot| outlived && one.loss_when_left().is_none();
        let marked = matches!(&old, Target::Snapshot(snapshot) if is_lost(snapshot));
        begun.map(|()| (closed, marked))
    }

    /// A device gets a table of another kind, or of other ranges: what its users have changed stays
    /// known for as long as it is there.
    fn remember_exchange(&self, device: &Device, old: &Target) {
        match old {
            // There was nothing to change: what is written to zeroes is on no disk.
            Target::Zero(_) if mutant::is(Mutant::ZeroesHaveData) => device.set_exchanged(),
            Target::Error(_) | Target::Zero(_) | Target::Nothing => {}
            Target::Origin(origin) => {
                // What an earlier server has written the origin does not know.
                if device.was_in_use() || origin.is_changed() {
                    device.set_changed(self.origins.key_of(origin));
                }
            }
            _ => device.set_exchanged(),
        }
    }

    /// Gives a device another length, which [`Target::check_size`] has not refused and which is on
    /// record. No user sees more than the shorter of the two before this has ended.
    ///
    /// # Errors
    /// It keeps its length.
    pub async fn set_size(&self, id: u32, len: Sectors) -> Result<(), String> {
        let device = self.device(id).ok_or("the device is gone")?;
        match device.target() {
            Target::Snapshot(snapshot) if snapshot.len() == len => {}
            Target::Snapshot(snapshot) => {
                let origin = self.origins.of(&snapshot).ok_or("its origin is closed")?;
                origin.resize(&snapshot, len).await?;
            }
            Target::Linear(linear) => linear.set_size(len),
            // It has grown before that was on record, and has to be cut if that was in vain.
            Target::Mirror(mirror) => {
                mirror.shrink_back(len).await.map_err(|error| error.to_string())?;
            }
            // It is as long as its disk.
            Target::Origin(_) => {}
            Target::Merge(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => return Err("it cannot have another length".to_owned()),
        }
        if let Some(origin) = device.carried() {
            origin.disk().refresh_size();
        }
        Ok(())
    }

    /// Closes a device's target. Its requests have ended. With `outlived` the origin's device stays
    /// and is in use: a snapshot is marked invalid while it still holds back the origin's writes.
    ///
    /// # Errors
    /// What is lost with it.
    pub async fn remove(&self, id: u32, outlived: bool) -> Result<(), String> {
        let removed = self.devices.borrow_mut().remove(&id);
        let Some(device) = removed else { return Ok(()) };
        let target = device.target();
        self.leave(&target, outlived).await;
        let closed = target.close().await;
        if let Some(origin) = device.put_down() {
            let key = self.origins.key_of(&origin);
            self.origins.end(origin);
            // Its number may be another device's.
            self.devices.borrow().values().for_each(|other| other.forget_changed(key));
        }
        self.forget_unused_origins();
        closed
    }
}

/// A device and the origin that it carries have each other.
impl Drop for Group {
    fn drop(&mut self) {
        self.devices.borrow().values().for_each(|device| drop(device.put_down()));
    }
}
