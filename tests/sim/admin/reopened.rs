//! Disks that are closed and opened again, for a merge, for another mirror, or by the next server:
//! what could not be opened again is not closed, and both go on as they were.

use dm_targets::table::TargetParams;

use super::merge_refused::refused;
use super::merging::{self, O, S};
use super::merging_silent;
use super::moves_refused;
use super::town::Town;
use super::upgrade;
use crate::protocol::{Command, Reply};
use crate::server::admin::mutant::{self, Mutant};

const ORIGIN: usize = 0;
const COW: usize = 1;
const LEG: usize = 3;
const MIRROR: &str = "0 8 mirror core 1 2 2 /a 0 /b 0";
const ANOTHER: &str = "another disk is at this path";

/// Lets a merge begin by the verb or, with a table, by `resume`, which is refused with these words.
fn no_merge(town: &mut Town, by_table: bool, words: &str) -> Result<(), String> {
    if !by_table {
        return refused(town, S, false, words);
    }
    town.load_table(true)?;
    match town.resume(O) {
        Err(why) if why.contains(words) => {}
        told => return Err(format!("{told:?}")),
    }
    let on_record = town.on_record();
    let mut plain = town.origin.clone();
    town.shows(&mut plain)?;
    town.judge(S).map_err(|why| format!("{why:?}"))?;
    town.read(S).ok_or("the snapshot does not answer")??;
    if on_record == (false, false) { Ok(()) } else { Err("it is refused, and on record".into()) }
}

/// The path of the COW leads to a copy of it by now.
fn other_disk(by_table: bool) -> Result<(), String> {
    const COPY: usize = 2;
    let leads_to = |town: &Town, disk| town.site.ublk.set(Some((disk, 77)));
    let mut town = Town::new(1, true);
    leads_to(&town, COW);
    let mut spec = Town::spec(S);
    if let TargetParams::Snapshot(table) = &mut spec.table.params {
        table.cow = "/dev/ublkb77".to_owned();
    }
    town.add(O)?;
    let Reply::Added { path, .. } = town.ask("o", Command::Add { name: None, id: None, spec })?
    else {
        return Err("it is not added".into());
    };
    town.added(S, &path)?;
    town.write(S, 1);
    let copy = town.site.disks[COW].disk.borrow().visible();
    town.site.put(COPY, copy);
    town.write(S, 5);
    town.write(O, 6);
    leads_to(&town, COPY);
    no_merge(&mut town, by_table, ANOTHER)?;
    leads_to(&town, COW);
    town.merge(S, false)
}

/// The COW could not be opened again for a while.
fn spoiled_cow(spoil: fn(&Town, bool), by_table: bool, words: &str) -> Result<(), String> {
    let mut town = merging::town();
    spoil(&town, true);
    no_merge(&mut town, by_table, words)?;
    spoil(&town, false);
    town.merge(S, false)
}

fn unreadable_cow(by_table: bool) -> Result<(), String> {
    let spoil = |town: &Town, on| town.site.disks[COW].unreadable.set(on);
    spoiled_cow(spoil, by_table, "Input/output error")
}

fn detached_cow(by_table: bool) -> Result<(), String> {
    let spoil = |town: &Town, on| town.site.disks[COW].ends.set(on);
    spoiled_cow(spoil, by_table, "/c0: it is detached as soon as it is closed")
}

/// One leg, of which the other mirror would be none, or the log.
fn detached_leg() -> Result<(), String> {
    let mut town = moves_refused::town();
    moves_refused::put(&mut town, moves_refused::spec(MIRROR))?;
    town.site.disks[LEG].ends.set(true);
    let other = moves_refused::spec("0 8 mirror core 1 4 2 /a 0 /b 0");
    let told = moves_refused::put(&mut town, other.clone());
    let why = told.err().ok_or("it is closed")?;
    if !why.contains("/a: it is detached") || moves_refused::read(&mut town) != 7 {
        return Err(why);
    }
    town.site.disks[LEG].ends.set(false);
    moves_refused::put(&mut town, other)
}

/// Nothing is left to a next server that would leave a part of it out.
fn left(spoil: fn(&Town, bool), words: &str) -> Result<(), String> {
    let mut town = merging::town();
    spoil(&town, true);
    let told = town.upgrade(upgrade::O, true);
    let why = told.err().ok_or("it is left")?;
    if !why.contains(words) {
        return Err(why);
    }
    for what in [O, S] {
        town.read(what).ok_or("it waits")??;
    }
    spoil(&town, false);
    town.upgrade(upgrade::O, true)?;
    town.judge(S).map_err(|why| format!("{why:?}"))
}

fn left_unreadable() -> Result<(), String> {
    left(|town, on| town.site.disks[COW].unreadable.set(on), "could not read the snapshot's store")
}

fn left_detached() -> Result<(), String> {
    left(|town, on| town.site.disks[ORIGIN].ends.set(on), "/o: it is detached")
}

/// A merge ends while its origin's plain table cannot be recorded: no user waits for that.
fn ends_without_room() -> Result<(), String> {
    let mut town = merging_silent::town();
    town.merge(S, false)?;
    town.strike_gone();
    town.until_merged();
    merging_silent::come_to_rest(&town);
    town.fill(true);
    town.site.disks[ORIGIN].hangs.set(true);
    town.write(O, 3);
    town.notice_end();
    // It would be told that a command waits for the disk.
    town.resume(O)?;
    town.fill(false);
    merging_silent::answer(&mut town);
    town.notice_end();
    if town.on_record() == (false, false) { Ok(()) } else { Err("it is not plain".into()) }
}

/// A test, and the mutant that it notices.
type Check = (fn() -> Result<(), String>, Mutant);

const ALL: [Check; 10] = [
    (|| other_disk(false), Mutant::ClosedUnasked),
    (|| other_disk(true), Mutant::ClosedUnasked),
    (|| unreadable_cow(false), Mutant::ClosedUnasked),
    (|| unreadable_cow(true), Mutant::ClosedUnasked),
    (|| detached_cow(false), Mutant::ClosedForGood),
    (|| detached_cow(true), Mutant::ClosedForGood),
    (detached_leg, Mutant::ClosedForGood),
    (left_unreadable, Mutant::LeftUnopenable),
    (left_detached, Mutant::ClosedForGood),
    (ends_without_room, Mutant::SuspendedUnrecorded),
];

#[test]
fn what_could_not_be_opened_again_is_not_closed() {
    for (at, (check, _)) in ALL.into_iter().enumerate() {
        assert_eq!(check(), Ok(()), "check {at}");
    }
}

#[test]
fn what_is_closed_unasked_is_noticed() {
    for (at, (check, mutant)) in ALL.into_iter().enumerate() {
        mutant::set(Some(mutant));
        let wrong = std::panic::catch_unwind(check);
        mutant::set(None);
        assert!(!matches!(wrong, Ok(Ok(()))), "check {at}: {mutant:?} is not noticed");
    }
}
