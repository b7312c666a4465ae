//! What the data thread knows of its devices, for reports: copied there in one job.

use std::rc::Rc;

use dm_targets::device::Device;
use dm_targets::mirror::legs::ErrorCounts;
use dm_targets::mirror::status::LegHealth;
use dm_targets::mirror::target::{LegReport, Mirror, Progress, Status};
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::status::SnapshotStatus;
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sectors};

use super::merge_report::MergeFacts;
use crate::data::{DataThread, DeviceStats};
use crate::protocol::Durations;

/// The data thread's information about a device.
pub struct Facts {
    pub(super) id: u32,
    pub(super) size: Sectors,
    pub(super) logical_block_bytes: u32,
    pub(super) stats: DeviceStats,
    pub(super) durations: Option<Durations>,
    pub(super) suspended: bool,
    pub(super) events: u32,
    pub(super) copies: u64,
    pub(super) copy_bytes: u64,
    pub(super) commits: u64,
    pub(super) snapshot: Option<SnapshotFacts>,
    pub(super) mirror: Option<MirrorFacts>,
}

/// The contents of a leg's JSON object.
pub(super) struct LegFacts {
    pub(super) health: LegHealth,
    pub(super) default: bool,
    pub(super) source: bool,
    pub(super) stale: bool,
    pub(super) errors: ErrorCounts,
}

impl LegFacts {
    fn of(leg: &LegReport) -> LegFacts {
        let LegReport { health, default, source, stale, errors, .. } = *leg;
        LegFacts { health, default, source, stale, errors }
    }
}

pub(super) struct MirrorFacts {
    pub(super) status: Status,
    pub(super) legs: Vec<LegFacts>,
    pub(super) region_size: Sectors,
    pub(super) dirty_regions: u64,
    pub(super) held: usize,
    pub(super) recovery: Option<Progress>,
    pub(super) now_ms: u64,
}

impl MirrorFacts {
    fn of(mirror: &Mirror, recovery: Option<Progress>, now_ms: u64) -> MirrorFacts {
        MirrorFacts {
            status: mirror.status(),
            legs: mirror.legs().iter().map(LegFacts::of).collect(),
            region_size: mirror.region_size(),
            dirty_regions: mirror.dirty_regions(),
            held: mirror.held(),
            recovery,
            now_ms,
        }
    }
}

pub(super) struct SnapshotFacts {
    pub(super) status: SnapshotStatus,
    pub(super) chunk_size: ChunkSize,
    pub(super) exceptions: usize,
    pub(super) merge: Option<MergeFacts>,
}

/// The data thread's information about all its devices.
pub fn look(thread: &DataThread) -> Vec<Facts> {
    let now_ms = thread.group.host.now_ms();
    let stats = |id: u32| thread.served(id).map(|served| served.stats()).unwrap_or_default();
    let devices = thread.group.devices();
    let of = |(id, device): (&u32, &Rc<Device>)| Facts {
        durations: thread.served(*id).map(|served| served.durations()),
        ..of_device(*id, device, stats(*id), now_ms)
    };
    devices.iter().map(of).collect()
}

/// What is known of a device; `now_ms`: the time by the clock of its thread.
pub fn of_device(id: u32, device: &Device, stats: DeviceStats, now_ms: u64) -> Facts {
    let mut facts = Facts {
        id,
        size: Sectors(0),
        logical_block_bytes: device.target().logical_block_bytes(),
        stats,
        durations: None,
        suspended: device.is_suspended(),
        events: device.events().count(),
        copies: 0,
        copy_bytes: 0,
        commits: 0,
        snapshot: None,
        mirror: None,
    };
    match &device.target() {
        Target::Mirror(mirror) => {
            let recovery = mirror.recovery();
            let copied = mirror.copied();
            (facts.copies, facts.copy_bytes) = (copied.regions, copied.bytes);
            facts.mirror = Some(MirrorFacts::of(mirror, recovery, now_ms));
        }
        Target::Snapshot(snapshot) => {
            let (usage, copied) = (snapshot.usage(), snapshot.stats());
            facts.size = snapshot.len();
            (facts.copies, facts.copy_bytes) = (copied.copies, copied.copy_bytes);
            facts.commits = snapshot.store().commits();
            let health = snapshot.health();
            facts.snapshot = Some(SnapshotFacts {
                status: SnapshotStatus {
                    valid: health.is_kept(),
                    merge_failed: false,
                    overflowed: health == Health::Overflowed,
                    usage,
                },
                chunk_size: snapshot.chunk_size(),
                exceptions: snapshot.exceptions(),
                merge: None,
            });
        }
        Target::Merge(merge) => {
            facts.size = merge.len();
            facts.commits = merge.commits();
            facts.snapshot = Some(SnapshotFacts {
                status: merge.status(),
                chunk_size: merge.chunk_size(),
                exceptions: merge.exceptions(),
                merge: Some(MergeFacts::of(merge)),
            });
        }
        // These targets have no status beyond their tables.
        Target::Origin(_)
        | Target::Linear(_)
        | Target::Error(_)
        | Target::Zero(_)
        | Target::Segments(_)
        | Target::Nothing => {}
    }
    facts
}
