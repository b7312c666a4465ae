//! Stores that are copies of others, and losses that are recorded of a store.
//!
//! Rules held here (I9): what is recorded of a copy is no loss of the store that is served; a copy
//! is not served beside it, nor taken for it; what has joined its origin has not been lost before;
//! and a store that was merged last is known as itself.

use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::table::{Table, TargetParams};

use super::carried_stack::{Do, LOWER, Lower, Stack, Upper};
use super::early;
use super::merging::spec;
use super::missed::{MIXTURE, ask, of_two, refused};
use super::town::{Town, What};
use crate::protocol::{Command, Cow, DeviceSpec};
use crate::server::admin::machine::Records;
#[cfg(feature = "mutants")]
use crate::server::admin::mutant::{self, Mutant};

const O: What = What::Origin;
const S: What = What::Snap(0);
/// What stands where the copy is.
const COPY: What = What::Snap(1);
/// What the refusal of a copy says.
const IS_COPY: &str = "is a copy of that of";

/// A snapshot that keeps a chunk, its origin's device, and an older copy of its COW.
fn copied() -> Result<Town, String> {
    let mut town = Town::new(0, false);
    for step in [S, O] {
        town.add(step)?;
    }
    town.write(O, 0);
    town.flush(O);
    town.flush(S);
    let image = town.site.disks[1].disk.borrow().visible();
    town.site.put(2, image);
    town.write(O, 5);
    Ok(town)
}

fn cow_of(town: &Town, what: What) -> Result<Cow, String> {
    let device = town.devices[&what].device();
    let left = town.left("o")?;
    let found = left.into_iter().find(|one| one.device() == device);
    found.and_then(|one| one.cow).ok_or_else(|| "no COW".to_owned())
}

/// Records a loss of a store.
fn lose(town: &Town, cow: Cow) -> Result<(), String> {
    town.site.directory("o").losses(cow).record(Loss::OriginChanged)
}

fn elsewhere(cow: &Cow) -> Cow {
    let names = vec!["serial elsewhere".to_owned()];
    Cow { names, number: 999, origin: String::new(), ..cow.clone() }
}

/// A copy of a COW was lost on another disk: the store that is served has not left.
fn lost_elsewhere() -> Result<(), String> {
    let mut town = copied()?;
    let cow = cow_of(&town, S)?;
    lose(&town, elsewhere(&cow))?;
    town.kill("o");
    town.recover()?;
    match town.read(S) {
        Some(Ok(_)) => town.judge(S)?,
        other => return Err(format!("taken over: {other:?}")),
    }
    // That it has left on its own disk is on record, too.
    town.del(S, false)?;
    town.add(S).map_err(|why| format!("added: {why}"))?;
    town.judge(S)
}

/// The loss of a store on its own disk is that of the store; so is that of one which may have been
/// copied here.
fn lost_here() -> Result<(), String> {
    let mut town = copied()?;
    let cow = cow_of(&town, S)?;
    lose(&town, cow.clone())?;
    town.kill("o");
    town.recover()?;
    if let Some(Ok(shown)) = town.read(S) {
        return Err(format!("it is lost, and shows {shown:?}"));
    }
    let mut town = copied()?;
    let cow = cow_of(&town, S)?;
    town.del(S, true)?;
    town.del(O, true)?;
    town.site.directory("o").forget_departure(&cow).ok();
    lose(&town, elsewhere(&cow))?;
    match town.add(S) {
        Err(why) if why.contains("is lost") => Ok(()),
        other => Err(format!("it may be a copy of what was lost: {other:?}")),
    }
}

