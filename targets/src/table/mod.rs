//! Device-mapper table lines and status lines: text to typed parameters and back.
//!
//! A line is `START LENGTH TARGET ARGUMENTS...`. What the kernel takes is taken, what it refuses is refused, each refusal
//! with one line that names the argument; printing gives the kernel's own form, so a line that was printed parses to what
//! was printed. Pure: device words stay words, and what needs the devices (do they exist, are they large enough, are
//! origin and COW one device under two names, their block sizes) is left to whoever opens them.
//!
//! Where the kernel is careless this is not: numbers that do not fit are refused instead of losing their upper bits.

mod mirror;
mod size;
mod snapshot;
mod status;

use std::fmt;

use crate::units::{SECTOR_BYTES, Sector, Sectors};

pub use mirror::{InitialSync, Leg, Mirror, MirrorLog};
pub use size::{SizeError, parse_size};
pub use snapshot::{Snapshot, StoreType};
pub use status::{DiskLogState, LegHealth, MirrorLogStatus, MirrorStatus, SnapshotStatus};

/// The longest device there can be: its length in bytes must fit the kernel's signed 64-bit file offset.
pub const MAX_LEN: Sectors = Sectors(i64::MAX.unsigned_abs() / SECTOR_BYTES);

/// A table line that cannot be used, in one line of text that names the argument and the reason. The kernel answers
/// each of them with `EINVAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError(String);

impl TableError {
    fn new(text: impl Into<String>) -> TableError {
        TableError(text.into())
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TableError {}

/// What a device is made of: one line with one target, which starts at sector 0.
///
/// It says all of it: two devices with equal tables are made of the same disks in the same way. How a device is
/// served (queues, zero copy) stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The length of the device.
    pub len: Sectors,
    /// Its target, and what the target is made of.
    pub params: TargetParams,
}

/// A target with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetParams {
    /// `snapshot`: a snapshot of an origin.
    Snapshot(Snapshot),
    /// `snapshot-merge`: an origin into which one of its snapshots flows back.
    SnapshotMerge(Snapshot),
    /// `snapshot-origin`: the write path of an origin that has snapshots.
    SnapshotOrigin {
        /// The origin's device word.
        origin: String,
    },
    /// `mirror`: the same data on several legs.
    Mirror(Mirror),
}

impl TargetParams {
    /// The target's name in table and status lines.
    pub fn name(&self) -> &'static str {
        match self {
            TargetParams::Snapshot(_) => "snapshot",
            TargetParams::SnapshotMerge(_) => "snapshot-merge",
            TargetParams::SnapshotOrigin { .. } => "snapshot-origin",
            TargetParams::Mirror(_) => "mirror",
        }
    }
}

impl TargetParams {
    /// The device words, in the order of the line.
    pub fn devices_mut(&mut self) -> Vec<&mut String> {
        match self {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
                vec![&mut snapshot.origin, &mut snapshot.cow]
            }
            TargetParams::SnapshotOrigin { origin } => vec![origin],
            TargetParams::Mirror(mirror) => mirror.devices_mut(),
        }
    }
}

