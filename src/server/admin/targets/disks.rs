//! Disks below a target: opening them, and checking that the table fits on them.

use dm_targets::units::{Sector, Sectors};

use super::content::refused;
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceSpec, KnownDisk, KnownDisks, Part};
use crate::rundir::needs;
use crate::server::admin::devices::{Deps, Device};
use crate::server::admin::machine::{Machine, OpenDisk};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::state::Administrator;
use crate::storage::{Access, Claim, DiskId, Limits, OpenError, OpenErrorKind};
use crate::ublk::Discard;

/// Which parts of disks are taken without a claim although a state file cannot be read, so that
/// nobody knows what other families have of them.
#[derive(Clone, Copy)]
pub(in crate::server::admin) enum Unread<'a> {
    /// None.
    Refused,
    /// All: the user wants it.
    ByForce,
    /// Those that a device has already.
    Kept(&'a Device),
}

impl Unread<'_> {
    fn accepts(self, kind: &OpenErrorKind, disk: DiskId, parts: &[Part]) -> bool {
        let had = |device: &Device| {
            let disks = device.deps.disks().filter(|(_, id, known)| *id == disk && known.unclaimed);
            let had: Vec<_> = disks.flat_map(|(word, ..)| device.spec.parts_of(word)).collect();
            parts.iter().all(|part| had.contains(part))
        };
        matches!(kind, OpenErrorKind::Unclear { .. })
            && match self {
                _ if mutant::is(Mutant::UnreadIgnored) => true,
                Unread::Refused => false,
                Unread::ByForce => true,
                Unread::Kept(device) => had(device),
            }
    }
}

/// Whether a disk that has other users is accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    Never,
    /// Not shared, and a disk of the device before: no other device may have claimed it since.
    Own,
    /// Shared by force, but only if the disk is in use.
    IfBusy,
    /// An earlier server shared the disk; for a disk below two devices of a family, the order of
    /// opening must not matter.
    Always,
    /// Shared without a claim, with users who have not claimed all of it.
    Beside,
    /// The same, but by force also with others.
    BesideIfBusy,
}

impl Sharing {
    /// The meaning of a device's flags; `again`: the device exists already.
    pub(super) fn of(spec: &DeviceSpec, again: bool) -> Sharing {
        match (spec.force, again) {
            (false, false) if spec.unclaimed => Sharing::Beside,
            (true, false) if spec.unclaimed => Sharing::BesideIfBusy,
            (force, again) => Sharing::of_sole(force, again),
        }
    }

    /// The same for a disk that is not used in part.
    pub(super) fn of_sole(force: bool, again: bool) -> Sharing {
        match (force, again) {
            (false, false) => Sharing::Never,
            (false, true) => Sharing::Own,
            (true, false) => Sharing::IfBusy,
            (true, true) => Sharing::Always,
        }
    }

    /// The same for one disk of several; `again`: what the disks of an existing device were. Only
    /// those that had other users are shared again. If none is known to have had any, the server
    /// before was one that did not record that, and each is shared.
    pub(super) fn of_one(self, word: &str, again: Option<&KnownDisks>) -> Sharing {
        let was = again.and_then(|known| known.get(word));
        if was.is_some_and(|was| was.unclaimed && !was.shared) {
            return Sharing::Beside;
        }
        let recorded = again.filter(|known| known.values().any(|disk| disk.shared));
        let is_own = recorded.and_then(|known| known.get(word)).is_some_and(|disk| !disk.shared);
        let is_own = is_own && !mutant::is(Mutant::OwnDiskUnclaimed);
        if self == Sharing::Always && is_own { Sharing::Own } else { self }
    }

    /// The same for a disk of the mirror that is replaced, and was closed: it is claimed again if
    /// it was claimed, and shared again if it was not.
    pub(super) fn after(self, had: Option<&KnownDisk>, force: bool) -> Sharing {
        match (self, had) {
            _ if mutant::is(Mutant::MirrorUnclaimedForgotten) => self,
            (Sharing::Never, Some(had)) if had.unclaimed => Sharing::Beside,
            (Sharing::IfBusy, Some(had)) if had.unclaimed => Sharing::BesideIfBusy,
            (Sharing::Beside | Sharing::BesideIfBusy, Some(had)) if !had.unclaimed => {
                Sharing::of_sole(force, false)
            }
            _ => self,
        }
    }

    /// Whether a disk that is opened like this is not claimed because the user wants that.
    pub(super) fn is_unclaimed(self, word: &str, again: Option<&KnownDisks>) -> bool {
        let was = again.and_then(|known| known.get(word)).is_some_and(|was| was.unclaimed);
        let is_asked = matches!(self, Sharing::Beside | Sharing::BesideIfBusy) || was;
        is_asked && !mutant::is(Mutant::UnclaimedForgotten)
    }
}

