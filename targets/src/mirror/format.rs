//! The on-disk format of the dirty log, version 2, as the kernel writes it. Pure: no I/O.
//!
//! ```text
//! byte 0      magic "rRiM", version, number of regions (64 bits)
//! byte 16     not interpreted by the kernel, which keeps it: here the legs that missed something
//!             ([`super::leg_flags`]) and the size of a region ([`super::log_region_size`])
//! byte 1024   one bit a region, lowest bit first: 1 clean, 0 dirty or not in sync; padded with
//!             zeroes to 64 bits
//! ```
//!
//! All numbers are little-endian. Version 1 is the same on little-endian machines. LVM creates logs
//! whose number of regions is all ones: such a log does not record the number, and its bits are
//! used as they are.
//!
//! The kernel always writes the whole log. Here only changed blocks are written: a torn write of
//! the whole log leaves each block old or new, and writing only the changed blocks leaves nothing
//! else, so any kernel must accept it.

use super::bits::Bits;
use super::table::InitialSync;
use crate::units::{RegionIndex, SECTOR_BYTES, Sectors};

/// The first word, bytes `72 52 69 4D`.
pub const MAGIC: u32 = 0x4D69_5272;
/// The version to write.
pub const VERSION: u32 = 2;
/// The older version, the same on little-endian machines; read and written as [`VERSION`].
pub const OLD_VERSION: u32 = 1;
/// The number of regions of a log that no mirror has opened yet.
pub const REGIONS_UNKNOWN: u64 = u64::MAX;
/// Bytes of the header that the kernel interprets.
pub const WORDS_BYTES: usize = 16;
/// Bytes of the header; the bits follow.
pub const HEADER_BYTES: usize = 1024;
/// Most regions of a mirror: the kernel counts them in 32 bits.
pub const MAX_REGIONS: u64 = u32::MAX as u64;
/// Regions in a word of the bitset.
const WORD_REGIONS: u64 = 64;
/// Bytes of a word of the bitset.
const WORD_BYTES: u64 = 8;

/// The words of a header, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// The magic word.
    pub magic: u32,
    /// The format's version.
    pub version: u32,
    /// The number of regions in the log.
    pub regions: u64,
}

impl Words {
    /// Reads the words.
    pub fn decode(bytes: &[u8; WORDS_BYTES]) -> Words {
        let [m0, m1, m2, m3, v0, v1, v2, v3, regions @ ..] = *bytes;
        let (magic, version) =
            (u32::from_le_bytes([m0, m1, m2, m3]), u32::from_le_bytes([v0, v1, v2, v3]));
        Words { magic, version, regions: u64::from_le_bytes(regions) }
    }

    /// The words' bytes.
    pub fn encode(&self) -> [u8; WORDS_BYTES] {
        let mut bytes = [0; WORDS_BYTES];
        bytes[..4].copy_from_slice(&self.magic.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..].copy_from_slice(&self.regions.to_le_bytes());
        bytes
    }

    /// Whether the version is supported.
    pub fn known_version(&self) -> bool {
        [OLD_VERSION, VERSION].contains(&self.version)
    }
}

/// Bytes of the bitset of `regions` regions.
pub const fn bitset_bytes(regions: u64) -> u64 {
    regions.div_ceil(WORD_REGIONS).saturating_mul(WORD_BYTES)
}

/// The position of a region's bit in the log: the byte, and the bit in it.
pub const fn bit_of(region: RegionIndex) -> (u64, u32) {
    // at most 7, so the cast keeps everything
    #[allow(clippy::cast_possible_truncation)]
    (HEADER_BYTES as u64 + region.0 / 8, (region.0 % 8) as u32)
}

/// The layout of a log on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Regions of the mirror.
    pub regions: u64,
    /// The log device's block size, the unit of writes.
    pub block_bytes: u32,
}

