//! What the administrator of a family acts through: the control plane of ublk, disks, the run
//! directory, and the thread that has the targets. A real machine has them all; a simulated one
//! loses power.
//!
//! Nothing here decides anything: what may be done when is the administrator's business.

use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;

use dm_targets::disk::Disk;
use dm_targets::group::{Group, Ticket};
use dm_targets::mirror::leg_state::LegState;
use dm_targets::snapshot::format::{Identity, StoreId};
use dm_targets::snapshot::journal::Notes;
use dm_targets::snapshot::losses::LossRecord;
use dm_targets::units::Sectors;

use crate::failure::Reason;
use crate::protocol::{Cow, DeviceOptions, DeviceState, KnownDisk, Place, Which};
use crate::rundir::departed::Departure;
use crate::storage::signature::Signature;
use crate::storage::{Access, Claim, DiskId, Ground, Limits, OpenError, OpenErrorKind};
use crate::ublk::{DeviceInfo, Params};

/// A disk that is open, and not yet a target's.
pub trait OpenDisk: Send + 'static {
    /// Which disk it is.
    fn id(&self) -> DiskId;
    /// The path by which it was opened.
    fn path(&self) -> String;
    /// Its size.
    fn size(&self) -> Sectors;
    /// What it can do.
    fn limits(&self) -> &Limits;
    /// Whether it was opened for reading only.
    fn is_read_only(&self) -> bool;
    /// A number that no other disk has had at its place in this boot; zero if there is none.
    fn number_in_boot(&self) -> u64;
    /// Where its bytes are, whatever leads to them.
    fn place(&self) -> Place;
    /// What it is called in the records of mirrors; its path if nothing better is known.
    fn lasting_name(&self) -> String;
    /// What earlier versions called it there.
    fn former_name(&self) -> String;
    /// What it holds, if that is something known.
    ///
    /// # Errors
    /// It cannot be read.
    fn content(&self) -> Result<Option<Signature>, Reason>;
    /// The snapshot store on it, if there is one, with the identity that a store of ours has.
    ///
    /// # Errors
    /// It cannot be read.
    fn store(&self) -> Result<Option<Option<Identity>>, Reason>;
    /// All that this COW is known again by, with that store on it and for an origin with that name.
    fn as_cow(&self, store: Which, origin: &str) -> Cow;
    /// Whether its first sector is zero.
    ///
    /// # Errors
    /// It cannot be read.
    fn starts_with_zeroes(&self) -> Result<bool, Reason>;
}

/// The record of a COW whose store is lost.
pub trait Losses: LossRecord + Send + 'static {
    /// Why the store is lost, if it is.
    ///
    /// # Errors
    /// It cannot be known.
    fn found(&self) -> Result<Option<String>, Reason>;
    /// Forgets what was lost on the COW's disk and has gone from it. `here`: the store is there
    /// already.
    fn tidy(&self, here: bool);
    /// Forgets this store's loss: it says itself that it is invalid.
    fn forget(&self);
}

/// The run directory, as a family sees it. Copies see the same.
pub trait Records: Clone + Send + 'static {
    /// Held while a name is looked for and taken.
    type Lock;
    /// See [`Losses`].
    type Losses: Losses;

    /// Replaces the state file, durably.
    ///
    /// # Errors
    /// Why not, with the file's path; the file is as it was, or the error says that it is replaced
    /// and may not outlive a loss of power, which no device does either.
    fn write_state(&self, devices: Vec<DeviceState>) -> Result<(), Reason>;
    /// Takes the directory's lock.
    ///
    /// # Errors
    /// Another command has held it for too long.
    fn lock(&self) -> Result<Self::Lock, Reason>;
    /// The names of all devices of other families, and of those that are being added there.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn names_beside(&self) -> Result<Vec<String>, Reason>;
    /// What is on record of a mirror's legs.
    ///
    /// # Errors
    /// There is none that can be used.
    fn legs(&self) -> Result<LegState, String>;
    /// Puts the state of a mirror's legs on record, durably.
    ///
    /// # Errors
    /// It cannot be written.
    fn write_legs(&self, state: &LegState) -> Result<(), String>;
    /// The snapshots that are noted to have left an origin, known by its name and its number in
    /// this boot.
    ///
    /// # Errors
    /// That cannot be known.
    fn departures(&self, origin: &str, number: u64) -> Result<Vec<Departure>, Reason>;
    /// Notes, durably, that a snapshot has left its origin. Recording a loss of the COW ends that.
    ///
    /// # Errors
    /// It cannot be noted.
    fn note_departure(&self, departure: &Departure) -> Result<(), Reason>;
    /// Forgets that a snapshot on a COW has left: there is one again.
    ///
    /// # Errors
    /// It stays noted.
    fn forget_departure(&self, cow: &Cow) -> Result<(), Reason>;
    /// The record of a COW that may be lost.
    fn losses(&self, cow: Cow) -> Self::Losses;
}

