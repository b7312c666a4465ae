//! What commands and servers say to each other: one JSON object a line, one question and one answer a connection.

mod ask;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use ask::{ask, connect, has_left, is_absent, until_left_or, write_line};

/// What every device can be given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Common {
    pub name: Option<String>,
    pub id: Option<u32>,
    pub queues: u16,
    pub depth: u16,
    pub read_only: bool,
    pub zero_copy: bool,
    pub recovery: bool,
    pub force: bool,
}

/// A snapshot to be added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddSnapshot {
    pub origin: PathBuf,
    pub cow: PathBuf,
    pub chunk_sectors: Option<u64>,
    pub persistent: bool,
    pub overflow: bool,
    pub discard_zeroes_cow: bool,
    pub discard_passdown_origin: bool,
    /// Length of the device; the origin's if not given.
    pub len_sectors: Option<u64>,
    pub common: Common,
}

/// An origin's device to be added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddOrigin {
    pub origin: PathBuf,
    pub common: Common,
}

/// What to believe about a mirror's legs at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitialSync {
    FromLog,
    Sync,
    NoSync,
}

/// A leg of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    pub path: PathBuf,
    pub offset_sectors: u64,
}

/// A mirror to be added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddMirror {
    pub legs: Vec<Leg>,
    /// The log's device; in memory if not given.
    pub log: Option<PathBuf>,
    pub region_sectors: Option<u64>,
    pub initial_sync: InitialSync,
    pub handle_errors: bool,
    pub keep_log: bool,
    /// The leg that a recovery reads from, by its place among the legs.
    pub source: Option<usize>,
    /// Length of the device; what all legs have if not given.
    pub len_sectors: Option<u64>,
    pub common: Common,
}

/// A question to a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    AddSnapshot(AddSnapshot),
    AddOrigin(AddOrigin),
    AddMirror(AddMirror),
    /// Take over the devices of a server that died.
    Recover(Vec<DeviceState>),
    /// Delete devices; `force` also those in use.
    Del {
        ids: Vec<u32>,
        force: bool,
    },
    /// All about its devices.
    Report,
    /// Whether it lives, and what it is doing.
    Ping,
    /// Hold a device's requests back and wait for those in flight.
    Suspend {
        id: u32,
        noflush: bool,
    },
    /// Let them through again, to the table that was loaded if one was.
    Resume {
        id: u32,
    },
    /// Give a device another table, which its next resume puts in place.
    Load {
        id: u32,
        table: Box<Question>,
    },
    /// A message to a device's target.
    Message {
        id: u32,
        words: Vec<String>,
    },
    /// Wait until a device has had more events than that.
    Wait {
        id: u32,
        events: Option<u32>,
    },
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceState {
    pub id: u32,
    /// What the kernel keeps with the device: its number may be another device's by now.
    pub cookie: u64,
    pub name: String,
    /// Numbers of the block devices below it; of a file, its file system's.
    pub disks: Vec<(u32, u32)>,
    pub added: Question,
    /// Its requests are held back.
    #[serde(default)]
    pub suspended: bool,
    /// The table that its next resume puts in place.
    #[serde(default)]
    pub loaded: Option<Box<Question>>,
}

/// All that is shown of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceReport {
    pub id: u32,
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

/// A server's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Added {
        path: String,
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
    /// What it asks for, in the word of the verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Question::AddSnapshot(_) | Question::AddOrigin(_) | Question::AddMirror(_) => "add",
            Question::Recover(_) => "recover",
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
