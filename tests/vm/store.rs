//! The persistent exception store's format as the kernel writes it: judged and forged here,
//! independently of the program's own code.

use crate::disk::{Buf, Disk, SECTOR, us};

/// `SnAp`, little-endian.
pub const MAGIC: u32 = 0x7041_6e53;

/// The first 16 bytes of a header.
pub fn header(magic: u32, valid: u32, version: u32, chunk_sectors: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (at, field) in [magic, valid, version, chunk_sectors].iter().enumerate() {
        bytes[at * 4..at * 4 + 4].copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

/// Whether the bytes after the fields of a header in its sector are zeroes, as the kernel leaves
/// them, or a whole store identity: its magic, and a checksum at the end. In a store of the kernel
/// that was merged in part, which the kernel may have completed, the mark of that is there alone.
pub fn is_identity(bytes: &[u8]) -> bool {
    let (said, hash) = bytes.split_at(bytes.len() - 8);
    let sum = said.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let zeroes = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    zeroes(bytes)
        || bytes.strip_prefix(b"ublkdmM1").is_some_and(zeroes)
        || said.starts_with(b"ublkdmI1") && hash == sum.to_le_bytes()
}

/// The header chunk must be exactly that of a store with this chunk size: the fields, perhaps an
/// identity, then zeroes.
pub fn assert_header(cow: &Disk, chunk_sectors: u64, valid: bool) {
    let chunk = cow.read(0, chunk_sectors);
    let mut expected = Buf::new(chunk_sectors);
    let size = u32::try_from(chunk_sectors).expect("small");
    expected[..16].copy_from_slice(&header(MAGIC, u32::from(valid), 1, size));
    if is_identity(&chunk[16..us(SECTOR)]) {
        expected[16..us(SECTOR)].copy_from_slice(&chunk[16..us(SECTOR)]);
    }
    if *chunk != *expected {
        let byte = chunk.iter().zip(expected.iter()).position(|(a, b)| a != b).unwrap_or(0);
        panic!(
            "{}: header chunk is wrong from byte {byte}: it begins {:02x?}",
            cow.path,
            &chunk[..16]
        );
    }
}

/// Records of one metadata area.
pub fn per_area(chunk_sectors: u64) -> u64 {
    chunk_sectors * SECTOR / 16
}

/// The COW chunk that holds area `area`.
pub fn area_chunk(chunk_sectors: u64, area: u64) -> u64 {
    1 + area * (per_area(chunk_sectors) + 1)
}

/// The COW chunk that the `index`th exception of a store without holes gets.
pub fn data_chunk(chunk_sectors: u64, index: u64) -> u64 {
    2 + index + index / per_area(chunk_sectors)
}

/// One record's bytes.
pub fn record(old: u64, new: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&old.to_le_bytes());
    bytes[8..].copy_from_slice(&new.to_le_bytes());
    bytes
}

/// Writes area `area` with these records and zeroes after them.
pub fn write_area(cow: &Disk, chunk_sectors: u64, area: u64, records: &[(u64, u64)]) {
    let mut buf = Buf::new(chunk_sectors);
    for (slot, (old, new)) in buf.chunks_exact_mut(16).zip(records) {
        slot.copy_from_slice(&record(*old, *new));
    }
    cow.write(area_chunk(chunk_sectors, area) * chunk_sectors, &buf);
}

/// Writes the metadata of a store with `count` exceptions, the `i`th for origin chunk `old(i)`.
pub fn forge(cow: &Disk, chunk_sectors: u64, count: u64, old: impl Fn(u64) -> u64) {
    let epa = per_area(chunk_sectors);
    for area in 0..=count / epa {
        let records: Vec<_> = (area * epa..count.min((area + 1) * epa))
            .map(|i| (old(i), data_chunk(chunk_sectors, i)))
            .collect();
        write_area(cow, chunk_sectors, area, &records);
    }
    let mut first = Buf::new(chunk_sectors);
    first[..16].copy_from_slice(&header(MAGIC, 1, 1, u32::try_from(chunk_sectors).expect("small")));
    cow.write(0, &first);
}

/// All records of a store, in order, up to the terminator.
pub fn records(cow: &Disk, chunk_sectors: u64) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    for area in 0.. {
        let at = area_chunk(chunk_sectors, area) * chunk_sectors;
        assert!(
            at + chunk_sectors <= cow.sectors,
            "{}: area {} is full and has no successor",
            cow.path,
            area.max(1) - 1
        );
        for bytes in cow.read(at, chunk_sectors).chunks_exact(16) {
            if word(&bytes[8..]) == 0 {
                return all;
            }
            all.push((word(&bytes[..8]), word(&bytes[8..])));
        }
    }
    all
}

/// Plausible records where areas will be: a store that trusts old content would show them. The
/// header's place is zeroed, so a new store will be made.
pub fn poison(cow: &Disk, chunk_sectors: u64, areas: u64) {
    let epa = per_area(chunk_sectors);
    for area in 0..areas {
        let chunk = area_chunk(chunk_sectors, area);
        if (chunk + 1) * chunk_sectors > cow.sectors {
            break;
        }
        let records: Vec<_> = (0..epa).map(|i| (i, 2 + i)).collect();
        write_area(cow, chunk_sectors, area, &records);
    }
    cow.zero(0, chunk_sectors.min(us(cow.sectors) as u64));
}
