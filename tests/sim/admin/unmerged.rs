//! A merge without a device that has not ended: because its `create` was undone, or because its
//! device was deleted. The command that ends it says so, and it is on record; a merge that has
//! ended is not.

use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::TargetParams;
use dm_targets::units::{Sector, Sectors};

use super::kernel::Control;
use super::merge_command::{paused, snapshot_of};
use super::merging::{self, O, S};
use super::process::Process;
use super::silent;
use super::takeback::{COW, cow, take_back};
use super::town::{CHUNK, Town, What};
use super::undone::{WAYS, Way};
use crate::protocol::{Command, DeviceRef, DeviceSpec, MergeOptions, Reply};
use crate::server::admin::left_by_dead_server;
use crate::server::admin::mutant::{self, Mutant};

fn add(town: &mut Town, spec: DeviceSpec) -> Result<(DeviceRef, String), String> {
    if !town.processes.contains_key("o") {
        let process = Process::start(&town.site, "o").ok_or("the server did not start")?;
        town.processes.insert("o", process);
    }
    match town.ask("o", Command::Add { name: None, id: None, spec })? {
        Reply::Added { path, device, .. } => Ok((device, path)),
        _ => Err("another answer".to_owned()),
    }
}

/// A merge whose first batch does not begin.
fn resting() -> DeviceSpec {
    let merge = Some(MergeOptions { paused: true, ..MergeOptions::default() });
    DeviceSpec { merge, ..merging::spec(true) }
}

/// An origin and a snapshot without devices.
fn disks() -> Town {
    let mut town = merging::town();
    for what in [O, S] {
        town.del(what, false).unwrap();
    }
    town.strike_gone();
    town
}

/// Has a `create` of a merge undone. Returns what its user is told.
fn undo(town: &mut Town, way: Way) -> Result<String, String> {
    if way == Way::Refused {
        town.deny(Control::Start, 0);
    }
    town.client_leaves = way == Way::Left;
    let added = add(town, resting());
    match (added, way) {
        (Ok((device, _)), Way::Asked) => Ok(take_back(town, device)?.unwrap_or_default()),
        (Err(why), Way::Refused | Way::Left) => Ok(why),
        (added, _) => Err(format!("{way:?}: {added:?}")),
    }
}

/// The origin gets no other device, and the merge comes to its end.
fn goes_on(mut town: Town, merged: &mut super::model::Content) -> Result<(), String> {
    let Err(why) = add(&mut town, merging::spec(false)) else {
        return Err("the origin has another device".to_owned());
    };
    if !why.contains("a merge into it has not ended") {
        return Err(why);
    }
    let (_, path) = add(&mut town, merging::spec(true))?;
    town.added(O, &path)?;
    town.shows(merged)?;
    town.until_merged();
    town.shows(merged)
}

fn undone(way: Way) -> Result<(), String> {
    let mut town = disks();
    let mut merged = snapshot_of(&merging::town());
    let told = undo(&mut town, way)?;
    if !town.site.kernel.borrow().devices.is_empty() {
        return Err("the device stays".to_owned());
    }
    if way != Way::Left
        && !(told.contains("is still on /c0") && told.contains("` has merged the rest"))
    {
        return Err(format!("it is said: {told}"));
    }
    goes_on(town, &mut merged)
}

#[test]
fn a_merge_whose_create_is_undone_is_on_record() {
    for way in WAYS {
        undone(way).unwrap_or_else(|wrong| panic!("{way:?}: {wrong}"));
    }
    mutant::set(Some(Mutant::UndoneMergeForgotten));
    let wrong = undone(Way::Refused);
    mutant::set(None);
    assert_eq!(wrong.is_err(), cfg!(feature = "mutants"), "nothing is noticed");
}

