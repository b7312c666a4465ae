//! The arguments of `linear`: `DEVICE OFFSET`.

use std::fmt;

use crate::units::{Sector, Sectors};
use crate::words::{Quoted, TableError, Words};

/// The parameters of a linear device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The disk's device word.
    pub device: String,
    /// The device's first sector on the disk.
    pub offset: Sector,
}

impl Linear {
    pub(crate) fn parse(words: &mut Words, len: Sectors) -> Result<Linear, TableError> {
        let device = words.next("device")?;
        let offset = Sector(words.number("offset", u64::MAX)?);
        words.end()?;
        if !offset.has_room_for(len) {
            return Err(words.error(format_args!(
                "offset {offset}: the device would end beyond the largest possible disk"
            )));
        }
        Ok(Linear { device, offset })
    }
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Quoted(&self.device), self.offset)
    }
}
