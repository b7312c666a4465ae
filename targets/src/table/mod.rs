//! Device-mapper table lines and status lines: text to typed parameters and back.
//!
//! A line is `START LENGTH TARGET ARGUMENTS...`. A table has one line, or several of `linear`,
//! `error` and `zero`, each of which begins where the one before ends.
//!
//! Lines that the kernel accepts are accepted, lines that it refuses are refused, with a one-line
//! error that names the argument; a table prints in the kernel's form, and a printed line parses to
//! the same table. Pure: device words stay words, and checks that need the devices (do they exist,
//! are they large enough, are origin and COW one device under two names, their block sizes) are
//! left to the caller that opens them.
//!
//! Stricter than the kernel: numbers that do not fit are refused instead of truncated.

use std::fmt;

use crate::linear::table::Linear;
use crate::mirror::table::Mirror;
use crate::segments::table::{Lines, MAX_LINES, Segment, SegmentParams, placed};
use crate::snapshot::table::Snapshot;
use crate::units::{MAX_LEN, Sector, Sectors};
use crate::words::{Quoted, TableError, Words, is_space, lines, shown};

/// The table of a device: one line, which starts at sector 0, or several.
///
/// It is complete: two devices with equal tables map the same disks in the same way. Options of the
/// ublk device (queues, zero copy) are separate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The length of the device.
    pub len: Sectors,
    /// The target and its parameters, or the segments.
    pub params: TargetParams,
}

/// A target with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetParams {
    /// `snapshot`: a snapshot of an origin.
    Snapshot(Snapshot),
    /// `snapshot-merge`: an origin into which one of its snapshots is merged.
    SnapshotMerge(Snapshot),
    /// `snapshot-origin`: the write path of an origin that has snapshots.
    SnapshotOrigin {
        /// The origin's device word.
        origin: String,
    },
    /// `mirror`: the same data on several legs.
    Mirror(Mirror),
    /// `linear`: a range of one disk.
    Linear(Linear),
    /// `error`: every request fails.
    Error,
    /// `zero`: reads are zeroes.
    Zero,
    /// A table of several lines.
    Segments(Vec<Segment>),
}

/// The identity of the server that a device shares with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyKey<'a> {
    /// The disk that the server is named after; `None`: the table has none, and its device has a
    /// server of its own.
    pub disk: Option<&'a str>,
    /// The prefix of the server's name: one disk may be an origin, a leg and more.
    pub prefix: &'static str,
}

