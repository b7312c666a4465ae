//! A merge as the data thread opens it, and how it runs.

use std::rc::Rc;

use dm_targets::device::{Events, OpenTarget};
use dm_targets::snapshot::merge::{Bounds, Merge, Phase};
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::Parts;
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sectors};

use super::wipe::zero_start;
use crate::failure::Reason;
use crate::protocol::MergeOptions;

/// A merge that has been opened.
pub(super) struct OpenMerge {
    pub(super) opened: OpenTarget,
    pub(super) chunk: ChunkSize,
    pub(super) len: Sectors,
    /// Its store keeps chunks of an earlier moment.
    pub(super) keeps: bool,
}

/// Opens a merge, which runs as `options` say from its first batch on. That of an invalid snapshot,
/// which is its origin, is accepted if `allow_invalid`.
pub(super) async fn open(
    parts: Parts<'_>,
    origin: &Rc<Origin>,
    events: Rc<Events>,
    allow_invalid: bool,
    options: Option<&MergeOptions>,
) -> Result<OpenMerge, Reason> {
    let (path, block_bytes) = (parts.cow.name().clone(), parts.cow.limits().logical_block_bytes);
    let merge = Merge::open(parts, origin, Bounds::default()).await?;
    let is_usable = merge.phase() != Phase::Unusable;
    if !is_usable && !allow_invalid {
        return Err(is_invalid(&path, block_bytes));
    }
    options.iter().for_each(|options| run_as(&merge, options));
    let (chunk, len) = (merge.chunk_size(), merge.len());
    let keeps = is_usable && merge.exceptions() > 0;
    Ok(OpenMerge { opened: OpenTarget { target: Target::Merge(merge), events }, chunk, len, keeps })
}

/// Lets a merge run as the options say.
pub(in crate::server::admin) fn run_as(merge: &Merge, options: &MergeOptions) {
    if merge.speed().limit != options.bytes_per_second {
        merge.set_rate(options.bytes_per_second);
    }
    match (options.paused, merge.speed().paused) {
        (true, false) => merge.pause(),
        (false, true) => merge.unpause(),
        _ => {}
    }
}

/// Why the device of an invalid snapshot is not added.
pub(super) fn is_invalid(path: &str, block_bytes: u32) -> Reason {
    let hint = zero_start(path, block_bytes);
    let what = "to use the disk for a new snapshot, or add it with --allow-invalid";
    format!("{path}: the snapshot on it is invalid; {hint} {what}").into()
}
