//! Mirrors that end while one of their legs is not up to date, and mirrors of these legs
//! afterwards.

use dm_targets::table::TargetParams;

use super::Step::{self, Add, Del, Replace, Write};
use super::What::Mirror;
use super::act;
use super::process::Process;
use super::town::Town;
use crate::protocol::{Command, DeviceSpec, Reply};

/// A town whose mirror of /a and /b has got /c for /a, and has ended.
fn after_a_change(town: &mut Town) {
    let steps = [Add(Mirror), Replace(0, 5), Write(Mirror, 3), Del(Mirror, false)];
    steps.into_iter().for_each(|step: Step| act(town, step));
    // The user has no use for the former leg.
    town.freed.clear();
}

fn mirror_of(legs: [&str; 2]) -> DeviceSpec {
    let mut spec = Town::spec(Mirror);
    if let TargetParams::Mirror(mirror) = &mut spec.table.params {
        for (leg, path) in mirror.legs.iter_mut().zip(legs) {
            leg.device = path.to_owned();
        }
    }
    spec
}

fn add(town: &mut Town, spec: DeviceSpec) -> Result<Reply, String> {
    let process = Process::start(&town.site, "mirror-a").unwrap();
    town.processes.insert("mirror-a", process);
    town.ask("mirror-a", Command::Add { name: None, id: None, spec })
}

/// The disks may have been used for something else since the mirror ended.
#[test]
fn a_leg_that_was_replaced_is_not_the_source_of_the_old_line_and_no_other_one_is_chosen() {
    let mut town = Town::new(1, true);
    after_a_change(&mut town);
    let refused = add(&mut town, mirror_of(["/a", "/b"])).unwrap_err();
    assert!(refused.starts_with("/a: it is not up to date (up to date: /c, /b); "), "{refused}");
    assert!(refused.contains("--source"), "{refused}");
    add(&mut town, DeviceSpec { source: Some(1), ..mirror_of(["/a", "/b"]) }).unwrap();
}

/// A town whose mirror of /a and /b has got /c and /c0 instead, and has ended. Another mirror of
/// these legs has been made by force, and has ended in sync.
fn after_another(legs: [&str; 2]) -> Town {
    let mut town = Town::new(1, true);
    let steps = [Add(Mirror), Replace(0, 5), Replace(1, 1), Write(Mirror, 3), Del(Mirror, false)];
    steps.into_iter().for_each(|step: Step| act(&mut town, step));
    town.freed.clear();
    let forced = DeviceSpec { source: Some(0), force: true, ..mirror_of(legs) };
    let Ok(Reply::Added { device, .. }) = add(&mut town, forced) else {
        panic!("{:?}", town.log);
    };
    town.ask("mirror-a", Command::Del { devices: vec![device], force: false }).unwrap();
    town
}

#[test]
fn another_mirror_of_a_stale_leg_says_nothing_of_the_other_legs() {
    // It has taken one of the stale legs, and then one as its source.
    for legs in [["/o", "/a"], ["/a", "/o"]] {
        let mut town = after_another(legs);
        let refused = add(&mut town, mirror_of(["/b", "/c"])).unwrap_err();
        let known = "/b: it is not up to date (up to date: /c, /c0); ";
        assert!(refused.starts_with(known), "{legs:?}: {refused}");
        add(&mut town, mirror_of(["/c", "/b"])).unwrap();
    }
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_ended_mirrors_is_killed() {
    use dm_targets::mutant::{self, Mutant};
    for mutant in [Mutant::EndedLegsErased, Mutant::EndedLegsTakenOver, Mutant::EndedLegsTrusted] {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(|| {
            a_leg_that_was_replaced_is_not_the_source_of_the_old_line_and_no_other_one_is_chosen();
            another_mirror_of_a_stale_leg_says_nothing_of_the_other_legs();
        });
        mutant::set(None);
        assert!(lived.is_err(), "not noticed: {mutant:?}");
    }
}

#[test]
fn stale_legs_alone_are_refused_and_the_user_may_insist() {
    let mut town = Town::new(1, true);
    after_a_change(&mut town);
    let refused = add(&mut town, mirror_of(["/a", "/o"])).unwrap_err();
    assert!(refused.contains("--source") && refused.contains("/b"), "{refused}");
    let named = |force| DeviceSpec { source: Some(0), force, ..mirror_of(["/a", "/o"]) };
    let refused = add(&mut town, named(false)).unwrap_err();
    assert!(refused.starts_with("/a: it is not up to date"), "{refused}");
    add(&mut town, named(true)).unwrap();
}