impl TargetParams {
    /// The target's name in table and status lines; `segments` if there are several lines.
    pub fn name(&self) -> &'static str {
        match self {
            TargetParams::Linear(_) => "linear",
            TargetParams::Error => "error",
            TargetParams::Zero => "zero",
            TargetParams::Segments(_) => "segments",
            TargetParams::Snapshot(_) => "snapshot",
            TargetParams::SnapshotMerge(_) => "snapshot-merge",
            TargetParams::SnapshotOrigin { .. } => "snapshot-origin",
            TargetParams::Mirror(_) => "mirror",
        }
    }

    /// The prefix of the generated name of an unnamed device.
    pub fn short_name(&self) -> &'static str {
        match self {
            TargetParams::Snapshot(_) | TargetParams::SnapshotMerge(_) => "snap",
            TargetParams::SnapshotOrigin { .. } => "origin",
            TargetParams::Mirror(_) => "mirror",
            TargetParams::Linear(_) | TargetParams::Segments(_) => "linear",
            TargetParams::Error => "error",
            TargetParams::Zero => "zero",
        }
    }

    /// The server of this device.
    pub fn family(&self) -> FamilyKey<'_> {
        match self {
            TargetParams::Snapshot(Snapshot { origin, .. })
            | TargetParams::SnapshotMerge(Snapshot { origin, .. })
            | TargetParams::SnapshotOrigin { origin } => {
                FamilyKey { disk: Some(origin), prefix: "" }
            }
            TargetParams::Mirror(mirror) => {
                FamilyKey { disk: Some(&mirror.legs[0].device), prefix: "mirror-" }
            }
            TargetParams::Linear(linear) => {
                FamilyKey { disk: Some(&linear.device), prefix: "linear-" }
            }
            TargetParams::Segments(segments) => {
                let first = segments.iter().find_map(|segment| segment.params.linear());
                FamilyKey { disk: first.map(|linear| linear.device.as_str()), prefix: "linear-" }
            }
            TargetParams::Error | TargetParams::Zero => FamilyKey { disk: None, prefix: "linear-" },
        }
    }

    /// Whether the device has an origin, of which it keeps, shows or changes what others have. It
    /// cannot leave the server of that origin.
    pub fn shares_origin(&self) -> bool {
        match self {
            TargetParams::Snapshot(_)
            | TargetParams::SnapshotMerge(_)
            | TargetParams::SnapshotOrigin { .. } => true,
            TargetParams::Mirror(_)
            | TargetParams::Linear(_)
            | TargetParams::Error
            | TargetParams::Zero
            | TargetParams::Segments(_) => false,
        }
    }

    /// Whether such a device can carry an origin: its users write through the origin of its
    /// snapshots.
    pub fn can_carry_origin(&self) -> bool {
        use TargetParams::{Linear, Mirror, Segments, Snapshot};
        matches!(self, Mirror(_) | Linear(_) | Segments(_) | Snapshot(_))
    }

    /// The device words, in the order of the line.
    pub fn devices(&self) -> Vec<String> {
        self.clone().devices_mut().into_iter().map(std::mem::take).collect()
    }

    /// The device words, in the order of the line.
    pub fn devices_mut(&mut self) -> Vec<&mut String> {
        match self {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
                vec![&mut snapshot.origin, &mut snapshot.cow]
            }
            TargetParams::SnapshotOrigin { origin } => vec![origin],
            TargetParams::Mirror(mirror) => mirror.devices_mut(),
            TargetParams::Linear(linear) => vec![&mut linear.device],
            TargetParams::Error | TargetParams::Zero => Vec::new(),
            TargetParams::Segments(segments) => {
                let of = |segment| match segment {
                    &mut Segment { params: SegmentParams::Linear(ref mut linear), .. } => {
                        Some(&mut linear.device)
                    }
                    _ => None,
                };
                segments.iter_mut().filter_map(of).collect()
            }
        }
    }

    /// The segments of a device of that length, if it is made of ranges: of one line or more.
    pub fn segments(&self, len: Sectors) -> Option<Vec<Segment>> {
        let params = match self {
            TargetParams::Segments(segments) => return Some(segments.clone()),
            TargetParams::Linear(linear) => SegmentParams::Linear(linear.clone()),
            TargetParams::Error => SegmentParams::Error,
            TargetParams::Zero => SegmentParams::Zero,
            TargetParams::Snapshot(_)
            | TargetParams::SnapshotMerge(_)
            | TargetParams::SnapshotOrigin { .. }
            | TargetParams::Mirror(_) => return None,
        };
        Some(vec![Segment { len, params }])
    }
}

/// The arguments, without the target's name, as `table` prints them; all lines of several.
impl fmt::Display for TargetParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
                snapshot.fmt(f)
            }
            TargetParams::SnapshotOrigin { origin } => Quoted(origin).fmt(f),
            TargetParams::Mirror(mirror) => mirror.fmt(f),
            TargetParams::Linear(linear) => linear.fmt(f),
            TargetParams::Error | TargetParams::Zero => Ok(()),
            TargetParams::Segments(segments) => Lines(segments).fmt(f),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.params {
            params @ TargetParams::Segments(_) => params.fmt(f),
            params @ (TargetParams::Error | TargetParams::Zero) => {
                write!(f, "0 {} {}", self.len, params.name())
            }
            params => write!(f, "0 {} {} {params}", self.len, params.name()),
        }
    }
}

impl Table {
    /// Parses one line.
    ///
    /// # Errors
    /// The target is unknown, or an argument is missing, malformed or out of range.
    pub fn parse(text: &str) -> Result<Table, TableError> {
        let (start, table) = Table::parse_line(text)?;
        if start.0 != 0 {
            return Err(TableError::new(format!("start {start}: a table starts at sector 0")));
        }
        Ok(table)
    }

