//! The administrator's part of each kind of target, outside the data path.

mod circle;
mod coming;
mod content;
mod continued;
mod disks;
mod ended;
mod leg_content;
mod leg_names;
mod leg_ranges;
mod leg_record;
mod lost;
pub(super) mod merge;
mod messages;
mod mirror;
mod named_disks;
mod named_source;
mod new_part;
mod own_legs;
mod reused_disks;
mod segments;
mod snapshot;
mod snapshot_open;
pub(super) mod wipe;

pub(super) use disks::Unread;
pub(super) use mirror::Whose;
pub(super) use reused_disks::Replaced;
