//! What `list --json` says of a merge.

use dm_targets::snapshot::merge::{Merge, Phase, Progress};

use crate::protocol::{MergeObject, MergeState};

/// The data thread's information about a merge.
pub struct MergeFacts {
    pub phase: Phase,
    progress: Progress,
    fault: Option<String>,
}

impl MergeFacts {
    /// What is known of a merge.
    pub fn of(merge: &Merge) -> MergeFacts {
        let fault = merge.fault().map(|fault| fault.to_string());
        MergeFacts { phase: merge.phase(), progress: merge.progress(), fault }
    }

    /// The `merge` object of a snapshot.
    pub fn object(&self) -> MergeObject {
        let state = match self.phase {
            Phase::Merging => MergeState::Merging,
            Phase::Failed => MergeState::Failed,
            Phase::Done => MergeState::Done,
            Phase::Unusable => MergeState::Invalid,
        };
        MergeObject {
            state,
            merged_bytes: self.progress.merged.bytes(),
            left_bytes: self.progress.left.bytes(),
            error: self.fault.clone(),
        }
    }
}
