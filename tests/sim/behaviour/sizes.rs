//! Sizes that have changed, or that differ from the table.

use std::rc::Rc;

use dm_targets::disk::Host;
use dm_targets::sim::image::Image;
use dm_targets::sim::losses::SimLosses;
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::units::{ChunkSize, Sectors};

use super::{Fixture, Slot, calm};

/// A monitor that has grown a COW must not be told the old fill level.
#[test]
pub fn a_cow_that_has_grown_is_seen_by_the_next_status() {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(2, 8, OnFull::Overflow, calm());
    fixture.run(0, 100, 0, 4).unwrap();
    assert_eq!(
        (fixture.snaps[0].usage().allocated, fixture.snaps[0].usage().total),
        (Sectors(8), Sectors(8))
    );
    cow.grow(Sectors(24));
    assert_eq!(
        (fixture.snaps[0].usage().allocated, fixture.snaps[0].usage().total),
        (Sectors(8), Sectors(24))
    );
    fixture.close();
}

/// An administrator who has grown a COW is warned again when the larger COW fills; a level that
/// only the old size had reached is not reported.
#[test]
fn a_cow_that_has_grown_is_announced_again_as_it_fills() {
    let mut fixture = Fixture::new(128, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(2, 40, OnFull::Overflow, calm());
    let overwrite = |chunks: std::ops::Range<u32>| {
        for chunk in chunks {
            fixture.run(0, 100 + chunk, u64::from(chunk) * 2, 2).unwrap();
        }
        let events: Vec<String> = fixture.events.borrow_mut().drain(..).collect();
        events
    };
    // Two of the 20 chunks are the header and the records.
    assert_eq!(overwrite(0..15), ["COW is 50 % full", "COW is 80 % full"]);
    cow.grow(Sectors(80));
    assert!(overwrite(15..17).is_empty(), "90 % of the old size");
    assert_eq!(overwrite(17..18), ["COW is 50 % full"], "half of the new size");
    assert_eq!(overwrite(18..37), ["COW is 80 % full", "COW is 90 % full", "COW is 95 % full"]);
    fixture.close();
}

/// Opens a snapshot of `len` sectors of an origin of 16; returns the result and whether the COW is
/// unchanged.
fn opened_with(len: u64) -> (Result<u64, String>, bool) {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    let cow = fixture.world.add_disk("cow", calm(), Image::zeroes(Sectors(60)));
    let opened: Slot<Result<u64, String>> = Rc::default();
    let (slot, executor, disk) = (opened.clone(), fixture.world.executor.clone(), cow.disk());
    let (host, copy): (Rc<dyn Host>, _) = (fixture.world.host.clone(), fixture.copy.clone());
    let origin = fixture.origin.disk().clone();
    fixture.world.executor.spawn(async move {
        let parts = Parts {
            executor: &executor,
            host: &host,
            copy: &copy,
            origin: &origin,
            cow: &disk,
            chunk_size: ChunkSize::from_sectors(2),
            persistent: true,
            overwrite: false,
            ownership: None,
            lost: false,
            losses: Rc::new(SimLosses::of("cow", None)),
            len: Some(Sectors(len)),
            options: Options {
                on_full: OnFull::Overflow,
                discard_zeroes_cow: false,
                discard_passdown_origin: false,
            },
            journal: None,
            listener: Rc::new(|_| {}),
        };
        let snap = Snapshot::open(parts).await;
        *slot.borrow_mut() = Some(snap.map(|snap| snap.len().0).map_err(|error| error.to_string()));
    });
    fixture.world.run(10_000);
    let said = opened.borrow_mut().take().unwrap();
    (said, cow.visible() == Image::zeroes(Sectors(60)))
}

/// A write beyond the origin's end would make an invalid record: the next server would refuse the
/// store.
#[test]
pub fn a_snapshot_is_no_longer_than_its_origin() {
    assert_eq!(opened_with(16), (Ok(16), true));
    assert_eq!(opened_with(9), (Ok(9), true));
    let (said, untouched) = opened_with(17);
    let said = said.unwrap_err();
    assert!(
        untouched && said.contains("origin") && said.contains("16") && said.contains("17"),
        "{said}"
    );
}
