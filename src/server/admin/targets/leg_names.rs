//! The identities of a mirror's legs in its records, on its log and in the run directory.
//!
//! Rule kept here: a record of an earlier version, which named some legs in another way, is read
//! under its names.

use std::collections::HashSet;

use dm_targets::mirror::leg_flags::identity_of;
use dm_targets::mirror::leg_state::{LegState, Past};
use dm_targets::mirror::table::Leg;

use crate::server::admin::machine::OpenDisk;

/// The lasting identities of the legs. If two have the same name (serial numbers set by a user),
/// paths are used instead.
pub(super) fn identities(legs: &[Leg], disks: &[impl OpenDisk]) -> Vec<u64> {
    distinct(legs, disks.iter().zip(legs).map(|(disk, leg)| identity(disk, leg)).collect())
}

fn distinct(legs: &[Leg], named: Vec<u64>) -> Vec<u64> {
    if named.iter().collect::<HashSet<_>>().len() == named.len() {
        return named;
    }
    legs.iter().map(|leg| identity_of(&format!("{} {}", leg.device, leg.offset))).collect()
}

/// The identities of the legs in the logs of an earlier version, with those of this version, where
/// the two differ.
pub(super) fn renamed(legs: &[Leg], disks: &[impl OpenDisk]) -> Vec<(u64, u64)> {
    let former = disks.iter().zip(legs).map(|(disk, leg)| former_identity(disk, leg)).collect();
    let pairs = distinct(legs, former).into_iter().zip(identities(legs, disks));
    pairs.filter(|(former, today)| former != today).collect()
}

fn former_identity(disk: &impl OpenDisk, leg: &Leg) -> u64 {
    identity_of(&format!("{} {}", disk.former_name(), leg.offset))
}

/// Tells a leg's disk from others that have the same identity in this boot: a number is needed if
/// the name is a path, or one that a user has chosen.
pub(super) fn number_of(disk: &impl OpenDisk) -> u64 {
    let name = disk.lasting_name();
    if name.starts_with('/') || name.starts_with("dm/name ") { disk.number_in_boot() } else { 0 }
}

/// The identity of a log's disk, which no other disk has in this boot.
pub(super) fn identity_of_log(disk: &impl OpenDisk) -> u64 {
    identity_of(&format!("{} {}", disk.lasting_name(), number_of(disk)))
}

/// A leg's identity in the log.
pub(super) fn identity(disk: &impl OpenDisk, leg: &Leg) -> u64 {
    identity_of(&format!("{} {}", disk.lasting_name(), leg.offset))
}

/// The record of the legs with the names of an earlier version replaced by those of this version. A
/// leg that is recorded under its current name is not looked for.
pub(super) fn with_names_of_today(past: Past, legs: &[Leg], disks: &[impl OpenDisk]) -> Past {
    let today = |mut state: LegState| {
        for (leg, disk) in legs.iter().zip(disks) {
            let now = identity(disk, leg);
            let former = former_identity(disk, leg);
            if state.legs.iter().all(|known| known.identity != now) {
                let known = state.legs.iter_mut().find(|known| known.identity == former);
                known.into_iter().for_each(|known| known.identity = now);
            }
        }
        state
    };
    match past {
        Past::None | Past::Ended(_) => past,
        Past::Replaced(state) => Past::Replaced(state.map(today)),
        Past::TakenOver(state) => Past::TakenOver(state.map(today)),
    }
}
