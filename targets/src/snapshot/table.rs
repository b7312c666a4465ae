//! The arguments of `snapshot` and `snapshot-merge`:
//! `ORIGIN COW P|PO|N CHUNK_SIZE [COUNT FEATURE...]`.

use std::fmt;

use crate::units::ChunkSize;
use crate::words::{Quoted, TableError, Words, shown};

/// The parameters of a snapshot, also of one that is being merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The origin's device word.
    pub origin: String,
    /// The COW's device word.
    pub cow: String,
    /// How exceptions are kept.
    pub store: StoreType,
    /// The chunk size; `None` (0 in the line) leaves it to the store on the COW or to the default.
    pub chunk_size: Option<ChunkSize>,
    /// Discards of whole chunks overwrite the COW chunk with zeroes.
    pub discard_zeroes_cow: bool,
    /// Discards go to the origin, too; only together with `discard_zeroes_cow`.
    pub discard_passdown_origin: bool,
}

/// How a snapshot keeps its exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreType {
    /// `P`, `PO`: on the COW, so that they outlive the device.
    Persistent {
        /// `PO`: a full COW makes the snapshot refuse writes (`Overflow`) where it can, instead of
        /// invalidating it.
        overflow: bool,
    },
    /// `N`, `NO`: in memory only.
    Transient {
        /// `NO`, which the kernel reads as `N`: as `PO`.
        overflow: bool,
    },
}

impl Snapshot {
    /// The features come first, as in the kernel, so a line with two faults gets the same error.
    pub(crate) fn parse(words: &mut Words, merge: bool) -> Result<Snapshot, TableError> {
        if words.left() < 4 {
            let given = words.left();
            return Err(words.error(format_args!(
                "needs at least 4 arguments (origin, COW, type, chunk size), has {given}"
            )));
        }
        let (origin, cow) = (words.next("origin device")?, words.next("COW device")?);
        let (store, chunk) = (words.next("type")?, words.number("chunk size", u32::MAX.into()));
        let mut snapshot = Snapshot {
            origin,
            cow,
            store: StoreType::Transient { overflow: false },
            chunk_size: None,
            discard_zeroes_cow: false,
            discard_passdown_origin: false,
        };
        for feature in words.counted_features(2)? {
            match feature.to_ascii_lowercase().as_str() {
                "discard_zeroes_cow" => snapshot.discard_zeroes_cow = true,
                "discard_passdown_origin" => snapshot.discard_passdown_origin = true,
                _ => {
                    return Err(words.error(format_args!("feature {} is unknown", shown(&feature))));
                }
            }
        }
        snapshot.store = store_type(&store).ok_or_else(|| {
            words.error(format_args!(
                "type {}: must be P, PO (persistent) or N (transient)",
                shown(&store)
            ))
        })?;
        let sectors = chunk?;
        if sectors != 0 {
            snapshot.chunk_size = ChunkSize::from_sectors(sectors);
            if snapshot.chunk_size.is_none() {
                let max = ChunkSize::MAX_SECTORS;
                return Err(words.error(format_args!(
                    "chunk size {sectors}: must be a power of two up to {max} sectors"
                )));
            }
        }
        snapshot.check(merge).map_err(|error| words.error(error))?;
        Ok(snapshot)
    }

    /// The rules between parameters, also for callers that do not parse a line; `merge` for
    /// `snapshot-merge`.
    ///
    /// # Errors
    /// A combination that the kernel refuses, too.
    pub fn check(&self, merge: bool) -> Result<(), TableError> {
        let fault = if self.discard_passdown_origin && !self.discard_zeroes_cow {
            "feature discard_passdown_origin needs discard_zeroes_cow"
        } else if self.origin == self.cow {
            "origin and COW are the same device"
        } else if merge && self.store.is_transient() {
            "a transient store (N) cannot be merged"
        } else if self.store.is_transient() && self.chunk_size.is_none() {
            "a transient store (N) needs a chunk size"
        } else {
            return Ok(());
        };
        Err(TableError::new(fault))
    }
}

impl StoreType {
    /// Whether exceptions are kept in memory only.
    pub fn is_transient(self) -> bool {
        matches!(self, StoreType::Transient { .. })
    }
}

/// Only the letters that the kernel reads count: `pOverflow` is `PO`, `Nothing` is `N`, `Pz` is
/// invalid. `NO` is our own.
fn store_type(word: &str) -> Option<StoreType> {
    if word.eq_ignore_ascii_case("NO") {
        return Some(StoreType::Transient { overflow: true });
    }
    let mut letters = word.chars().map(|letter| letter.to_ascii_uppercase());
    match (letters.next(), letters.next()) {
        (Some('P'), None) => Some(StoreType::Persistent { overflow: false }),
        (Some('P'), Some('O')) => Some(StoreType::Persistent { overflow: true }),
        (Some('N'), _) => Some(StoreType::Transient { overflow: false }),
        _ => None,
    }
}

impl fmt::Display for StoreType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreType::Persistent { overflow: false } => "P",
            StoreType::Persistent { overflow: true } => "PO",
            StoreType::Transient { overflow: false } => "N",
            StoreType::Transient { overflow: true } => "NO",
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunk_sectors = self.chunk_size.map_or(0, |size| size.sectors().0);
        write!(f, "{} {} {} {chunk_sectors}", Quoted(&self.origin), Quoted(&self.cow), self.store)?;
        match (self.discard_zeroes_cow, self.discard_passdown_origin) {
            (false, _) => Ok(()),
            (true, false) => f.write_str(" 1 discard_zeroes_cow"),
            (true, true) => f.write_str(" 2 discard_zeroes_cow discard_passdown_origin"),
        }
    }
}
