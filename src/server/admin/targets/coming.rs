//! The disk of a leg that a message is putting into a mirror.
//!
//! Rule kept here: the disk is in the state file before the mirror writes to it, and is compared
//! with the disks of other families while the run directory is locked, or with their parts if it is
//! on one that the mirror has without a claim. Of a message and a command of another family that
//! take one disk by two names at the same moment, one finds the other.

use dm_targets::mirror::table::Leg;
use dm_targets::table::TargetParams;

use super::disks::Unread;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, KnownDisk};
use crate::server::admin::devices::{Deps, no_device};
use crate::server::admin::machine::{Machine, Records};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::state::Administrator;
use crate::storage::DiskId;

impl<M: Machine> Administrator<M> {
    /// Records that a disk is coming into a mirror.
    ///
    /// # Errors
    /// Another family has claimed it since it was opened, or it cannot be recorded.
    pub(super) fn announce(
        &mut self,
        id: u32,
        leg: &Leg,
        (disk, known): &(DiskId, KnownDisk),
    ) -> Result<(), Reason> {
        if mutant::is(Mutant::LegUnannounced) {
            return Ok(());
        }
        let _directory = self.machine.records().lock()?;
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        // A message never shares a leg.
        let mut spec = DeviceSpec { force: false, ..entry.spec.clone() };
        if let (TargetParams::Mirror(mirror), false) =
            (&mut spec.table.params, mutant::is(Mutant::PartOfLegForgotten))
        {
            mirror.legs.push(leg.clone());
        }
        let (word, mut new) = (&leg.device, Deps::default());
        new.insert(word, *disk, known.clone());
        self.refuse_claimed(&new, &spec, Unread::Refused)?;
        self.lose_departures_on(&new, &spec)?;
        self.set_coming(id, Some(known.clone()));
        self.record(None).map_err(|why| {
            self.set_coming(id, None);
            why.context(format!("/dev/ublkb{id}: {word} cannot be recorded as its leg"))
        })
    }

    /// The mirror does not get the disk.
    pub(super) fn withdraw(&mut self, id: u32) {
        if self.set_coming(id, None) {
            if let Err(why) = self.record(None) {
                log::warn!("/dev/ublkb{id}: the disk that was to be its leg stays recorded: {why}");
            }
        }
    }

    /// Returns whether there was one.
    pub(super) fn set_coming(&mut self, id: u32, coming: Option<KnownDisk>) -> bool {
        let entry = self.devices.get_mut(&id);
        entry.is_some_and(|entry| std::mem::replace(&mut entry.coming, coming).is_some())
    }
}
