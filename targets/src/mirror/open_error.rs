//! Why a mirror cannot be opened, in one line for its user.

use std::fmt;
use std::rc::Rc;

use super::legs::MAX_LEGS;
use crate::units::Sectors;

/// Why a mirror cannot be opened, or a leg not be taken into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Fewer legs than two or more than nine.
    LegCount(usize),
    /// The region size is no power of two of at least two sectors, is larger than the mirror, or
    /// makes too many regions.
    RegionSize(Sectors),
    /// Something is not a multiple of a disk's block: the length, the region size, or a leg's
    /// offset.
    Misaligned {
        /// The disk.
        disk: Rc<str>,
        /// Its block, in bytes.
        block_bytes: u32,
    },
    /// A leg ends before the mirror does.
    LegTooSmall {
        /// Its disk.
        disk: Rc<str>,
        /// What the disk would have to hold.
        needed: Sectors,
    },
    /// The log does not fit its device.
    LogTooSmall {
        /// The log's disk.
        disk: Rc<str>,
        /// What it would have to hold.
        needed: Sectors,
    },
    /// There is no such leg to recover from.
    NoSuchLeg(usize),
    /// No leg is known to have everything, and none is named.
    NoSource,
    /// There is no memory for the log.
    NoMemory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::LegCount(count) => write!(f, "{count} legs: must be 2 to {MAX_LEGS}"),
            OpenError::RegionSize(size) => write!(
                f,
                "region size of {size} sectors: must be a power of two from 2 sectors to the \
                 mirror's length and make \
                 fewer than 2^32 regions"
            ),
            OpenError::Misaligned { disk, block_bytes } => {
                write!(
                    f,
                    "{disk}: length, region size and offset must be multiples of its block of \
                     {block_bytes} bytes"
                )
            }
            OpenError::LegTooSmall { disk, needed } => {
                write!(f, "{disk}: too small for a leg that ends at sector {needed}")
            }
            OpenError::LogTooSmall { disk, needed } => {
                write!(f, "{disk}: too small for the dirty log, which takes {needed} sectors")
            }
            OpenError::NoSuchLeg(leg) => {
                write!(f, "there is no leg {leg} (legs are counted from 0)")
            }
            OpenError::NoSource => {
                write!(
                    f,
                    "none of its legs is known to have everything: name the right one with --source"
                )
            }
            OpenError::NoMemory => write!(f, "no memory for the dirty log"),
        }
    }
}

impl std::error::Error for OpenError {}
