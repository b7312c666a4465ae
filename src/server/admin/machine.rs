//! The machine through which the administrator of a family acts: the control plane of ublk, disks,
//! the run directory, and the thread that has the targets. The real machine has all of these; a
//! simulated one loses power.
//!
//! No decisions are made here: the administrator decides what may be done when.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

use dm_targets::mirror::format::HEADER_BYTES;
use dm_targets::snapshot::format::{Identity, StoreId};
use dm_targets::snapshot::journal::Journal;
use dm_targets::units::{Sector, Sectors};

use super::held::Held;
pub use super::outcome::{Late, Removed, Waited};
pub use super::records::{Losses, Records};
pub use super::thread::{Thread, ThreadHandle};
use crate::failure::Reason;
use crate::protocol::{Cow, DeviceOptions, DeviceRef, KnownDisk, Part, Place, Which};
use crate::storage::signature::Signature;
use crate::storage::{Access, Claim, DiskId, Ground, Limits, OpenError, OpenErrorKind};
use crate::ublk::{DeviceInfo, Params};

/// An open disk that no target uses yet.
pub trait OpenDisk: Send + 'static {
    /// Which disk it is.
    fn id(&self) -> DiskId;
    /// The path by which it was opened.
    fn path(&self) -> String;
    /// Its size.
    fn size(&self) -> Sectors;
    /// Its limits.
    fn limits(&self) -> &Limits;
    /// The device of this server that it is, if it is one.
    fn own(&self) -> Option<DeviceRef> {
        None
    }
    /// Whether it was opened for reading only.
    fn is_read_only(&self) -> bool;
    /// A number that no other disk has had at its place in this boot; zero if there is none.
    fn number_in_boot(&self) -> u64;
    /// The name by which it is recognized after its number and path have changed; empty if it has
    /// none.
    fn name(&self) -> String;
    /// Where its bytes are, whatever path or device leads to them.
    fn place(&self) -> Place;
    /// Its name in the records of mirrors; its path if there is no better name.
    fn lasting_name(&self) -> String;
    /// Its name there in earlier versions.
    fn former_name(&self) -> String;
    /// Its content, if that is recognized.
    ///
    /// # Errors
    /// It cannot be read.
    fn content(&self) -> Result<Option<Signature>, Reason>;
    /// The content of a range of it, as if the range were a disk of its own.
    ///
    /// # Errors
    /// It cannot be read.
    fn content_of(&self, start: Sector, len: Sectors) -> Result<Option<Signature>, Reason>;
    /// The ranges in bytes that its partition table assigns, with the table itself; `None` if it
    /// has no table that can be understood.
    ///
    /// # Errors
    /// It cannot be read.
    fn partitions(&self) -> Result<Option<Vec<Range<u64>>>, Reason>;
    /// The header of the mirror log on it, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    fn mirror_log(&self) -> Result<Option<Box<[u8; HEADER_BYTES]>>, Reason>;
    /// The snapshot store on it, if there is one, with the identity that a store of ours has.
    ///
    /// # Errors
    /// It cannot be read.
    fn store(&self) -> Result<Option<Option<Identity>>, Reason>;
    /// All that this COW is recognized by, with this store on it and for an origin with that name.
    fn as_cow(&self, store: Which, origin: &str) -> Cow;
    /// Whether its first sector is zero.
    ///
    /// # Errors
    /// It cannot be read.
    fn starts_with_zeroes(&self) -> Result<bool, Reason>;
}

