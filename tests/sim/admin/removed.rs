//! The run directory is removed, or some of its files, while a mirror is served whose first leg has
//! missed a write: which leg that is, is known to the next mirror of these legs all the same, or
//! the command that ends this one fails and says that it is not.

use dm_targets::sim::disk::Class;

use super::Step::{self, Add, Fail, Load, Use, Write};
use super::act;
use super::town::{Town, What};
use crate::server::admin::Ending;

const KEY: &str = "mirror-a";
const LEG: usize = 3;

/// A mirror whose first leg has missed a write, in a run directory whose files are removed.
fn town() -> Town {
    let mut town = Town::new(1, true);
    let steps = [Add(What::Mirror), Fail(LEG, Class::Write, 0), Write(What::Mirror, 3)];
    steps.into_iter().for_each(|step: Step| act(&mut town, step));
    town.site.files(|files| files.spoil(KEY, false));
    town
}

/// The same line is not accepted: its first leg would be copied over the other one.
fn assert_known(town: &mut Town, way: &str) {
    town.mend();
    let why = town.add(What::Mirror).expect_err(way);
    assert!(why.starts_with("/a: it is not up to date (up to date: /b)"), "{way}: {why}");
}

type End = fn(&mut Town) -> Result<(), String>;

const ENDS: [(&str, End); 2] =
    [("del", |town| town.del(What::Mirror, false)), ("SIGTERM", |town| town.terminate(KEY))];

#[test]
fn the_end_of_a_mirror_tells_of_its_stale_leg_though_the_files_were_removed() {
    for (way, end) in ENDS {
        let mut town = town();
        end(&mut town).expect(way);
        assert!(!town.has(What::Mirror), "{way}");
        assert_known(&mut town, way);
    }
}

#[test]
fn a_mirror_does_not_end_while_that_cannot_be_recorded() {
    for (way, end) in ENDS {
        let mut town = town();
        town.fill(true);
        let ended = end(&mut town);
        assert!(town.has(What::Mirror), "{way}: {ended:?}");
        assert!(matches!(town.read(What::Mirror), Some(Ok(_))), "{way}: it is not served");
        if way == "del" {
            let why = ended.unwrap_err();
            assert!(why.contains("not deleted") && why.contains("was removed"), "{why}");
        }
        town.fill(false);
        end(&mut town).expect(way);
        match way {
            "del" => assert_known(&mut town, way),
            // The mirror was suspended for its end and has been resumed: that recovers the leg.
            _ => {
                town.mend();
                town.add(What::Mirror).expect(way);
                assert_eq!(town.judge(What::Mirror), Ok(()), "{way}");
            }
        }
    }
}

/// SIGTERM while the mirror is in use: the next server knows of it, and of its legs.
#[test]
fn a_mirror_that_stays_is_taken_over_though_the_files_were_removed() {
    let mut town = town();
    act(&mut town, Use(What::Mirror, true));
    town.fill(true);
    town.terminate(KEY).unwrap();
    let process = town.processes.get(KEY).expect("the server ends without a record");
    assert!(process.admin.ending() == Ending::Waits);
    town.fill(false);
    town.terminate(KEY).unwrap();
    assert!(!town.processes.contains_key(KEY));
    town.mend();
    town.recover().unwrap();
    assert_eq!(town.judge(What::Mirror), Ok(()));
    assert_eq!(town.end(), Ok(()));
}

/// Another table for the mirror is recovered from the same leg.
#[test]
fn a_table_is_loaded_though_the_files_were_removed() {
    let mut town = town();
    town.mend();
    act(&mut town, Load(false));
    town.suspend(What::Mirror).unwrap();
    town.resume(What::Mirror).unwrap();
    assert!(matches!(town.read(What::Mirror), Some(Ok(_))));
    assert_eq!(town.judge(What::Mirror), Ok(()));
}

#[test]
fn the_end_of_a_dead_servers_mirror_says_that_its_record_was_removed() {
    let mut town = Town::new(1, true);
    town.add(What::Mirror).unwrap();
    town.kill(KEY);
    town.site.files(|files| files.remove_legs(KEY));
    let why = town.del(What::Mirror, true).unwrap_err();
    assert!(!town.has(What::Mirror), "{why}");
    let parts = ["deleted, but which of its legs have missed writes", "--source"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
}

#[test]
#[cfg(feature = "mutants")]
fn the_mutants_of_removed_files_are_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    let tests: [(Mutant, fn()); 4] = [
        (Mutant::LegsNotPutBack, a_table_is_loaded_though_the_files_were_removed),
        (
            Mutant::LegsNotPutBack,
            the_end_of_a_mirror_tells_of_its_stale_leg_though_the_files_were_removed,
        ),
        (Mutant::LegsNotPutBack, the_end_of_a_dead_servers_mirror_says_that_its_record_was_removed),
        (Mutant::StateNotPutBack, a_mirror_that_stays_is_taken_over_though_the_files_were_removed),
    ];
    for (mutant, test) in tests {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(test);
        mutant::set(None);
        assert!(lived.is_err(), "not noticed: {mutant:?}");
    }
}
