//! The origins of a server: a disk with its snapshots, and devices of the server that carry the
//! origins of snapshots of theirs. What identifies an origin is the device that carries it, or that
//! none does: a server has the snapshots of one disk.
//!
//! Rules kept here: I5 and I9, for each origin by itself. A device that writes to one of them
//! concerns the snapshots of that one, served, left out or deleted, and not those of another.

use dm_targets::table::TargetParams;

use super::devices::{self, Device, is_origins};
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::protocol::{DeviceRef, DeviceSpec, DeviceState, KnownDisk};

impl<M: Machine> Administrator<M> {
    /// Whether the users of a device can change the origin of another one.
    pub(super) fn changes_origin(&self, other: &DeviceState, of: &DeviceState) -> bool {
        // Only what stands on it writes to a disk of others, and needs it while others are held.
        let is_disk = || of.carrier().is_none() && self.is_disk(other.id, &other.spec);
        changes_origin_of(of, other) && !is_disk()
    }

    /// Whether the users of a device can change the origin of any device that was left out.
    pub(super) fn changes_origin_of_left(&self, other: &DeviceState) -> bool {
        let mut left = self.left_out.values().filter(|left| left.device.id != other.id);
        left.any(|left| self.changes_origin(other, &left.device))
    }

    /// The origin of a served device may have changed while others are left out: these are right
    /// no longer, and nothing tells later.
    pub(super) fn note_change_by(&mut self, writer: &DeviceState) {
        let left = self.left_out.values().filter(|left| self.changes_origin(writer, &left.device));
        let ids: Vec<u32> = left.map(|left| left.device.id).collect();
        for id in ids {
            if let Some(left) = self.left_out.get_mut(&id) {
                left.origin_changed = true;
            }
        }
    }

    /// The other devices of this server that are those of a device's origin.
    pub(super) fn origins_devices_of(&self, of: &DeviceState) -> impl Iterator<Item = &Device> {
        let (id, carrier) = (of.id, of.carrier());
        let served = self.devices.values().filter(move |entry| entry.info.id != id);
        served.filter(move |entry| {
            is_origins_device((&entry.spec, entry.deps.carrier(), entry.info.id), carrier)
        })
    }

    /// The same of those that were left out.
    pub(super) fn left_origins_devices_of(
        &self,
        of: &DeviceState,
    ) -> impl Iterator<Item = &DeviceState> {
        let (id, carrier) = (of.id, of.carrier());
        let left = self.left_out.values().filter(|left| left.waits).map(|left| &left.device);
        left.filter(move |left| {
            left.id != id && is_origins_device((&left.spec, left.carrier(), left.id), carrier)
        })
    }

    /// How the disk of a device's origin is recognized later: as it is open, or else as it was.
    pub(super) fn known_origin_of(&self, device: &DeviceState) -> KnownDisk {
        let open = self.origins.of(device.carrier()).map(|origin| origin.known.clone());
        let word = device.spec.table.params.family().disk;
        open.or_else(|| device.known.get(word?).cloned()).unwrap_or_default()
    }
}

/// Whether a device is that of the origin with this carrier: the carrier, or one made of it.
fn is_origins_device(
    (spec, own, id): (&DeviceSpec, Option<DeviceRef>, u32),
    carrier: Option<DeviceRef>,
) -> bool {
    is_origins(spec) && own == carrier || carrier.is_some_and(|carrier| carrier.id == id)
}

/// Whether a device can change the origin of another one of its family, which may have no server.
/// A carried origin is changed by its carrier, and by devices that have it as their origin.
pub(super) fn changes_origin_of(device: &DeviceState, other: &DeviceState) -> bool {
    let carrier = device.carrier();
    if carrier.is_some_and(|carrier| other.device() == carrier) {
        // Nobody writes to it beside a merge, which goes on from what the records say.
        let merges = matches!(device.spec.table.params, TargetParams::SnapshotMerge(_));
        return !merges || mutant::is(Mutant::MergeLostByCarrier);
    }
    let has_it = match other.spec.table.params.shares_origin() {
        true => other.carrier() == carrier,
        false => carrier.is_none(),
    };
    has_it && devices::changes_origin(&other.spec)
}
