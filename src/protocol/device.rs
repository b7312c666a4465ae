//! A device in the words of the protocol: how it is made, and what of it outlives its server.

use std::num::NonZeroU64;

use dm_targets::segments::table::Segment;
use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::{ChunkSize, Sector, Sectors};
use serde::{Deserialize, Serialize};

use super::cow::{Cow, Which};
use super::device_ref::DeviceRef;
use super::known::{KnownDisk, KnownDisks, Part, is_false};
use crate::failure::Reason;

/// What the requests of a device do while it has no server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnServerDeath {
    /// They wait for the next server, also those that the last one had.
    #[default]
    Wait,
    /// They fail, also those that the last one had.
    Fail,
}

/// How a device is served, whatever its table is. Fixed when the kernel adds the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceOptions {
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// The device cannot be written.
    pub read_only: bool,
    /// Pages of requests are used in place, if the kernel can lend them.
    pub zero_copy: bool,
    /// The device stays when its server dies, and another one can serve it.
    pub recovery: bool,
    /// What its requests do until then.
    #[serde(default, skip_serializing_if = "OnServerDeath::waits")]
    pub on_server_death: OnServerDeath,
    /// A name for programs, which no other device has and which stays. A server of an earlier
    /// version serves the device all the same, without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

impl OnServerDeath {
    fn waits(&self) -> bool {
        *self == OnServerDeath::Wait
    }
}

impl DeviceOptions {
    /// Whether requests fail while there is no server.
    pub fn fails(&self) -> bool {
        self.recovery && self.on_server_death == OnServerDeath::Fail
    }
}

/// Everything that a server needs to make a device, for the first time or again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// The table, with absolute paths as device words.
    #[serde(with = "table_line")]
    pub table: Table,
    /// How the device is served.
    pub options: DeviceOptions,
    /// The disks are used although they have other users or hold something else. In a state file:
    /// one of the disks had to be shared with other users, and will be again.
    pub force: bool,
    /// The disks are opened without a claim, except for a COW or a log: others may use what the
    /// device does not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unclaimed: bool,
    /// A mirror starts without legs that cannot be read, as the kernel reads a table line.
    pub degraded: bool,
    /// The index of the mirror's leg that the others are recovered from; `None`: the record of the
    /// legs decides.
    pub source: Option<usize>,
    /// The indices of the mirror's legs that are not there: a device that only fails stands in for
    /// each, and the log has to know the others as up to date. Never in a state file: from then on
    /// the record of the legs decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<usize>,
    /// Its user expects a store on the COW, as in the tab file, so that nothing has to be said of
    /// it. Never in a state file.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
    /// A store that was made for another origin belongs to this one from now on. In a state file:
    /// the COW does not record this yet.
    #[serde(default)]
    pub other_origin: bool,
    /// A snapshot's device is wanted although its COW is marked invalid.
    #[serde(default)]
    pub allow_invalid: bool,
    /// How its merge runs, if that was begun or changed with `merge`. For a snapshot: how it is to
    /// run, when its origin is next activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeOptions>,
    /// The devices of ublk-dm among its disks that a command has named: the number in the disk's
    /// path must still be that device's when the disk is opened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<DeviceRef>,
}

impl DeviceSpec {
    /// The merge of a snapshot that is left to the next activation of its origin.
    pub fn deferred_merge(&self) -> Option<&MergeOptions> {
        let is_snapshot = matches!(self.table.params, TargetParams::Snapshot(_));
        self.merge.as_ref().filter(|_| is_snapshot)
    }

    /// Whether it is the plain table of an origin into which a merge has ended; `None`: it is no
    /// such table.
    pub fn has_merged(&self) -> Option<bool> {
        let is_plain = matches!(self.table.params, TargetParams::SnapshotOrigin { .. });
        is_plain.then_some(self.merge.is_some())
    }