/// The COW hangs after so many operations of the `create`, and answers when that has failed.
/// Returns whether it hung in time.
fn hangs(operations: u32) -> Result<bool, String> {
    let mut town = disks();
    let mut merged = snapshot_of(&merging::town());
    let mut plain = town.origin.clone();
    town.site.gives_up.set(true);
    town.site.disks[COW].hangs_after.set(Some(operations));
    let added = add(&mut town, merging::spec(true));
    if added.is_ok() || !town.site.disks[COW].hangs.get() {
        return Ok(false);
    }
    if town.processes.contains_key("o") {
        silent::answer(&mut town, "/c0", O);
    }
    town.site.disks[COW].hangs.set(false);
    town.site.disks[COW].hangs_after.set(None);
    if !town.site.kernel.borrow().devices.is_empty() {
        return Err("the device stays".to_owned());
    }
    // A merge that had not begun, or had ended.
    let Ok((_, path)) = add(&mut town, merging::spec(false)) else {
        return goes_on(town, &mut merged).map(|()| true);
    };
    town.added(O, &path)?;
    town.shows(&mut plain).or_else(|_| town.shows(&mut merged)).map(|()| true)
}

#[test]
fn a_merge_whose_cow_hangs_while_it_is_created_is_on_record() {
    let hangs = |at| hangs(at).unwrap_or_else(|wrong| panic!("operation {at}: {wrong}"));
    let in_time = (0..40).filter(|at| hangs(*at)).count();
    assert!(in_time > 3, "it hung {in_time} times");
}

/// Nothing is undone that cannot be recorded: the server goes on with the merge, and undoes the
/// `create` as soon as it can.
#[test]
fn a_merge_that_cannot_be_recorded_is_not_undone_before_it_is() {
    let mut merged = snapshot_of(&merging::town());
    let undone = (0..80).map(|changes| {
        let mut town = disks();
        town.deny(Control::Start, 0);
        town.fill_later(changes);
        let why = add(&mut town, resting()).unwrap_err();
        (town, why)
    });
    let is_late =
        |(_, why): &(Town, String)| why.contains("the beginning of its merge cannot be recorded");
    let (mut town, _) = undone.into_iter().find(is_late).expect("it is recorded, or not served");
    assert_eq!(town.state("o").unwrap().len(), 1, "the next server does not know of it");
    let why = add(&mut town, merging::spec(false)).unwrap_err();
    assert!(why.contains("ublkb0") || why.contains("No space left"), "{why}");
    town.fill(false);
    goes_on(town, &mut merged).unwrap();
}

/// A device that the kernel does not delete, or whose state cannot be written, is deleted all the
/// same, and what its user must know is said beside that.
#[test]
fn notes_are_kept_beside_what_fails() {
    let mut town = merging::town();
    paused(&mut town).unwrap();
    town.strike_gone();
    town.deny(Control::Delete, 0);
    let devices = vec![town.devices[&O].device()];
    let why = town.ask("o", Command::Del { devices, force: false }).unwrap_err();
    assert!(why.contains("Delete: ") && why.contains("; /dev/ublkb0: deleted; a part"), "{why}");
}

/// Deletes the device of a merge at one moment of it. Returns whether it had ended then.
fn deleted_after(reads: usize) -> Result<bool, String> {
    let mut town = merging::town();
    let mut merged = snapshot_of(&town);
    town.merge(S, false)?;
    town.strike_gone();
    for _ in 0..reads {
        town.shows(&mut merged)?;
    }
    let devices = vec![town.devices[&O].device()];
    let reply = town.ask("o", Command::Del { devices, force: false })?;
    town.strike_gone();
    let records = cow(&town).read(Sector(CHUNK), Sectors(1));
    let has_ended = records.iter().all(|byte| *byte == 0);
    match reply {
        Reply::Deleted if has_ended => {
            let (_, path) = add(&mut town, merging::spec(false))?;
            town.added(O, &path)?;
            town.shows(&mut merged)?;
        }
        Reply::DeletedNoted { .. } if !has_ended => goes_on(town, &mut merged)?,
        reply => return Err(format!("it has ended: {has_ended}, and it is said: {reply:?}")),
    }
    Ok(has_ended)
}

