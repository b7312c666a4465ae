//! The health of a device in one word, for `list` and `metrics`: what needs attention first.

use crate::protocol::{DeviceObject, Health, MergeObject, MergeState, RunState, TargetObject};

const FAILING: &str = "failing";
const HANGS: &str = "hangs";
const SUSPENDED: &str = "suspended";
const DEFERRED: &str = "merge-deferred";
const PAUSED: &str = "merge-paused";
const STOPPED: &str = "merge-stopped";
const MERGING: &str = "merging";

/// All words that there are.
pub(super) const WORDS: [&str; 17] = [
    "ok",
    "degraded",
    "recovering",
    MERGING,
    PAUSED,
    STOPPED,
    DEFERRED,
    "full",
    "stalled",
    "overflow",
    "invalid",
    SUSPENDED,
    "quiesced",
    FAILING,
    "dead",
    HANGS,
    "unknown",
];

/// The word for a device.
pub(super) fn word_of(device: &DeviceObject) -> &'static str {
    match (device.health, device.state) {
        (Health::Failing, _) => FAILING,
        (_, RunState::Quiesced | RunState::Dead) => device.state.word(),
        (_, RunState::Live) if !device.answers => HANGS,
        (Health::Ok, RunState::Suspended) => SUSPENDED,
        (Health::Recovering, _) => Health::Recovering.word(),
        (health, _) => merge_of(device).map_or(health.word(), |(word, _)| word),
    }
}

/// The merge of a device that has not ended, and the word for it.
pub(super) fn merge_of(device: &DeviceObject) -> Option<(&'static str, &MergeObject)> {
    let Some(TargetObject::Snapshot(snapshot)) = &device.parts else { return None };
    let merge = snapshot.merge.as_ref()?;
    let word = match merge.state {
        MergeState::Deferred => DEFERRED,
        MergeState::Merging if merge.paused == Some(true) => PAUSED,
        MergeState::Merging => MERGING,
        MergeState::Failed => STOPPED,
        MergeState::Done | MergeState::Invalid => return None,
    };
    Some((word, merge))
}
