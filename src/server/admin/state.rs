//! What the administrator knows of its family, and how that is put on record.

use std::collections::{BTreeMap, BTreeSet};

use dm_targets::group::Ticket;

use super::devices::{Directory, Entry, LeftOut};
use super::machine::{Machine, Records};
use crate::failure::Reason;
use crate::protocol::DeviceState;
use crate::storage::{DiskId, Limits};

/// What keeps a server from its end.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// It has not been told to end.
    #[default]
    No,
    /// Devices are in use that would die with it.
    Waits,
    /// Nothing: those that are left wait for the next server.
    Leaves,
}

/// The administrator of an origin, its snapshots and their devices; of a mirror; or of the linear devices of a disk.
pub struct Administrator<M: Machine> {
    pub(super) machine: M,
    pub(super) devices: BTreeMap<u32, Entry>,
    pub(super) directory: Directory,
    pub(super) origin: Option<(DiskId, Limits, bool)>,
    /// The origin's number in this boot.
    pub(super) origin_number: u64,
    /// Devices that the command under way deletes.
    pub(super) going: BTreeSet<u32>,
    pub(super) tickets: u64,
    /// Devices that wait for a server and could not be taken over.
    pub(super) left_out: BTreeMap<u32, LeftOut>,
    /// The origin may have been changed since some were left out.
    pub(super) origin_changed: bool,
    /// Whether it has been told to end, and what keeps it.
    pub(super) ending: Ending,
    /// The run directory's files describe devices of a dead server that have not been taken over yet.
    pub(super) keep_files: bool,
    /// Something acknowledged was lost with a device, and the log says what.
    pub(super) lost_at_end: bool,
}

impl<M: Machine> Administrator<M> {
    /// An administrator without devices. What it knows of them is published in `directory`.
    pub fn new(machine: M, directory: Directory) -> Administrator<M> {
        Administrator {
            machine,
            devices: BTreeMap::new(),
            directory,
            origin: None,
            origin_number: 0,
            going: BTreeSet::new(),
            tickets: 0,
            left_out: BTreeMap::new(),
            origin_changed: false,
            ending: Ending::No,
            keep_files: false,
            lost_at_end: false,
        }
    }

    /// What it acts through.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Whether it has no device.
    pub fn is_idle(&self) -> bool {
        self.devices.is_empty()
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

    /// What has been changed is known to the desk, and to the next server.
    pub(super) fn save(&self) {
        self.publish();
        if let Err(error) = self.record(None) {
            log::error!("what has changed is not in the state file: {error}");
        }
    }

    pub(super) fn publish(&self) {
        self.directory.publish(&self.devices, &self.left_out);
    }

    /// Makes the state file tell, durably, of this server's devices, and of one that is to come.
    pub(super) fn record(&self, coming: Option<DeviceState>) -> Result<(), Reason> {
        let left_out = self.left_out.values().map(|left_out| left_out.device.clone());
        let devices = self.devices.values().map(Entry::state).chain(left_out);
        self.machine.records().write_state(devices.chain(coming).collect())
    }

    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }
}