    /// Parses a line that starts anywhere.
    fn parse_line(text: &str) -> Result<(Sector, Table), TableError> {
        let mut words = Words::new(text)?;
        let start = Sector(words.number("start", u64::MAX)?);
        let len = Sectors(words.number("length", u64::MAX)?);
        if len.0 == 0 || len > MAX_LEN {
            return Err(TableError::new(format!("length {len}: must be 1 to {MAX_LEN} sectors")));
        }
        let name = words.next("target")?;
        words.target = format!("{name}: ");
        let params = match name.as_str() {
            "snapshot" => TargetParams::Snapshot(Snapshot::parse(&mut words, false)?),
            "snapshot-merge" => TargetParams::SnapshotMerge(Snapshot::parse(&mut words, true)?),
            "snapshot-origin" => {
                TargetParams::SnapshotOrigin { origin: words.next("origin device")? }
            }
            "mirror" => TargetParams::Mirror(Mirror::parse(&mut words, len)?),
            "linear" => TargetParams::Linear(Linear::parse(&mut words, len)?),
            "error" => TargetParams::Error,
            "zero" => TargetParams::Zero,
            _ => {
                let known = "unknown; the targets are snapshot, snapshot-merge, snapshot-origin, \
                             mirror, linear, error and zero";
                return Err(TableError::new(format!("target {}: {known}", shown(&name))));
            }
        };
        // The snapshot targets ignore words after the counted features; the others do not.
        if !matches!(params, TargetParams::Snapshot(_) | TargetParams::SnapshotMerge(_)) {
            words.end()?;
        }
        Ok((start, Table { len, params }))
    }

    /// The same table with its device words replaced.
    ///
    /// # Errors
    /// `word` failed for a device.
    pub fn with_devices<E>(
        &self,
        mut word: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Table, E> {
        let mut table = self.clone();
        for device in table.params.devices_mut() {
            *device = word(device)?;
        }
        Ok(table)
    }

    /// Parses a table: empty lines and lines that start with `#` are skipped, and what remains is
    /// one line, or several that begin where the one before ends.
    ///
    /// # Errors
    /// As [`Table::parse`], of several lines with the line's number; also if there is no line, too
    /// many, a gap or an overlap, or a target that needs a table of its own.
    pub fn parse_table(text: &str) -> Result<Table, TableError> {
        let is_line = |line: &str| {
            let line = line.trim_start_matches(is_space);
            !line.is_empty() && !line.starts_with('#')
        };
        let mut lines = lines(text).filter(|(_, line)| is_line(line));
        let (first, line) = lines.next().ok_or_else(|| TableError::new("the table is empty"))?;
        let Some(second) = lines.next() else { return Table::parse(line) };
        let lines = [(first, line), second].into_iter().chain(lines);
        let (mut segments, mut end) = (Vec::new(), Sector(0));
        for (number, line) in lines {
            let segment = Table::parse_segment(line, end, segments.len());
            let segment = segment.map_err(|error| error.on_line(number))?;
            end = end.plus(segment.len);
            segments.push(segment);
        }
        Ok(Table { len: Sectors(end.0), params: TargetParams::Segments(segments) })
    }

    /// Parses a line of several, of which `count` end at `end`.
    fn parse_segment(line: &str, end: Sector, count: usize) -> Result<Segment, TableError> {
        let (start, Table { len, params }) = Table::parse_line(line)?;
        let refused = |why: String| Err(TableError::new(why));
        if count == MAX_LINES {
            return refused(format!("a table has at most {MAX_LINES} lines"));
        }
        if start != end {
            let what = if start > end { "leaves a gap" } else { "overlaps the lines before" };
            return refused(format!("start {start}: {what}; it must be {end}"));
        }
        if !start.has_room_for(len) {
            return refused(format!("length {len}: the table would end beyond {MAX_LEN} sectors"));
        }
        match params.segments(len).and_then(|mut segments| segments.pop()) {
            Some(segment) => Ok(segment),
            None => refused(format!(
                "target {}: must be the only line of its table; several can have linear, error \
                 and zero",
                params.name()
            )),
        }
    }

    /// The status lines of a target that has no arguments there, each followed by these words.
    pub fn plain_status(&self, len: Sectors, words: &str) -> String {
        let line = |start, len, name| format!("{start} {len} {name} {words}").trim_end().to_owned();
        match &self.params {
            TargetParams::Segments(segments) => {
                let lines = placed(segments)
                    .map(|(start, segment)| line(start, segment.len, segment.params.name()));
                lines.collect::<Vec<_>>().join("\n")
            }
            params => line(Sector(0), len, params.name()),
        }
    }
}

#[cfg(test)]
mod lines_tests;
#[cfg(test)]
mod tests;
