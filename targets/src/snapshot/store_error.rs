//! Why a store cannot be opened, in one line for the user.

use std::fmt;
use std::rc::Rc;

use super::format::{HeaderError, Record, RecordError};
use crate::disk::DiskError;
use crate::units::Sectors;

/// Why a store cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// A disk failed.
    Disk(DiskError),
    /// The header is not usable.
    Header(Rc<str>, HeaderError),
    /// A record is not usable.
    Record(Rc<str>, RecordError),
    /// The COW cannot hold a single exception of that chunk size, or ends before its own areas.
    TooSmall {
        /// The COW's name.
        disk: Rc<str>,
        /// Its size.
        size: Sectors,
        /// The size it would need.
        needed: Sectors,
    },
    /// The chunk size is not a multiple of a disk's block size.
    ChunkBelowBlock {
        /// The chunk size.
        chunk: Sectors,
        /// The larger of the disks' logical block sizes.
        block_bytes: u32,
    },
    /// The snapshot would be longer than its origin: a chunk written behind the origin's end would
    /// make the store unusable.
    BehindOrigin {
        /// The origin's name.
        origin: Rc<str>,
        /// The snapshot's length.
        len: Sectors,
        /// The origin's.
        size: Sectors,
    },
    /// A store must be written to be used, and the COW is read-only.
    ReadOnly(Rc<str>),
    /// Records journaled by a server that died do not belong to the store.
    Journaled {
        /// The COW's name.
        disk: Rc<str>,
        /// Where the journal is.
        journal: String,
        /// The first record that does not fit.
        record: Record,
    },
    /// The store was made for another origin.
    OtherOrigin {
        /// The COW's name.
        disk: Rc<str>,
        /// The origin that it was made for.
        made_for: Rc<str>,
        /// The origin that it is used with.
        origin: Rc<str>,
    },
    /// The store cannot be merged: which disk, and why.
    Merge(Rc<str>, &'static str),
    /// A part of the snapshot is on the origin: alone the store shows it no longer.
    HalfMerged {
        /// The COW's name.
        cow: Rc<str>,
        /// The origin's.
        origin: Rc<str>,
        /// The snapshot's length.
        len: Sectors,
        /// The length of its chunks.
        chunk: Sectors,
    },
    /// No memory for buffers.
    NoMemory,
}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> StoreError {
        StoreError::Disk(error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Disk(error) => error.fmt(f),
            StoreError::Header(disk, error) => write!(f, "{disk}: {error}"),
            StoreError::Record(disk, error) => {
                write!(f, "{disk}: {error}; see `ublk-dm check {disk}`")
            }
            StoreError::TooSmall { disk, size, needed } => {
                write!(
                    f,
                    "{disk}: too small for a snapshot store: it has {size} sectors and needs at \
                     least {needed}"
                )
            }
            StoreError::ChunkBelowBlock { chunk, block_bytes } => write!(
                f,
                "chunk size of {} bytes is not a multiple of the disks' block size of \
                 {block_bytes} bytes",
                chunk.bytes()
            ),
            StoreError::BehindOrigin { origin, len, size } => {
                write!(f, "{origin}: has {size} sectors, fewer than the {len} of the snapshot")
            }
            StoreError::ReadOnly(disk) => {
                write!(f, "{disk}: read-only; a snapshot store must be writable")
            }
            StoreError::Journaled { disk, journal, record } => write!(
                f,
                "{disk}: changed since its last server died; that server had acknowledged writes \
                 that are not recorded on the disk (chunk {} in COW chunk {}): `ublk-dm journal \
                 discard {journal}` discards them",
                record.old.0, record.new.0
            ),
            StoreError::OtherOrigin { disk, made_for, origin } => write!(
                f,
                "{disk}: its store was made for another origin ({made_for}), not for {origin}: use \
                 that origin, wipe the COW, or give --other-origin if both names are of the same \
                 disk"
            ),
            StoreError::Merge(disk, why) => write!(f, "{disk}: {why}"),
            StoreError::HalfMerged { cow, origin, len, chunk } => write!(
                f,
                "{cow}: a part of its snapshot has been merged into {origin}: `ublk-dm create NAME \
                 --table \"0 {len} snapshot-merge {origin} {cow} P {chunk}\"` merges the rest"
            ),
            StoreError::NoMemory => write!(f, "no memory left for buffers"),
        }
    }
}

impl std::error::Error for StoreError {}
