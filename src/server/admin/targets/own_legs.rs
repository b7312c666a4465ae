//! Disks that a mirror has already: a leg that takes its own place again, several legs on one disk.
//!
//! Rules kept here: a disk is claimed as long as any leg is on it, and no byte of a disk belongs
//! to two legs, or to a leg and the log.

use std::rc::Rc;

use dm_targets::disk::Disk;
use dm_targets::mirror::table::Leg;
use dm_targets::mirror::target::{LegParts, Mirror};
use dm_targets::units::Sector;

use super::disks::Sharing;
use super::leg_names::number_of;
use crate::failure::Reason;
use crate::protocol::KnownDisk;
use crate::server::admin::devices::{Device, LegRef};
use crate::server::admin::machine::{Machine, OpenDisk, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::state::Administrator;
use crate::storage::{Access, OpenErrorKind};

/// A new leg's disk, before the mirror has it.
pub(super) struct NewLeg<D> {
    pub disk: D,
    pub offset: Sector,
    pub identity: u64,
    pub number: u64,
    /// The leg whose claim of the same disk is kept.
    pub claimed_by: Option<usize>,
}

impl<D: OpenDisk> NewLeg<D> {
    /// Makes the leg usable by the mirror. Called before the leg that it replaces is closed.
    pub fn parts<T: Thread<Open = D>>(self, thread: &T, mirror: &Mirror) -> LegParts {
        let disk = thread.disk(self.disk);
        if let Some(old) = self.claimed_by.and_then(|at| mirror.leg_disk(at)) {
            disk.keep_claim_of(&old);
        }
        LegParts { disk, offset: self.offset, identity: self.identity, number: self.number }
    }
}

/// The legs of a new table. The first leg on a disk was opened with a claim, which the others keep.
/// `kept`: the disks that the replaced table has, with their claims.
pub(super) fn parts_of<D: OpenDisk, T: Thread<Open = D>>(
    thread: &Rc<T>,
    disks: Vec<D>,
    kept: Vec<Option<Disk>>,
    known: Vec<(Sector, u64)>,
) -> Vec<LegParts> {
    let mut first: Vec<(_, Disk)> = Vec::new();
    let parts = disks.into_iter().zip(kept).zip(known).map(|((open, kept), (offset, identity))| {
        let (id, number) = (open.id(), number_of(&open));
        if let Some(disk) = kept {
            return LegParts { disk, offset, identity, number };
        }
        let disk = thread.disk(open);
        match first.iter().find(|(other, _)| *other == id) {
            Some((_, other)) => disk.keep_claim_of(other),
            None => first.push((id, disk.clone())),
        }
        LegParts { disk, offset, identity, number }
    });
    parts.collect()
}

impl<M: Machine> Administrator<M> {
    /// Opens the disk of a new leg. A leg whose disk was missing and has come back takes its own
    /// `place` again: that disk is claimed by the leg already. Returns the leg that has the claim.
    pub(super) fn open_new_leg(
        &self,
        id: u32,
        leg: &Leg,
        place: Option<usize>,
        legs: &[LegRef],
    ) -> Result<(M::Open, Option<usize>), Reason> {
        let known = self.machine.disk_at(&leg.device);
        let old = place.and_then(|at| Some((at, legs.get(at)?)));
        let own = old.filter(|(_, old)| old.disk.is_some() && old.disk == known);
        let busy = match self.open_sharing(&leg.device, Access::ReadWrite, Sharing::Never) {
            Ok((disk, _)) => return Ok((disk, None)),
            Err(busy) => busy,
        };
        let Some((at, old)) = own.filter(|_| matches!(busy.kind, OpenErrorKind::Busy { .. }))
        else {
            return Err(busy.into());
        };
        let (disk, _) = self.open_sharing(&leg.device, Access::ReadWrite, Sharing::Always)?;
        // Another disk may have the number of one that was removed, and another user.
        let number = self.known_of(id, &old.path).map(|known| known.number);
        if number != Some(disk.number_in_boot()) {
            return Err(busy.into());
        }
        Ok((disk, Some(at).filter(|_| !mutant::is(Mutant::LegUnclaimed))))
    }

    pub(super) fn known_of(&self, id: u32, word: &str) -> Option<&KnownDisk> {
        let mut disks = self.devices.get(&id)?.deps.disks();
        disks.find(|(other, ..)| *other == word).map(|(.., known)| known)
    }

    /// Whether a disk is the one that a leg has, or had before it was attached again.
    pub(super) fn is_disk_of_leg(
        &self,
        id: u32,
        disk: &M::Open,
        leg: &Leg,
        place: Option<usize>,
    ) -> bool {
        let mirror = self.devices.get(&id).and_then(Device::mirror);
        let old = mirror.zip(place).and_then(|(mirror, at)| mirror.legs.get(at));
        let old = old.filter(|old| old.offset == leg.offset);
        let Some(known) = old.and_then(|old| self.known_of(id, &old.device)) else { return false };
        let now = self.known_disk(disk);
        let (name, former) = (now.name.trim_end(), known.name.trim_end());
        let stayed = now.number != 0 && now.number == known.number && now.place == known.place;
        stayed || !name.is_empty() && name == former
    }

    /// Refuses a range of a disk that is a leg or the log already, by whatever path, and whether
    /// the disk is claimed or not. `place`: that leg is to be replaced.
    pub(super) fn refuse_own_disk(
        &self,
        id: u32,
        disk: &M::Open,
        leg: &Leg,
        place: Option<usize>,
    ) -> Result<(), Reason> {
        let Some(entry) = self.devices.get(&id) else { return Ok(()) };
        let Some(mirror) = entry.mirror().filter(|_| !mutant::is(Mutant::LegTwice)) else {
            return Ok(());
        };
        let (path, len) = (&leg.device, entry.spec.table.len.bytes());
        let known = self.known_disk(disk);
        let range = known.place.part(leg.offset.bytes(), len);
        for (at, other) in mirror.legs.iter().enumerate().filter(|(at, _)| Some(*at) != place) {
            let Some(its) = self.known_of(id, &other.device) else { continue };
            let apart = leg.offset.bytes().abs_diff(other.offset.bytes()) >= len;
            let overlap = its.place.part(other.offset.bytes(), len).overlaps(&range)
                || is_attached_twice(its, &known) && !apart;
            if overlap {
                let name = &other.device;
                return Err(format!(
                    "{path}: it is leg {at} of the mirror already ({name}); use another disk"
                )
                .into());
            }
        }
        let log = mirror.log_device().and_then(|word| self.known_of(id, word));
        if log.is_some_and(|log| log.place.overlaps(&range) || is_attached_twice(log, &known)) {
            return Err(format!("{path}: it is the mirror's log; use another disk").into());
        }
        Ok(())
    }
}

/// Whether two whole disks are one that was attached again: they have one lasting name.
fn is_attached_twice(one: &KnownDisk, other: &KnownDisk) -> bool {
    one.place.on != other.place.on && one.shares_with(other)
}
