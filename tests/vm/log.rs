//! The dirty log's format as the kernel writes it: judged and forged here, independently of the
//! program's own code.

use crate::disk::{Buf, Disk, SECTOR, us};

/// `rRiM`, little-endian.
pub const MAGIC: u32 = 0x4d69_5272;
/// Where the bits start.
const BITS: usize = 1024;

/// A log that another program left.
#[derive(Clone)]
pub struct Image {
    pub magic: u32,
    pub version: u32,
    pub nr_regions: u64,
    /// The bytes after the header's 16 bytes, up to the bits.
    pub filler: u8,
    /// The bits' first bytes; the others are `rest`.
    pub bits: Vec<u8>,
    /// All further bytes.
    pub rest: u8,
}

impl Image {
    /// A log of `regions` regions, all clean or all dirty.
    pub fn new(regions: u64, clean: bool) -> Image {
        let mut bits = vec![0; us(regions.div_ceil(64) * 8)];
        if clean {
            (0..regions).for_each(|region| bits[us(region / 8)] |= 1 << (region % 8));
        }
        Image { magic: MAGIC, version: 2, nr_regions: regions, filler: 0, bits, rest: 0 }
    }

    /// The content that LVM writes before the first use of the log.
    pub fn lvm(byte: u8) -> Image {
        Image {
            magic: MAGIC,
            version: 2,
            nr_regions: u64::MAX,
            filler: byte,
            bits: Vec::new(),
            rest: byte,
        }
    }

    /// Writes it over the device's first `sectors` sectors.
    pub fn put(&self, log: &Disk, sectors: u64) {
        let mut buf = Buf::new(sectors);
        buf[..BITS].fill(self.filler);
        buf[BITS..].fill(self.rest);
        buf[..4].copy_from_slice(&self.magic.to_le_bytes());
        buf[4..8].copy_from_slice(&self.version.to_le_bytes());
        buf[8..16].copy_from_slice(&self.nr_regions.to_le_bytes());
        buf[BITS..BITS + self.bits.len()].copy_from_slice(&self.bits);
        log.write(0, &buf);
    }
}

/// Sectors that a log of `regions` regions takes, in blocks of 4096 bytes.
pub fn sectors(regions: u64) -> u64 {
    let bytes = BITS as u64 + regions.div_ceil(64) * 8;
    bytes.next_multiple_of(4096) / SECTOR
}

/// All of a log, for putting it back later.
pub fn save(path: &str, regions: u64) -> Buf {
    Disk::open_read_only(path).read(0, sectors(regions))
}

/// The header's first 16 bytes and the bits: these must be equal whichever side wrote them. The
/// bytes between them are unused or belong to the program under test; the bytes after the bits keep
/// their content. While a leg is stale ublk-dm writes version 1, which is 2 to the kernel.
pub fn canonical(path: &str, regions: u64) -> Vec<u8> {
    let mut all = save(path, regions);
    all[4] = if all[4] == 1 { 2 } else { all[4] };
    let end = BITS + us(regions.div_ceil(64) * 8);
    [&all[..16], &all[BITS..end]].concat()
}

/// The bits of 64 regions of a log that is too long to be read as a whole.
pub fn word(path: &str, word: u64) -> u64 {
    let at = BITS as u64 + word * 8;
    let block = Disk::open_read_only(path).read(at / 4096 * 8, 8);
    let from = us(at % 4096);
    u64::from_le_bytes(block[from..from + 8].try_into().expect("8 bytes"))
}

/// The regions whose bit says dirty or not in sync.
pub fn dirty(path: &str, regions: u64) -> Vec<u64> {
    let all = save(path, regions);
    (0..regions).filter(|region| all[BITS + us(region / 8)] >> (region % 8) & 1 == 0).collect()
}
