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

#[test]
fn a_leg_that_was_replaced_is_not_the_source_of_the_old_line() {
    let mut town = Town::new(1, true);
    after_a_change(&mut town);
    let added = add(&mut town, mirror_of(["/a", "/b"]));
    let Ok(Reply::Added { note: Some(note), .. }) = added else {
        panic!("{added:?}: {:?}", town.log);
    };
    assert_eq!(note, "/a has missed writes: the legs are recovered from /b");
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
