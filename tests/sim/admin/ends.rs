//! The end of a server that gets SIGTERM. While nothing can be recorded, it leaves no device that
//! the next server would not know of, and ends by itself as soon as it can. If acknowledged writes
//! are lost (I10), its exit code is 1.

use dm_targets::sim::disk::Class;

use super::Step::{Add, Fail, Full, Terminate, Use, Write};
use super::What::{Origin, Snap};
use super::town::Town;
use super::{Step, act};
use crate::server::admin::Ending;

fn town_after(steps: &[Step]) -> Town {
    let mut town = Town::new(1, true);
    steps.iter().for_each(|step| act(&mut town, *step));
    town
}

#[test]
fn what_is_on_record_already_needs_no_room() {
    let steps = [Add(Origin), Add(Snap(0)), Use(Origin, true), Full(true), Terminate("o")];
    let mut town = town_after(&steps);
    assert!(!town.processes.contains_key("o"), "{:?}", town.log);
    assert!(town.state("o").is_ok_and(|devices| devices.len() == 2));
    act(&mut town, Full(false));
    act(&mut town, Step::Recover);
    assert!(town.end().is_ok(), "{:?}", town.log);
}

#[test]
fn what_is_not_on_record_keeps_the_server() {
    let steps = [Add(Origin), Add(Snap(0)), Add(Snap(1)), Use(Origin, true), Full(true)];
    let mut town = town_after(&steps);
    let deleted = town.del(Snap(1), false);
    assert!(deleted.is_err_and(
        |why| why.contains("deleted, but") && why.contains("the next server does not know")
    ));
    act(&mut town, Terminate("o"));
    let admin = |town: &mut Town| {
        town.processes.get_mut("o").map(|process| {
            process.admin.shut_down().map(|()| process.admin.ending() == Ending::Leaves)
        })
    };
    assert_eq!(admin(&mut town), Some(Ok(false)), "{:?}", town.log);
    // Without a further signal.
    act(&mut town, Full(false));
    assert_eq!(admin(&mut town), Some(Ok(true)), "{:?}", town.log);
    assert!(town.state("o").is_ok_and(|devices| devices.len() == 2));
}

/// Whether a server has ended at a signal, and whether its exit code says that something is lost.
/// The last commit of its snapshot fails or not, while the origin is in use or not.
fn ended_with(commit_fails: bool, in_use: bool) -> (bool, bool) {
    let mut town = town_after(&[Add(Origin), Add(Snap(0)), Write(Snap(0), 1)]);
    if in_use {
        act(&mut town, Use(Origin, true));
    }
    if commit_fails {
        // The disk of the first snapshot's COW.
        act(&mut town, Fail(1, Class::Write, 0));
    }
    let admin = &mut town.processes.get_mut("o").unwrap().admin;
    admin.shut_down().unwrap();
    (admin.ending() == Ending::Leaves, admin.has_lost())
}

#[test]
fn a_server_that_loses_writes_at_its_end_has_failed() {
    for in_use in [false, true] {
        assert_eq!(ended_with(true, in_use), (true, true), "in use: {in_use}");
        assert_eq!(ended_with(false, in_use), (true, false), "in use: {in_use}");
    }
}
