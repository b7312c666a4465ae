//! A range that fails every request that has data or a place.

use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError};
use crate::units::Sectors;

/// A range without data.
pub struct Error {
    len: Sectors,
}

impl Error {
    /// A range of that length.
    pub fn new(len: Sectors) -> Error {
        Error { len }
    }

    /// Its length.
    pub fn size(&self) -> Sectors {
        self.len
    }

    /// Fails a request.
    ///
    /// # Errors
    /// Always, except for a flush.
    pub fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match request.kind {
            RequestKind::Flush => Ok(()),
            RequestKind::Write { .. } if mutant::is(Mutant::ErrorAcksWrites) => Ok(()),
            RequestKind::Read | RequestKind::Write { .. } | RequestKind::Discard => {
                Err(TargetError::Error)
            }
        }
    }
}