    /// The parts of a disk that the device uses: what its table says, so that no record can say
    /// something else. A COW or a log is used as a whole, and of an origin what its snapshots copy.
    pub fn parts_of(&self, word: &str) -> Vec<Part> {
        let Table { len, params } = &self.table;
        let from_start = |disk: &str, len| (disk == word).then_some((Sector(0), len));
        match params {
            TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot) => {
                let Snapshot { origin, cow, chunk_size, .. } = snapshot;
                let chunk = chunk_size.map_or(1, |size| ChunkSize::sectors(size).0);
                let copied = Sectors(len.0.next_multiple_of(chunk));
                let parts = from_start(origin, copied).into_iter();
                parts.chain(from_start(cow, TO_THE_END)).collect()
            }
            TargetParams::SnapshotOrigin { origin } => {
                from_start(origin, *len).into_iter().collect()
            }
            TargetParams::Mirror(mirror) => {
                let legs = mirror.legs.iter().filter(|leg| leg.device == word);
                let log = mirror.log_device().and_then(|log| from_start(log, TO_THE_END));
                legs.map(|leg| (leg.offset, *len)).chain(log).collect()
            }
            TargetParams::Linear(_)
            | TargetParams::Error
            | TargetParams::Zero
            | TargetParams::Segments(_) => {
                let lines = params.segments(*len).unwrap_or_default();
                let range = |line: &Segment| {
                    let linear = line.params.linear().filter(|linear| linear.device == word);
                    linear.map(|linear| (linear.offset, line.len))
                };
                lines.iter().filter_map(range).collect()
            }
        }
    }
}

/// The length of a part that ends with its disk.
const TO_THE_END: Sectors = Sectors(1 << 54);

/// Why a snapshot's merge is not waited for, continued or changed: it is deferred.
pub fn not_begun(name: &str) -> Reason {
    format!(
        "{name}: its merge is deferred and has not begun: it begins when its origin is next \
         activated (`add origin`, or `recover` after an end of the server) and unused; `ublk-dm \
         merge {name}` begins it now, and `--defer --rate` changes its rate"
    )
    .into()
}

/// What the user of an origin should know whose merge was to be continued or changed.
pub fn no_merge_into(name: &str) -> String {
    format!("{name}: no snapshot is being merged into it: its merge has ended, or none has begun")
}

/// Why the end of a merge is not waited for: none into this origin has ended or runs.
pub fn never_merged(name: &str) -> Reason {
    format!("{name}: no merge of a snapshot into it has begun, so there is none to wait for").into()
}

/// How a merge runs that was begun or changed with `merge`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeOptions {
    /// The name that the snapshot's device had; `None` for a merge that was loaded as a table.
    pub snapshot: Option<String>,
    /// It rests until it is continued.
    pub paused: bool,
    /// It copies no faster than this; `None`: as fast as the disks.
    pub bytes_per_second: Option<NonZeroU64>,
    /// When it has ended, the snapshot's device is a snapshot of the merged origin.
    #[serde(default)]
    pub keep: bool,
    /// The store that is merged, and empty afterwards; not recorded by earlier versions.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub store: Which,
}

fn is_unknown(store: &Which) -> bool {
    *store == Which::Unknown
}

impl MergeOptions {
    /// Whether the server puts the origin's plain table back at the end. A merge that was loaded
    /// as a table ends with a table.
    pub fn ends_by_itself(&self) -> bool {
        self.snapshot.is_some()
    }
}

#[cfg(test)]
impl DeviceSpec {
    /// A device for tests: one queue of depth 64, and nothing that a flag would ask for.
    pub fn of_line(line: &str) -> DeviceSpec {
        let options = DeviceOptions {
            queues: 1,
            depth: 64,
            read_only: false,
            zero_copy: true,
            recovery: true,
            on_server_death: OnServerDeath::Wait,
            uuid: None,
        };
        DeviceSpec {
            table: Table::parse_table(line).unwrap(),
            options,
            force: false,
            unclaimed: false,
            degraded: false,
            allow_invalid: false,
            source: None,
            lost: Vec::new(),
            continues: false,
            other_origin: false,
            merge: None,
            named: Vec::new(),
        }
    }
}

