//! A range of zeroes: reads go to a disk of zeroes, everything else has nothing to do.

use crate::disk::Disk;
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, pass_through};
use crate::units::Sectors;

/// A range that reads as zeroes.
pub struct Zero {
    source: Disk,
    len: Sectors,
}

impl Zero {
    /// A range of that length; `source` holds zeroes and is at least as long.
    pub fn new(source: Disk, len: Sectors) -> Zero {
        Zero { source, len }
    }

    /// Its length.
    pub fn size(&self) -> Sectors {
        self.len
    }

    /// Carries out a request. When this returns, no operation of the request is in flight.
    ///
    /// # Errors
    /// The source's.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match request.kind {
            RequestKind::Read if mutant::is(Mutant::ZeroLeavesMemory) => Ok(()),
            RequestKind::Read => Ok(pass_through(&self.source, request).await?),
            RequestKind::Write { .. } | RequestKind::Discard | RequestKind::Flush => Ok(()),
        }
    }
}
