//! The administrator's state of its family, and how it is recorded.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::devices::{Deps, Device, Directory, LeftOut};
use super::machine::{Machine, Records};
use super::mutant::{self, Mutant};
use super::open_origins::Origins;
use super::passing::Passing;
use super::unconfirmed::Unconfirmed;
use super::unfinished::Unfinished;
use crate::failure::Reason;
use crate::protocol::{DeviceRef, DeviceState};
use crate::storage::DiskId;

/// What keeps a server from ending.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// The server has not been asked to end.
    #[default]
    No,
    /// Devices are in use that would die with it, or that the next server would not know of.
    Waits,
    /// Nothing: the remaining devices wait for the next server.
    Leaves,
}

/// An origin's device that was added, into which a merge was deferred.
#[derive(Clone, Copy)]
pub(super) struct Activation {
    pub(super) device: DeviceRef,
    /// The server has looked for other commands since: the `add` was not undone.
    pub(super) is_due: bool,
}

/// The administrator of an origin, its snapshots and their devices; of a mirror; or of the linear
/// devices of a disk.
pub struct Administrator<M: Machine> {
    pub(super) machine: M,
    pub(super) devices: BTreeMap<u32, Device>,
    pub(super) directory: Directory,
    /// The origins that targets have opened.
    pub(super) origins: Origins,
    /// The devices that this server serves, started or not, by their nodes.
    pub(super) nodes: BTreeMap<DiskId, DeviceRef>,
    /// It only completes COWs: an origin that a device of another server carries is not read.
    pub(super) completes: bool,
    /// Devices that another program has ended and that could not be removed yet.
    pub(super) kept: BTreeSet<u32>,
    /// Snapshots whose targets were closed for a merge that has not begun, with all their disks.
    pub(super) taken: BTreeMap<u32, Deps>,
    /// Devices that wait for a server and could not be taken over.
    pub(super) left_out: BTreeMap<u32, LeftOut>,
    /// Whether the server has been asked to end, and what keeps it running.
    pub(super) ending: Ending,
    /// The reason why the last attempt to end failed, already logged.
    pub(super) kept_by: Option<Reason>,
    /// The reason why an ended merge's origin did not get its plain table back, already logged.
    pub(super) merge_kept_by: Option<String>,
    /// The contents of the state file, if this server has written it.
    on_record: RefCell<Option<Vec<DeviceState>>>,
    /// The run directory's files describe devices of a dead server that are not taken over yet.
    pub(super) keep_files: bool,
    /// Acknowledged writes were lost with a device; the log has the details.
    pub(super) lost_at_end: bool,
    /// The device whose mirror was closed for another one that is being opened: what it has of this
    /// server's devices is free for that one.
    pub(super) replaced: Option<u32>,
    /// The mirror that was closed for another device.
    pub(super) passing: Option<Passing>,
    /// An origin's device was added, into which a merge was deferred.
    pub(super) activation: Option<Activation>,
    /// The device that the last command added.
    pub(super) unconfirmed: Option<Unconfirmed<M::Handle>>,
    /// Devices whose `add` is undone when what delays that has ended.
    pub(super) undone_later: Vec<Unconfirmed<M::Handle>>,
    /// Jobs that wait for disks that do not answer.
    pub(super) unfinished: Vec<Unfinished<Administrator<M>>>,
    /// Those that complete the COWs of deleted devices and wait for disks that do not answer.
    pub(super) beside: Vec<Administrator<M>>,
}

impl<M: Machine> Administrator<M> {
    /// Creates an administrator without devices. It publishes its devices in `directory`.
    pub fn new(machine: M, directory: Directory) -> Administrator<M> {
        Administrator {
            machine,
            devices: BTreeMap::new(),
            directory,
            origins: Origins::default(),
            nodes: BTreeMap::new(),
            completes: false,
            kept: BTreeSet::new(),
            taken: BTreeMap::new(),
            left_out: BTreeMap::new(),
            ending: Ending::No,
            kept_by: None,
            merge_kept_by: None,
            on_record: RefCell::new(None),
            keep_files: false,
            lost_at_end: false,
            replaced: None,
            passing: None,
            activation: None,
            unconfirmed: None,
            undone_later: Vec::new(),
            unfinished: Vec::new(),
            beside: Vec::new(),
        }
    }

