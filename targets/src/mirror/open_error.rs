//! The errors of opening a mirror, each one line for the user.

use std::fmt;
use std::rc::Rc;

use super::leg_set::MAX_LEGS;
use crate::units::Sectors;

/// What the user can do.
const NAME_IT: &str = "name the right leg with --source (of `add`, `create`, `load` or `recover`)";

/// Why a mirror cannot be opened, or a leg cannot be added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Fewer than two legs, or more than nine.
    LegCount(usize),
    /// The region size is not a power of two of at least two sectors, is larger than the mirror, or
    /// makes too many regions.
    RegionSize(Sectors),
    /// The length, the region size, or a leg's offset is not a multiple of a disk's block size.
    Misaligned {
        /// The disk.
        disk: Rc<str>,
        /// Its block size, in bytes.
        block_bytes: u32,
    },
    /// A leg ends before the mirror does.
    LegTooSmall {
        /// The leg's disk.
        disk: Rc<str>,
        /// The disk size that the leg needs.
        needed: Sectors,
    },
    /// The log does not fit its device.
    LogTooSmall {
        /// The log's disk.
        disk: Rc<str>,
        /// The disk size that the log needs.
        needed: Sectors,
    },
    /// The log's bits are about regions of another size.
    LogRegionSize {
        /// The log's disk.
        disk: Rc<str>,
        /// The size of its regions.
        recorded: Sectors,
        /// The size that the mirror was to have.
        given: Sectors,
    },
    /// There is no such leg to recover from.
    NoSuchLeg(usize),
    /// No leg is known to have all data, and the user named none.
    NoSource,
    /// The same, with what is known of the legs.
    NoSourceAmong(String),
    /// There is no memory for the log.
    NoMemory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::LegCount(count) => write!(
                f,
                "{count} {}: a mirror has 2 to {MAX_LEGS}",
                if *count == 1 { "leg" } else { "legs" }
            ),
            OpenError::RegionSize(size) => write!(
                f,
                "region size of {size} sectors: must be a power of two from 2 sectors to the \
                 mirror's length and make \
                 fewer than 2^32 regions"
            ),
            OpenError::Misaligned { disk, block_bytes } => {
                write!(
                    f,
                    "{disk}: length, region size and offset must be multiples of its block size of \
                     {block_bytes} bytes"
                )
            }
            OpenError::LegTooSmall { disk, needed } => {
                write!(f, "{disk}: too small for a leg that ends at sector {needed}")
            }
            OpenError::LogTooSmall { disk, needed } => {
                write!(f, "{disk}: too small for the dirty log, which takes {needed} sectors")
            }
            OpenError::LogRegionSize { disk, recorded, given } => {
                let (its, ours) = (recorded.bytes() / 1024, given.bytes() / 1024);
                write!(
                    f,
                    "{disk}: the log is about regions of {its} KiB, and {ours} KiB were given: use \
                     --region-size {its}KiB, or have all regions copied with --sync or --source"
                )
            }
            OpenError::NoSuchLeg(leg) => {
                write!(f, "there is no leg {leg} (legs are counted from 0)")
            }
            OpenError::NoSource => write!(f, "no leg is known to be up to date: {NAME_IT}"),
            OpenError::NoSourceAmong(known) => {
                write!(f, "no leg is known to be up to date ({known}): {NAME_IT}")
            }
            OpenError::NoMemory => write!(f, "no memory for the dirty log"),
        }
    }
}

impl std::error::Error for OpenError {}
