//! Disks below a target: opened for what they can do, and large enough for what a table says of
//! them.

use dm_targets::units::{Sector, Sectors};

use crate::failure::Reason;
use crate::server::admin::machine::{Machine, OpenDisk};
use crate::server::admin::state::Administrator;
use crate::storage::{Access, Claim, Limits, OpenError, OpenErrorKind};
use crate::ublk::Discard;

/// Whether a disk is taken that has other users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    Never,
    /// It is forced, and was not needed before.
    IfBusy,
    /// A server before this one had to; a disk below two devices of a family must not depend on
    /// which comes first.
    Always,
}

impl Sharing {
    /// What a device's `force` means; `again`: it is there already.
    pub(super) fn of(force: bool, again: bool) -> Sharing {
        match (force, again) {
            (false, _) => Sharing::Never,
            (true, false) => Sharing::IfBusy,
            (true, true) => Sharing::Always,
        }
    }
}

impl<M: Machine> Administrator<M> {
    /// Opens the only disk of a target: for reading alone if it is write-protected, which makes the
    /// device so, too. Says whether it is shared, which `sharing` allows.
    pub(super) fn open_as_it_is(
        &self,
        path: &str,
        sharing: Sharing,
    ) -> Result<(M::Open, bool), Reason> {
        let disk = match self.open_sharing(path, Access::ReadWrite, sharing) {
            Err(error) if matches!(error.kind, OpenErrorKind::ReadOnly) => {
                self.open_sharing(path, Access::ReadOnly, sharing)
            }
            other => other,
        };
        disk.map_err(|error| error.to_string())
    }

    /// Opens a disk, and says whether it is shared.
    pub(super) fn open_sharing(
        &self,
        path: &str,
        access: Access,
        sharing: Sharing,
    ) -> Result<(M::Open, bool), OpenError> {
        let open = |claim| Ok((self.machine.open(path, access, claim)?, claim == Claim::Shared));
        match sharing {
            Sharing::Never => open(Claim::Exclusive),
            Sharing::Always => open(Claim::Shared),
            Sharing::IfBusy => match open(Claim::Exclusive) {
                Err(error) if matches!(error.kind, OpenErrorKind::Busy { .. }) => {
                    open(Claim::Shared)
                }
                other => other,
            },
        }
    }
}

/// Refuses a table that is longer than its disk, or ends within a block, as the kernel does: what
/// lies behind the end would be acknowledged and be nowhere.
pub(super) fn check_length(
    path: &str,
    len: Sectors,
    size: Sectors,
    block: u32,
) -> Result<(), Reason> {
    if len > size {
        return Err(format!("{path}: has {size} sectors, less than the {len} of the table"));
    }
    if len.bytes() % u64::from(block) != 0 {
        return Err(format!(
            "{path}: its blocks have {block} bytes, and a length of {len} sectors ends within one"
        ));
    }
    Ok(())
}

/// Refuses a range that a disk does not have, or that starts within a block of it.
pub(super) fn check_range(disk: &impl OpenDisk, start: Sector, len: Sectors) -> Result<(), Reason> {
    check_place(&disk.path(), start, len, disk.size(), disk.limits().logical_block_size)
}

fn check_place(
    path: &str,
    start: Sector,
    len: Sectors,
    size: Sectors,
    block: u32,
) -> Result<(), Reason> {
    if len.0 > size.0.saturating_sub(start.0) {
        return Err(format!(
            "{path}: {len} sectors from sector {start} do not fit on a disk of {size} sectors"
        ));
    }
    if start.bytes() % u64::from(block) != 0 {
        return Err(format!(
            "{path}: offset of {start} sectors: not a multiple of its block size of {block} bytes"
        ));
    }
    Ok(())
}

/// The discards that every one of some disks takes; none if one takes none. The device starts at
/// `start` of each, which need not be where a granule does.
pub(super) fn discard_of(disks: &[&Limits], start: Sector) -> Option<Discard> {
    let max = disks.iter().map(|limits| limits.discard_max_bytes).min().unwrap_or(0) / 512;
    let granularity =
        disks.iter().map(|limits| limits.discard_granularity).max().unwrap_or(0).max(512);
    let into = start.bytes() % u64::from(granularity);
    (max > 0).then(|| Discard {
        alignment: if into == 0 { 0 } else { granularity - u32::try_from(into).unwrap_or(0) },
        granularity,
        max_sectors: u32::try_from(max).unwrap_or(u32::MAX),
        max_write_zeroes_sectors: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_no_longer_than_its_disk_and_ends_with_a_block() {
        let check = |len| check_length("/dev/x", Sectors(len), Sectors(80), 4096);
        assert_eq!((check(80), check(8)), (Ok(()), Ok(())));
        assert!(check(88).unwrap_err().contains("less than the 88"));
        assert!(check(12).unwrap_err().contains("ends within one"));
    }

    #[test]
    fn a_range_lies_on_its_disk_and_starts_with_a_block() {
        let check =
            |start, len| check_place("/dev/x", Sector(start), Sectors(len), Sectors(80), 4096);
        assert_eq!((check(0, 80), check(72, 8)), (Ok(()), Ok(())));
        for (start, len) in [(0, 88), (72, 16), (80, 8), (1 << 62, 8)] {
            assert!(check(start, len).unwrap_err().contains("do not fit"), "{len} from {start}");
        }
        assert!(check(12, 8).unwrap_err().contains("not a multiple"));
    }
}
