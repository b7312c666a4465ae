//! What a server knows of its devices: their names, their disks, and how they were asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dm_targets::units::Sector;

use crate::failure::Reason;
use crate::protocol::Question;
use crate::storage::DiskId;
use crate::ublk::DeviceInfo;

/// A disk, and what the user called it.
#[derive(Clone)]
pub struct Named {
    pub id: DiskId,
    pub path: String,
}

impl Named {
    pub(super) fn new(id: DiskId, path: &Path) -> Named {
        Named { id, path: path.display().to_string() }
    }

    /// How it stands on a table line.
    pub fn on_table_line(&self) -> String {
        self.id.on_table_line(&self.path)
    }
}

/// The disks under a device.
#[derive(Clone)]
pub enum Over {
    Origin { origin: Named },
    Snapshot { origin: Named, cow: Named },
    Mirror { legs: Vec<NamedLeg>, log: Option<Named> },
}

/// A leg of a mirror.
#[derive(Clone)]
pub struct NamedLeg {
    pub disk: Named,
    pub offset: Sector,
}

/// A device of this server.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub added: Question,
    pub info: DeviceInfo,
    /// Major and minor of the disk.
    pub number: Option<(u32, u32)>,
    pub over: Over,
    pub read_only: bool,
    /// The table that its next resume puts in place.
    pub loaded: Option<Question>,
}

/// What all threads know of the devices: as they were when nothing was being changed.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<BTreeMap<u32, Entry>>>);

impl Directory {
    /// Puts other devices in the place of those that were known.
    pub(super) fn publish(&self, devices: &BTreeMap<u32, Entry>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(devices);
    }

    pub(super) fn devices(&self) -> BTreeMap<u32, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn legs_of(&self, id: u32) -> Vec<NamedLeg> {
        match self.devices().remove(&id).map(|entry| entry.over) {
            Some(Over::Mirror { legs, .. }) => legs,
            _ => Vec::new(),
        }
    }
}

/// A device that is not this server's.
pub(super) fn no_device(id: u32) -> Reason {
    format!("/dev/ublkb{id}: no such device; see `ublk-dm list`")
}