/// The machine of one family.
pub trait Machine: 'static {
    /// An open disk.
    type Open: OpenDisk;
    /// The thread that has the targets.
    type Thread: Thread<Open = Self::Open>;
    /// How that thread is reached.
    type Handle: ThreadHandle<Thread = Self::Thread>;
    /// The run directory.
    type Records: Records;
    /// The journal of a snapshot's COW.
    type Journal: Journal + Send + 'static;

    /// Another machine of the same family, without open disks.
    ///
    /// # Errors
    /// It cannot be started.
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

    /// How the thread that has the targets is reached.
    fn handle(&self) -> Self::Handle;

    /// Runs a job on the thread that has the targets, and waits for its result.
    ///
    /// # Errors
    /// The thread has died.
    fn call<T, F>(
        &self,
        job: impl FnOnce(Rc<Self::Thread>) -> F + Send + 'static,
    ) -> Result<T, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.handle().call(job)
    }

    /// The same for a job that waits for disks, but stops waiting if a disk is silent for too long.
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

    /// What the thread that has the targets calls when the administrator has something to do that
    /// no command asks for ([`end_merges`](super::Administrator::end_merges)).
    fn waker(&self) -> Box<dyn Fn() + Send>;

    /// The kernel's info about a device number; `None`: there is no such device.
    ///
    /// # Errors
    /// The kernel does not say.
    fn info(&mut self, id: u32) -> Result<Option<DeviceInfo>, Reason>;
    /// Makes the kernel add a device with a new cookie.
    ///
    /// # Errors
    /// The kernel refuses; nothing is left.
    fn add(
        &mut self,
        id: Option<u32>,
        options: &DeviceOptions,
        params: &Params,
        zero_copy: bool,
    ) -> Result<DeviceInfo, Reason>;
    /// Serves a device's queues with an opened target, and activates the target. With `again` its
    /// users wait until they are let in. The inner error is
    /// [`Group::add`](dm_targets::group::Group::add)'s.
    ///
    /// # Errors
    /// The character device cannot be opened, or the thread has died.
    fn serve(
        &self,
        info: &DeviceInfo,
        name: &str,
        target: &Held<Self::Handle>,
        again: bool,
    ) -> Result<Waited<Result<(), Reason>>, Reason>;
    /// Makes a device live whose queues are served; `again`: it was live before.
    ///
    /// # Errors
    /// The kernel refuses.
    fn start(&mut self, id: u32, again: bool) -> Result<(), Reason>;
    /// Stops a device even if it is in use.
    ///
    /// # Errors
    /// The kernel refuses.
    fn stop(&mut self, id: u32) -> Result<(), Reason>;
    /// Stops a device that is not in use. `false`: this kernel cannot ask, and the device has not
    /// been stopped.
    ///
    /// # Errors
    /// It is in use, or its use cannot be determined.
    fn try_stop(&mut self, id: u32) -> Result<bool, Reason>;
    /// Deletes a stopped device.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete(&mut self, id: u32) -> Result<(), Reason>;
    /// Stops and deletes a device whose server has died. The dead server's outstanding I/O is
    /// waited for up to a limit.
    ///
    /// # Errors
    /// The kernel refuses, or takes longer than the limit.
    fn delete_orphan(&mut self, id: u32, cookie: u64) -> Result<(), Reason>;
    /// Claims a device whose server has died.
    ///
    /// # Errors
    /// The kernel refuses.
    fn start_recovery(&mut self, id: u32) -> Result<(), Reason>;
    /// Refuses a device that is in use.
    ///
    /// # Errors
    /// It is in use, or its use cannot be determined.
    fn not_in_use(&self, id: u32) -> Result<(), Reason>;
    /// The same for a device that a process has open.
    ///
    /// # Errors
    /// It is, or that cannot be determined.
    fn not_open(&self, id: u32) -> Result<(), Reason>;
    /// The parameters that the kernel has for a device.
    ///
    /// # Errors
    /// The kernel does not say.
    fn params(&mut self, id: u32) -> Result<Params, Reason>;
    /// Tells whoever listens that something about a device has changed.
    fn announce(&self, _id: u32) {}
    /// Gives a started device another length, which its users see at once. The length that it has
    /// changes nothing, and is refused by a kernel that cannot resize.
    ///
    /// # Errors
    /// The kernel cannot resize, or refuses.
    fn resize(&mut self, id: u32, len: Sectors) -> Result<(), Reason>;
    /// The major and minor number of a device's disk in the kernel.
    fn number(&mut self, id: u32) -> Option<(u32, u32)>;
    /// Whether one more device can be served without copying its requests' pages.
    ///
    /// # Errors
    /// The thread has died.
    fn can_zero_copy(&self, options: &DeviceOptions) -> Result<bool, Reason>;
    /// Whether all tags of a device have ended.
    fn has_ended(&self, id: u32) -> bool;
    /// Waits until a stopped device's tags have ended, and closes its target.
    ///
    /// # Errors
    /// The thread has died.
    fn remove(&self, id: u32, outlived: bool) -> Result<Waited<Removed>, Reason>;

    /// The disk of a device in the kernel, and how it is recognized later. It is not opened.
    fn node(&self, id: u32) -> Option<(DiskId, KnownDisk)>;
    /// The disk that a path leads to, if there is one.
    fn disk_at(&self, path: &str) -> Option<DiskId>;
    /// Opens a disk.
    ///
    /// # Errors
    /// It cannot be opened with this access and claim; it is unchanged and unclaimed.
    fn open(&self, path: &str, access: Access, claim: Claim) -> Result<Self::Open, OpenError>;
    /// A served device of this server as a disk, at a path that leads to it. Nothing is opened.
    ///
    /// # Errors
    /// The kernel does not say what it can do, or it has no target.
    fn open_own(&self, device: DeviceRef, path: &str) -> Result<Self::Open, OpenError>;
    /// Makes the node of a device read-only, or writable, for all who open it.
    ///
    /// # Errors
    /// The kernel refuses.
    fn protect(&self, device: DeviceRef, read_only: bool) -> Result<(), Reason>;
    /// The disks, all probed at once, that do not answer within a limit. This process opens none of
    /// them.
    fn silent(&self, disks: &BTreeSet<String>) -> BTreeSet<String>;
    /// Why a disk must not be used: a device of another family uses it or a part of it, and has
    /// another name for it, no server, or no claim. `parts`: what is wanted of it without a claim.
    fn claimed(
        &self,
        id: DiskId,
        disk: &KnownDisk,
        parts: Option<&[Part]>,
    ) -> Option<OpenErrorKind>;
    /// Whether a disk is gone when its last user closes it.
    fn ends_when_closed(&self, disk: DiskId) -> bool;
    /// A new, unique store id.
    ///
    /// # Errors
    /// No id can be generated.
    fn new_store_id(&self) -> Result<StoreId, Reason>;
    /// The first of the disks that stands on one of the family's own devices, or on another of the
    /// disks.
    fn circle(&self, words: &[&str], own: &BTreeSet<u32>) -> Option<(usize, Ground)>;

    /// The journal of a COW. `None`: it cannot be created, and writes wait for their commits.
    ///
    /// # Errors
    /// A dead server has left a journal that cannot be read, or that may belong to another COW.
    fn journal(&self, cow: &Self::Open, new: StoreId) -> Result<Option<Self::Journal>, Reason>;
    /// Removes the journal of the store on a COW: the store is invalid.
    ///
    /// # Errors
    /// The journal stays.
    fn discard_journal(&self, cow: &str) -> Result<(), Reason>;
    /// Whether a dead server has left entries in the journal of a COW. Touches no disk if there are
    /// no journal entries at all.
    ///
    /// # Errors
    /// Whether there are entries cannot be determined.
    fn is_journal_left(&self, cow: &str) -> Result<bool, Reason>;
}