/// The arguments, without the target's name, as `table` shows them.
impl fmt::Display for TargetParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => snapshot.fmt(f),
            TargetParams::SnapshotOrigin { origin } => Quoted(origin).fmt(f),
            TargetParams::Mirror(mirror) => mirror.fmt(f),
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
    /// The line is not one of the four targets, or one of its arguments is missing, malformed or out of range.
    pub fn parse(text: &str) -> Result<Table, TableError> {
        let mut words = Words::new(text)?;
        let start = words.number("start", u64::MAX)?;
        if start != 0 {
            return Err(TableError::new(format!("start {start}: a device has one target, which starts at sector 0")));
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
            "snapshot-origin" => TargetParams::SnapshotOrigin { origin: words.next("origin device")? },
            "mirror" => TargetParams::Mirror(Mirror::parse(&mut words, len)?),
            _ => {
                let known = "known are snapshot, snapshot-merge, snapshot-origin and mirror";
                return Err(TableError::new(format!("target {}: {known}", shown(&name))));
            }
        };
        // The snapshot targets ignore what follows the features they counted; the others do not.
        if matches!(params, TargetParams::SnapshotOrigin { .. } | TargetParams::Mirror(_)) {
            words.end()?;
        }
        Ok(Table { len, params })
    }

    /// The same table with other words for its devices.
    ///
    /// # Errors
    /// `word` has none for a device.
    pub fn with_devices<E>(&self, mut word: impl FnMut(&str) -> Result<String, E>) -> Result<Table, E> {
        let mut table = self.clone();
        for device in table.params.devices_mut() {
            *device = word(device)?;
        }
        Ok(table)
    }

    /// Parses a whole table, as a file holds it: empty lines and lines that start with `#` are skipped, and exactly one
    /// line must remain.
    ///
    /// # Errors
    /// As [`Table::parse`]; also no line at all, or more than one.
    pub fn parse_table(text: &str) -> Result<Table, TableError> {
        let mut lines = text
            .lines()
            .map(|line| line.trim_matches(is_space))
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let first = lines.next().ok_or_else(|| TableError::new("the table is empty"))?;
        if lines.next().is_some() {
            return Err(TableError::new("the table has more than one line; a device has one target"));
        }
        Table::parse(first)
    }
}

/// The words of a line, taken one by one. A backslash takes the next character's meaning away, as in the kernel.
struct Words {
    target: String,
    words: std::vec::IntoIter<String>,
}

impl Words {
    fn new(text: &str) -> Result<Words, TableError> {
        if text.contains('\0') {
            return Err(TableError::new("the line holds a zero byte"));
        }
        let mut words = Vec::new();
        let mut word = String::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            if char == '\\' && chars.peek().is_some() {
                word.extend(chars.next());
            } else if !is_space(char) {
                word.push(char);
            } else if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        Ok(Words { target: String::new(), words: words.into_iter() })
    }

    fn left(&self) -> usize {
        self.words.len()
    }

    fn error(&self, text: impl fmt::Display) -> TableError {
        TableError(format!("{}{text}", self.target))
    }

    fn next(&mut self, what: &str) -> Result<String, TableError> {
        self.words.next().ok_or_else(|| self.error(format_args!("{what} is missing")))
    }

    /// A decimal number up to `max`.
    fn number(&mut self, what: &str, max: u64) -> Result<u64, TableError> {
        let word = self.next(what)?;
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        match word.parse::<u64>() {
            Ok(number) if digits && number <= max => Ok(number),
            _ if digits => Err(self.error(format_args!("{what} {}: too large", shown(&word)))),
            _ => Err(self.error(format_args!("{what} {}: not a decimal number", shown(&word)))),
        }
    }

    /// The count that stands before optional words, and the words; nothing at all counts as none.
    fn counted_features(&mut self, max: usize) -> Result<Vec<String>, TableError> {
        if self.left() == 0 {
            return Ok(Vec::new());
        }
        let count = self.number("feature count", u64::MAX)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > max {
            return Err(self.error(format_args!("feature count {count}: at most {max}")));
        }
        if count > self.left() {
            return Err(self.error(format_args!("feature count {count}, but {} follow", self.left())));
        }
        Ok(self.words.by_ref().take(count).collect())
    }

    fn end(&mut self) -> Result<(), TableError> {
        match self.words.next() {
            Some(word) => Err(self.error(format_args!("{} is one argument too many", shown(&word)))),
            None => Ok(()),
        }
    }
}

/// The characters that end a word; only ASCII ones, so a name in any script is one word.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t'..='\r')
}

/// A word in quotes for an error, short enough for one line.
fn shown(word: &str) -> String {
    const LONGEST: usize = 64;
    if word.chars().count() <= LONGEST {
        return format!("{word:?}");
    }
    let head: String = word.chars().take(LONGEST).collect();
    format!("{head:?}...")
}

/// A device word in the form that parses back to it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            if char == '\\' || is_space(char) {
                f.write_str("\\")?;
            }
            write!(f, "{char}")?;
        }
        Ok(())
    }
}

/// The last sector of a range must exist.
fn range_fits(start: Sector, len: Sectors) -> bool {
    start.0.checked_add(len.0).is_some_and(|end| end <= MAX_LEN.0)
}

#[cfg(test)]
mod tests;
