//! What a server reports of a device: its object in `list --json`, whose keys are a contract with
//! scripts, and its lines.
//!
//! Rules kept here: keys may be added and are never renamed; what is not known is `null`. A key
//! that an earlier version's server does not send is not known.

use serde::{Deserialize, Serialize};

use super::device::OnServerDeath;
use super::device_ref::DeviceRef;
use super::durations::Durations;

/// Everything that is shown of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceReport {
    pub id: u32,
    /// The cookie that the kernel keeps with the device; for the next command, not for users.
    pub cookie: u64,
    pub name: String,
    /// The device's object in `list --json`.
    #[serde(rename = "json")]
    pub object: DeviceObject,
    /// `0 LENGTH TARGET ARGS` with the arguments of the status.
    pub status: String,
    /// The same with the arguments of the table.
    pub table: String,
    /// The table that is loaded, with paths for its disks.
    #[serde(default)]
    pub inactive: Option<String>,
    /// For a plain origin: whether a merge into it has ended. `None`: it is none, or its server is
    /// of an earlier version and does not say that.
    #[serde(default)]
    pub merged: Option<bool>,
    /// How long its requests have taken; `None`: its server has not told it.
    #[serde(default)]
    pub durations: Option<Durations>,
    /// Numbers of the block devices below it; for a file, of its file system.
    pub disks: Vec<(u32, u32)>,
}

impl DeviceReport {
    /// The device as commands name it.
    pub fn device(&self) -> DeviceRef {
        DeviceRef { id: self.id, cookie: self.cookie }
    }
}

/// The state of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It is served.
    Live,
    /// Its requests are held back.
    Suspended,
    /// Its server is gone, and its I/O waits for the next one, or fails
    /// ([`DeviceObject::on_server_death`]).
    Quiesced,
    /// It has no disk any more.
    Dead,
}

impl RunState {
    /// The word for the state.
    pub fn word(self) -> &'static str {
        match self {
            RunState::Live => "live",
            RunState::Suspended => "suspended",
            RunState::Quiesced => "quiesced",
            RunState::Dead => "dead",
        }
    }
}

/// One word about a device, for monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The device needs no attention.
    Ok,
    /// A mirror has lost a leg or its log, or has regions that nothing recovers.
    Degraded,
    /// A mirror is being recovered.
    Recovering,
    /// A snapshot is being merged into its origin.
    Merging,
    /// A snapshot's COW has no room for another exception.
    Full,
    /// A snapshot's writes wait for room.
    Stalled,
    /// A snapshot has refused a write for want of room.
    Overflow,
    /// A snapshot is no longer usable.
    Invalid,
    /// There is no server, and I/O fails until there is one.
    Failing,
    /// There is no server to ask.
    Unknown,
}

impl Health {
    /// The word for the health.
    pub fn word(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
            Health::Recovering => "recovering",
            Health::Merging => "merging",
            Health::Full => "full",
            Health::Stalled => "stalled",
            Health::Overflow => "overflow",
            Health::Invalid => "invalid",
            Health::Failing => "failing",
            Health::Unknown => "unknown",
        }
    }
}

/// A device's object in `list --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceObject {
    pub id: u32,
    pub name: String,
    /// Its name for programs.
    #[serde(default)]
    pub uuid: Option<String>,
    /// The target's name in a table line.
    pub target: String,
    pub state: RunState,
    pub health: Health,
    /// The event counter, for `wait`.
    pub events: Option<u32>,
    pub block_device: String,
    pub char_device: String,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub size_bytes: u64,
    pub logical_block_size: Option<u32>,
    pub read_only: bool,
    pub queues: u16,
    pub queue_depth: u16,
    pub zero_copy: Option<bool>,
    pub recovery: bool,
    /// What its I/O does while it has no server; `None`: it ends with its server.
    #[serde(default)]
    pub on_server_death: Option<OnServerDeath>,
    /// The process that serves the device, or should.
    pub server_pid: Option<u32>,
    /// `false` if the report is not from the server, which is dead or does not answer.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub answers: bool,
    /// The object of the target, by the target's name.
    #[serde(flatten)]
    pub parts: Option<TargetObject>,
    pub stats: Option<StatsObject>,
}

