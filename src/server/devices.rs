//! What a server knows of its devices: their names, their disks, and how they were asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dm_targets::units::Sector;

use crate::failure::Reason;
use crate::protocol::{DeviceState, Question};
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

impl Over {
    /// The block devices' numbers; of a file, its file system's.
    pub fn numbers(&self) -> Vec<(u32, u32)> {
        let disks: Vec<&Named> = match self {
            Over::Origin { origin } => vec![origin],
            Over::Snapshot { origin, cow } => vec![origin, cow],
            Over::Mirror { legs, log } => legs.iter().map(|leg| &leg.disk).chain(log).collect(),
        };
        disks.into_iter().map(|disk| disk.id.block_number()).collect()
    }
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
    /// Its requests are held back.
    pub suspended: bool,
    /// The table that its next resume puts in place.
    pub loaded: Option<Question>,
}

impl Entry {
    /// How the device is made again after this server's death.
    pub(super) fn state(&self) -> DeviceState {
        DeviceState {
            suspended: self.suspended,
            loaded: self.loaded.clone().map(Box::new),
            ..state_of(&self.info, &self.name, &self.over, &self.added)
        }
    }
}

/// How a device is made again.
pub(super) fn state_of(info: &DeviceInfo, name: &str, over: &Over, added: &Question) -> DeviceState {
    DeviceState {
        id: info.id,
        cookie: info.target_flags,
        name: name.to_owned(),
        disks: over.numbers(),
        added: added.clone(),
        suspended: false,
        loaded: None,
    }
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

/// A name that is not taken: the one that is wanted, or that with a number behind it.
pub(super) fn free_name(wanted: &str, taken: &[String]) -> String {
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken.contains(&name) {
        number += 1;
        name = format!("{wanted}-{number}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_is_not_taken() {
        let taken = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(free_name("snap1", &taken(&["snap2", "origin1"])), "snap1");
        assert_eq!(free_name("snap1", &taken(&["snap1"])), "snap1-2");
        assert_eq!(free_name("snap1", &taken(&["snap1-2", "snap1", "snap1-3"])), "snap1-4");
    }
}