/// The thread that has the targets, seen from a job on it.
pub trait Thread: 'static {
    /// See [`Machine::Open`].
    type Open: OpenDisk;

    /// Targets and devices.
    fn group(&self) -> &Group;
    /// Makes an open disk one that targets use.
    fn disk(&self, open: Self::Open) -> Disk;
}

/// What serving a device's queues has come to.
pub type Served = Result<(), Reason>;

/// The result of a job that is waited for no longer; `None` until the job has ended.
pub type Late<T> = Box<dyn FnMut() -> Option<T>>;

/// What has become of a job that was waited for while disks answer.
pub enum Waited<T> {
    /// It has ended.
    Done(T),
    /// This disk does not answer. The job goes on by itself.
    Silent(String, Late<T>),
}

/// The machine of one family.
pub trait Machine: 'static {
    /// An open disk.
    type Open: OpenDisk;
    /// The thread that has the targets.
    type Thread: Thread<Open = Self::Open>;
    /// The run directory.
    type Records: Records;
    /// The journal of a snapshot's COW.
    type Notes: Notes + Send + 'static;

    /// Another one of the same family, on which nothing is open.
    ///
    /// # Errors
    /// It cannot be had.
    fn beside(&self) -> Result<Self, Reason>
    where
        Self: Sized;
    /// Ends the thread that has the targets, which closes its disks. Its devices must be gone.
    ///
    /// # Errors
    /// It has panicked.
    fn end(&mut self) -> Result<(), Reason>;

    /// The run directory.
    fn records(&self) -> &Self::Records;

    /// Runs a job on the thread that has the targets, and waits for what it comes to.
    ///
    /// # Errors
    /// The thread has died.
    fn call<T, F>(
        &self,
        job: impl FnOnce(Rc<Self::Thread>) -> F + Send + 'static,
    ) -> Result<T, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static;

    /// The same for a job that waits for disks: one that is silent for longer than disks may be is
    /// not waited for.
    ///
    /// # Errors
    /// The thread has died.
    fn call_while_answered<T, F>(
        &self,
        job: impl FnOnce(Rc<Self::Thread>) -> F + Send + 'static,
    ) -> Result<Waited<T>, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static;

    /// What the kernel knows of a number; `None`: there is no such device.
    ///
    /// # Errors
    /// The kernel does not say.
    fn info(&mut self, id: u32) -> Result<Option<DeviceInfo>, Reason>;
    /// Has the kernel add a device with a new cookie.
    ///
    /// # Errors
    /// It does not; nothing is left.
    fn add(
        &mut self,
        id: Option<u32>,
        options: &DeviceOptions,
        params: &Params,
        zero_copy: bool,
    ) -> Result<DeviceInfo, Reason>;
    /// Serves a device's queues with an opened target, which is made usable. The inner error is
    /// [`Group::add`]'s.
    ///
    /// # Errors
    /// The character device cannot be opened, or the thread has died.
    fn serve(
        &self,
        info: &DeviceInfo,
        name: &str,
        ticket: Ticket,
    ) -> Result<Waited<Served>, Reason>;
    /// Makes a device live whose queues are served, for the first time or again.
    ///
    /// # Errors
    /// The kernel does not.
    fn start(&mut self, id: u32, again: bool) -> Result<(), Reason>;
    /// Stops a device, whoever uses it.
    ///
    /// # Errors
    /// The kernel does not.
    fn stop(&mut self, id: u32) -> Result<(), Reason>;
    /// Stops a device that is not in use. `false`: this kernel cannot ask, and the device has not
    /// been stopped.
    ///
    /// # Errors
    /// It is in use, or that cannot be known.
    fn try_stop(&mut self, id: u32) -> Result<bool, Reason>;
    /// Deletes a stopped device.
    ///
    /// # Errors
    /// The kernel does not.
    fn delete(&mut self, id: u32) -> Result<(), Reason>;
    /// Stops and deletes a device whose server has died. What that had under way is not waited for
    /// beyond a limit.
    ///
    /// # Errors
    /// The kernel does not, or not within the limit.
    fn delete_orphan(&mut self, id: u32, cookie: u64) -> Result<(), Reason>;
    /// Claims a device whose server has died.
    ///
    /// # Errors
    /// The kernel does not hand it over.
    fn start_recovery(&mut self, id: u32) -> Result<(), Reason>;
    /// Refuses a device that is in use.
    ///
    /// # Errors
    /// It is in use, or that cannot be known.
    fn not_in_use(&self, id: u32) -> Result<(), Reason>;
    /// The limits that the kernel holds for a device.
    ///
    /// # Errors
    /// The kernel does not say.
    fn params(&mut self, id: u32) -> Result<Params, Reason>;
    /// The disk's number, as the kernel holds it.
    fn number(&mut self, id: u32) -> Option<(u32, u32)>;
    /// Whether one more device can have its requests' pages used where they are.
    ///
    /// # Errors
    /// The thread has died.
    fn can_zero_copy(&self, options: &DeviceOptions) -> Result<bool, Reason>;
    /// Whether all tags of a device have ended.
    fn has_ended(&self, id: u32) -> bool;
    /// Waits until a stopped device's tags have ended, and takes its target apart. The inner error
    /// says what is lost.
    ///
    /// # Errors
    /// The thread has died.
    fn remove(&self, id: u32, outlived: bool) -> Result<Waited<Served>, Reason>;

    /// The disk that a path leads to, if there is one.
    fn disk_at(&self, path: &str) -> Option<DiskId>;
    /// Opens a disk.
    ///
    /// # Errors
    /// It cannot be opened so; it is unchanged and unclaimed.
    fn open(&self, path: &str, access: Access, claim: Claim) -> Result<Self::Open, OpenError>;
    /// Those of some disks, asked all at once, that do not answer within a limit. This process
    /// opens none of them.
    fn silent(&self, disks: &BTreeSet<String>) -> BTreeSet<String>;
    /// By what a disk is known again, whatever its number and path have become; empty if nothing
    /// lasts.
    fn disk_name(&self, id: DiskId, path: &str) -> String;
    /// Why a disk must not be taken: a device of another family is made of it, or of a part, and
    /// has another name for it or no server.
    fn claimed(&self, id: DiskId, disk: &KnownDisk) -> Option<OpenErrorKind>;
    /// An id that no store has had.
    ///
    /// # Errors
    /// There is none to be had.
    fn new_store_id(&self) -> Result<StoreId, Reason>;
    /// The first of some disks that stands on one of the family's own devices, or on another of the
    /// disks.
    fn circle(&self, words: &[&str], own: &BTreeSet<u32>) -> Option<(usize, Ground)>;

    /// The journal of a COW. `None`: there is no place for one, and writes wait for their records.
    ///
    /// # Errors
    /// A dead server has left one that cannot be read, or that may be another COW's.
    fn journal(&self, cow: &Self::Open, new: StoreId) -> Result<Option<Self::Notes>, Reason>;
    /// Removes what is noted for the store on a COW: it is invalid.
    ///
    /// # Errors
    /// It stays.
    fn discard_journal(&self, cow: &str) -> Result<(), Reason>;
    /// Whether a dead server has left something in the journal of a COW. Touches no disk if nothing
    /// is noted anywhere.
    ///
    /// # Errors
    /// It cannot be known.
    fn is_journal_left(&self, cow: &str) -> Result<bool, Reason>;
}