fn yes() -> bool {
    true
}

fn is_yes(answers: &bool) -> bool {
    *answers
}

impl DeviceObject {
    /// The mirror's object, if the device is a mirror.
    pub fn mirror(&self) -> Option<&MirrorObject> {
        match &self.parts {
            Some(TargetObject::Mirror(mirror)) => Some(mirror),
            _ => None,
        }
    }
}

/// What only one target has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetObject {
    Snapshot(SnapshotObject),
    Mirror(MirrorObject),
    Origin(OriginObject),
    Linear(LinearObject),
    Segments(Vec<SegmentObject>),
}

/// How long exceptions live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreWord {
    Persistent,
    Transient,
}

/// The `snapshot` object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotObject {
    pub origin: String,
    pub cow: String,
    pub store: StoreWord,
    pub chunk_size_bytes: Option<u64>,
    pub valid: Option<bool>,
    pub overflow: Option<bool>,
    pub used_bytes: Option<u64>,
    pub total_bytes: Option<u64>,
    pub metadata_bytes: Option<u64>,
    pub exceptions: Option<u64>,
    /// The merge, if the snapshot is being merged into its origin, or is to be.
    pub merge: Option<MergeObject>,
}

/// The state of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeState {
    /// It begins when the origin is next activated.
    Deferred,
    Merging,
    /// It has stopped before its end.
    Failed,
    Done,
    /// The snapshot is invalid: nothing is merged.
    Invalid,
}

/// The `merge` object of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeObject {
    pub state: MergeState,
    /// Merged since the server opened the store.
    pub merged_bytes: u64,
    pub left_bytes: u64,
    /// Why it has stopped.
    pub error: Option<String>,
    /// Whether it rests until it is continued.
    #[serde(default)]
    pub paused: Option<bool>,
    /// The rate that it must not exceed.
    #[serde(default)]
    pub limit_bytes_per_second: Option<u64>,
    /// Its rate since it began, or was continued or given another limit.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// At this rate.
    #[serde(default)]
    pub seconds_left: Option<u64>,
    /// The name that the snapshot's device had, if it was begun with `merge`.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Whether that device is a snapshot of the merged origin at the end.
    #[serde(default)]
    pub keep: Option<bool>,
}

/// The `mirror` object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MirrorObject {
    pub legs: Vec<LegObject>,
    /// `core`, or the path of the log's device.
    pub log: String,
    /// The log's letter in the status line; `null` for a log in memory.
    pub log_health: Option<char>,
    pub region_size_bytes: u64,
    pub regions: Option<u64>,
    pub in_sync_regions: Option<u64>,
    pub dirty_regions: Option<u64>,
    /// Writes that are held back because no leg may be written.
    pub held: Option<u64>,
    pub recovery: Option<RecoveryObject>,
}

/// A leg of a mirror.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LegObject {
    pub path: String,
    pub offset_bytes: u64,
    /// The leg's letter in the status line.
    pub health: Option<char>,
    pub default: Option<bool>,
    /// Whether the leg has every acknowledged write.
    pub source: Option<bool>,
    /// Whether the leg has missed one.
    pub stale: Option<bool>,
    pub read_errors: Option<u64>,
    pub write_errors: Option<u64>,
    pub flush_errors: Option<u64>,
    pub sync_errors: Option<u64>,
}

/// The progress of a mirror's recovery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryObject {
    pub done_regions: u64,
    pub total_regions: u64,
    pub bytes: u64,
    pub bytes_per_second: u64,
    pub seconds_left: Option<u64>,
}

/// The `origin` object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OriginObject {
    pub path: String,
}

/// The `linear` object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearObject {
    pub path: String,
    pub offset_bytes: u64,
}

/// A line of a table with several: an entry of `segments`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentObject {
    pub start_bytes: u64,
    pub size_bytes: u64,
    pub target: String,
    /// The disk of a `linear` segment.
    pub path: Option<String>,
    pub offset_bytes: Option<u64>,
}

/// The `stats` object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatsObject {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub flushes: u64,
    pub discards: u64,
    pub copies: u64,
    pub copy_bytes: u64,
    pub commits: u64,
    pub errors: u64,
}
