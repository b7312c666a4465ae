//! A device in the words of the protocol: how it is made, what of it outlives its server, and what
//! is shown of it.

use dm_targets::table::Table;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cow::Cow;
use super::known::KnownDisks;
use crate::failure::Reason;

/// How a device is served, whatever it is made of. Fixed when the kernel adds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceOptions {
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Users cannot write.
    pub read_only: bool,
    /// Requests' pages are used where they are, if the kernel can lend them.
    pub zero_copy: bool,
    /// The device waits for another server when its own dies.
    pub recovery: bool,
}

/// All that a server needs to make a device, for the first time or again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// What it is made of, with absolute paths as device words.
    #[serde(with = "table_line")]
    pub table: Table,
    /// How it is served.
    pub options: DeviceOptions,
    /// Its disks are taken although they have other users or hold something else. In a state file:
    /// a disk of it had to be shared with other users, and is again.
    pub force: bool,
    /// A mirror starts without legs that cannot be read, as a table line means to the kernel.
    pub degraded: bool,
    /// A mirror's leg that the others are recovered from, by its place; `None`: the record of its
    /// legs decides.
    pub source: Option<usize>,
    /// A store that was made for another origin is this one's from now on. In a state file: that is
    /// not on the COW yet.
    #[serde(default)]
    pub other_origin: bool,
    /// A snapshot's device is wanted although its COW says that it is invalid.
    #[serde(default)]
    pub allow_invalid: bool,
}

/// A table as its line.
mod table_line {
    use dm_targets::table::Table;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(table: &Table, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(table)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Table, D::Error> {
        Table::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A device as commands name it. Between a look at the devices and the command a number can be
/// given to another device; the cookie, which the kernel keeps with the device, cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRef {
    pub id: u32,
    pub cookie: u64,
}

impl DeviceRef {
    /// Why a device that has its number, and not its cookie, is left alone.
    pub fn replaced(self) -> Reason {
        format!("/dev/ublkb{} is another device by now; see `ublk-dm list`", self.id).into()
    }
}

/// A device of a server, and how to make it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    pub id: u32,
    /// What the kernel keeps with the device: its number may be another device's by now.
    pub cookie: u64,
    pub name: String,
    /// Numbers of the block devices below it; of a file, its file system's.
    pub disks: Vec<(u32, u32)>,
    pub spec: DeviceSpec,
    /// Its requests are held back.
    #[serde(default)]
    pub suspended: bool,
    /// The table that its next resume puts in place.
    #[serde(default)]
    pub loaded: Option<DeviceSpec>,
    /// Of a snapshot that outlives its server: by what its COW is known again.
    #[serde(default)]
    pub cow: Option<Cow>,
    /// Its origin may have been changed since its server died, and it was not there.
    #[serde(default)]
    pub lost: bool,
    /// By what its disks are known again; an earlier version has not written it down.
    #[serde(default)]
    pub known: KnownDisks,
}

/// All that is shown of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceReport {
    pub id: u32,
    /// What the kernel keeps with the device. It is for the next command, not for users.
    pub cookie: u64,
    pub name: String,
    /// The device's object in `list --json`.
    pub json: Value,
    /// `0 LENGTH TARGET ARGS` with the status' arguments.
    pub status: String,
    /// The same with the table's.
    pub table: String,
    /// Numbers of the block devices below it; of a file, its file system's.
    pub disks: Vec<(u32, u32)>,
}

impl DeviceReport {
    /// The device, for a command.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }
}

impl DeviceState {
    /// The device, for a command.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }
}
