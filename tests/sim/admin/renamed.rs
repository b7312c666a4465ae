//! `rename` and uuids: with an end of the server at every step, a run directory without room, and a
//! merge that knows a device by its name.
//!
//! Rules held here: whoever was told that a device has a new name finds it under that one, also
//! after the next server has taken it over; a device that is refused one has the old one
//! everywhere; and no two devices have one name or uuid.

use super::merge_keep::begun;
use super::merging::{O, S};
use super::town::{Broken, Town, What};
use super::{Rule, hold_and_are_noticed};
use crate::protocol::{Command, DeviceSpec, Reply};
use crate::server::admin::mutant::Mutant;

const NEW: &str = "monday";

fn rename(town: &mut Town, what: What) -> Result<(), Broken> {
    let command = Command::Rename { device: town.devices[&what].device(), name: NEW.to_owned() };
    match town.ask(what.key(), command)? {
        Reply::Done => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// The name of a device on record, and as its server shows it.
fn names(town: &Town, what: What) -> Result<[String; 2], Broken> {
    let recorded = town.recorded(what).ok_or("it is not on record")?.name;
    let process = town.processes.get(what.key()).ok_or("no server")?;
    Ok([recorded, process.report(town.devices[&what].id).name])
}

fn is_called(town: &Town, what: What, name: &str) -> Result<(), Broken> {
    let names = names(town, what)?;
    if names == [name, name] { Ok(()) } else { Err(format!("{names:?} instead of {name}")) }
}

/// An origin with a snapshot.
fn town() -> Result<Town, Broken> {
    let mut town = Town::new(1, true);
    town.add(O)?;
    town.add(S)?;
    Ok(town)
}

/// A snapshot is renamed, and its server ends at one change, if any; returns how many there were.
fn live(crash: Option<u64>) -> Result<u64, Broken> {
    let mut town = town()?;
    let [old, _] = names(&town, S)?;
    let changes = |town: &Town| town.site.shared.lock().unwrap().changes;
    let first = changes(&town);
    town.site.shared.lock().unwrap().crash_at = crash.map(|at| first + at);
    let renamed = rename(&mut town, S);
    let changes = changes(&town) - first;
    town.site.shared.lock().unwrap().crash_at = None;
    if town.site.is_dead() {
        town.crash(false);
    } else {
        renamed.clone()?;
        is_called(&town, S, NEW)?;
        town.kill("o");
    }
    town.recover()?;
    match names(&town, S)?[0].as_str() {
        NEW => is_called(&town, S, NEW)?,
        // Nobody was told otherwise.
        name if name == old && renamed.is_err() => is_called(&town, S, &old)?,
        other => return Err(format!("it is called {other} after {renamed:?}")),
    }
    town.judge(S)?;
    town.judge(O)?;
    Ok(changes)
}

fn whenever_its_server_ends() -> Result<(), Broken> {
    for at in 1..=live(None)? {
        live(Some(at)).map_err(|why| format!("an end at change {at}: {why}"))?;
    }
    Ok(())
}

fn without_room_nothing_has_changed() -> Result<(), Broken> {
    let mut town = town()?;
    let [old, _] = names(&town, S)?;
    super::act(&mut town, super::Step::Full(true));
    let Err(why) = rename(&mut town, S) else { return Err("it is renamed".to_owned()) };
    if !why.contains(&old) || !why.contains("not renamed") {
        return Err(why);
    }
    is_called(&town, S, &old)?;
    super::act(&mut town, super::Step::Full(false));
    // What is recorded and shown next has it, too.
    town.suspend(S)?;
    town.resume(S)?;
    is_called(&town, S, &old)?;
    rename(&mut town, S)?;
    is_called(&town, S, NEW)
}

fn the_name_of_another_device_is_refused() -> Result<(), Broken> {
    let mut town = town()?;
    rename(&mut town, O)?;
    match rename(&mut town, S) {
        Err(why) if why.contains("is taken by another device") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn the_uuid_of_another_device_is_refused() -> Result<(), Broken> {
    let mut town = Town::new(1, true);
    town.add(O)?;
    for (snapshot, is_taken) in [(0, false), (1, true)] {
        let mut spec: DeviceSpec = Town::spec(What::Snap(snapshot));
        spec.options.uuid = Some("U-1".to_owned());
        match town.ask("o", Command::Add { name: None, id: None, spec }) {
            Ok(_) if !is_taken => {}
            Err(why) if is_taken && why.contains("the uuid U-1 is taken by") => {}
            other => return Err(format!("{other:?}")),
        }
    }
    Ok(())
}

/// The snapshot that is to be kept is renamed while it is merged.
fn a_merge_keeps_a_renamed_snapshot() -> Result<(), Broken> {
    for again in [false, true] {
        let mut town = begun()?;
        rename(&mut town, S)?;
        if again {
            town.kill("o");
            town.recover()?;
            town.rests()?;
        }
        town.finish_merge();
        town.is_kept()?;
        is_called(&town, S, NEW)?;
        town.is_a_snapshot()?;
    }
    Ok(())
}

#[test]
fn a_device_has_one_name() {
    let rules: [(Rule, Mutant); 5] = [
        (whenever_its_server_ends, Mutant::RenamedUnrecorded),
        (without_room_nothing_has_changed, Mutant::RenamedThoughRefused),
        (the_name_of_another_device_is_refused, Mutant::NameGivenTwice),
        (the_uuid_of_another_device_is_refused, Mutant::UuidGivenTwice),
        (a_merge_keeps_a_renamed_snapshot, Mutant::KeptByOldName),
    ];
    hold_and_are_noticed(&rules);
}
