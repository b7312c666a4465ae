//! The `health` of a device in `list --json`: one word for monitoring.

use dm_targets::mirror::status::LegHealth;
use dm_targets::snapshot::merge::Phase;
use dm_targets::snapshot::status::SnapshotStatus;
use dm_targets::units::Sectors;

use crate::protocol::Health;

/// A snapshot's health; `chunk` is what its next new exception needs.
pub fn of_snapshot(status: &SnapshotStatus, chunk: Sectors) -> Health {
    let usage = &status.usage;
    match status {
        SnapshotStatus { valid: false, .. } => Health::Invalid,
        SnapshotStatus { overflowed: true, .. } => Health::Overflow,
        _ if usage.allocated.0 + chunk.0 > usage.total.0 => Health::Full,
        _ => Health::Ok,
    }
}

/// The health of an origin into which a snapshot is merged.
pub fn of_merge(phase: Phase) -> Health {
    match phase {
        Phase::Merging => Health::Merging,
        Phase::Failed => Health::Stalled,
        Phase::Done => Health::Ok,
        Phase::Unusable => Health::Invalid,
    }
}

/// A mirror's health: a mirror with a failed leg or log is degraded, even during recovery.
pub fn of_mirror(
    mut legs: impl Iterator<Item = LegHealth>,
    log_works: bool,
    out_of_sync_regions: u64,
    recovering: bool,
) -> Health {
    match (legs.all(|leg| leg == LegHealth::Alive) && log_works, out_of_sync_regions, recovering) {
        (true, 0, _) => Health::Ok,
        (true, _, true) => Health::Recovering,
        _ => Health::Degraded,
    }
}

#[cfg(test)]
mod tests {
    use dm_targets::snapshot::format::Usage;

    use super::*;

    #[test]
    fn a_snapshot_that_lost_something_says_so_first() {
        let status = |valid, overflowed, allocated| SnapshotStatus {
            valid,
            merge_failed: false,
            overflowed,
            usage: Usage {
                allocated: Sectors(allocated),
                total: Sectors(100),
                metadata: Sectors(8),
            },
        };
        assert_eq!(of_snapshot(&status(true, false, 92), Sectors(8)), Health::Ok);
        assert_eq!(of_snapshot(&status(true, false, 96), Sectors(8)), Health::Full);
        assert_eq!(of_snapshot(&status(true, true, 96), Sectors(8)), Health::Overflow);
        assert_eq!(of_snapshot(&status(false, true, 96), Sectors(8)), Health::Invalid);
    }

    #[test]
    fn a_mirror_that_misses_a_leg_is_degraded_even_while_it_recovers() {
        use LegHealth::{Alive, Dead, ReadFailed};
        assert_eq!(of_mirror([Alive, Alive].into_iter(), true, 0, false), Health::Ok);
        assert_eq!(of_mirror([Alive, Alive].into_iter(), true, 9, true), Health::Recovering);
        assert_eq!(of_mirror([Alive, Alive].into_iter(), true, 9, false), Health::Degraded);
        assert_eq!(of_mirror([Alive, Alive].into_iter(), false, 0, false), Health::Degraded);
        for leg in
            [Dead, ReadFailed, LegHealth::FlushFailed, LegHealth::SyncFailed, LegHealth::Unknown]
        {
            assert_eq!(of_mirror([Alive, leg].into_iter(), true, 9, true), Health::Degraded);
        }
    }
}
