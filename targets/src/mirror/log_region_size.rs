//! The size of a log's regions, in bytes of its header that the kernel keeps. Pure: no I/O.
//!
//! Rule kept here: a size is trusted only together with the number of regions and the record of the
//! legs that it was written with. The kernel and earlier versions keep these bytes as they are, and
//! may use the log with regions of another size.

use super::format::HEADER_BYTES;
use super::leg_flags::{LegFlags, checksum, number};
use crate::units::Sectors;

/// ```text
/// byte 112    "dmsize", format 1, zero
/// byte 120    sectors of a region (64 bits)
/// byte 128    a checksum of the 120 bytes before it, from the number of regions on (64 bits)
/// ```
pub struct LogRegionSize;

impl LogRegionSize {
    const START: usize = LegFlags::END;
    const SECTORS: usize = Self::START + 8;
    const SUM: usize = Self::SECTORS + 8;
    /// The byte behind it.
    pub const END: usize = Self::SUM + 8;
    /// The byte of the number of regions, where the checksum begins.
    const COVERED: usize = 8;
    const MAGIC: [u8; 8] = *b"dmsize\x01\0";

    /// The size of the regions that the log's bits are about; `None` if the log does not say it.
    pub fn recorded(header: &[u8; HEADER_BYTES]) -> Option<Sectors> {
        let trusted = header[Self::START..].starts_with(&Self::MAGIC)
            && number(header, Self::SUM) == checksum(&header[Self::COVERED..Self::SUM]);
        trusted.then(|| Sectors(number(header, Self::SECTORS)))
    }

    /// Puts the size into a header that names the legs; after any other change of the header.
    pub fn put(header: &mut [u8; HEADER_BYTES], size: Sectors) {
        if LegFlags::recorded(header).is_none() {
            return;
        }
        header[Self::START..Self::SECTORS].copy_from_slice(&Self::MAGIC);
        header[Self::SECTORS..Self::SUM].copy_from_slice(&size.0.to_le_bytes());
        let sum = checksum(&header[Self::COVERED..Self::SUM]);
        header[Self::SUM..Self::END].copy_from_slice(&sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{MAGIC, VERSION, Words};
    use super::*;

    #[test]
    fn a_size_is_trusted_only_with_what_it_was_written_with() {
        let mut header = [0; HEADER_BYTES];
        let words = |regions| Words { magic: MAGIC, version: VERSION, regions }.encode();
        header[..16].copy_from_slice(&words(9));
        LogRegionSize::put(&mut header, Sectors(16));
        assert_eq!(LogRegionSize::recorded(&header), None, "the log names no legs");
        LegFlags::name(&mut header, &[7, 8], 0b10);
        assert_eq!(LogRegionSize::recorded(&header), None);
        LogRegionSize::put(&mut header, Sectors(16));
        assert_eq!(LogRegionSize::recorded(&header), Some(Sectors(16)));
        for at in 8..LogRegionSize::END {
            let mut other = header;
            other[at] ^= 1;
            assert_eq!(LogRegionSize::recorded(&other), None, "byte {at}");
        }
        // The kernel, or an earlier version, has used the log with other regions.
        header[..16].copy_from_slice(&words(18));
        assert_eq!(LogRegionSize::recorded(&header), None);
        assert_eq!(LegFlags::missed(&header, &[7, 8]), Some(0b10));
        // What stands behind it is the mark of the flags' writer.
        let size = header[LogRegionSize::START..LogRegionSize::END].to_vec();
        LegFlags::sign(&mut header);
        assert_eq!(header[LogRegionSize::START..LogRegionSize::END], size);
        assert!(header[LogRegionSize::END..].starts_with(b"dmuser\x01"));
    }
}
