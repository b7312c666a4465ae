//! The mark on a COW that a merge has begun: without the rest of it the store shows neither the
//! snapshot nor the origin, once the origin has changed.

use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::image::Image;
use dm_targets::snapshot::format::Identity;
use dm_targets::snapshot::format::identity::{is_marked as is_marked_block, mark};
use dm_targets::snapshot::merge::Phase;
use dm_targets::units::{Sector, Sectors};

use super::behaviour::{Bench, small, world_of};
use super::family::Plan;
use super::limits::identify;
use crate::kernel::{self, Loaded};
use crate::stack::{self, Left};

fn owned() -> (Plan, Left) {
    let (plan, mut left) = small();
    identify(&mut left.images[1], plan.setup.origin_sectors, false);
    (Plan { owned: true, ..plan }, left)
}

fn is_marked(cow: &Image) -> bool {
    let block = cow.read(Sector(0), Sectors(1));
    let without_identity = || is_marked_block(&block.clone().try_into().unwrap());
    Identity::decode(&block).map_or_else(without_identity, |identity| identity.merging)
}

fn has_records(plan: &Plan, cow: &Image) -> bool {
    let loaded = kernel::load(cow, plan.setup.origin_sectors);
    matches!(loaded, Ok(Loaded::Valid(store)) if !store.records.is_empty())
}

/// From the first change of the origin on, wherever the power goes, the COW says that a merge has
/// begun, as long as it has records.
pub fn marked_while_records_are_left() -> Result<(), String> {
    // A store of ours, and one that the kernel has made.
    marked_while(owned())?;
    marked_while(small())
}

fn marked_while((plan, left): (Plan, Left)) -> Result<(), String> {
    let bench = Bench::on(&plan, world_of(&plan, &left));
    let mut halves = 0;
    while bench.family.merge.phase() == Phase::Merging {
        bench.world.step(false);
        for images in bench.world.crash(CrashKind::Power, 6) {
            if images[0] == left.images[0] || !has_records(&plan, &images[1]) {
                continue;
            }
            halves += 1;
            if !is_marked(&images[1]) {
                return Err("a merge has begun, and its COW does not say so".into());
            }
            let as_snapshot = stack::recover(&plan.setup, &Left::images(&images));
            match as_snapshot.err() {
                Some(why) if why.contains("has been merged into") => {}
                other => return Err(format!("as a snapshot it is refused with {other:?}")),
            }
        }
    }
    if halves == 0 {
        return Err("it was never half merged".into());
    }
    let cow = bench.world.disks()[1].visible();
    match is_marked(&cow) {
        true => Err("the mark stays at the end".into()),
        false => Ok(()),
    }
}

#[test]
fn a_half_merged_cow_says_so_and_is_no_snapshot() {
    marked_while_records_are_left().unwrap();
}

/// The end of a merge could not be marked, or another program has merged the rest: the store is
/// empty, and can be used for a snapshot.
#[test]
fn an_empty_store_is_a_snapshot_whatever_its_mark_says() {
    let (plan, mut left) = owned();
    left.images[1].write(Sector(1), &[0; 512]);
    identify(&mut left.images[1], plan.setup.origin_sectors, true);
    is_a_snapshot_again(&plan, &left);
    let (plan, mut left) = small();
    left.images[1].write(Sector(1), &[0; 512]);
    let mut block = left.images[1].read(Sector(0), Sectors(1)).try_into().unwrap();
    mark(&mut block);
    left.images[1].write(Sector(0), &block);
    is_a_snapshot_again(&plan, &left);
}

fn is_a_snapshot_again(plan: &Plan, left: &Left) {
    assert!(is_marked(&left.images[1]));
    let recovered = stack::recover(&plan.setup, left).unwrap();
    assert_eq!(recovered.snaps[0].as_ref(), Some(&left.images[0].sectors));
    assert!(!is_marked(&recovered.images[1]), "its next records are a snapshot's");
}
