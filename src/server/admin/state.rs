//! What the administrator knows of its family, and how that is put on record.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use dm_targets::group::Ticket;

use super::devices::{Device, Directory, LeftOut};
use super::machine::{Machine, Records};
use super::mutant::{self, Mutant};
use super::unconfirmed::Unconfirmed;
use super::unfinished::Unfinished;
use crate::failure::Reason;
use crate::protocol::{DeviceState, KnownDisk};
use crate::storage::{DiskId, Limits};

/// What keeps a server from its end.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// It has not been told to end.
    #[default]
    No,
    /// Devices are in use that would die with it, or that the next server could not know of.
    Waits,
    /// Nothing: those that are left wait for the next server.
    Leaves,
}

/// The administrator of an origin, its snapshots and their devices; of a mirror; or of the linear
/// devices of a disk.
pub struct Administrator<M: Machine> {
    pub(super) machine: M,
    pub(super) devices: BTreeMap<u32, Device>,
    pub(super) directory: Directory,
    pub(super) origin: Option<(DiskId, Limits, bool)>,
    /// The origin has other users.
    pub(super) origin_shared: bool,
    /// By what the origin is known again.
    pub(super) origin_known: KnownDisk,
    /// Devices that the command under way deletes.
    pub(super) going: BTreeSet<u32>,
    pub(super) tickets: u64,
    /// Devices that wait for a server and could not be taken over.
    pub(super) left_out: BTreeMap<u32, LeftOut>,
    /// The origin may have been changed since some were left out.
    pub(super) origin_changed: bool,
    /// Whether it has been told to end, and what keeps it.
    pub(super) ending: Ending,
    /// What kept it from its end the last time that was tried, which has been said.
    pub(super) kept_by: Option<Reason>,
    /// What the state file tells, as far as this server has written it.
    on_record: RefCell<Option<Vec<DeviceState>>>,
    /// The run directory's files describe devices of a dead server that have not been taken over
    /// yet.
    pub(super) keep_files: bool,
    /// Something acknowledged was lost with a device, and the log says what.
    pub(super) lost_at_end: bool,
    /// The device that the last command has added.
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// What waits for disks that do not answer.
    pub(super) unfinished: Vec<Unfinished<Administrator<M>>>,
}

impl<M: Machine> Administrator<M> {
    /// An administrator without devices. What it knows of them is published in `directory`.
    pub fn new(machine: M, directory: Directory) -> Administrator<M> {
        Administrator {
            machine,
            devices: BTreeMap::new(),
            directory,
            origin: None,
            origin_shared: false,
            origin_known: KnownDisk::default(),
            going: BTreeSet::new(),
            tickets: 0,
            left_out: BTreeMap::new(),
            origin_changed: false,
            ending: Ending::No,
            kept_by: None,
            on_record: RefCell::new(None),
            keep_files: false,
            lost_at_end: false,
            unconfirmed: None,
            unfinished: Vec::new(),
        }
    }

    /// What it acts through.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Whether it has no device, nor one that is to be taken back when its disk answers.
    pub fn is_idle(&self) -> bool {
        self.devices.is_empty() && self.unfinished.iter().all(|one| one.coming.is_none())
    }

    /// Whether it has been told to end, and what keeps it.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Whether its files tell of devices that have not been taken over.
    pub fn keeps_files(&self) -> bool {
        self.keep_files
    }

    /// Whether something acknowledged was lost with a device.
    pub fn has_lost(&self) -> bool {
        self.lost_at_end
    }

    /// Makes what has been changed known to the listener, and to the next server. Where nothing is
    /// left there will be none.
    pub(super) fn save(&self) -> Result<(), Reason> {
        self.publish();
        if mutant::is(Mutant::StateNotSaved) {
            return Ok(());
        }
        let nothing_left = self.devices.is_empty()
            && self.left_out.is_empty()
            && self.unfinished.is_empty()
            && !self.keep_files;
        match self.record(None) {
            Err(why) if nothing_left => log::debug!("{why}"),
            Err(why) => {
                return Err(format!(
                    "what has changed is not on record for the next server: {why}"
                )
                .into());
            }
            Ok(()) => {}
        }
        Ok(())
    }

    pub(super) fn publish(&self) {
        self.directory.publish(&self.devices, &self.left_out);
    }

    /// Makes the state file tell, durably, of this server's devices, and of one that is to come.
    pub(super) fn record(&self, coming: Option<DeviceState>) -> Result<(), Reason> {
        let mut devices = self.described();
        devices.extend(coming);
        devices.sort_by_key(|device| device.id);
        self.machine.records().write_state(devices.clone())?;
        self.on_record.replace(Some(devices));
        Ok(())
    }

    /// Makes sure that the state file tells of this server's devices as they are. What is on record
    /// already is not written again, for which there may be no room.
    pub(super) fn ensure_recorded(&self) -> Result<(), Reason> {
        let is_recorded = self.on_record.borrow().as_ref() == Some(&self.described());
        if is_recorded { Ok(()) } else { self.record(None) }
    }

    /// Whether the state file tells of a device as it is.
    pub(super) fn is_recorded(&self, id: u32) -> bool {
        let Some(state) = self.devices.get(&id).map(Device::state) else { return true };
        self.on_record.borrow().as_ref().is_some_and(|devices| devices.contains(&state))
    }

    /// What the next server needs of all devices, by id.
    fn described(&self) -> Vec<DeviceState> {
        let left_out = self.left_out.values().map(|left_out| left_out.device.clone());
        let coming = self.unfinished.iter().filter_map(|one| Some(one.coming.as_ref()?.1.clone()));
        let mut devices: Vec<_> =
            self.devices.values().map(Device::state).chain(left_out).chain(coming).collect();
        devices.sort_by_key(|device| device.id);
        devices
    }

    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }
}
