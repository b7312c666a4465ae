//! A mirror takes the place of one with the same legs: with regions of another size, with a leg as
//! its source that has missed writes, or after other disks.

use dm_targets::disk::Errno;
use dm_targets::request::RequestKind;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::sim::image::Image;

use super::model;
use super::moves_refused::{put, read, rest, spec, town, write};
use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};

const L: What = What::Lines;
const CORE: &str = "0 8 mirror core 1 2 2 /a 0 /b 0";

fn logged(region: u64) -> String {
    format!("0 8 mirror disk 2 /c0 {region} 2 /a 0 /b 0")
}

fn image(town: &Town, disk: usize) -> Image {
    town.site.disks[disk].disk.borrow().visible()
}

/// The second leg misses a write to a sector.
fn miss(town: &mut Town, sector: usize) {
    let fault = Fault { matcher: Matcher::all(Class::Write), skip: 0, times: 9, errno: Errno::EIO };
    town.site.disks[4].disk.borrow().inject(fault);
    let kind = RequestKind::Write { fua: false };
    let pending = town.send(L, kind, sector, model::sector(9)).unwrap();
    assert_eq!(*pending.result.borrow(), Some(Ok(())));
    town.strike(&pending);
    town.mend();
}

/// The server has died; the next one takes the device over.
fn taken_over(town: &mut Town) {
    town.crash(false);
    let state = town.left(L.key()).unwrap();
    let process = Process::start(&town.site, L.key()).unwrap();
    town.processes.insert(L.key(), process);
    match town.ask(L.key(), Command::Recover(state)) {
        Ok(Reply::Recovered { problems, .. }) if problems.is_empty() => {}
        other => panic!("{other:?}"),
    }
    if town.state(L.key()).unwrap()[0].suspended {
        town.resume(L).unwrap();
    }
}

/// A leg has missed a write, and the mirror gets regions of another size. The server dies at a
/// step, if any. Returns the number of steps.
fn resized((before, after, sector): (u64, u64, usize), crash_at: Option<u64>) -> u64 {
    let mut town = town();
    put(&mut town, spec(&logged(before))).unwrap();
    rest(&town);
    miss(&mut town, sector);
    let first = town.site.shared.lock().unwrap().changes;
    town.site.shared.lock().unwrap().crash_at = crash_at.map(|at| first + at);
    let changed = put(&mut town, spec(&logged(after)));
    let steps = town.site.shared.lock().unwrap().changes - first;
    if town.site.is_dead() {
        taken_over(&mut town);
    } else {
        town.site.shared.lock().unwrap().crash_at = None;
        assert_eq!(changed, Ok(()));
    }
    rest(&town);
    let at = format!("{before} to {after}, sector {sector}, crash at {crash_at:?}");
    assert_eq!(image(&town, 3), image(&town, 4), "{at}");
    steps
}

/// A bit of the log means other sectors then.
#[test]
fn a_log_is_not_read_with_regions_of_another_size() {
    for regions in [(4, 2, 3), (2, 4, 2), (2, 4, 6), (2, 8, 2)] {
        let steps = resized(regions, None);
        for at in 1..=steps {
            resized(regions, Some(at));
        }
    }
}

/// Its user may insist.
#[test]
fn a_leg_that_has_missed_writes_is_a_source_by_force_alone() {
    for force in [false, true] {
        let mut town = town();
        put(&mut town, spec(CORE)).unwrap();
        rest(&town);
        miss(&mut town, 0);
        let named = put(&mut town, DeviceSpec { source: Some(1), force, ..spec(CORE) });
        if force {
            assert_eq!(named, Ok(()));
        } else {
            let why = named.unwrap_err();
            assert!(why.contains("/b: it is not up to date (up to date: /a); --force"), "{why}");
        }
        rest(&town);
        assert_eq!(read(&mut town), if force { 7 } else { 9 });
    }
}

/// The device's data are on none of the legs, so that none is named as the source.
#[test]
fn an_old_log_is_not_trusted_in_the_place_of_another_disk() {
    let mut town = town();
    for table in [&logged(2), "0 8 linear /c 0", "0 8 linear /b 0"] {
        put(&mut town, spec(table)).unwrap();
        rest(&town);
    }
    write(&mut town, 9);
    put(&mut town, spec("0 8 linear /c 0")).unwrap();
    rest(&town);
    // None of its legs has the device's data.
    put(&mut town, DeviceSpec { force: true, ..spec(&logged(2)) }).unwrap();
    rest(&town);
    assert_eq!(image(&town, 3), image(&town, 4), "the log calls them equal");
}

#[cfg(feature = "mutants")]
#[test]
fn broken_rules_of_the_same_legs_are_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    let lives = |mutant: Mutant, life: fn()| {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(life).is_ok();
        mutant::set(None);
        lived
    };
    assert!(!lives(Mutant::OldLogTrusted, an_old_log_is_not_trusted_in_the_place_of_another_disk));
    assert!(!lives(Mutant::StaleNamed, a_leg_that_has_missed_writes_is_a_source_by_force_alone));
}
