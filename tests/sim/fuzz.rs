//! Corrupt stores: good stores with changed words, as a failing disk or an attacker leaves them,
//! opened by the code under test and by the naive loader. Both must agree on which stores are
//! usable and on their content; a refused store stays byte for byte unchanged, and nothing of it
//! stays in memory.
//!
//! The budget is a number of images, not a time.

use dm_targets::sim::Rng;
use dm_targets::sim::image::{Image, SECTOR_LEN};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Schedule;
use dm_targets::units::{Sector, Sectors};

use crate::kernel::{self, Loaded};
use crate::stack::{Left, Setup, close, prepare, recover, spawn_open, world};
use crate::workload::{Op, write};

/// Number of images.
const IMAGES: u64 = 12_000;

/// Good stores to start from: empty, with a few exceptions, with a full area, with areas of two
/// blocks.
fn stores() -> Vec<(Setup, Vec<Image>)> {
    let mut stores = Vec::new();
    for (setup, chunks) in [
        (Setup::single(40, 1, 80), 0),
        (Setup::single(40, 1, 80), 7),
        (Setup::single(40, 1, 80), 34),
        (Setup::single(64, 2, 120), 9),
        (Setup::single(160, 8, 240), 3),
    ] {
        let chunk = setup.snaps[0].chunk;
        let ops: Vec<Op> = (0..chunks).map(|number| write(0, number * chunk, chunk)).collect();
        let images = prepare(&setup, &setup.created_images().unwrap(), &ops);
        stores.push((setup, images));
    }
    stores
}

/// Changes a few words, mostly in metadata, mostly to values close to the right ones.
fn damage(cow: &mut Image, chunk: u64, rng: &mut Rng) {
    let edges =
        [0, 1, 2, 33, 34, 35, 66, 79, 80, 1 << 32, (1 << 56) - 1, 1 << 56, u64::MAX, 0x7041_6E53];
    for _ in 0..=rng.below(3) {
        let sector = match rng.below(4) {
            0 => 0,
            1 | 2 => chunk + rng.next_u64() % chunk,
            _ => rng.next_u64() % cow.size().0,
        };
        let mut bytes = cow.read(Sector(sector), Sectors(1));
        let word = if sector == 0 { rng.below(3) } else { rng.below(SECTOR_LEN / 8) };
        let place = &mut bytes[word * 8..word * 8 + 8];
        let old = u64::from_le_bytes(place.try_into().unwrap());
        let new = match rng.below(5) {
            0 => rng.next_u64(),
            1 => old ^ (1 << rng.below(64)),
            2 => old.wrapping_add(1),
            3 => rng.next_u64() % 100,
            _ => edges[rng.below(edges.len())],
        };
        place.copy_from_slice(&new.to_le_bytes());
        cow.write(Sector(sector), &bytes);
    }
}

/// The error of the code under test for a store that the naive loader refuses; it must have written
/// nothing.
fn refusal(setup: &Setup, images: &[Image]) -> Result<String, String> {
    let world = world(setup, &Left::images(images), 0, Schedule::InOrder, true, Trace::default());
    let opened = spawn_open(&world, setup);
    world.run(100_000);
    let error = match opened.borrow_mut().take() {
        None => return Err("opening does not end".into()),
        Some(Err(error)) => error,
        Some(Ok(stack)) => {
            close(&world, stack)?;
            return Err("is used".into());
        }
    };
    let now: Vec<Image> = world.disks().iter().map(|disk| disk.visible()).collect();
    match (now == images, world.executor.live(), world.host.lent()) {
        (true, 0, 0) => Ok(error),
        left => Err(format!("refused ({error}), but unchanged, tasks, buffers are {left:?}")),
    }
}

#[test]
fn damaged_stores_are_used_or_refused_as_the_format_says() {
    let stores = stores();
    let (mut used, mut refused) = (0, 0);
    for number in 0..IMAGES {
        let seed = crate::seed_base() + number;
        let mut rng = Rng::new(seed);
        let (setup, images) = &stores[rng.below(stores.len())];
        let mut images = images.clone();
        damage(&mut images[1], setup.snaps[0].chunk, &mut rng);
        match kernel::load(&images[1], setup.origin_sectors) {
            Err(fault) => {
                refusal(setup, &images)
                    .unwrap_or_else(|ours| panic!("seed {seed}: {fault}, and ours: {ours}"));
                refused += 1;
            }
            // Without the magic word's bytes there is no store, and a new one takes its place.
            Ok(Loaded::Empty) => {}
            Ok(loaded) => {
                let ours = recover(setup, &Left::images(&images))
                    .unwrap_or_else(|ours| panic!("seed {seed}: usable, but ours: {ours}"));
                assert!(
                    ours.snaps[0] == kernel::view(&loaded, &images[1], &images[0]),
                    "seed {seed}: another view"
                );
                used += 1;
            }
        }
    }
    println!("fuzz: images={IMAGES} used={used} refused={refused}");
    assert!(
        used > IMAGES / 10 && refused > IMAGES / 10,
        "the damage is too weak or too strong to mean anything"
    );
}

/// A repetition is detected after all records are read; the error must still name the record.
#[test]
fn a_record_that_repeats_another_is_named() {
    let (setup, images) = &stores()[2];
    // Chunks of one sector: 32 records in area 0, two in area 1, which is chunk 34. A change: half
    // a record (0 old, 1 new) of an area, and the record of area 0 whose half it gets.
    let refused = |changes: &[(u64, usize, usize, usize)]| {
        let mut images = images.clone();
        let first = images[1].read(Sector(1), Sectors(1));
        for (area, record, half, from) in changes {
            let sector = Sector(1 + area * 33);
            let mut bytes = images[1].read(sector, Sectors(1));
            let word = |record: usize| record * 16 + half * 8..record * 16 + half * 8 + 8;
            bytes[word(*record)].copy_from_slice(&first[word(*from)]);
            images[1].write(sector, &bytes);
        }
        refusal(setup, &images).unwrap_or_else(|ours| panic!("{changes:?}: {ours}"))
    };
    let (old, new) = ((1, 1, 0, 5), (0, 9, 1, 8));
    for (changes, record, what) in [
        (&[old][..], "record 1 of area 1", "repeats an origin chunk"),
        (&[new], "record 9 of area 0", "repeats a COW chunk"),
        (&[old, new], "record 9 of area 0", "repeats a COW chunk"),
    ] {
        let said = refused(changes);
        assert!(said.contains(record) && said.contains(what), "{changes:?}: {said}");
    }
}
