//! Why a merge has stopped before its end.

use std::fmt;
use std::rc::Rc;

use crate::disk::DiskError;
use crate::request::TargetError;

/// Why a merge has stopped before its end. Nothing is lost: what has not been merged is on the COW.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeFault {
    /// Records could not be read.
    Read(DiskError),
    /// Chunks could not be copied to the origin.
    Copy(TargetError),
    /// The origin could not be flushed after chunks had been copied to it.
    Flush(TargetError),
    /// Records of chunks that are on the origin could not be removed.
    Commit(DiskError),
    /// The records on the COW are not those that the store was opened with.
    Changed {
        /// The COW's name.
        cow: Rc<str>,
    },
}

impl fmt::Display for MergeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MergeFault::Read(error) => write!(f, "reading its exceptions failed: {error}"),
            MergeFault::Copy(error) => write!(f, "copying to the origin failed: {error}"),
            MergeFault::Flush(error) => write!(f, "flushing the origin failed: {error}"),
            MergeFault::Commit(error) => write!(f, "removing exceptions failed: {error}"),
            MergeFault::Changed { cow } => write!(
                f,
                "{cow}: its exceptions have changed since it was opened: another program has \
                 written to it"
            ),
        }
    }
}
