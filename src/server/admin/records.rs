//! The run directory of the administrator's machine, as a family sees it.
//!
//! No decisions are made here: what must be on record, and when, the administrator knows.

use dm_targets::mirror::leg_state::LegState;
use dm_targets::snapshot::losses::LossRecord;

use crate::failure::Reason;
use crate::protocol::{Cow, DeviceState, KnownDisk, Part};
use crate::rundir::departed::Departure;
use crate::storage::DiskId;

/// The record of a COW whose store is lost.
pub trait Losses: LossRecord + Send + 'static {
    /// Why the store is lost, if it is. `again`: it has a device, whose server has ended.
    ///
    /// # Errors
    /// Whether the store is lost cannot be determined.
    fn found(&self, again: bool) -> Result<Option<String>, Reason>;
    /// Forgets lost stores that are no longer on the COW's disk. `here`: the store is there
    /// already.
    fn tidy(&self, here: bool);
    /// Forgets this store's loss: the store itself is marked invalid.
    fn forget(&self);
}

/// The run directory, as a family sees it. All clones refer to the same directory.
pub trait Records: Clone + Send + 'static {
    /// Held while a name is chosen.
    type Lock;
    /// See [`Losses`].
    type Losses: Losses;

    /// Replaces the state file, durably.
    ///
    /// # Errors
    /// The reason, with the file's path; the file is unchanged, or the error says that it is
    /// replaced and may not survive a loss of power, which no device survives either.
    fn write_state(&self, devices: Vec<DeviceState>) -> Result<(), Reason>;
    /// Whether the state file is there and can be read.
    fn has_state(&self) -> bool;
    /// Takes the directory's lock, and makes the directory if it is not there.
    ///
    /// # Errors
    /// Another command has held it for too long.
    fn lock(&self) -> Result<Self::Lock, Reason>;
    /// The names of all devices of other families, and of those that are being added there.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn names_beside(&self) -> Result<Vec<String>, Reason>;
    /// The devices of other families that are on record, whether the kernel has them or not.
    ///
    /// # Errors
    /// A state file cannot be read whose server is named after the disk `named`.
    fn devices_beside(&self, named: Option<DiskId>) -> Result<Vec<DeviceState>, Reason>;
    /// Refuses a device of this run directory that no file has on record.
    ///
    /// # Errors
    /// The disk is such a device, or that cannot be determined.
    fn refuse_unrecorded(&self, disk: DiskId) -> Result<(), Reason>;
    /// The recorded state of a mirror's legs.
    ///
    /// # Errors
    /// There is no usable record.
    fn legs(&self) -> Result<LegState, String>;
    /// Records the state of a mirror's legs durably.
    ///
    /// # Errors
    /// It cannot be written.
    fn write_legs(&self, state: &LegState) -> Result<(), String>;
    /// What ended mirrors that had legs with these identities have left in this boot.
    ///
    /// # Errors
    /// A record cannot be read.
    fn ended_legs(&self, identities: &[u64]) -> Result<Vec<LegState>, Reason>;
    /// Keeps the record of the legs for later mirrors, if they must know it, and returns it then.
    ///
    /// # Errors
    /// It cannot be kept.
    fn keep_legs(&self) -> Result<Option<LegState>, Reason>;
    /// Removes the record of the legs: there is no mirror, and it must not be kept later.
    ///
    /// # Errors
    /// It stays.
    fn forget_legs(&self) -> Result<(), Reason>;
    /// The recorded departures of snapshots from a disk, or from another one that has bytes of
    /// these parts of it (all of it if there are none).
    ///
    /// # Errors
    /// The records cannot be read.
    fn departures(&self, disk: &KnownDisk, parts: &[Part]) -> Result<Vec<Departure>, Reason>;
    /// The recorded departures of snapshots from devices that were deleted in this boot, and of
    /// which it is known what they were made of.
    ///
    /// # Errors
    /// The records cannot be read.
    fn departures_of_gone(&self) -> Result<Vec<Departure>, Reason>;
    /// Records that parts of a disk (all of it if there are none) are about to be written: a device
    /// that was deleted in this boot and was made of them is not made again as the same one.
    ///
    /// # Errors
    /// It cannot be recorded.
    fn part_from_gone(&self, disk: &KnownDisk, parts: &[Part]) -> Result<(), Reason>;
    /// Whether the store on a COW has left an origin with another number, in this boot.
    ///
    /// # Errors
    /// The records cannot be read.
    fn left_another(&self, cow: &Cow, number: u64) -> Result<bool, Reason>;
    /// Records durably that a snapshot has left its origin. Recording a loss of the COW ends that.
    ///
    /// # Errors
    /// The departure cannot be recorded.
    fn record_departure(&self, departure: &Departure) -> Result<(), Reason>;
    /// Forgets the departure of a COW's snapshot: the COW is in use again.
    ///
    /// # Errors
    /// The record stays.
    fn forget_departure(&self, cow: &Cow) -> Result<(), Reason>;
    /// The record of a COW that may be lost.
    fn losses(&self, cow: Cow) -> Self::Losses;
}
