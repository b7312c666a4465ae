//! A mirror's status, and its status line in the kernel's form, which monitoring and LVM parse.
//! Pure.
//!
//! The line here is the part after `0 LENGTH mirror `.

use std::fmt;

/// Numbers and letters for a status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Each leg's health, in table order.
    pub legs: Vec<LegHealth>,
    /// Regions in sync.
    pub in_sync_regions: u64,
    /// All regions.
    pub regions: u64,
    /// The log's state; `None` for a log in memory.
    pub log: Option<DiskLogState>,
}

/// What recovery has copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyCounts {
    /// Regions; one that was copied again counts again.
    pub regions: u64,
    /// Bytes read from source legs, however many legs they were written to.
    pub bytes: u64,
}

/// The progress of recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Regions recovered since it started.
    pub done: u64,
    /// Regions that were out of sync when it started.
    pub total: u64,
    /// Bytes read from the source since it started.
    pub bytes: u64,
    /// When it started, in the host's time.
    pub started_ms: u64,
}

/// The fields of a mirror's status line.
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

/// The health letter of a leg: its worst failure, worst first.
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
    /// `U`: another failure. The kernel has this letter; no failure here is of an unknown kind.
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
            MirrorLogStatus::Disk { device, state } => {
                write!(f, "3 disk {device} {}", state.letter())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_the_kernels() {
        let legs =
            |second| vec![("1:2".to_string(), LegHealth::Alive), ("254:0".to_string(), second)];
        let core = MirrorStatus {
            legs: legs(LegHealth::Dead),
            in_sync_regions: 7,
            regions: 8,
            log: MirrorLogStatus::Core,
        };
        assert_eq!(core.to_string(), "2 1:2 254:0 7/8 1 AD 1 core");
        let log = MirrorLogStatus::Disk { device: "1:1".into(), state: DiskLogState::Alive };
        let disk =
            MirrorStatus { legs: legs(LegHealth::Alive), in_sync_regions: 8, regions: 8, log };
        assert_eq!(disk.to_string(), "2 1:2 254:0 8/8 1 AA 3 disk 1:1 A");
    }
}
