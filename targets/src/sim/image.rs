//! What a disk holds, as sectors that share their bytes: copying an image copies pointers.

use std::fmt;
use std::rc::Rc;

use super::mix;
use crate::units::{Sector, Sectors};

/// Bytes of a sector, as a memory size.
pub const SECTOR_LEN: usize = 512;

struct Content {
    hash: u64,
    bytes: [u8; SECTOR_LEN],
}

/// One sector's bytes, with their hash. Equality is equality of the bytes.
#[derive(Clone)]
pub struct SectorData(Rc<Content>);

thread_local! {
    static ZERO: SectorData = SectorData::of([0; SECTOR_LEN]);
}

impl SectorData {
    /// A sector from its bytes; shorter input is padded with zeroes.
    pub fn new(input: &[u8]) -> SectorData {
        if input.iter().all(|byte| *byte == 0) {
            return SectorData::zero();
        }
        let mut bytes = [0; SECTOR_LEN];
        bytes[..input.len()].copy_from_slice(input);
        SectorData::of(bytes)
    }

    fn of(bytes: [u8; SECTOR_LEN]) -> SectorData {
        // Four hashes side by side: a processor multiplies several numbers at a time.
        let mut lanes = [0_u64; 4];
        for block in bytes.chunks_exact(32) {
            for (at, lane) in lanes.iter_mut().enumerate() {
                let mut word = [0; 8];
                word.copy_from_slice(&block[at * 8..at * 8 + 8]);
                *lane = (*lane ^ u64::from_le_bytes(word))
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .rotate_left(29);
            }
        }
        let hash = lanes.iter().fold(0, |hash: u64, lane| mix(hash.rotate_left(17) ^ lane));
        SectorData(Rc::new(Content { hash: mix(hash), bytes }))
    }

    /// A sector of zeroes.
    pub fn zero() -> SectorData {
        ZERO.with(SectorData::clone)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; SECTOR_LEN] {
        &self.0.bytes
    }

    /// A hash of the bytes.
    pub fn hash(&self) -> u64 {
        self.0.hash
    }
}

impl PartialEq for SectorData {
    fn eq(&self, other: &SectorData) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash && self.0.bytes == other.0.bytes)
    }
}

impl Eq for SectorData {}

impl fmt::Debug for SectorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}..", &self.0.bytes[..24])
    }
}

/// The content of a whole disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Every sector in order.
    pub sectors: Vec<SectorData>,
}

impl Image {
    /// A disk of zeroes.
    pub fn zeroes(size: Sectors) -> Image {
        Image::from_fn(size, |_| SectorData::zero())
    }

    /// A disk whose sectors are made by a function.
    pub fn from_fn(size: Sectors, content: impl FnMut(u64) -> SectorData) -> Image {
        Image { sectors: (0..size.0).map(content).collect() }
    }

    /// Its size.
    pub fn size(&self) -> Sectors {
        Sectors(self.sectors.len() as u64)
    }

    /// The bytes of a range.
    pub fn read(&self, sector: Sector, count: Sectors) -> Vec<u8> {
        let first = index(sector.0);
        bytes_of(&self.sectors[first..first + index(count.0)])
    }

    /// Replaces the sectors from `sector` on.
    pub fn write(&mut self, sector: Sector, bytes: &[u8]) {
        let first = index(sector.0);
        for (at, data) in sectors_of(bytes).into_iter().enumerate() {
            self.sectors[first + at] = data;
        }
    }

    /// A hash of everything.
    pub fn hash(&self) -> u64 {
        self.sectors
            .iter()
            .fold(self.sectors.len() as u64, |hash, data| mix(hash.rotate_left(5) ^ data.hash()))
    }
}

/// The bytes of sectors that follow each other.
pub fn bytes_of(sectors: &[SectorData]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sectors.len() * SECTOR_LEN);
    sectors.iter().for_each(|data| bytes.extend_from_slice(data.bytes()));
    bytes
}

/// Bytes cut into sectors.
pub(super) fn sectors_of(bytes: &[u8]) -> Vec<SectorData> {
    bytes.chunks(SECTOR_LEN).map(SectorData::new).collect()
}

/// A sector number of a simulated disk as an index; such disks fit in memory.
pub(super) fn index(sector: u64) -> usize {
    usize::try_from(sector).unwrap_or(usize::MAX)
}
