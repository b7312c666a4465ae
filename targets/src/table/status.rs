//! Status lines in the kernel's form: what monitoring and LVM parse.
//!
//! These are the arguments; `0 LENGTH TARGET ` stands before them. `snapshot-origin` has none.

use std::fmt;

use crate::snapshot::format::Usage;

/// What a snapshot's status line is made of, also of one that is being merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The snapshot can be used.
    pub valid: bool,
    /// A merge gave up.
    pub merge_failed: bool,
    /// The COW is full and the snapshot refuses writes.
    pub overflowed: bool,
    /// What the store uses; a merge is finished when `allocated` equals `metadata`.
    pub usage: Usage,
}

/// The first condition that holds decides, in the kernel's order.
impl fmt::Display for SnapshotStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.valid {
            f.write_str("Invalid")
        } else if self.merge_failed {
            f.write_str("Merge failed")
        } else if self.overflowed {
            f.write_str("Overflow")
        } else {
            write!(f, "{}/{} {}", self.usage.allocated, self.usage.total, self.usage.metadata)
        }
    }
}

/// What a mirror's status line is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorStatus {
    /// Each leg's `MAJ:MIN` and health, in table order.
    pub legs: Vec<(String, LegHealth)>,
    /// Regions in sync.
    pub in_sync_regions: u64,
    /// All regions.
    pub regions: u64,
    /// The dirty log.
    pub log: MirrorLogStatus,
}

/// The health letter of a leg: the worst that happened to it, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegHealth {
    /// `A`: no error.
    Alive,
    /// `F`: a flush failed.
    FlushFailed,
    /// `D`: a write failed.
    Dead,
    /// `S`: resynchronising failed.
    SyncFailed,
    /// `R`: a read failed.
    ReadFailed,
    /// `U`: something else.
    Unknown,
}

/// The log's part of a mirror's status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorLogStatus {
    /// A log in memory.
    Core,
    /// A log on a device.
    Disk {
        /// The device's `MAJ:MIN`.
        device: String,
        /// Its state.
        state: DiskLogState,
    },
}

/// The state letter of a log on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskLogState {
    /// `A`: working.
    Alive,
    /// `D`: a read or write of the log failed.
    Dead,
    /// `F`: a flush failed.
    FlushFailed,
}

impl LegHealth {
    /// The letter in the status line.
    pub fn letter(self) -> char {
        match self {
            LegHealth::Alive => 'A',
            LegHealth::FlushFailed => 'F',
            LegHealth::Dead => 'D',
            LegHealth::SyncFailed => 'S',
            LegHealth::ReadFailed => 'R',
            LegHealth::Unknown => 'U',
        }
    }
}

impl DiskLogState {
    /// The letter in the status line.
    pub fn letter(self) -> char {
        match self {
            DiskLogState::Alive => 'A',
            DiskLogState::Dead => 'D',
            DiskLogState::FlushFailed => 'F',
        }
    }
}

impl fmt::Display for MirrorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.legs.len())?;
        for (device, _) in &self.legs {
            write!(f, " {device}")?;
        }
        let letters: String = self.legs.iter().map(|(_, health)| health.letter()).collect();
        write!(f, " {}/{} 1 {letters} ", self.in_sync_regions, self.regions)?;
        match &self.log {
            MirrorLogStatus::Core => f.write_str("1 core"),
            MirrorLogStatus::Disk { device, state } => write!(f, "3 disk {device} {}", state.letter()),
        }
    }
}