impl<M: Machine> Administrator<M> {
    /// Opens the only disk of a target: read-only if the disk is write-protected, which makes the
    /// device read-only, too. Returns whether the disk is shared, as `sharing` allows.
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
        disk.map_err(Failure::from)
    }

    /// Opens a disk. Returns whether the disk is shared.
    pub(super) fn open_sharing(
        &self,
        path: &str,
        access: Access,
        sharing: Sharing,
    ) -> Result<(M::Open, bool), OpenError> {
        let open = |claim| Ok((self.open_disk(path, access, claim)?, claim == Claim::Shared));
        match sharing {
            Sharing::Never => Ok((self.open_unclaimed(path, access)?, false)),
            Sharing::Own => open(Claim::Exclusive),
            Sharing::Always => open(Claim::Shared),
            Sharing::Beside if mutant::is(Mutant::BesideMounted) => open(Claim::Shared),
            Sharing::Beside => Ok((self.open_disk(path, access, Claim::Beside)?, false)),
            Sharing::BesideIfBusy => match self.open_disk(path, access, Claim::Beside) {
                Err(error) if is_others(&error) => open(Claim::Shared),
                other => other.map(|disk| (disk, false)),
            },
            Sharing::IfBusy => match self.open_unclaimed(path, access) {
                Err(error) if is_others(&error) => open(Claim::Shared),
                other => other.map(|disk| (disk, false)),
            },
        }
    }

    /// Whether a disk that is shared by force without a claim has other users: devices of other
    /// families on the same parts of it.
    pub(super) fn is_forced(
        &self,
        path: &str,
        disk: &M::Open,
        sharing: Sharing,
        spec: &DeviceSpec,
    ) -> bool {
        let parts = spec.parts_of(path);
        sharing == Sharing::BesideIfBusy
            && self.claimed(disk.id(), &self.known_disk(disk), Some(&parts)).is_some()
    }

    /// Opens a disk that has no other user and that no device of another family stands on.
    fn open_unclaimed(&self, path: &str, access: Access) -> Result<M::Open, OpenError> {
        let disk = self.open_disk(path, access, Claim::Exclusive)?;
        match self.claimed(disk.id(), &self.known_disk(&disk), None) {
            Some(kind) => Err(OpenError { path: path.into(), kind }),
            None => Ok(disk),
        }
    }

    /// How another family holds a disk, whether it has a server or not; or a device of this family
    /// that waits for a server. `parts`: what of it is wanted without a claim.
    fn claimed(
        &self,
        id: DiskId,
        disk: &KnownDisk,
        parts: Option<&[Part]>,
    ) -> Option<OpenErrorKind> {
        let held = self.machine.claimed(id, disk, parts);
        let held = held.or_else(|| self.awaited(id, disk, parts));
        held.filter(|_| !mutant::is(Mutant::WaitingDisksFree))
    }

    /// The left-out device that is made of a disk. An origin and its snapshots share a disk, and
    /// their COWs are refused where they are opened.
    fn awaited(
        &self,
        id: DiskId,
        disk: &KnownDisk,
        parts: Option<&[Part]>,
    ) -> Option<OpenErrorKind> {
        let devices = self.left_out.values().map(|left| &left.device);
        let mut alone = devices.filter(|device| !device.spec.table.params.shares_origin());
        let device = alone.find(|device| needs(device, id, disk, parts))?;
        Some(OpenErrorKind::Awaited { name: device.name.clone(), id: device.id })
    }

    /// Refuses a new device's disks that another family has claimed since they were opened. Called
    /// while the run directory is locked: of two concurrent commands one sees the other. The other
    /// devices of a disk do not matter if force shares it, which no disk of a store or a log is. A
    /// disk of this family is its own, unless it is not claimed: then others may have parts of it.
    pub(in crate::server::admin) fn refuse_claimed(
        &self,
        deps: &Deps,
        spec: &DeviceSpec,
        unread: Unread<'_>,
    ) -> Result<(), Reason> {
        let is_own = |id| self.devices.values().any(|device| device.deps.has(id));
        let forced_for_all = mutant::is(Mutant::ForcedForAll);
        let unasked = |known: &KnownDisk| spec.force && (known.shared || forced_for_all);
        let mut new = deps.disks().filter(|(.., known)| !unasked(known));
        let claimed = new.find_map(|(word, id, known)| {
            let parts = Some(spec.parts_of(word)).filter(|parts| !parts.is_empty());
            let parts = parts.filter(|_| known.unclaimed);
            let kind = match (is_own(id), &parts) {
                (true, None) => return None,
                (_, Some(_)) if mutant::is(Mutant::PartsUncompared) => return None,
                (true, Some(_)) => self.machine.claimed(id, known, parts.as_deref())?,
                (false, _) => self.claimed(id, known, parts.as_deref())?,
            };
            if parts.is_some_and(|parts| unread.accepts(&kind, id, &parts)) {
                return None;
            }
            Some(OpenError { path: word.into(), kind }.into())
        });
        claimed.map_or(Ok(()), Err)
    }

    /// Refuses a disk that a device of this server has under another name: what it holds, and which
    /// of its ranges are free, is judged by the disk's number.
    pub(in crate::server::admin) fn refuse_second_name(
        &self,
        path: &str,
        disk: &M::Open,
    ) -> Result<(), Reason> {
        let (id, here) = (disk.id(), self.known_disk(disk).place);
        let mut used = self.devices.values().flat_map(|device| device.deps.disks());
        let same = used.find(|(_, other, known)| *other != id && known.place.overlaps(&here));
        same.map_or(Ok(()), |(word, ..)| {
            Err(refused(
                path,
                format!("it is {word} under another name; use that name, or --force"),
            ))
        })
    }

    /// Whether a range of a disk may be another device's as well: by force, or because it was
    /// before; `again`: what the disks of an existing device were.
    pub(super) fn is_shared_by_force(
        &self,
        path: &str,
        spec: &DeviceSpec,
        again: Option<&KnownDisks>,
        disk: Option<DiskId>,
    ) -> bool {
        let Some(again) = again else { return spec.force };
        let unrecorded = spec.force && !again.values().any(|known| known.shared);
        let here = self.devices.values().filter_map(|device| device.deps.of(disk?));
        unrecorded
            || again.get(path).is_some_and(|known| known.shared)
            || here.into_iter().any(|known| known.shared)
    }

    /// Refuses a disk that overlaps another disk of the family: writes to one would overwrite data
    /// of the other.
    pub(super) fn refuse_other_name(
        &self,
        path: &str,
        disk: &KnownDisk,
        (origin, known): (&str, &KnownDisk),
    ) -> Result<(), Reason> {
        let origin = std::iter::once((origin.to_owned(), known.clone()));
        let live = self.devices.values().flat_map(|device| device.deps.known());
        let left_out = self.left_out.values().filter(|_| !mutant::is(Mutant::LeftOutCowTaken));
        let left_out = left_out.flat_map(|left| left.device.known.clone());
        let undone = self.undone_later.iter().flat_map(|new| new.state.known.clone());
        let mut others = origin.chain(live).chain(left_out).chain(undone);
        let same = others.find(|(_, other)| other.place.overlaps(&disk.place));
        same.map_or(Ok(()), |(other, _)| {
            Err(refused(path, format!("it is {other} under another name; use another disk")))
        })
    }
}

