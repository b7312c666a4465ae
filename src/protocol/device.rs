//! A device in the words of the protocol: how it is made, and what of it outlives its server.

use std::num::NonZeroU64;

use dm_targets::table::{Table, TargetParams};
use serde::{Deserialize, Serialize};

use super::cow::Cow;
use super::device_ref::DeviceRef;
use super::known::{KnownDisk, KnownDisks};
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
    /// A mirror starts without legs that cannot be read, as the kernel reads a table line.
    pub degraded: bool,
    /// The index of the mirror's leg that the others are recovered from; `None`: the record of the
    /// legs decides.
    pub source: Option<usize>,
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
}

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
        };
        DeviceSpec {
            table: Table::parse_table(line).unwrap(),
            options,
            force: false,
            degraded: false,
            allow_invalid: false,
            source: None,
            other_origin: false,
            merge: None,
            named: Vec::new(),
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
    /// Disks that a message is putting into it: no other device may take them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coming: Vec<KnownDisk>,
}

impl DeviceState {
    /// The device as commands name it.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }

    /// The disks of its table that its server opens: all but a device that carries its origin.
    pub fn opened(&self) -> Vec<String> {
        let mut words = self.spec.table.params.devices();
        words.retain(|word| self.known.get(word).is_none_or(|known| known.device.is_none()));
        words
    }

    /// The device of the same server that carries its origin.
    pub fn carrier(&self) -> Option<DeviceRef> {
        self.known.values().find_map(|known| known.device)
    }
}