/// Refused as a copy, by the word that names the snapshot.
fn refused_as_copy(found: Result<(), String>, what: &str) -> Result<(), String> {
    match found {
        Err(why) if why.contains(IS_COPY) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}

/// A copy beside the store that is served, as a snapshot and as a merge.
fn beside() -> Result<(), String> {
    let mut town = copied()?;
    refused_as_copy(ask(&mut town, Town::spec(COPY)), "beside it")?;
    let device = town.devices[&O].device();
    let mut merge = spec(true);
    if let TargetParams::SnapshotMerge(table) = &mut merge.table.params {
        table.cow = "/c1".to_owned();
    }
    town.ask("o", Command::Load { device, spec: merge })?;
    refused_as_copy(town.ask("o", Command::Resume { device }).map(drop), "merged")?;
    town.judge(S)?;
    // Its user says that it is right.
    ask(&mut town, DeviceSpec { other_origin: true, ..Town::spec(COPY) })
}

/// A copy in the place of a store that has left properly.
fn after() -> Result<(), String> {
    let mut town = copied()?;
    town.del(S, false)?;
    refused(ask(&mut town, Town::spec(COPY)), "a copy of what has left")?;
    town.add(S)?;
    town.judge(S)
}

/// An origin is written for the first time since a snapshot without chunks has left it, while that
/// is added again: before each job of the server. If it is added it stays.
fn rejoins() -> Result<(), String> {
    for jobs in 0.. {
        let mut stack = Stack::new(LOWER[1], false);
        for step in [Do::Add(Lower), Do::Add(Upper), Do::Del(Upper, false)] {
            stack.act(step)?;
        }
        let written = early::write(&mut stack, 5, 77);
        let id = stack.device(Lower).ok_or("no device")?.id;
        stack.town.site.kernel.borrow_mut().beside = Some((jobs, id, written));
        let found = stack.act(Do::Add(Upper));
        if stack.town.site.kernel.borrow_mut().beside.take().is_some() {
            return found.map(drop).map_err(|why| format!("nothing was written: {why}"));
        }
        match found {
            Err(why) if why.contains("is lost") => continue,
            Err(why) => return Err(format!("before job {jobs}: {why}")),
            Ok(_) => {}
        }
        for step in [Do::Kill, Do::Recover] {
            stack.act(step)?;
        }
        match stack.read(Upper) {
            Some(Ok(_)) => {}
            other => return Err(format!("before job {jobs}: taken over, it shows {other:?}")),
        }
    }
    Ok(())
}

/// A device whose mirror was passed on gets other ranges: they are not what its snapshot was of.
fn passed_on() -> Result<(), String> {
    let mut stack = super::missed::restarted(LOWER[0])?;
    let device = stack.device(Lower).ok_or("no device")?;
    stack.act(Do::Suspend(Lower))?;
    stack.add_spec(DeviceSpec { force: true, ..stack.spec(Lower) })?;
    stack.load(device, DeviceSpec::of_line("0 8 linear /c 0"))?;
    refused(stack.add(Upper).map(drop), "other ranges than the mirror's")
}

/// A device that had no disk yet has changed none.
fn placeholder() -> Result<(), String> {
    for line in ["0 8 error", "0 8 zero"] {
        let mut stack = super::missed::restarted(LOWER[1])?;
        let device = stack.device(Lower).ok_or("no device")?;
        stack.ask(Command::Del { devices: vec![device], force: false })?;
        stack.town.processes.clear();
        stack.lower = None;
        stack.begin()?;
        let device = stack.add_spec(DeviceSpec::of_line(line))?;
        let table = Table::parse_table(LOWER[1]).unwrap();
        stack.load(device, DeviceSpec { table, ..Town::spec(What::Mirror) })?;
        stack.lower = Some(device);
        stack.add(Upper).map_err(|why| format!("{line}: {why}"))?;
    }
    Ok(())
}

/// A snapshot is refused by a device that carried no origin before: it carries none then.
fn carries_none() -> Result<(), String> {
    let mut stack = super::missed::restarted(LOWER[1])?;
    stack.act(Do::Write(Lower, 5))?;
    refused(stack.add(Upper).map(drop), "written")?;
    let device = stack.device(Lower).ok_or("no device")?;
    stack.load(device, DeviceSpec::of_line("0 8 snapshot-origin /a"))
}

/// What was merged last into an origin, by a command or a table, is taken by whoever expects it;
/// another store under its name is not.
fn merged_store() -> Result<(), String> {
    for by_table in [false, true] {
        let mut town = of_two(false)?;
        for step in [S, O] {
            town.add(step)?;
        }
        town.write(O, 0);
        let cow = cow_of(&town, S)?;
        let left = town.left("o")?;
        let name = left.iter().find(|one| one.cow.as_ref() == Some(&cow));
        let name = name.map(|one| one.name.clone());
        if by_table {
            town.swap_table(true)?;
            town.until_merged();
            town.swap_table(false)?;
        } else {
            town.merge(S, true)?;
            town.notice_end();
        }
        town.write(O, 5);
        let expected = |what| DeviceSpec { continues: true, ..Town::spec(what) };
        let mut add = |what| {
            let (name, spec) = (name.clone(), expected(what));
            town.ask("o", Command::Add { name, id: None, spec }).map(drop)
        };
        match add(COPY) {
            Err(why) if why.contains("which would show a later moment") => {}
            other => return Err(format!("{by_table}: another store: {other:?}")),
        }
        add(S).map_err(|why| format!("{by_table}: merged: {why}"))?;
    }
    Ok(())
}

#[test]
fn a_copy_is_not_the_store() {
    assert!(!MIXTURE.contains(IS_COPY));
    lost_elsewhere().unwrap();
    lost_here().unwrap();
    beside().unwrap();
    after().unwrap();
}

#[test]
fn what_has_joined_has_no_earlier_loss() {
    rejoins().unwrap();
}

#[test]
fn a_refusal_and_a_placeholder_leave_nothing() {
    passed_on().unwrap();
    placeholder().unwrap();
    carries_none().unwrap();
}

#[test]
fn what_was_merged_last_is_known_by_its_store() {
    merged_store().unwrap();
}

#[test]
#[cfg(feature = "mutants")]
fn a_copy_that_is_taken_for_the_store_is_noticed() {
    for (mutant, check) in [
        (Mutant::LostByCopy, lost_elsewhere as fn() -> Result<(), String>),
        (Mutant::CopyTaken, beside),
        (Mutant::MissedByCopy, after),
        (Mutant::PassedOnForgotten, passed_on),
        (Mutant::CarriesForNone, carries_none),
        (Mutant::MergedByName, merged_store),
    ] {
        mutant::set(Some(mutant));
        let found = check();
        mutant::set(None);
        assert!(found.is_err(), "{mutant:?}");
    }
    use dm_targets::mutant::{self as of, Mutant as Of};
    for (mutant, check) in [
        (Of::JoinedStillLost, rejoins as fn() -> Result<(), String>),
        (Of::ZeroesHaveData, placeholder),
    ] {
        of::set(Some(mutant));
        let found = check();
        of::set(None);
        assert!(found.is_err(), "{mutant:?}");
    }
}