/// Whether `--force` shares a disk that cannot be opened exclusively.
fn is_others(error: &OpenError) -> bool {
    use OpenErrorKind::{Awaited, Busy, Unclear};
    matches!(error.kind, Busy { .. } | Awaited { .. } | Unclear { .. })
}

/// Refuses a table that is longer than its disk or ends within a block, as the kernel does: writes
/// behind the end would be acknowledged but not stored.
pub(super) fn check_length(
    path: &str,
    len: Sectors,
    size: Sectors,
    block: u32,
) -> Result<(), Reason> {
    if len > size {
        return Err(refused(
            path,
            format!("has {size} sectors, fewer than the {len} of the table"),
        ));
    }
    if len.bytes() % u64::from(block) != 0 {
        let why = "is not a multiple of its block size";
        return Err(refused(path, format!("a length of {len} sectors {why} of {block} bytes")));
    }
    Ok(())
}

/// Refuses a range that is not on a disk, or that starts within a block of the disk.
pub(super) fn check_range(disk: &impl OpenDisk, start: Sector, len: Sectors) -> Result<(), Reason> {
    check_place(&disk.path(), start, len, disk.size(), disk.limits().logical_block_size)
}

/// The same for a disk that is not at hand.
pub(super) fn check_place(
    path: &str,
    start: Sector,
    len: Sectors,
    size: Sectors,
    block: u32,
) -> Result<(), Reason> {
    if len.0 > size.0.saturating_sub(start.0) {
        let what = format!("{len} sectors from sector {start}");
        return Err(refused(path, format!("{what} do not fit on a disk of {size} sectors")));
    }
    if start.bytes() % u64::from(block) != 0 {
        let why = "not a multiple of its block size";
        return Err(refused(path, format!("offset of {start} sectors: {why} of {block} bytes")));
    }
    Ok(())
}

/// The discards that all of the disks support; none if one supports none. The device starts at
/// `start` of each disk, which need not be aligned to the granularity.
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
        assert!(check(88).unwrap_err().contains("fewer than the 88"));
        assert!(check(12).unwrap_err().contains("not a multiple"));
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
