//! What a mirror is made of, and what it tells about itself.

use std::fmt;
use std::rc::Rc;

use super::Event;
use super::leg_state::{LegState, Past};
use super::legs::ErrorCounts;
use super::open_error::OpenError;
use super::status::LegHealth;
use super::table::InitialSync;
use crate::copy;
use crate::disk::{Disk, Host};
use crate::units::{RegionSize, SECTOR_BYTES, Sector, Sectors};

/// A leg and where on its disk it starts.
#[derive(Clone, Debug)]
pub struct LegParts {
    /// The disk.
    pub disk: Disk,
    /// Where the leg starts.
    pub offset: Sector,
    /// What it is known by in the log ([`super::format::identity_of`]).
    pub identity: u64,
}

/// What is needed to make a mirror.
pub struct MirrorConfig<'a> {
    /// Lends its buffers and its time.
    pub host: &'a Rc<dyn Host>,
    /// Copies in recovery, with the mirror's own throttle.
    pub copy: &'a copy::Client,
    /// Its legs, in table order.
    pub legs: Vec<LegParts>,
    /// Where its log is; `None` for one in memory.
    pub log: Option<Disk>,
    /// Its length.
    pub len: Sectors,
    /// Sectors of a region.
    pub region_size: Sectors,
    /// What to believe about the legs at first.
    pub initial_sync: InitialSync,
    /// Hold writes that did not reach every leg.
    pub handle_errors: bool,
    /// Do not hold them as long as the log can be kept.
    pub keep_log: bool,
    /// The leg to recover from; `None` for the first that is not stale.
    pub source: Option<usize>,
    /// What is known of an earlier life.
    pub past: Past,
    /// Puts the state of the legs where the next life finds it, durably, or says why it cannot.
    pub recorder: Rc<Recorder>,
    /// Hears of what an administrator should know.
    pub listener: Rc<dyn Fn(Event)>,
}

/// Puts the state of the legs on record. Called when it changes, and never for a request that
/// changes nothing.
pub type Recorder = dyn Fn(&LegState) -> Result<(), String>;

/// The state of the legs could not be put on record, so what depends on it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError(pub String);

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state of the legs cannot be recorded: {}", self.0)
    }
}

impl std::error::Error for RecordError {}

/// What is known about a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegReport {
    /// Its disk's name.
    pub name: Rc<str>,
    /// Where on it the leg starts.
    pub offset: Sector,
    /// Its letter.
    pub health: LegHealth,
    /// Reads of regions out of sync go here.
    pub default: bool,
    /// It is right everywhere, also where regions are out of sync.
    pub source: bool,
    /// It has everything durably.
    pub flushed: bool,
    /// It missed something and is not read from until everything has been recovered.
    pub stale: bool,
    /// Errors since the mirror was opened.
    pub errors: ErrorCounts,
}

/// Checks that a leg can hold a mirror of that length.
pub(super) fn check_leg(
    leg: &LegParts,
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
        Some(end) if end <= leg.disk.size().0 => Ok(()),
        end => {
            let needed = Sectors(end.unwrap_or(u64::MAX));
            Err(OpenError::LegTooSmall { disk: leg.disk.name().clone(), needed })
        }
    }
}