impl Layout {
    /// Bytes of header and bits.
    pub fn used_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + bitset_bytes(self.regions)
    }

    /// Blocks of the log, rounded up.
    pub fn blocks(&self) -> u64 {
        self.used_bytes().div_ceil(u64::from(self.block_bytes))
    }

    /// The log's length on its device.
    pub fn len(&self) -> Sectors {
        Sectors(self.blocks() * u64::from(self.block_bytes) / SECTOR_BYTES)
    }

    /// The block that holds a region's bit.
    pub fn block_of(&self, region: RegionIndex) -> u64 {
        bit_of(region).0 / u64::from(self.block_bytes)
    }

    /// Fills `out` with the log's bytes from `start_bytes` on; without `bits`: no region is in
    /// sync. `tail` holds the bytes after the bits.
    pub fn encode(
        &self,
        start_bytes: u64,
        header: &[u8; HEADER_BYTES],
        bits: Option<&Bits>,
        tail: &[u8],
        out: &mut [u8],
    ) {
        let mut at = start_bytes;
        let mut out = out;
        while !out.is_empty() {
            let (source, word): (&[u8], [u8; 8]);
            if at < HEADER_BYTES as u64 {
                source = &header[to_index(at)..];
            } else if at < self.used_bytes() {
                let offset = at - HEADER_BYTES as u64;
                let bits = bits.map_or(0, |bits| bits.words()[to_index(offset / WORD_BYTES)]);
                word = bits.to_le_bytes();
                source = &word[to_index(offset % WORD_BYTES)..];
            } else {
                source = &tail[to_index(at - self.used_bytes())..];
            }
            let len = source.len().min(out.len());
            let (now, later) = out.split_at_mut(len);
            now.copy_from_slice(&source[..len]);
            out = later;
            at += len as u64;
        }
    }

    /// Decodes bytes read from `start_bytes` on into the parts of the log. Returns whether bits
    /// after the last region were set, which are dropped.
    pub fn decode(
        &self,
        start_bytes: u64,
        bytes: &[u8],
        header: &mut [u8; HEADER_BYTES],
        bits: &mut Bits,
        tail: &mut [u8],
    ) -> bool {
        let used = self.used_bytes();
        let mut padded = false;
        for (at, chunk) in (start_bytes..).step_by(8).zip(bytes.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            if at < HEADER_BYTES as u64 {
                header[to_index(at)..to_index(at) + 8].copy_from_slice(&word);
            } else if at < used {
                let (index, word) =
                    (to_index((at - HEADER_BYTES as u64) / WORD_BYTES), u64::from_le_bytes(word));
                bits.set_word(index, word);
                padded |= bits.words()[index] != word;
            } else {
                tail[to_index(at - used)..to_index(at - used) + 8].copy_from_slice(&word);
            }
        }
        padded
    }
}

/// The result of opening a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The log cannot be trusted: it could not be read, or has an unknown version.
    pub failed: bool,
    /// The header was created anew: its other bytes do not come from a mirror log.
    pub fresh: bool,
}

/// Whether a header is that of a mirror's log.
pub fn is_log(header: &[u8; HEADER_BYTES]) -> bool {
    let mut first = [0; WORDS_BYTES];
    first.copy_from_slice(&header[..WORDS_BYTES]);
    Words::decode(&first).magic == MAGIC
}

/// Turns a log that was read (or could not be) into the mirror's initial log: the header has the
/// mirror's number of regions, and the bits mark those in sync. The kernel's rules, in its order.
pub fn resume(
    header: &mut [u8; HEADER_BYTES],
    bits: &mut Bits,
    readable: bool,
    initial: InitialSync,
) -> Resumed {
    let mut first = [0; WORDS_BYTES];
    first.copy_from_slice(&header[..WORDS_BYTES]);
    let mut words = Words::decode(&first);
    let mut resumed = Resumed { failed: !readable, fresh: false };
    if !readable || initial != InitialSync::FromLog || words.magic != MAGIC {
        resumed.fresh = !readable || words.magic != MAGIC;
        words = Words { magic: MAGIC, version: VERSION, regions: 0 };
    } else if !words.known_version() {
        resumed.failed = true;
        words.regions = 0;
    } else {
        words.version = VERSION;
    }
    // The kernel uses 32 bits of the number: all ones exceeds any number of regions, and 2^32 is 0.
    let known = words.regions & MAX_REGIONS;
    bits.fill_from(known, initial == InitialSync::NoSync);
    words.regions = bits.len();
    header[..WORDS_BYTES].copy_from_slice(&words.encode());
    resumed
}

/// A position in the log as an index; a log is at most slightly over 512 MiB long.
fn to_index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
