//! The ranges of a mirror's legs on their disks.
//!
//! Rule kept here: a leg is all on its disk, and no leg is on a part of another one.

use dm_targets::mirror::table::Mirror as Table;
use dm_targets::units::Sectors;

use super::disks::check_range;
use crate::failure::Reason;
use crate::server::admin::machine::OpenDisk;

/// Refuses legs that do not fit on their disks, or that overlap. Returns the largest block size.
pub(super) fn check_ranges(
    mirror: &Table,
    legs: &[impl OpenDisk],
    len: Sectors,
) -> Result<Sectors, Reason> {
    let block =
        legs.iter().map(|leg| u64::from(leg.limits().logical_block_size)).max().unwrap_or(512)
            / 512;
    for (disk, leg) in legs.iter().zip(&mirror.legs) {
        check_range(disk, leg.offset, len)?;
    }
    if len.0 % block != 0 {
        return Err(format!(
            "length of {len} sectors: not a multiple of the legs' block size of {} bytes",
            block * 512
        )
        .into());
    }
    let pairs = legs.iter().zip(&mirror.legs);
    let ranges: Vec<_> =
        pairs.map(|(disk, leg)| disk.place().part(leg.offset.bytes(), len.bytes())).collect();
    for (at, range) in ranges.iter().enumerate() {
        if ranges[..at].iter().any(|other| other.overlaps(range)) {
            let leg = &mirror.legs[at].device;
            return Err(format!("{leg}: given for two legs that overlap").into());
        }
    }
    Ok(Sectors(block))
}

/// Refuses regions that the device, or a block of its legs, does not allow.
pub(super) fn check_region(mirror: &Table, len: Sectors, block: Sectors) -> Result<(), Reason> {
    mirror.check(len)?;
    if mirror.region_size.0 % block.0 != 0 {
        let (region, block) = (mirror.region_size, block.bytes());
        return Err(format!(
            "region size {region}: not a multiple of the legs' block size of {block} bytes"
        )
        .into());
    }
    Ok(())
}
