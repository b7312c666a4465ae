//! What commands and servers say to each other: one JSON object a line, one question and one answer a connection.

mod ask;
mod cow;

use dm_targets::table::Table;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Reason;
pub use ask::{ask, connect, has_left, is_absent, until_left_or, write_line};
pub use cow::{Cow, Which};

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
    /// Its disks are taken although they have other users or hold something else.
    pub force: bool,
    /// A mirror starts without legs that cannot be read, as a table line means to the kernel.
    pub degraded: bool,
    /// A mirror's leg that the others are recovered from, by its place; `None`: the record of its legs decides.
    pub source: Option<usize>,
    /// A store that was made for another origin is this one's from now on.
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

/// A device as questions name it. Between a look at the devices and the question a number can be given to another device; the
/// cookie, which the kernel keeps with the device, cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRef {
    pub id: u32,
    pub cookie: u64,
}

impl DeviceRef {
    /// Why a device that has its number, and not its cookie, is left alone.
    pub fn replaced(self) -> Reason {
        format!("/dev/ublkb{} is another device by now; see `ublk-dm list`", self.id)
    }
}

/// A question to a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    /// Add a device.
    Add {
        /// Made up from its target and id if not given.
        name: Option<String>,
        /// The wanted N of `/dev/ublkbN`.
        id: Option<u32>,
        spec: DeviceSpec,
    },
    /// Take over the devices of a server that died.
    Recover(Vec<DeviceState>),
    /// Take over devices that were left out when the others of a server that died were taken over.
    RecoverLeftOut { devices: Vec<DeviceRef> },
    /// Delete devices; `force` also those in use.
    Del { devices: Vec<DeviceRef>, force: bool },
    /// All about its devices.
    Report,
    /// Whether it lives, and what it is doing.
    Ping,
    /// Hold a device's requests back and wait for those in flight.
    Suspend { device: DeviceRef, noflush: bool },
    /// Let them through again, to the table that was loaded if one was.
    Resume { device: DeviceRef },
    /// Give a device another table, which its next resume puts in place.
    Load { device: DeviceRef, spec: DeviceSpec },
    /// A message to a device's target.
    Message { device: DeviceRef, words: Vec<String> },
    /// Wait until a device has had more events than that.
    Wait { device: DeviceRef, events: Option<u32> },
    /// End, deleting every device.
    Shutdown,
}

/// What a server is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Doing {
    /// The command that is being carried out.
    pub command: Option<String>,
    /// Disks that have been given something to do, and the number of the oldest operation: as long as that is the same, the
    /// disk has not answered.
    pub oldest: Vec<(String, u64)>,
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
}

/// All that is shown of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceReport {
    pub id: u32,
    /// What the kernel keeps with the device. It is for the next question, not for users.
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
    /// The device, for a question.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }
}

impl DeviceState {
    /// The device, for a question.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }
}

/// A server's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Added {
        /// What its user should know.
        note: Option<String>,
        path: String,
        device: DeviceRef,
    },
    Deleted,
    /// Devices have been taken over; what could not be done has a line each.
    Recovered {
        problems: Vec<String>,
    },
    Done,
    /// What a message gave, to be printed.
    Lines(Vec<String>),
    Events(u32),
    Devices(Vec<DeviceReport>),
    Doing(Doing),
    Failed {
        message: String,
    },
}

impl Question {
    /// The devices that it is about and that must be there.
    pub fn devices(&self) -> &[DeviceRef] {
        match self {
            Question::RecoverLeftOut { devices } | Question::Del { devices, .. } => devices,
            Question::Suspend { device, .. }
            | Question::Resume { device }
            | Question::Load { device, .. }
            | Question::Message { device, .. }
            | Question::Wait { device, .. } => std::slice::from_ref(device),
            Question::Add { .. } | Question::Recover(_) | Question::Report | Question::Ping | Question::Shutdown => &[],
        }
    }

    /// Refuses a question about a device whose number has another one by now. `cookie` is what a number's device has; one
    /// that is not there is nothing to be taken for another.
    pub fn refuse_replaced(&self, cookie: impl Fn(u32) -> Option<u64>) -> Result<(), Reason> {
        let replaced = |device: &&DeviceRef| cookie(device.id).is_some_and(|cookie| cookie != device.cookie);
        self.devices().iter().find(replaced).map_or(Ok(()), |device| Err(device.replaced()))
    }

    /// What it asks for, in the word of the verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Question::Add { .. } => "add",
            Question::Recover(_) | Question::RecoverLeftOut { .. } => "recover",
            Question::Del { .. } => "del",
            Question::Report => "list",
            Question::Ping => "ping",
            Question::Suspend { .. } => "suspend",
            Question::Resume { .. } => "resume",
            Question::Load { .. } => "load",
            Question::Message { .. } => "message",
            Question::Wait { .. } => "wait",
            Question::Shutdown => "end",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_about_another_devices_number_is_refused() {
        let device = DeviceRef { id: 3, cookie: 77 };
        let here = |cookie| move |id| (id == 3).then_some(cookie);
        for question in [
            Question::Del { devices: vec![DeviceRef { id: 2, cookie: 5 }, device], force: true },
            Question::RecoverLeftOut { devices: vec![device] },
            Question::Suspend { device, noflush: false },
            Question::Resume { device },
            Question::Message { device, words: Vec::new() },
            Question::Wait { device, events: None },
        ] {
            assert!(question.refuse_replaced(here(77)).is_ok(), "{}", question.verb());
            let why = question.refuse_replaced(here(78)).unwrap_err();
            assert!(why.starts_with("/dev/ublkb3 is another device by now"), "{why}");
            assert!(question.refuse_replaced(|_| None).is_ok(), "one that is gone is no other one");
        }
        assert!(Question::Shutdown.refuse_replaced(here(78)).is_ok());
    }
}
