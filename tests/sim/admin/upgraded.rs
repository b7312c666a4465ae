//! What an upgrade keeps: suspensions and requests that wait, merges, deferred merges; what is
//! refused before it; and an end of either server at every step, which the other one makes good.

use std::collections::BTreeMap;

use super::merge_command::snapshot_of;
use super::merging;
use super::town::What::{Mirror, Origin, Snap};
use super::town::{Town, What};
use super::upgrade::{COW, M, O};
use crate::protocol::Command;
use crate::server::admin::mutant::{self, Mutant};
use crate::server::upgrade::Outcome;

/// A machine with everything, some of it in use or suspended, and requests that wait.
fn town() -> Town {
    let mut town = Town::new(1, true);
    for what in [Origin, Snap(0), Mirror] {
        town.add(what).unwrap();
        town.write(what, 1);
    }
    town.set_use(Origin, true);
    town.suspend(Mirror).unwrap();
    town.write(Mirror, 2);
    assert_eq!(town.in_flight.len(), 1, "the suspended mirror has a request that waits");
    town
}

fn pids(town: &Town) -> BTreeMap<&'static str, u32> {
    town.processes.iter().map(|(key, process)| (*key, process.pid)).collect()
}

#[test]
fn devices_in_use_get_another_server_and_suspended_ones_stay_suspended() {
    let mut town = town();
    for _ in 0..3 {
        let before = pids(&town);
        for key in [O, M] {
            town.upgrade(key, true).unwrap();
        }
        assert!(pids(&town).iter().all(|(key, pid)| before[key] != *pid), "{:?}", town.log);
        assert_eq!(town.in_flight.len(), 1, "the suspended mirror lets a request through");
        for what in [Origin, Snap(0)] {
            assert!(matches!(town.read(what), Some(Ok(_))), "{what:?}: {:?}", town.log);
            town.judge(what).unwrap();
            town.write(what, 3);
        }
    }
    town.resume(Mirror).unwrap();
    assert!(town.in_flight.is_empty(), "{:?}", town.log);
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_command_that_leaves_before_the_end_changes_nothing() {
    let mut town = town();
    let before = pids(&town);
    town.client_leaves = true;
    assert!(town.upgrade(O, true).is_err_and(|why| why.contains("interrupted")));
    assert_eq!(pids(&town), before);
    for what in [Origin, Snap(0)] {
        assert!(matches!(town.read(what), Some(Ok(_))), "{what:?} waits: {:?}", town.log);
    }
    town.upgrade(O, true).unwrap();
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn what_could_not_be_taken_over_is_refused() {
    let mut town = town();
    let before = pids(&town);
    town.attach(COW, false);
    town.upgrade(O, true).unwrap_err();
    assert_eq!(pids(&town), before);
    assert!(matches!(town.read(Origin), Some(Ok(_))));
    // Known to the server alone: another command has not ended, because its disk is silent.
    town.attach(COW, true);
    town.site.gives_up.set(true);
    town.hang(COW, true);
    town.write(Snap(0), 5);
    let device = town.devices[&Snap(0)].device();
    town.ask(O, Command::Suspend { device, noflush: false }).unwrap_err();
    let why = town.ask(O, Command::Leave).unwrap_err();
    assert!(why.contains("has not ended"), "{why}");
    assert_eq!(pids(&town), before);
}

/// A resume that could not be recorded is on record before the devices are left: the command may
/// end with the old server, and `recover` finds the file alone.
fn left_by_both() -> Result<(), String> {
    let mut town = Town::new(1, true);
    town.add(Origin)?;
    town.suspend(Origin)?;
    town.fill(true);
    if town.resume(Origin).is_ok() || town.ask(O, Command::Leave).is_ok() {
        return Err("the run directory has room".into());
    }
    if town.read(Origin).is_none() {
        return Err("its requests wait, though it was not left".into());
    }
    town.fill(false);
    town.ask(O, Command::Leave)?;
    town.kill(O);
    town.recover()?;
    town.read(Origin).ok_or("it is suspended again")?.map(drop)
}

#[test]
fn devices_are_left_as_they_are_on_record() {
    left_by_both().unwrap();
    mutant::set(Some(Mutant::LeftOffRecord));
    let wrong = left_by_both();
    mutant::set(None);
    assert!(wrong.is_err(), "nothing is noticed");
}

/// The run directory is full: nothing is left, though all is on record already, because the next
/// server could not record what it changes.
fn refused_without_room(what: What, key: &'static str) -> Result<(), String> {
    let mut town = Town::new(1, true);
    town.add(what)?;
    let before = pids(&town);
    town.fill(true);
    match town.upgrade(key, true) {
        Err(why) if why.contains("could not write its state file") => {}
        other => return Err(format!("{other:?}")),
    }
    if pids(&town) != before {
        return Err("another server has the devices".into());
    }
    town.read(what).ok_or("its requests wait, though it was not left")??;
    town.fill(false);
    town.upgrade(key, true)?;
    town.read(what).ok_or("its requests wait")?.map(drop)
}

#[test]
fn a_full_run_directory_shows_before_anything_is_left() {
    for (what, key) in [(Origin, O), (Mirror, M)] {
        refused_without_room(what, key).unwrap();
        mutant::set(Some(Mutant::RoomUnasked));
        let wrong = refused_without_room(what, key);
        mutant::set(None);
        assert!(wrong.is_err(), "{what:?}: nothing is noticed");
    }
}

/// Either server ends at every step, and the command goes on: one of the two programs serves the
/// devices in the end.
#[test]
fn an_end_of_either_server_leaves_the_other() {
    for step in 1.. {
        let mut town = town();
        {
            let mut shared = town.site.shared.lock().unwrap();
            shared.crash_at = Some(shared.changes + step);
        }
        let outcome = town.upgrade_with(O, true, true);
        let ended = town.site.shared.lock().unwrap().crash_at.take().is_none();
        let at = || format!("step {step}: {outcome:?}: {:?}", town.log);
        match outcome.as_ref().expect("it is judged") {
            Some(Outcome::Upgraded | Outcome::RolledBack(_)) => {}
            _ => panic!("{}", at()),
        }
        assert_eq!(pids(&town).len(), 2, "{}", at());
        for what in [Origin, Snap(0)] {
            assert!(matches!(town.read(what), Some(Ok(_))), "{what:?}");
            town.judge(what).unwrap();
        }
        assert_eq!(town.end(), Ok(()), "step {step}");
        if !ended {
            return assert!(step > 5, "nothing happens in an upgrade");
        }
    }
}

/// A merge goes on under the next server, whichever step of the upgrade is the last one of a server
/// and of the command.
#[test]
fn a_merge_goes_on_after_an_end_at_every_step() {
    for step in 1.. {
        let mut town = merging::town();
        let mut merged = snapshot_of(&town);
        town.swap_table(true).unwrap();
        {
            let mut shared = town.site.shared.lock().unwrap();
            shared.crash_at = Some(shared.changes + step);
        }
        let upgraded = town.upgrade(O, true);
        let ended = town.site.is_dead();
        town.site.shared.lock().unwrap().crash_at = None;
        if ended {
            town.crash(false);
            town.recover().unwrap();
        } else {
            upgraded.unwrap();
        }
        assert!(town.on_record().0, "step {step}: the merge is forgotten");
        town.shows(&mut merged).unwrap_or_else(|why| panic!("step {step}: {why}"));
        town.until_merged();
        town.shows(&mut merged).unwrap_or_else(|why| panic!("step {step}: {why}"));
        if !ended {
            return assert!(step > 5, "nothing happens in an upgrade");
        }
    }
}