    /// Publishes what is in the state file of a dead server and still exists, until the command to
    /// take it over is here; if it does not come, the file stays. `devices` is `None` if it cannot
    /// be read.
    pub fn publish_coming(&mut self, devices: Option<Vec<DeviceState>>) {
        self.keep_files = devices.as_ref().is_none_or(|devices| !devices.is_empty());
        let mut coming: Vec<_> = devices.into_iter().flatten().collect();
        // One of which the kernel does not tell is shown.
        coming.retain(|device| {
            self.ours(device.id, device.cookie).map_or(true, |found| found.is_some())
        });
        self.directory.publish_coming(coming);
    }

    /// The machine through which the administrator acts.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Whether there is no device, nor anything left of an `add` to be undone when a disk answers.
    pub fn is_idle(&self) -> bool {
        self.devices.is_empty()
            && self.undone_later.is_empty()
            && !self.unfinished.iter().any(|one| one.errand.keeps_server)
    }

    /// Whether the server has been asked to end, and what keeps it running.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Whether the files describe devices that are not taken over yet.
    pub fn keeps_files(&self) -> bool {
        self.keep_files
    }

    /// Whether acknowledged writes were lost with a device.
    pub fn has_lost(&self) -> bool {
        self.lost_at_end
    }

    /// Publishes changes to the listener and records them for the next server. If nothing is left,
    /// there is no next server and a failure is ignored.
    pub(super) fn save(&self) -> Result<(), Reason> {
        self.publish();
        if mutant::is(Mutant::StateNotSaved) {
            return Ok(());
        }
        let nothing_left = self.devices.is_empty()
            && self.left_out.is_empty()
            && self.undone_later.is_empty()
            && self.unfinished.is_empty()
            && !self.keep_files;
        match self.record(None) {
            Err(why) if nothing_left => log::debug!("{why}"),
            recorded => {
                return recorded.map_err(|why| {
                    why.context(
                        "the state file could not be written, so the next server does not know of \
                         the change",
                    )
                });
            }
        }
        Ok(())
    }

    pub(super) fn publish(&self) {
        self.directory.publish(&self.devices, &self.left_out);
    }

    /// Writes this server's devices, and one that is being added, durably to the state file.
    pub(super) fn record(&self, coming: Option<DeviceState>) -> Result<(), Reason> {
        let mut devices = self.described();
        devices.extend(coming);
        devices.sort_by_key(|device| device.id);
        self.machine.records().write_state(devices.clone())?;
        let protected = self.protect_joined(&devices);
        self.on_record.replace(Some(devices));
        protected
    }

    /// Ensures that the state file describes this server's devices as they are. Unchanged contents
    /// are not written again: there may be no room for that.
    pub(super) fn ensure_recorded(&self) -> Result<(), Reason> {
        if self.is_all_recorded() { Ok(()) } else { self.record(None) }
    }

    /// Whether the state file describes this server's devices as they are.
    pub(super) fn is_all_recorded(&self) -> bool {
        self.on_record.borrow().as_ref() == Some(&self.described())
    }

    /// Whether the state file describes a device as it is.
    pub(super) fn is_recorded(&self, id: u32) -> bool {
        let Some(state) = self.devices.get(&id).map(Device::state) else { return true };
        self.on_record.borrow().as_ref().is_some_and(|devices| devices.contains(&state))
    }

    /// What the next server needs of all devices, sorted by id.
    fn described(&self) -> Vec<DeviceState> {
        let left_out = self.left_out.values().map(|left_out| left_out.device.clone());
        let undone = self.undone_later.iter().map(|new| new.state.clone());
        let undone = undone.filter(|state| !self.devices.contains_key(&state.id));
        let mut devices: Vec<_> =
            self.devices.values().map(Device::state).chain(left_out).chain(undone).collect();
        devices.sort_by_key(|device| device.id);
        devices
    }
}
