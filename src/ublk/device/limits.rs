//! A device's limits, from those of the disks below it. Pure.
//!
//! Rule kept here: a device's users are never allowed what a disk below it cannot do.

use dm_targets::units::Sectors;

use crate::storage::Limits;
use crate::ublk::{Discard, Params, attrs};

/// Largest request the kernel hands over in one piece: a slice of the copy engine.
pub(super) const MAX_IO_BYTES: u32 = 1 << 19;

/// Checks that disks that would make a device like `below` can be put below an existing device: the
/// requests that users may send it were fixed when it was added. Only with zero copy do disks get
/// users' memory. A length of 0 is that of a single leg, which is measured where it joins.
///
/// # Errors
/// Why they cannot.
pub fn check_fits(device: &Params, below: &Params, zero_copy: bool) -> Result<(), String> {
    if below.dev_sectors > 0 && below.dev_sectors != device.dev_sectors {
        return Err(format!(
            "the device would have {} sectors: its length cannot change",
            below.dev_sectors
        ));
    }
    if below.logical_shift > device.logical_shift {
        let (block, of_device) = (1_u64 << below.logical_shift, 1_u64 << device.logical_shift);
        return Err(format!(
            "blocks of {block} bytes are too large for a device with blocks of {of_device}"
        ));
    }
    if below.attrs & attrs::VOLATILE_CACHE > device.attrs & attrs::VOLATILE_CACHE {
        return Err(
            "a disk has a volatile cache, and the device was added without one: its users \
                    would not flush"
                .to_owned(),
        );
    }
    let mask = |params: &Params| params.dma_alignment_mask.unwrap_or(511); // the block layer's own
    let (needed, given) = (mask(below) + 1, mask(device) + 1);
    if zero_copy && needed > given {
        return Err(format!(
            "a disk below it needs memory aligned to {needed} bytes, and the device was added for \
             users that align to {given}: delete it and add it again with --no-zero-copy"
        ));
    }
    Ok(())
}

fn shift_of(bytes: u32) -> u8 {
    u8::try_from(bytes.max(512).next_power_of_two().trailing_zeros()).unwrap_or(12)
}

/// Discards in whole chunks, as a snapshot accepts them.
pub fn discard_of_chunks(chunk: Sectors) -> Discard {
    Discard {
        alignment: 0,
        granularity: u32::try_from(chunk.bytes()).unwrap_or(1 << 30),
        max_sectors: u32::try_from(chunk.0).unwrap_or(u32::MAX),
        max_write_zeroes_sectors: 0,
    }
}

/// The limits of a device as a disk of another one. A flush goes down to all disks below, whatever
/// they are.
pub fn as_disk(params: &Params) -> Limits {
    let has = |attribute: u32| params.attrs & attribute != 0;
    Limits {
        logical_block_size: 1 << params.logical_shift,
        physical_block_size: 1 << params.physical_shift,
        io_min: 1 << params.io_min_shift,
        io_opt: 1 << params.io_opt_shift,
        volatile_cache: true,
        fua: true,
        discard_max_bytes: 0,
        discard_granularity: 0,
        write_zeroes_max_bytes: 0,
        dma_alignment: params.dma_alignment_mask.unwrap_or(511), // the block layer's own
        max_sectors_kb: params.max_sectors / 2,
        rotational: has(attrs::ROTATIONAL),
        read_only: has(attrs::READ_ONLY),
    }
}

/// The same for a device to which the requests of another one of its server go: it can discard what
/// its users can, from the start on.
pub fn as_own_disk(params: &Params) -> Limits {
    let discard = params.discard.as_ref().filter(|discard| discard.alignment == 0);
    let (most, granularity) =
        discard.map_or((0, 0), |discard| (discard.max_sectors, discard.granularity));
    Limits {
        discard_max_bytes: u64::from(most) * 512,
        discard_granularity: granularity,
        ..as_disk(params)
    }
}

/// A device's limits, from those of the disks below it.
pub fn params(
    disks: &[&Limits],
    volatile_cache: bool,
    size: Sectors,
    read_only: bool,
    discard: Option<Discard>,
) -> Params {
    let largest = |of: fn(&Limits) -> u32| disks.iter().map(|disk| of(disk)).max().unwrap_or(512);
    let logical = largest(|disk| disk.logical_block_size);
    let physical = largest(|disk| disk.physical_block_size).max(logical);
    let mut attributes = 0;
    if volatile_cache {
        attributes |= attrs::VOLATILE_CACHE | attrs::FUA;
    }
    if read_only {
        attributes |= attrs::READ_ONLY;
    }
    if disks.iter().any(|disk| disk.rotational) {
        attributes |= attrs::ROTATIONAL;
    }
    Params {
        attrs: attributes,
        logical_shift: shift_of(logical),
        physical_shift: shift_of(physical),
        io_min_shift: shift_of(physical),
        io_opt_shift: shift_of(largest(|disk| disk.io_opt).max(physical)),
        max_sectors: MAX_IO_BYTES / 512,
        dev_sectors: size.0,
        discard,
        // Zero copy passes users' pages to the disks, which must be able to use them.
        dma_alignment_mask: Some(largest(|disk| disk.dma_alignment)),
        ..Params::default()
    }
}
