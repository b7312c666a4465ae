//! What `list --json` says of a merge.

use std::num::NonZeroU64;

use dm_targets::snapshot::merge::{Merge, Phase, Progress, Speed};

use crate::protocol::{MergeObject, MergeOptions, MergeState};

/// The data thread's information about a merge.
pub struct MergeFacts {
    pub phase: Phase,
    pub(super) progress: Progress,
    pub(super) speed: Speed,
    pub(super) fault: Option<String>,
}

impl MergeFacts {
    /// What is known of a merge.
    pub fn of(merge: &Merge) -> MergeFacts {
        let fault = merge.fault().map(|fault| fault.to_string());
        let (phase, progress, speed) = (merge.phase(), merge.progress(), merge.speed());
        MergeFacts { phase, progress, speed, fault }
    }

    /// The `merge` object of a snapshot; `options`: how it was asked to run.
    pub fn object(&self, options: Option<&MergeOptions>) -> MergeObject {
        let state = match self.phase {
            Phase::Merging => MergeState::Merging,
            Phase::Failed => MergeState::Failed,
            Phase::Done => MergeState::Done,
            Phase::Unusable => MergeState::Invalid,
        };
        let left_bytes = self.progress.left.bytes();
        let rate = self.speed.measured;
        MergeObject {
            state,
            merged_bytes: self.progress.merged.bytes(),
            left_bytes,
            error: self.fault.clone(),
            paused: Some(self.speed.paused),
            limit_bytes_per_second: self.speed.limit.map(NonZeroU64::get),
            bytes_per_second: rate.map(NonZeroU64::get),
            seconds_left: rate.map(|rate| left_bytes.div_ceil(rate.get())),
            snapshot: options.and_then(|options| options.snapshot.clone()),
            keep: Some(options.is_some_and(|options| options.keep)),
        }
    }
}

/// The `merge` object of a snapshot whose merge is left to the next activation of its origin.
pub(super) fn deferred(options: &MergeOptions) -> MergeObject {
    MergeObject {
        state: MergeState::Deferred,
        merged_bytes: 0,
        left_bytes: 0,
        error: None,
        paused: Some(options.paused),
        limit_bytes_per_second: options.bytes_per_second.map(NonZeroU64::get),
        bytes_per_second: None,
        seconds_left: None,
        snapshot: options.snapshot.clone(),
        keep: Some(options.keep),
    }
}
