//! Disks that stand on a device of the server that would use them: a COW file in a file system on
//! its own origin's device, a leg of a mirror in a file system on that mirror. A write to such a
//! disk would wait for itself, and after the server's death neither device could be recovered: such
//! a disk is refused before the server opens any.

use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::TargetParams;

use crate::failure::Reason;
use crate::protocol::DeviceSpec;
use crate::server::admin::devices::Device;
use crate::server::admin::machine::Machine;
use crate::server::admin::state::Administrator;
use crate::storage::Ground;

fn is_mirror(table: &TargetParams) -> bool {
    matches!(table, TargetParams::Mirror(_))
}

fn is_lines(table: &TargetParams) -> bool {
    use TargetParams::{Error, Linear, Segments, Zero};
    matches!(table, Linear(_) | Segments(_) | Error | Zero)
}

impl<M: Machine> Administrator<M> {
    /// Refuses a table whose disks stand on a device of this server, or on each other.
    pub(in crate::server::admin) fn refuse_circle_of(
        &self,
        table: &TargetParams,
        over: Option<u32>,
    ) -> Result<(), Reason> {
        let words = table.devices();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        if let TargetParams::SnapshotOrigin { origin } = table {
            if let Some(carrier) = self.carrier_at(origin, None)? {
                return self.refuse_itself(origin, carrier, over);
            }
        }
        let words = if is_mirror(table) || is_lines(table) {
            self.refuse_to_join_all(words, over)?
        } else if let TargetParams::Snapshot(Snapshot { origin, cow, .. }) = table {
            let cow = self.refuse_to_join_all(vec![cow], over)?;
            std::iter::once(origin.as_str()).chain(cow).collect()
        } else {
            words
        };
        self.refuse_circle(&words)
    }

    /// Refuses devices of this server among the disks that cannot be disks. Returns the other
    /// disks.
    fn refuse_to_join_all<'a>(
        &self,
        words: Vec<&'a str>,
        over: Option<u32>,
    ) -> Result<Vec<&'a str>, Reason> {
        let mut others = Vec::new();
        for word in words {
            match self.own_at(word) {
                Some(own) => self.refuse_to_join(word, own, over)?,
                None => others.push(word),
            }
        }
        Ok(others)
    }

    /// Refuses a new leg, replacing an old one or added, that stands on its mirror or on one of the
    /// mirror's disks.
    pub(super) fn refuse_circle_of_leg(
        &self,
        id: u32,
        leg: &str,
        place: Option<usize>,
    ) -> Result<(), Reason> {
        let Some(mirror) = self.devices.get(&id).and_then(Device::mirror) else { return Ok(()) };
        let stay = mirror.legs.iter().enumerate().filter(|(at, _)| Some(*at) != place);
        let others = stay.map(|(_, other)| other.device.as_str()).chain(mirror.log_device());
        let words = std::iter::once(leg).chain(others).collect();
        self.refuse_circle(&self.refuse_to_join_all(words, Some(id))?)
    }

    /// The same for a snapshot. If a device of this server carries its origin, the COW stands
    /// neither on that device nor on one of its disks; it can be another device of the server.
    pub(super) fn refuse_circle_of_snapshot(
        &self,
        snapshot: &Snapshot,
        table: &TargetParams,
    ) -> Result<(), Reason> {
        let Some(carrier) = self.carrier_at(&snapshot.origin, None)? else {
            return self.refuse_circle_of(table, None);
        };
        let cow = self.refuse_to_join_all(vec![&snapshot.cow], None)?;
        let below = self.disks_below(carrier.id);
        let disks = cow.into_iter().chain(below.iter().map(String::as_str));
        self.refuse_circle(&disks.collect::<Vec<_>>())
    }

    /// The same for a loaded table, which can be that of a snapshot.
    pub(in crate::server::admin) fn refuse_circle_of_loaded(
        &self,
        id: u32,
        spec: &DeviceSpec,
    ) -> Result<(), Reason> {
        let is_carried = self.devices.get(&id).is_some_and(|one| one.deps.carrier().is_some());
        match &spec.table.params {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot)
                if is_carried =>
            {
                self.refuse_circle_of_snapshot(snapshot, &spec.table.params)
            }
            table => self.refuse_circle_of(table, Some(id)),
        }
    }

    fn refuse_circle(&self, words: &[&str]) -> Result<(), Reason> {
        let own = self.devices.keys().copied().collect();
        let Some((at, ground)) = self.machine.circle(words, &own) else { return Ok(()) };
        let what = match ground {
            Ground::Ublk(id) => {
                let name = self.devices.get(&id).map_or("", |entry| entry.name.as_str());
                format!(
                    "/dev/ublkb{id} ({name}), which the same server would serve: writes would wait \
                     for themselves"
                )
            }
            Ground::Disk(other) => format!("{}, another disk of the same device", words[other]),
        };
        let hint = "use a disk that does not";
        Err(format!("{}: it depends on {what}; {hint}", words[at]).into())
    }
}
