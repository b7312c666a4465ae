//! A part of a write of a mirror, and the errors of its operations.

use super::leg_set::LegSet;
use super::regions::Span;
use crate::disk::{DiskError, Errno, OpKind};
use crate::request::Request;
use crate::units::{RegionIndex, Sector, Sectors};

/// A part of a write whose regions all have the same access; it has begun in each of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(super) span: Span,
    pub(super) sector: Sector,
    /// Its offset in the request.
    pub(super) offset: Sectors,
    pub(super) count: Sectors,
    pub(super) in_sync: bool,
    /// The log batch that marks its regions.
    pub(super) batch: u64,
    /// The entry of its region, if it has only one.
    pub(super) entry: Option<u32>,
}

impl Stretch {
    /// A whole request in one region that is in sync and marked.
    #[inline]
    pub(super) fn of_one(request: &Request, region: RegionIndex, entry: u32) -> Stretch {
        Stretch {
            span: Span::one(region),
            sector: request.sector,
            offset: Sectors(0),
            count: request.count,
            in_sync: true,
            batch: 0,
            entry: Some(entry),
        }
    }
}

/// The errors of an operation on the legs.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(super) failed: LegSet,
    /// Legs that do not support the operation.
    pub(super) refused: LegSet,
    /// One for each failed or refusing leg; allocates only on an error.
    pub(super) errors: Vec<(usize, DiskError)>,
}

impl Outcome {
    pub(super) fn missed(&self) -> LegSet {
        LegSet(self.failed.0 | self.refused.0)
    }

    pub(super) fn add(&mut self, leg: usize, error: DiskError) {
        if is_refusal(&error) { &mut self.refused } else { &mut self.failed }.add(leg);
        self.errors.push((leg, error));
    }

    pub(super) fn first_error(&self) -> Option<DiskError> {
        self.errors.first().map(|(_, error)| error.clone())
    }
}

/// Whether a disk does not support an operation. Firmware without discards or flushes returns
/// `EREMOTEIO`.
fn is_refusal(error: &DiskError) -> bool {
    let no_data = matches!(error.kind, OpKind::Discard | OpKind::Flush);
    error.errno.is_unsupported() || no_data && error.errno == Errno::EREMOTEIO
}
