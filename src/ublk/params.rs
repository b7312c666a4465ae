//! The limits of a disk, as the driver's `ublk_params`.
//!
//! The structure is encoded by hand because the bindings end before `dma_align` and `segment`,
//! which zero copy needs. The kernel uses the first bytes, as far as it knows them, and silently
//! drops the rest, so only what [`Params::decode`] reads back is in force. Only the parts whose
//! type bit is set are read.

use libublk::sys;

use super::wire::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};

/// Size of the structure up to and including `segment`.
const PARAMS_BYTES: usize = 136;
/// The same size, for the structure's own length field.
const PARAMS_LEN: u32 = 136;

/// Offsets in the structure. Those that the bindings know are compared with them in the tests.
mod at {
    pub(super) const LEN: usize = 0;
    pub(super) const TYPES: usize = 4;
    pub(super) const ATTRS: usize = 8;
    pub(super) const LOGICAL_SHIFT: usize = 12;
    pub(super) const PHYSICAL_SHIFT: usize = 13;
    pub(super) const IO_OPT_SHIFT: usize = 14;
    pub(super) const IO_MIN_SHIFT: usize = 15;
    pub(super) const MAX_SECTORS: usize = 16;
    pub(super) const CHUNK_SECTORS: usize = 20;
    pub(super) const DEV_SECTORS: usize = 24;
    pub(super) const VIRT_BOUNDARY: usize = 32;
    pub(super) const DISCARD_ALIGNMENT: usize = 40;
    pub(super) const DISCARD_GRANULARITY: usize = 44;
    pub(super) const DISCARD_SECTORS: usize = 48;
    pub(super) const WRITE_ZEROES_SECTORS: usize = 52;
    pub(super) const DISCARD_SEGMENTS: usize = 56;
    pub(super) const CHAR_MAJOR: usize = 60;
    pub(super) const CHAR_MINOR: usize = 64;
    pub(super) const DISK_MAJOR: usize = 68;
    pub(super) const DISK_MINOR: usize = 72;
    pub(super) const DMA_ALIGNMENT: usize = 108;
    pub(super) const SEG_BOUNDARY: usize = 120;
    pub(super) const SEG_BYTES: usize = 128;
    pub(super) const SEGMENTS: usize = 132;
}

/// Bits of [`Params::attrs`].
pub mod attrs {
    use libublk::sys;

    /// The disk refuses writes.
    pub const READ_ONLY: u32 = sys::UBLK_ATTR_READ_ONLY;
    /// The disk is rotational.
    pub const ROTATIONAL: u32 = sys::UBLK_ATTR_ROTATIONAL;
    /// Until a flush, a completed write may be lost on power failure: flushes are sent.
    pub const VOLATILE_CACHE: u32 = sys::UBLK_ATTR_VOLATILE_CACHE;
    /// The disk supports FUA writes; meaningful only together with [`VOLATILE_CACHE`].
    pub const FUA: u32 = sys::UBLK_ATTR_FUA;
}

/// The limits of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// Bits of [`attrs`].
    pub attrs: u32,
    /// Logical block: 2 to this power bytes, from 9 up to the page size.
    pub logical_shift: u8,
    /// Physical block: 2 to this power bytes, not below the logical one.
    pub physical_shift: u8,
    /// Optimal size of I/O: 2 to this power bytes.
    pub io_opt_shift: u8,
    /// Smallest size of I/O without a penalty: 2 to this power bytes.
    pub io_min_shift: u8,
    /// The largest request, in sectors; not above the device's `max_io_bytes`.
    pub max_sectors: u32,
    /// No request crosses a multiple of this many sectors; 0: no such limit.
    pub chunk_sectors: u32,
    /// Size of the disk, in sectors.
    pub dev_sectors: u64,
    /// Mask of the virtual boundary; 0: none.
    pub virt_boundary_mask: u64,
    /// Discard and write-zeroes; `None`: neither.
    pub discard: Option<Discard>,
    /// Requests' memory has none of these address bits set (511: aligned to 512 bytes).
    pub dma_alignment_mask: Option<u32>,
    /// Limits of a request's memory segments.
    pub segment: Option<Segment>,
    /// Device numbers. The kernel fills them in; they are not sent.
    pub devt: Option<Devt>,
}

/// Limits of discard and write-zeroes. The kernel requires exactly one segment per discard, so that
/// is what it gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Discard {
    /// Bytes from the disk's start to the first granule.
    pub alignment: u32,
    /// Size of a granule, in bytes; not 0.
    pub granularity: u32,
    /// The largest discard, in sectors; 0: none. Below 4 GiB.
    pub max_sectors: u32,
    /// The largest write-zeroes, in sectors; 0: none. Below 4 GiB.
    pub max_write_zeroes_sectors: u32,
}

/// Limits of a request's memory segments; none may be 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// No segment crosses a multiple of this plus one, which is a power of two of at least 4096.
    pub boundary_mask: u64,
    /// The largest segment, in bytes; at least 4096.
    pub max_bytes: u32,
    /// The most segments in a request.
    pub max_segments: u16,
}

