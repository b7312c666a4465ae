//! Where a merge ends: with the merged snapshot, which may be shorter than its origin.

use dm_targets::sim::image::Image;
use dm_targets::snapshot::format::StoreId;
use dm_targets::snapshot::format::identity::{IDENTITY_END, Identity};
use dm_targets::snapshot::merge::Phase;
use dm_targets::units::{Sector, Sectors};

use super::behaviour::{Bench, world_of};
use super::cases::{images, plan};
use super::family::{Plan, spawn_open};
use crate::stack::Left;
use crate::workload::write;

/// Says in a store's header what it was made for.
pub fn identify(cow: &mut Image, origin_sectors: u64, merging: bool) {
    let mut block: [u8; IDENTITY_END] = cow.read(Sector(0), Sectors(1)).try_into().unwrap();
    let identity = Identity::new(StoreId([7; 16]), origin_sectors, "origin");
    Identity { merging, ..identity }.encode(&mut block);
    cow.write(Sector(0), &block);
}

/// A snapshot of 18 sectors in chunks of four, of an origin of 22; the records are at these chunks.
fn short(chunks: &[u64]) -> (Plan, Vec<Image>) {
    let whole = plan(22, &[4], 3);
    let ops = chunks.iter().map(|chunk| write(1, chunk * 4, (22 - chunk * 4).min(4)));
    let images = images(&whole, &ops.collect::<Vec<_>>());
    (Plan { len: Some(18), owned: true, ..whole }, images)
}

fn refusal(plan: &Plan, images: &[Image]) -> Option<String> {
    let world = world_of(plan, &Left::images(images));
    let opening = spawn_open(&world, plan);
    world.run(10_000);
    let opened = opening.borrow_mut().take().unwrap();
    opened.err()
}

/// The snapshot's last chunk reaches behind its end, where the origin has something else.
pub fn last_chunk_is_longer() -> Result<(), String> {
    let (plan, images) = short(&[1, 4]);
    let bench = Bench::on(&plan, world_of(&plan, &Left::images(&images)));
    bench.world.run(100_000);
    let phase = bench.family.merge.phase();
    if phase != Phase::Done {
        return Err(format!("it is {phase:?}"));
    }
    let merged = bench.world.disks()[0].visible();
    match merged.sectors[18..] == images[0].sectors[18..] {
        true if merged.sectors[16..18] == images[0].sectors[16..18] => {
            Err("the last chunk is not merged".into())
        }
        true => Ok(()),
        false => Err("what stands behind the snapshot's end is overwritten".into()),
    }
}

#[test]
fn nothing_is_written_behind_the_snapshots_end() {
    last_chunk_is_longer().unwrap();
}

#[test]
fn a_record_behind_the_end_is_refused_and_not_dropped() {
    let (plan, images) = short(&[1, 5]);
    let refused = refusal(&plan, &images).expect("it opens");
    assert!(refused.contains("behind the device's end"), "{refused}");
    assert!(refusal(&Plan { len: None, ..plan }, &images).is_none(), "in its whole length");
}

/// A chunk at the former end of an origin that has grown: only the first part of it is on the COW.
#[test]
fn a_chunk_that_was_copied_short_is_refused_at_the_new_length() {
    let (plan, mut images) = short(&[4]);
    identify(&mut images[1], 18, false);
    let refused = refusal(&Plan { len: None, ..plan.clone() }, &images).expect("it opens");
    assert!(refused.contains("the length that the origin had then"), "{refused}");
    assert!(refusal(&plan, &images).is_none(), "at the old length");
    let (plan, mut images) = short(&[1]);
    identify(&mut images[1], 18, false);
    assert!(refusal(&Plan { len: None, ..plan }, &images).is_none(), "no record there");
}

#[test]
fn a_cow_without_a_store_is_not_merged() {
    let (plan, mut images) = short(&[1]);
    images[1].write(Sector(0), &[0; 512]);
    let refused = refusal(&plan, &images).expect("it opens");
    assert!(refused.contains("there is no snapshot store"), "{refused}");
}
