//! The run directory is full when a leg of a mirror misses a write or cannot be flushed: the record
//! of the legs that is there says so nevertheless, and the next server does not trust the leg.

use dm_targets::sim::disk::Class;
use dm_targets::sim::image::Image;

use super::Step::{Add, Fail, Flush, Full, FullSoon, Kill, Mend, Recover, Upgrade, Write};
use super::act;
use super::town::{Town, What};
use crate::server::admin::machine::Records;

const KEY: &str = "mirror-a";
/// The legs of the mirror.
const LEGS: [usize; 2] = [3, 4];
/// More changes of the run directory than an upgrade makes.
const CHANGES: u64 = 12;

fn town() -> Town {
    let mut town = Town::new(1, true);
    [Add(What::Mirror), Write(What::Mirror, 1)].into_iter().for_each(|step| act(&mut town, step));
    town
}

fn sources(town: &Town) -> Vec<bool> {
    let record = town.site.directory(KEY).legs().expect("no record");
    record.legs.iter().map(|leg| leg.source).collect()
}

fn images(town: &Town) -> [Image; 2] {
    LEGS.map(|leg| town.site.disks[leg].disk.borrow().visible())
}

#[test]
fn a_missed_write_is_on_record_though_the_directory_is_full() {
    let mut town = town();
    let steps = [Full(true), Fail(LEGS[0], Class::Write, 0), Write(What::Mirror, 3)];
    steps.into_iter().for_each(|step| act(&mut town, step));
    assert_eq!(sources(&town), [false, true]);
    town.judge(What::Mirror).unwrap();
    for step in [Kill(KEY), Full(false), Mend, Recover] {
        act(&mut town, step);
    }
    assert_eq!(town.judge(What::Mirror), Ok(()));
    let [first, second] = images(&town);
    assert!(first == second, "the next server takes the legs for equal");
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_failed_flush_is_on_record_though_the_directory_becomes_full_in_an_upgrade() {
    for changes in 0..CHANGES {
        let mut town = town();
        act(&mut town, Fail(LEGS[0], Class::Flush, 0));
        act(&mut town, if changes == 0 { Full(true) } else { FullSoon(changes) });
        for step in [Upgrade(KEY, true), Flush(What::Mirror), Upgrade(KEY, true)] {
            act(&mut town, step);
        }
        assert_eq!(sources(&town), [false, true], "{changes}: {:?}", town.log);
        for step in [Kill(KEY), Full(false), Mend, Recover] {
            act(&mut town, step);
        }
        assert_eq!(town.judge(What::Mirror), Ok(()), "{changes}");
        let [first, second] = images(&town);
        assert!(first == second, "{changes}: the next server takes the legs for equal");
        assert_eq!(town.end(), Ok(()), "{changes}");
    }
}

#[test]
#[cfg(feature = "mutants")]
fn a_record_that_needs_room_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    let tests: [fn(); 2] = [
        a_missed_write_is_on_record_though_the_directory_is_full,
        a_failed_flush_is_on_record_though_the_directory_becomes_full_in_an_upgrade,
    ];
    for test in tests {
        mutant::set(Some(Mutant::LegsNeedRoom));
        let lived = std::panic::catch_unwind(test);
        mutant::set(None);
        assert!(lived.is_err());
    }
}