/// The device numbers of both device nodes; the disk's are 0 until the device is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Devt {
    /// Major and minor of `/dev/ublkcN`.
    pub char_device: (u32, u32),
    /// Major and minor of `/dev/ublkbN`.
    pub disk: (u32, u32),
}

impl Params {
    /// The structure SET_PARAMS takes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Params::request();
        let mut types = sys::UBLK_PARAM_TYPE_BASIC;
        put_u32(&mut bytes, at::ATTRS, self.attrs);
        bytes[at::LOGICAL_SHIFT] = self.logical_shift;
        bytes[at::PHYSICAL_SHIFT] = self.physical_shift;
        bytes[at::IO_OPT_SHIFT] = self.io_opt_shift;
        bytes[at::IO_MIN_SHIFT] = self.io_min_shift;
        put_u32(&mut bytes, at::MAX_SECTORS, self.max_sectors);
        put_u32(&mut bytes, at::CHUNK_SECTORS, self.chunk_sectors);
        put_u64(&mut bytes, at::DEV_SECTORS, self.dev_sectors);
        put_u64(&mut bytes, at::VIRT_BOUNDARY, self.virt_boundary_mask);
        if let Some(discard) = self.discard {
            types |= sys::UBLK_PARAM_TYPE_DISCARD;
            put_u32(&mut bytes, at::DISCARD_ALIGNMENT, discard.alignment);
            put_u32(&mut bytes, at::DISCARD_GRANULARITY, discard.granularity);
            put_u32(&mut bytes, at::DISCARD_SECTORS, discard.max_sectors);
            put_u32(&mut bytes, at::WRITE_ZEROES_SECTORS, discard.max_write_zeroes_sectors);
            put_u16(&mut bytes, at::DISCARD_SEGMENTS, 1);
        }
        if let Some(mask) = self.dma_alignment_mask {
            types |= sys::UBLK_PARAM_TYPE_DMA_ALIGN;
            put_u32(&mut bytes, at::DMA_ALIGNMENT, mask);
        }
        if let Some(segment) = self.segment {
            types |= sys::UBLK_PARAM_TYPE_SEGMENT;
            put_u64(&mut bytes, at::SEG_BOUNDARY, segment.boundary_mask);
            put_u32(&mut bytes, at::SEG_BYTES, segment.max_bytes);
            put_u16(&mut bytes, at::SEGMENTS, segment.max_segments);
        }
        put_u32(&mut bytes, at::TYPES, types);
        bytes
    }

    /// An empty structure with its length set, for GET_PARAMS to fill.
    pub(super) fn request() -> Vec<u8> {
        let mut bytes = vec![0; PARAMS_BYTES];
        put_u32(&mut bytes, at::LEN, PARAMS_LEN);
        bytes
    }

    /// Reads the kernel's answer.
    pub(super) fn decode(bytes: &[u8]) -> Params {
        let types = get_u32(bytes, at::TYPES);
        let has = |kind: u32| types & kind != 0;
        let devt = has(sys::UBLK_PARAM_TYPE_DEVT).then(|| Devt {
            char_device: (get_u32(bytes, at::CHAR_MAJOR), get_u32(bytes, at::CHAR_MINOR)),
            disk: (get_u32(bytes, at::DISK_MAJOR), get_u32(bytes, at::DISK_MINOR)),
        });
        if !has(sys::UBLK_PARAM_TYPE_BASIC) {
            // No limits are in force; some kernels still show those they refused.
            return Params { devt, ..Params::default() };
        }
        Params {
            attrs: get_u32(bytes, at::ATTRS),
            logical_shift: bytes[at::LOGICAL_SHIFT],
            physical_shift: bytes[at::PHYSICAL_SHIFT],
            io_opt_shift: bytes[at::IO_OPT_SHIFT],
            io_min_shift: bytes[at::IO_MIN_SHIFT],
            max_sectors: get_u32(bytes, at::MAX_SECTORS),
            chunk_sectors: get_u32(bytes, at::CHUNK_SECTORS),
            dev_sectors: get_u64(bytes, at::DEV_SECTORS),
            virt_boundary_mask: get_u64(bytes, at::VIRT_BOUNDARY),
            discard: has(sys::UBLK_PARAM_TYPE_DISCARD).then(|| Discard {
                alignment: get_u32(bytes, at::DISCARD_ALIGNMENT),
                granularity: get_u32(bytes, at::DISCARD_GRANULARITY),
                max_sectors: get_u32(bytes, at::DISCARD_SECTORS),
                max_write_zeroes_sectors: get_u32(bytes, at::WRITE_ZEROES_SECTORS),
            }),
            dma_alignment_mask: has(sys::UBLK_PARAM_TYPE_DMA_ALIGN)
                .then(|| get_u32(bytes, at::DMA_ALIGNMENT)),
            segment: has(sys::UBLK_PARAM_TYPE_SEGMENT).then(|| Segment {
                boundary_mask: get_u64(bytes, at::SEG_BOUNDARY),
                max_bytes: get_u32(bytes, at::SEG_BYTES),
                max_segments: get_u16(bytes, at::SEGMENTS),
            }),
            devt,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use sys::ublk_params as Raw;

    use super::*;

    fn full() -> Params {
        Params {
            attrs: attrs::VOLATILE_CACHE | attrs::FUA,
            logical_shift: 9,
            physical_shift: 12,
            io_opt_shift: 16,
            io_min_shift: 13,
            max_sectors: 2048,
            chunk_sectors: 64,
            dev_sectors: 1 << 40,
            virt_boundary_mask: 4095,
            discard: Some(Discard {
                alignment: 1,
                granularity: 4096,
                max_sectors: 8_388_607,
                max_write_zeroes_sectors: 77,
            }),
            dma_alignment_mask: Some(511),
            segment: Some(Segment {
                boundary_mask: 0xffff_ffff,
                max_bytes: 32768,
                max_segments: 33,
            }),
            devt: None,
        }
    }

    #[test]
    fn the_offsets_are_the_drivers() {
        assert_eq!(at::LEN, offset_of!(Raw, len));
        assert_eq!(at::TYPES, offset_of!(Raw, types));
        assert_eq!(at::ATTRS, offset_of!(Raw, basic.attrs));
        assert_eq!(at::LOGICAL_SHIFT, offset_of!(Raw, basic.logical_bs_shift));
        assert_eq!(at::PHYSICAL_SHIFT, offset_of!(Raw, basic.physical_bs_shift));
        assert_eq!(at::IO_OPT_SHIFT, offset_of!(Raw, basic.io_opt_shift));
        assert_eq!(at::IO_MIN_SHIFT, offset_of!(Raw, basic.io_min_shift));
        assert_eq!(at::MAX_SECTORS, offset_of!(Raw, basic.max_sectors));
        assert_eq!(at::CHUNK_SECTORS, offset_of!(Raw, basic.chunk_sectors));
        assert_eq!(at::DEV_SECTORS, offset_of!(Raw, basic.dev_sectors));
        assert_eq!(at::VIRT_BOUNDARY, offset_of!(Raw, basic.virt_boundary_mask));
        assert_eq!(at::DISCARD_ALIGNMENT, offset_of!(Raw, discard.discard_alignment));
        assert_eq!(at::DISCARD_GRANULARITY, offset_of!(Raw, discard.discard_granularity));
        assert_eq!(at::DISCARD_SECTORS, offset_of!(Raw, discard.max_discard_sectors));
        assert_eq!(at::WRITE_ZEROES_SECTORS, offset_of!(Raw, discard.max_write_zeroes_sectors));
        assert_eq!(at::DISCARD_SEGMENTS, offset_of!(Raw, discard.max_discard_segments));
        assert_eq!(at::CHAR_MAJOR, offset_of!(Raw, devt.char_major));
        assert_eq!(at::CHAR_MINOR, offset_of!(Raw, devt.char_minor));
        assert_eq!(at::DISK_MAJOR, offset_of!(Raw, devt.disk_major));
        assert_eq!(at::DISK_MINOR, offset_of!(Raw, devt.disk_minor));
        // The bindings end here; dma_align follows zoned, segment is aligned to 8.
        let zoned_end = offset_of!(Raw, zoned) + size_of::<sys::ublk_param_zoned>();
        assert_eq!(at::DMA_ALIGNMENT, zoned_end);
        assert_eq!(at::SEG_BOUNDARY, (zoned_end + 8).next_multiple_of(8));
        assert_eq!(PARAMS_BYTES, at::SEG_BOUNDARY + 16);
    }

    #[test]
    fn all_types_are_announced_and_read_back() {
        let bytes = full().encode();
        assert_eq!(bytes.len(), 136);
        assert_eq!(get_u32(&bytes, at::LEN), 136);
        assert_eq!(get_u32(&bytes, at::TYPES), 0b11_0011);
        assert_eq!(get_u16(&bytes, at::DISCARD_SEGMENTS), 1);
        assert_eq!(Params::decode(&bytes), full());
    }

    #[test]
    fn basic_alone_sets_nothing_else() {
        let params = Params { discard: None, dma_alignment_mask: None, segment: None, ..full() };
        let bytes = params.encode();
        assert_eq!(get_u32(&bytes, at::TYPES), 1);
        assert!(bytes[40..].iter().all(|&byte| byte == 0));
        assert_eq!(Params::decode(&bytes), params);
    }

    #[test]
    fn refused_limits_are_not_read_back() {
        let mut bytes = full().encode();
        put_u32(&mut bytes, at::TYPES, sys::UBLK_PARAM_TYPE_DEVT);
        let read = Params::decode(&bytes);
        assert_eq!(read, Params { devt: read.devt, ..Params::default() });
    }

    #[test]
    fn device_numbers_are_read_but_not_sent() {
        let mut params = full();
        params.devt = Some(Devt { char_device: (240, 0), disk: (259, 3) });
        assert_eq!(params.encode(), full().encode());
        let mut bytes = full().encode();
        put_u32(&mut bytes, at::TYPES, 0b11_0111);
        for (offset, number) in [(60, 240), (64, 0), (68, 259), (72, 3)] {
            put_u32(&mut bytes, offset, number);
        }
        assert_eq!(Params::decode(&bytes), params);
    }
}
