//! The header of a store: its bytes, and how they are interpreted. Pure.
//!
//! Rule kept here: a COW is judged as the kernel judges it, by the magic word, then the chunk size,
//! then the version; nothing is guessed.

use std::fmt;

use crate::units::ChunkSize;

/// The header's first four bytes, `53 6E 41 70` ("SnAp").
pub const MAGIC: u32 = 0x7041_6E53;
/// The only version of the format there is.
pub const VERSION: u32 = 1;
/// Bytes of the header that are in use.
pub const HEADER_BYTES: usize = 16;

/// The header's four words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the snapshot can still be used; any value but zero counts as valid.
    pub valid: u32,
    /// Format version.
    pub version: u32,
    /// Chunk size in sectors, unchecked.
    pub chunk_sectors: u32,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The magic word is neither zero (a new store) nor "SnAp".
    Foreign {
        /// The word found.
        magic: u32,
    },
    /// The chunk size is not a power-of-two number of sectors up to 1 GiB, or not a multiple of a
    /// disk's block size.
    ChunkSize {
        /// The chunk size found.
        sectors: u32,
    },
    /// A version other than 1.
    Version {
        /// The version found.
        version: u32,
    },
}

/// What the first bytes of a COW device are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The magic word is zero: no store yet. Only that word is checked, as in the kernel.
    Empty,
    /// A header with a usable chunk size and version, valid or not.
    Store {
        /// Its words.
        header: Header,
        /// Its chunk size.
        chunk_size: ChunkSize,
    },
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

impl Header {
    /// Decodes the words without judging them; `None` if the magic word differs.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        (word(bytes, 0) == MAGIC).then(|| Header {
            valid: word(bytes, 4),
            version: word(bytes, 8),
            chunk_sectors: word(bytes, 12),
        })
    }

    /// The header's bytes; the rest of its chunk is zero.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        for (at, word) in
            [MAGIC, self.valid, self.version, self.chunk_sectors].into_iter().enumerate()
        {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header of a store with that chunk size.
    pub fn new(chunk_size: ChunkSize, valid: bool) -> Header {
        let chunk_sectors = u32::try_from(chunk_size.sectors().0).unwrap_or(u32::MAX);
        Header { valid: u32::from(valid), version: VERSION, chunk_sectors }
    }
}

/// Judges the first bytes of a COW in the kernel's order: magic, chunk size, version.
pub fn examine(bytes: &[u8; HEADER_BYTES]) -> Result<Found, HeaderError> {
    let magic = word(bytes, 0);
    if magic == 0 {
        return Ok(Found::Empty);
    }
    let header = Header::decode(bytes).ok_or(HeaderError::Foreign { magic })?;
    let chunk_size = ChunkSize::from_sectors(u64::from(header.chunk_sectors))
        .ok_or(HeaderError::ChunkSize { sectors: header.chunk_sectors })?;
    if header.version != VERSION {
        return Err(HeaderError::Version { version: header.version });
    }
    Ok(Found::Store { header, chunk_size })
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Foreign { magic } => {
                write!(
                    f,
                    "holds other data: its first word is {magic:#010x}, neither zero nor a \
                     snapshot's magic number"
                )
            }
            HeaderError::ChunkSize { sectors } => write!(
                f,
                "header names a chunk size of {sectors} sectors; it must be a power of two of at \
                 most {} sectors \
                 and a multiple of the disks' block sizes",
                ChunkSize::MAX_SECTORS
            ),
            HeaderError::Version { version } => {
                write!(f, "header has format version {version}; only version {VERSION} is known")
            }
        }
    }
}

impl std::error::Error for HeaderError {}
