//! A device of ublk-dm as the origin of snapshots in another server.
//!
//! Rule kept here: I5. A mirror, a device made of ranges, and a snapshot carry the origin of their
//! snapshots, so these are in the server of that device: another one would not see what its users
//! write. Both are compared while the run directory is locked: of two commands at the same moment
//! one sees the other.

use super::machine::{Machine, Records};
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, DeviceState};
use crate::storage::DiskId;
use crate::ublk::device::is_ours;

impl<M: Machine> Administrator<M> {
    /// Refuses a table of a device with which writes to an origin would pass by the server that
    /// has its snapshots.
    ///
    /// # Errors
    /// The device would carry an origin that another server has; the table's origin is a device of
    /// another server, which carries it; or it is not known whether that is so.
    pub(super) fn refuse_apart(&mut self, id: u32, spec: &DeviceSpec) -> Result<(), Reason> {
        if mutant::is(Mutant::ServedApart) {
            return Ok(());
        }
        if carries(spec) {
            self.refuse_open_elsewhere(id)?;
        }
        self.refuse_others(spec)
    }

    /// Refuses a device that another server has as the origin of snapshots.
    fn refuse_open_elsewhere(&mut self, id: u32) -> Result<(), Reason> {
        // A new device has no disk yet, and nothing is on it.
        let Some((disk, _)) = self.machine.node(id) else { return Ok(()) };
        let is_on = |machine: &M, other: &DeviceState| {
            origin_of(other).and_then(|path| machine.disk_at(path)) == Some(disk)
        };
        let found = self.find_beside(Some(disk), is_on)?;
        found.map_or(Ok(()), |other| {
            Err(format!(
                "/dev/ublkb{id}: {} of another server has it as its origin, and would miss what \
                 users write to it with this table: delete that first",
                other.name
            )
            .into())
        })
    }

    /// Refuses an origin that a device of another server carries. An origin keeps to the way in
    /// which it began: a server that has opened the device like any disk gets the next snapshot,
    /// too.
    fn refuse_others(&mut self, spec: &DeviceSpec) -> Result<(), Reason> {
        let params = &spec.table.params;
        let Some(path) = params.family().disk.filter(|_| params.shares_origin()) else {
            return Ok(());
        };
        let Some(disk) = self.machine.disk_at(path) else { return Ok(()) };
        let is_on = |one: &DeviceState| {
            origin_of(one).and_then(|path| self.machine.disk_at(path)) == Some(disk)
        };
        let began_so = self.all_states().iter().any(is_on);
        if began_so || self.nodes.contains_key(&disk) {
            return Ok(());
        }
        let is_it = |machine: &M, other: &DeviceState| {
            carries(&other.spec) && machine.node(other.id).is_some_and(|(node, _)| node == disk)
        };
        // A device whose file cannot be read is not on record.
        if let Some(other) = self.find_beside(None, is_it)? {
            return Err(format!(
                "{path}: it is {} of another server, which serves its snapshots: add them with \
                 `ublk-dm add snapshot`",
                other.name
            )
            .into());
        }
        self.machine.records().refuse_unrecorded(disk)
    }

    /// A device of another family that the kernel has, or may have.
    fn find_beside(
        &mut self,
        named: Option<DiskId>,
        is_it: impl Fn(&M, &DeviceState) -> bool,
    ) -> Result<Option<DeviceState>, Reason> {
        let all = self.machine.records().devices_beside(named)?;
        let found: Vec<_> = all.into_iter().filter(|one| is_it(&self.machine, one)).collect();
        Ok(found.into_iter().find(|other| {
            let info = self.machine.info(other.id);
            info.map_or(true, |info| info.is_some_and(|info| is_ours(&info, other.cookie)))
        }))
    }
}

/// Whether a device carries the origin of its snapshots: nobody can write to a read-only one.
fn carries(spec: &DeviceSpec) -> bool {
    spec.table.params.can_carry_origin() && !spec.options.read_only
}

/// The origin that a device's server has opened; `None`: it has none, or a device carries it.
fn origin_of(device: &DeviceState) -> Option<&str> {
    let params = &device.spec.table.params;
    params.family().disk.filter(|_| params.shares_origin() && device.carrier().is_none())
}
