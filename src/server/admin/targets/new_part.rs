//! What the disks of a mirror or a linear device hold where the device is to grow.
//!
//! Rule kept here: data that a user may miss does not become part of a device unasked, where its
//! users overwrite it, and the recovery of a mirror does. What the device's users have written
//! themselves, a partition table of theirs included, is not in the way.

use dm_targets::table::TargetParams;
use dm_targets::units::{Sector, Sectors};

use super::leg_content::{foreign_content, partition_in};
use crate::failure::{Failure, Kind, Reason};
use crate::server::admin::devices::no_device;
use crate::server::admin::machine::{Machine, OpenDisk};
use crate::server::admin::state::Administrator;

impl<M: Machine> Administrator<M> {
    /// Refuses to make a device longer over data of others, unless it shares its disks with them,
    /// as `force` has allowed. All of its disks answer.
    ///
    /// # Errors
    /// There is such data, or a disk cannot be read.
    pub(in crate::server::admin) fn refuse_content_behind(
        &self,
        id: u32,
        before: Sectors,
        len: Sectors,
    ) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        if entry.spec.force || len <= before {
            return Ok(());
        }
        let (ranges, is_mirror): (Vec<_>, _) = match &entry.spec.table.params {
            TargetParams::Linear(linear) => (vec![(&linear.device, linear.offset)], false),
            TargetParams::Mirror(mirror) => {
                (mirror.legs.iter().map(|leg| (&leg.device, leg.offset)).collect(), true)
            }
            _ => return Ok(()),
        };
        let part = Sectors(len.0 - before.0);
        for (path, offset) in &ranges {
            let disk = self.look_at(path)?;
            let start = offset.plus(before);
            let has_start = *offset == Sector(0);
            // What is at the start of the disk is the device's own there, or that of a linear
            // device beside it.
            let id = entry.deps.id(path);
            let beside = !is_mirror
                || ranges.iter().any(|(other, at)| *at == Sector(0) && entry.deps.id(other) == id);
            let found = match partition_in(&disk, start, part, has_start)? {
                None => foreign_content(&disk, start, part, &[], beside)?,
                found => found,
            };
            if let Some(found) = found {
                let (path, remedy) = (disk.path(), found.remedy(&disk.path()));
                let why = format!(
                    "{path}: {found}, which would become part of the device; {remedy} first, or \
                     give a smaller size"
                );
                return Err(Failure::new(Kind::Refused, why));
            }
        }
        Ok(())
    }
}
