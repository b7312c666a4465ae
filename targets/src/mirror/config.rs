//! The configuration of a mirror, and its reports.

use std::fmt;
use std::rc::Rc;

use super::Event;
use super::leg_set::LegSet;
use super::leg_state::{KnownLeg, LegState, Past};
use super::legs::ErrorCounts;
use super::open_error::OpenError;
use super::status::LegHealth;
use super::table::InitialSync;
use crate::copy;
use crate::disk::{Disk, Host};
use crate::units::{RegionSize, SECTOR_BYTES, Sector, Sectors};

/// A leg: its disk and the offset on it.
#[derive(Clone, Debug)]
pub struct LegParts {
    /// The disk.
    pub disk: Disk,
    /// The leg's first sector on the disk.
    pub offset: Sector,
    /// The leg's identity in the log ([`super::leg_flags::identity_of`]).
    pub identity: u64,
    /// Tells its disk from others that have the same identity in this boot; zero if no other disk
    /// can have it.
    pub number: u64,
}

impl LegParts {
    /// The leg for the record, not as a source.
    pub(super) fn known(&self) -> KnownLeg {
        let name = self.disk.name().to_string();
        KnownLeg { identity: self.identity, number: self.number, name, source: false }
    }
}

/// A log on disk.
#[derive(Clone, Debug)]
pub struct LogParts {
    /// Its disk.
    pub disk: Disk,
    /// Tells its disk from all others in this boot, whatever its path
    /// ([`super::leg_flags::identity_of`]).
    pub identity: u64,
}

/// The configuration of a mirror.
pub struct MirrorConfig<'a> {
    /// Provides buffers and the clock.
    pub host: &'a Rc<dyn Host>,
    /// The copy client for recovery, with the mirror's own throttle.
    pub copy: &'a copy::Client,
    /// The legs, in table order.
    pub legs: Vec<LegParts>,
    /// The log; `None` for one in memory.
    pub log: Option<LogParts>,
    /// Identities of legs in logs of earlier versions, each with that of today.
    pub renamed: Vec<(u64, u64)>,
    /// The mirror's length.
    pub len: Sectors,
    /// The size of a region.
    pub region_size: Sectors,
    /// The initial state of the regions.
    pub initial_sync: InitialSync,
    /// Hold writes that did not reach every leg.
    pub handle_errors: bool,
    /// Do not hold such writes as long as the log works.
    pub keep_log: bool,
    /// The leg to recover from; `None` for the first that is not stale.
    pub source: Option<usize>,
    /// The legs that are not there: a disk that only fails stands in for each. The log has to know
    /// that the others are up to date.
    pub absent: LegSet,
    /// The state left by an earlier server or table.
    pub past: Past,
    /// Journals the state of the legs, durably, for the next server, or returns why it cannot.
    pub recorder: Rc<Recorder>,
    /// Notified of events for the administrator.
    pub listener: Rc<dyn Fn(Event)>,
}

/// Journals the state of the legs. Called when it changes, and never for a request that does not
/// change it.
pub type Recorder = dyn Fn(&LegState) -> Result<(), String>;

/// The state of the legs could not be journaled, so the operation that depends on it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError(pub String);

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state of the legs cannot be recorded: {}", self.0)
    }
}

impl std::error::Error for RecordError {}

/// A report on a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegReport {
    /// Its disk's name.
    pub name: Rc<str>,
    /// The leg's offset on the disk.
    pub offset: Sector,
    /// Its health letter.
    pub health: LegHealth,
    /// Reads of regions out of sync go to this leg.
    pub default: bool,
    /// It is a source leg: up to date everywhere, also in regions out of sync.
    pub source: bool,
    /// It has all data durably.
    pub flushed: bool,
    /// It missed a write, and is not read until all regions have been recovered.
    pub stale: bool,
    /// Errors since the mirror was opened.
    pub errors: ErrorCounts,
}

/// Checks that a leg, on a disk of this size, fits a mirror of this length and region size.
pub(super) fn check_leg(
    leg: &LegParts,
    size: Sectors,
    len: Sectors,
    region_size: RegionSize,
) -> Result<(), OpenError> {
    let limits = leg.disk.limits();
    let block = u64::from(limits.logical_block_bytes) / SECTOR_BYTES;
    if [len.0, region_size.sectors().0, leg.offset.0].iter().any(|sectors| sectors % block != 0) {
        let (disk, block_bytes) = (leg.disk.name().clone(), limits.logical_block_bytes);
        return Err(OpenError::Misaligned { disk, block_bytes });
    }
    match leg.offset.0.checked_add(len.0) {
        Some(end) if end <= size.0 => Ok(()),
        end => {
            let needed = Sectors(end.unwrap_or(u64::MAX));
            Err(OpenError::LegTooSmall { disk: leg.disk.name().clone(), needed })
        }
    }
}
