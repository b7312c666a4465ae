//! Disks that a device's new table has in common with the one that it replaces.
//!
//! Rule kept here: such a disk keeps its handle, and with that its claim: no other program can take
//! it between the two tables, and a disk that is in use by the device itself is not in the way.

use dm_targets::segments::table::Segment;
use dm_targets::table::TargetParams;

use crate::failure::Reason;
use crate::server::admin::devices::Device;
use crate::server::admin::machine::{Machine, OpenDisk};
use crate::server::admin::state::Administrator;
use crate::storage::{Access, Claim, DiskId};

/// A disk of the old table.
pub(super) struct Kept<D> {
    /// To be judged: nothing is read or written through it by a target.
    pub disk: D,
    /// Where the old table has it: the number of a line, or of a leg.
    pub place: usize,
    /// It has other users.
    pub shared: bool,
}

/// The device whose table of ranges is replaced by a mirror.
#[derive(Clone, Copy)]
pub(in crate::server::admin) struct Over {
    pub device: u32,
    /// The leg that has the device's data, if one has it.
    pub data_on: Option<usize>,
}

impl<M: Machine> Administrator<M> {
    /// Opens the disk at a path if the table that is replaced, that of the device `over`, has it.
    pub(super) fn open_kept(
        &self,
        path: &str,
        over: Option<u32>,
    ) -> Result<Option<Kept<M::Open>>, Reason> {
        let Some(entry) = over.and_then(|id| self.devices.get(&id)) else { return Ok(None) };
        let disk = self.machine.disk_at(path);
        let Some(place) = disk.and_then(|disk| place_of(entry, disk)) else { return Ok(None) };
        let disk = self.machine.open(path, Access::ReadOnly, Claim::Shared)?;
        let shared = is_shared(entry, disk.id());
        Ok(Some(Kept { disk, place, shared }))
    }
}

/// The first line, or leg, of a device's table that is on a disk.
fn place_of(entry: &Device, disk: DiskId) -> Option<usize> {
    let is_it = |word: &str| entry.deps.id(word) == Some(disk);
    let table = &entry.spec.table;
    if let TargetParams::Mirror(mirror) = &table.params {
        return mirror.legs.iter().position(|leg| is_it(&leg.device));
    }
    let is_on = |line: &Segment| line.params.linear().is_some_and(|linear| is_it(&linear.device));
    table.params.segments(table.len)?.iter().position(is_on)
}

/// Whether a disk of a device has other users. If none of its disks is known to have had any, the
/// server that opened them was one that recorded only whether one had.
fn is_shared(entry: &Device, disk: DiskId) -> bool {
    let recorded = entry.deps.known().values().any(|known| known.shared);
    let shared = entry.deps.of(disk).is_some_and(|known| known.shared);
    shared || entry.spec.force && !recorded
}
