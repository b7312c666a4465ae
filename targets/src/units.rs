//! Positions and lengths that cannot be mistaken for one another.
//!
//! Device-mapper counts almost everything in 512-byte sectors and in chunks of sectors. A position
//! in the origin, a position in the COW device and a length are different things that are all "a
//! number" in C; here each has a type, and only meaningful conversions exist.

use std::fmt;

/// Bytes in a sector: the unit of every table line and of the ublk interface, whatever the disk's
/// own block size.
pub const SECTOR_BYTES: u64 = 512;

/// The longest device there can be: its length in bytes must fit the kernel's signed 64-bit file
/// offset.
pub const MAX_LEN: Sectors = Sectors(i64::MAX.unsigned_abs() / SECTOR_BYTES);

/// A position on a device, in 512-byte sectors from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// A length in 512-byte sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

/// A chunk of the origin, counted from its start (`old_chunk` of an exception record).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chunk(pub u64);

/// A chunk of the COW device, counted from its start (`new_chunk` of an exception record).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CowChunk(pub u64);

/// The chunk size of a snapshot: a power of two of sectors, at most [`ChunkSize::MAX_SECTORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize {
    shift: u8,
}

/// A region of a mirror's dirty log, counted from the mirror's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(pub u64);

/// The size of a dirty-log region: a power of two of sectors, at least [`RegionSize::MIN_SECTORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionSize {
    shift: u8,
}

impl Sector {
    /// The byte offset of this position.
    pub const fn bytes(self) -> u64 {
        self.0 * SECTOR_BYTES
    }

    /// The position `count` sectors further on.
    pub const fn plus(self, count: Sectors) -> Sector {
        Sector(self.0 + count.0)
    }

    /// Whether a disk can be long enough to have `len` sectors from here on.
    pub const fn has_room_for(self, len: Sectors) -> bool {
        match self.0.checked_add(len.0) {
            Some(end) => end <= MAX_LEN.0,
            None => false,
        }
    }
}

/// Whether two ranges of a disk have a sector in common.
pub const fn overlap(one: (Sector, Sectors), other: (Sector, Sectors)) -> bool {
    one.0.0 < other.0.plus(other.1).0 && other.0.0 < one.0.plus(one.1).0
}

impl Sectors {
    /// The length in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 * SECTOR_BYTES
    }

    /// A length from bytes; a partial sector at the end is not counted.
    pub const fn from_bytes(bytes: u64) -> Sectors {
        Sectors(bytes / SECTOR_BYTES)
    }

    /// The part of this length that is made of whole blocks of a size, which is a multiple of a
    /// sector.
    pub const fn whole_blocks(self, block_bytes: u64) -> Sectors {
        let block = block_bytes / SECTOR_BYTES;
        Sectors(self.0 / block * block)
    }
}

impl ChunkSize {
    /// The largest legal chunk: 1 GiB, because the kernel keeps its byte count in an `int`
    /// (exception store, rule 1.3: at most `0x7FFFFFFF >> 9` sectors, so the next lower power of
    /// two).
    pub const MAX_SECTORS: u64 = 2_097_152;

    /// A chunk size from sectors; `None` unless it is a power of two between 1 and
    /// [`Self::MAX_SECTORS`].
    pub const fn from_sectors(sectors: u64) -> Option<ChunkSize> {
        if sectors.is_power_of_two() && sectors <= Self::MAX_SECTORS {
            // at most 21, so the cast keeps everything
            #[allow(clippy::cast_possible_truncation)]
            Some(ChunkSize { shift: sectors.trailing_zeros() as u8 })
        } else {
            None
        }
    }

    /// Sectors in a chunk.
    pub const fn sectors(self) -> Sectors {
        Sectors(1 << self.shift)
    }

    /// Bytes in a chunk.
    pub const fn bytes(self) -> u64 {
        self.sectors().bytes()
    }

    /// The origin chunk that holds a sector.
    pub const fn chunk_of(self, sector: Sector) -> Chunk {
        Chunk(sector.0 >> self.shift)
    }

    /// How far a sector is from the start of its chunk.
    pub const fn offset_of(self, sector: Sector) -> Sectors {
        Sectors(sector.0 & ((1 << self.shift) - 1))
    }

    /// Chunks needed to cover a length; the last may be short.
    pub const fn chunks_in(self, len: Sectors) -> u64 {
        len.0.div_ceil(1 << self.shift)
    }

    /// Where an origin chunk starts.
    pub const fn start_of(self, chunk: Chunk) -> Sector {
        Sector(chunk.0 << self.shift)
    }

    /// Where a chunk of the COW device starts.
    pub const fn start_of_cow(self, chunk: CowChunk) -> Sector {
        Sector(chunk.0 << self.shift)
    }
}

impl RegionSize {
    /// The smallest legal region.
    pub const MIN_SECTORS: u64 = 2;

    /// A region size from sectors; `None` unless it is a power of two of at least
    /// [`Self::MIN_SECTORS`].
    pub const fn from_sectors(sectors: u64) -> Option<RegionSize> {
        if sectors.is_power_of_two() && sectors >= Self::MIN_SECTORS {
            // at most 63, so the cast keeps everything
            #[allow(clippy::cast_possible_truncation)]
            Some(RegionSize { shift: sectors.trailing_zeros() as u8 })
        } else {
            None
        }
    }

    /// Sectors in a region.
    pub const fn sectors(self) -> Sectors {
        Sectors(1 << self.shift)
    }

    /// The region that holds a sector.
    pub const fn region_of(self, sector: Sector) -> RegionIndex {
        RegionIndex(sector.0 >> self.shift)
    }

    /// Where a region starts.
    pub const fn start_of(self, region: RegionIndex) -> Sector {
        Sector(region.0 << self.shift)
    }

    /// Regions needed to cover a length; the last may be short.
    pub const fn regions_in(self, len: Sectors) -> u64 {
        len.0.div_ceil(1 << self.shift)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_powers_of_two_up_to_one_gib() {
        for bad in [0, 3, 7, 3000, 2_097_153, 4_194_304] {
            assert_eq!(ChunkSize::from_sectors(bad), None, "{bad}");
        }
        for shift in 0..=21 {
            let size = ChunkSize::from_sectors(1 << shift).unwrap();
            assert_eq!(size.sectors(), Sectors(1 << shift));
        }
    }

    #[test]
    fn a_sector_belongs_to_one_region() {
        assert_eq!([0, 1, 3, 12].map(RegionSize::from_sectors), [None; 4]);
        let size = RegionSize::from_sectors(8).unwrap();
        assert_eq!(
            (size.region_of(Sector(23)), size.start_of(RegionIndex(2))),
            (RegionIndex(2), Sector(16))
        );
        assert_eq!((size.regions_in(Sectors(17)), size.sectors()), (3, Sectors(8)));
    }

    #[test]
    fn a_sector_belongs_to_one_chunk() {
        let size = ChunkSize::from_sectors(8).unwrap();
        assert_eq!(size.chunk_of(Sector(23)), Chunk(2));
        assert_eq!(size.offset_of(Sector(23)), Sectors(7));
        assert_eq!(size.chunks_in(Sectors(17)), 3);
        assert_eq!(size.start_of(Chunk(2)), Sector(16));
    }
}
