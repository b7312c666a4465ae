//! A store that is on record and not made yet: the server ends between the record of a snapshot's
//! table with a new COW and the store's header.

use dm_targets::sim::image::Image;

use super::contents::make_ext4;
use super::exchanged::{ERROR, O, SNAP, again, exchange, has_own, town};
use super::town::Town;
use crate::protocol::DeviceState;

/// A snapshot's table with an empty COW replaces another one, and the server ends at a change, and
/// the next one at its own. Returns how many changes there were.
fn with_a_new_store(first: Option<u64>, second: Option<u64>) -> Result<u64, String> {
    let mut town = town();
    exchange(&mut town, SNAP, ERROR)?;
    let changes = |town: &Town| town.site.shared.lock().unwrap().changes;
    let before = changes(&town);
    let crash_at = |town: &Town, at: Option<u64>| {
        let now = changes(town);
        town.site.shared.lock().unwrap().crash_at = at.map(|at| now + at);
    };
    crash_at(&town, first);
    let put = exchange(&mut town, SNAP, "0 8 snapshot /o /c1 P 2");
    if !town.site.is_dead() {
        put?;
        return Ok(changes(&town) - before);
    }
    town.crash(false);
    crash_at(&town, second);
    let recovered = town.recover();
    if town.site.is_dead() {
        town.crash(false);
        town.recover()?;
    } else {
        recovered?;
        crash_at(&town, None);
    }
    if has_own(&town)? && !matches!(town.read(SNAP), Some(Ok(_))) {
        return Err(format!("the snapshot is not there: {:?}", town.read(SNAP)));
    }
    Ok(changes(&town) - before)
}

pub(super) fn is_made_by_the_next_server() {
    let changes = with_a_new_store(None, None).unwrap();
    for first in 1..=changes {
        let more = with_a_new_store(Some(first), None);
        let more = more.unwrap_or_else(|why| panic!("change {first}: {why}"));
        for second in 1..=more.saturating_sub(first) {
            let judged = with_a_new_store(Some(first), Some(second));
            judged.unwrap_or_else(|why| panic!("changes {first} and {second}: {why}"));
        }
    }
}

#[test]
fn a_new_store_survives_an_end_of_the_server_at_any_moment() {
    is_made_by_the_next_server();
}

/// The states after an end of the server in which the new store is on record and its COW is blank,
/// with the slot of that.
fn unmade() -> impl Iterator<Item = (Town, usize)> {
    (1..)
        .map_while(|at| {
            let mut town = town();
            exchange(&mut town, SNAP, ERROR).unwrap();
            let now = town.site.shared.lock().unwrap().changes;
            town.site.shared.lock().unwrap().crash_at = Some(now + at);
            drop(exchange(&mut town, SNAP, "0 8 snapshot /o /c1 P 2"));
            town.site.is_dead().then(|| {
                town.crash(false);
                let slot = town.site.slot("/c1").unwrap();
                (town, slot)
            })
        })
        .filter(|(town, slot)| {
            let is_unmade = |one: &DeviceState| one.is_unmade();
            let blank =
                visible(town, *slot).hash() == Image::zeroes(visible(town, *slot).size()).hash();
            blank && town.left(SNAP.key()).is_ok_and(|left| left.iter().any(is_unmade))
        })
}

fn visible(town: &Town, slot: usize) -> Image {
    town.site.disks[slot].disk.borrow().visible()
}

/// What another program has put on the COW since is not overwritten.
#[test]
fn no_store_is_made_over_what_another_program_has_put_there() {
    let mut count = 0;
    for (mut town, slot) in unmade() {
        make_ext4(&town, slot, 0, 7);
        let before = visible(&town, slot);
        drop(town.recover());
        assert!(visible(&town, slot) == before, "a store was made over it");
        count += 1;
    }
    assert!(count > 0, "no such state");
}

/// The COW is missing when the origin changes, and comes back: the store that is made then has lost
/// nothing, under later servers as well.
#[test]
fn a_loss_before_a_store_is_made_is_not_that_stores() {
    let mut count = 0;
    for (mut town, slot) in unmade() {
        town.attach(slot, false);
        drop(town.recover());
        town.write(O, 3);
        town.attach(slot, true);
        drop(town.recover());
        if !matches!(town.read(SNAP), Some(Ok(_))) {
            continue;
        }
        again(&mut town).unwrap();
        assert!(matches!(town.read(SNAP), Some(Ok(_))), "{:?}", town.read(SNAP));
        count += 1;
    }
    assert!(count > 0, "no such state");
}
