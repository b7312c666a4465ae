//! The protocol between commands and servers: one JSON object per line, one command and one reply
//! per connection.

mod ask;
mod cow;
mod device;
mod device_ref;
mod durations;
mod event;
mod known;
mod message;
mod name;
mod problem;
mod report;

pub use ask::{Silence, ask, connect, has_left, is_absent, is_late, until_left_or, write_line};
pub use cow::{Cow, Which};
pub use device::{
    DeviceOptions, DeviceSpec, DeviceState, MergeOptions, OnServerDeath, never_merged,
    no_merge_into, not_begun,
};
pub use device_ref::DeviceRef;
pub use durations::{BOUNDS_NS, Durations, Histogram};
pub use event::EventLine;
pub use known::{KnownDisk, KnownDisks, Part, Place, Unmade};
pub use message::{Command, Doing, MergeChange, Reply};
pub use name::{refuse_odd_name, refuse_odd_uuid};
pub use problem::Problem;
pub use report::{
    DeviceObject, DeviceReport, Health, LegObject, LinearObject, MergeObject, MergeState,
    MirrorObject, OriginObject, RecoveryObject, RunState, SegmentObject, SnapshotObject,
    StatsObject, StoreWord, TargetObject,
};