#[cfg(test)]
impl DeviceState {
    /// A device for tests, of which nothing is recorded but its table.
    pub fn of_line(id: u32, name: &str, line: &str) -> DeviceState {
        DeviceState {
            id,
            cookie: 7,
            name: name.to_owned(),
            disks: Vec::new(),
            spec: DeviceSpec::of_line(line),
            suspended: false,
            loaded: None,
            cow: None,
            lost: false,
            known: KnownDisks::default(),
            coming: Vec::new(),
        }
    }
}

/// A table, serialized as its lines.
mod table_line {
    use dm_targets::table::Table;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(table: &Table, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(table)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Table, D::Error> {
        Table::parse_table(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A device of a server, and how to make it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    pub id: u32,
    /// The cookie that the kernel keeps with the device: the number may be another device's by now.
    pub cookie: u64,
    pub name: String,
    /// Numbers of the block devices below it; for a file, of its file system.
    pub disks: Vec<(u32, u32)>,
    pub spec: DeviceSpec,
    /// Whether the device is suspended.
    #[serde(default)]
    pub suspended: bool,
    /// The table that its next resume puts in place.
    #[serde(default)]
    pub loaded: Option<DeviceSpec>,
    /// For a snapshot that outlives its server: what identifies its COW.
    #[serde(default)]
    pub cow: Option<Cow>,
    /// Its origin may have been changed since its server died, while the device was missing.
    #[serde(default)]
    pub lost: bool,
    /// What identifies its disks; not recorded by earlier versions.
    #[serde(default)]
    pub known: KnownDisks,
    /// Disks that a message is putting into it, or that its former table had without a claim: no
    /// other device may take them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coming: Vec<KnownDisk>,
}

impl DeviceState {
    /// The device as commands name it.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }

    /// Whether a store is on record for it that may not be made yet: nothing of it can be lost.
    pub fn is_unmade(&self) -> bool {
        self.known.values().any(|known| known.unmade.is_some())
    }

    /// The disks of its table that its server opens: all but devices of the same server.
    pub fn opened(&self) -> Vec<String> {
        let mut words = self.spec.table.params.devices();
        words.retain(|word| self.known.get(word).is_none_or(|known| !known.is_own()));
        words
    }

    /// The devices of the same server that are disks of its table.
    pub fn joined(&self) -> impl Iterator<Item = DeviceRef> {
        self.known.values().filter_map(|known| known.joined)
    }

    /// The devices of the same server on which it stands: those, and the carrier of its origin.
    pub fn lower(&self) -> impl Iterator<Item = DeviceRef> {
        self.known.values().flat_map(|known| known.joined.into_iter().chain(known.device))
    }

    /// The device of the same server that carries its origin.
    pub fn carrier(&self) -> Option<DeviceRef> {
        self.known.values().find_map(|known| known.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_uses_the_parts_of_its_disks_that_its_table_says() {
        let parts = |line: &str, word: &str| -> Vec<(u64, u64)> {
            let parts = DeviceSpec::of_line(line).parts_of(word);
            parts.into_iter().map(|(start, len)| (start.0, len.0)).collect()
        };
        let all = TO_THE_END.0;
        let lines = "0 8 linear /a 16\n8 4 zero\n12 8 linear /b 0\n20 8 linear /a 64";
        assert_eq!(parts(lines, "/a"), [(16, 8), (64, 8)]);
        assert_eq!(parts(lines, "/b"), [(0, 8)]);
        assert_eq!(parts(lines, "/c"), []);
        assert_eq!(parts("0 8 linear /a 3", "/a"), [(3, 8)]);
        let mirror = "0 64 mirror disk 2 /l 16 2 /a 8 /a 128";
        assert_eq!(parts(mirror, "/a"), [(8, 64), (128, 64)]);
        assert_eq!(parts(mirror, "/l"), [(0, all)]);
        assert_eq!(parts("0 63 snapshot-origin /o", "/o"), [(0, 63)]);
        for target in ["snapshot", "snapshot-merge"] {
            let line = format!("0 63 {target} /o /c P 16");
            assert_eq!(parts(&line, "/o"), [(0, 64)], "{line}");
            assert_eq!(parts(&line, "/c"), [(0, all)], "{line}");
        }
    }
}