#[test]
fn a_merge_that_ends_while_its_device_is_deleted_is_not_on_record() {
    let all = || (0..6).map(deleted_after).collect::<Result<Vec<bool>, String>>();
    let ended = all().unwrap();
    assert!(ended.contains(&true), "{ended:?}");
    mutant::set(Some(Mutant::EndedMergeOnRecord));
    let wrong = all();
    mutant::set(None);
    assert_eq!(wrong.is_err(), cfg!(feature = "mutants"), "nothing is noticed: {wrong:?}");
}

/// A merge beside a snapshot whose users can change the origin, and whose server has died.
fn beside_one_that_changes() -> Town {
    let mut town = merging::town();
    paused(&mut town).unwrap();
    town.strike_gone();
    let mut spec = Town::spec(What::Snap(1));
    if let TargetParams::Snapshot(snapshot) = &mut spec.table.params {
        *snapshot = Snapshot { discard_passdown_origin: true, ..snapshot.clone() };
    }
    let (_, path) = add(&mut town, spec).unwrap();
    town.added(What::Snap(1), &path).unwrap();
    town.kill("o");
    town
}

fn told_as_lost(note: &str) -> Result<(), String> {
    let words = ["the rest of its snapshot is lost", "/o may be a mixture", "zero --to /c0:0+"];
    let is_said = words.iter().all(|words| note.contains(words)) && !note.contains("create");
    if is_said { Ok(()) } else { Err(note.to_owned()) }
}

/// Without a server, it is the command that deletes the device.
fn lost_without_server() -> Result<(), String> {
    let mut town = beside_one_that_changes();
    let merge = |town: &Town| town.devices[&O].cookie;
    let devices = town.state("o")?;
    let (deleted, staying): (Vec<_>, Vec<_>) =
        devices.into_iter().partition(|device| device.cookie == merge(&town));
    told_as_lost(&left_by_dead_server(&deleted[0], &staying, 0).ok_or("nothing is said")?)?;
    // What is said is true.
    town.del(O, true)?;
    match add(&mut town, merging::spec(true)) {
        Err(why) if why.contains("is lost") => Ok(()),
        added => Err(format!("{added:?}")),
    }
}

/// The same of a merge that its next server has left out.
fn lost_and_left_out() -> Result<(), String> {
    let mut town = beside_one_that_changes();
    town.attach(COW, false);
    drop(town.recover());
    town.attach(COW, true);
    let devices = vec![town.devices[&O].device()];
    let (note, added) = match town.ask("o", Command::Del { devices, force: true })? {
        Reply::DeletedNoted { notes } => (notes.join("; "), add(&mut town, merging::spec(true))),
        reply => return Err(format!("{reply:?}")),
    };
    told_as_lost(&note)?;
    match added {
        Err(why) if why.contains("lost") || why.contains("invalid") => Ok(()),
        added => Err(format!("{added:?}")),
    }
}

#[test]
fn a_merge_that_is_lost_is_not_said_to_go_on() {
    lost_without_server().unwrap();
    lost_and_left_out().unwrap();
    mutant::set(Some(Mutant::LostMergePromised));
    let wrong = [lost_without_server(), lost_and_left_out()];
    mutant::set(None);
    assert_eq!(wrong.iter().all(Result::is_err), cfg!(feature = "mutants"), "{wrong:?}");
}

/// What a dead server's merge had still to do is not known.
#[test]
fn a_dead_servers_merge_may_have_ended() {
    let mut town = merging::town();
    paused(&mut town).unwrap();
    town.strike_gone();
    town.kill("o");
    town.del(O, true).unwrap();
    let why = add(&mut town, merging::spec(false)).unwrap_err();
    assert!(why.contains("a merge into it may not have ended"), "{why}");
    assert!(why.contains("may still be on /c0"), "{why}");
}
