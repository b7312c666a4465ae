//! Device-mapper table lines and status lines: text to typed parameters and back.
//!
//! A line is `START LENGTH TARGET ARGUMENTS...`. Lines that the kernel accepts are accepted, lines
//! that it refuses are refused, with a one-line error that names the argument; a table prints in
//! the kernel's form, and a printed line parses to the same table. Pure: device words stay words,
//! and checks that need the devices (do they exist, are they large enough, are origin and COW one
//! device under two names, their block sizes) are left to the caller that opens them.
//!
//! Stricter than the kernel: numbers that do not fit are refused instead of truncated.

use std::fmt;

use crate::linear::table::Linear;
use crate::mirror::table::Mirror;
use crate::snapshot::table::Snapshot;
use crate::units::{MAX_LEN, Sectors};
use crate::words::{Quoted, TableError, Words, is_space, shown};

/// The table of a device: one line with one target, which starts at sector 0.
///
/// It is complete: two devices with equal tables map the same disks in the same way. Options of the
/// ublk device (queues, zero copy) are separate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The length of the device.
    pub len: Sectors,
    /// The target and its parameters.
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
}

/// The identity of the server that a device shares with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family<'a> {
    /// The disk that the server is named after.
    pub disk: &'a str,
    /// The prefix of the server's name: one disk may be an origin, a leg and more.
    pub prefix: &'static str,
}

impl TargetParams {
    /// The target's name in table and status lines.
    pub fn name(&self) -> &'static str {
        match self {
            TargetParams::Linear(_) => "linear",
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
            TargetParams::Linear(_) => "linear",
        }
    }

    /// The server of this device.
    pub fn family(&self) -> Family<'_> {
        match self {
            TargetParams::Snapshot(Snapshot { origin, .. })
            | TargetParams::SnapshotMerge(Snapshot { origin, .. })
            | TargetParams::SnapshotOrigin { origin } => Family { disk: origin, prefix: "" },
            TargetParams::Mirror(mirror) => {
                Family { disk: &mirror.legs[0].device, prefix: "mirror-" }
            }
            TargetParams::Linear(linear) => Family { disk: &linear.device, prefix: "linear-" },
        }
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
        }
    }
}

/// The arguments, without the target's name, as `table` prints them.
impl fmt::Display for TargetParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
                snapshot.fmt(f)
            }
            TargetParams::SnapshotOrigin { origin } => Quoted(origin).fmt(f),
            TargetParams::Mirror(mirror) => mirror.fmt(f),
            TargetParams::Linear(linear) => linear.fmt(f),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0 {} {} {}", self.len, self.params.name(), self.params)
    }
}

impl Table {
    /// Parses one line.
    ///
    /// # Errors
    /// The target is unknown, or an argument is missing, malformed or out of range.
    pub fn parse(text: &str) -> Result<Table, TableError> {
        let mut words = Words::new(text)?;
        let start = words.number("start", u64::MAX)?;
        if start != 0 {
            return Err(TableError::new(format!(
                "start {start}: a device has one target, which starts at sector 0"
            )));
        }
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
            _ => {
                let known = "unknown; the targets are snapshot, snapshot-merge, snapshot-origin, \
                             mirror and linear";
                return Err(TableError::new(format!("target {}: {known}", shown(&name))));
            }
        };
        // The snapshot targets ignore words after the counted features; the others do not.
        if matches!(params, TargetParams::SnapshotOrigin { .. } | TargetParams::Mirror(_)) {
            words.end()?;
        }
        Ok(Table { len, params })
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

    /// Parses a table file: empty lines and lines that start with `#` are skipped, and exactly one
    /// line must remain.
    ///
    /// # Errors
    /// As [`Table::parse`]; also if there is no line, or more than one.
    pub fn parse_table(text: &str) -> Result<Table, TableError> {
        let mut lines = text
            .lines()
            .map(|line| line.trim_matches(is_space))
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let first = lines.next().ok_or_else(|| TableError::new("the table is empty"))?;
        if lines.next().is_some() {
            return Err(TableError::new(
                "the table has more than one line; a device has one target",
            ));
        }
        Table::parse(first)
    }
}

#[cfg(test)]
mod tests;
