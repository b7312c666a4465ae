//! The lines of a table with several targets. The first line begins at sector 0, each other line
//! where the one before ends.

use std::fmt;

use crate::linear::table::Linear;
use crate::units::{Sector, Sectors};

/// Most lines of a table. Each is recorded, printed and reported with its device, by servers that
/// must not run out of memory.
pub const MAX_LINES: usize = 1024;

/// A line of a table, without its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The length of the segment.
    pub len: Sectors,
    /// The target and its parameters.
    pub params: SegmentParams,
}

/// The targets that a table of several lines can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentParams {
    /// `linear`: a range of a disk.
    Linear(Linear),
    /// `error`: every request fails.
    Error,
    /// `zero`: reads are zeroes.
    Zero,
}

impl SegmentParams {
    /// The target's name.
    pub fn name(&self) -> &'static str {
        match self {
            SegmentParams::Linear(_) => "linear",
            SegmentParams::Error => "error",
            SegmentParams::Zero => "zero",
        }
    }

    /// The range of a disk, if it is one.
    pub fn linear(&self) -> Option<&Linear> {
        match self {
            SegmentParams::Linear(linear) => Some(linear),
            SegmentParams::Error | SegmentParams::Zero => None,
        }
    }
}

/// The segments with their starts.
pub fn placed(segments: &[Segment]) -> impl Iterator<Item = (Sector, &Segment)> {
    segments.iter().scan(Sector(0), |next, segment| {
        let start = *next;
        *next = start.plus(segment.len);
        Some((start, segment))
    })
}

/// The lines of a table.
pub(crate) struct Lines<'a>(pub(crate) &'a [Segment]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (start, Segment { len, params }) in placed(self.0) {
            if start.0 > 0 {
                writeln!(f)?;
            }
            write!(f, "{start} {len} {}", params.name())?;
            if let Some(linear) = params.linear() {
                write!(f, " {linear}")?;
            }
        }
        Ok(())
    }
}
