//! An origin's device that is up without a snapshot of it, whose COW is not there, say: the next
//! start knows nothing of the one before.
//!
//! Rule held here: what is written without a snapshot is noticed (I9): its store is refused, unless
//! it keeps nothing, has left the origin properly, or the user takes it nevertheless.

use dm_targets::request::RequestKind;

use super::carried_stack::{Do, LOWER, Lower, Stack, Upper};
use super::early;
use super::machine::SimMachine;
use super::model;
use super::process::{Process, spawn_pass};
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};
#[cfg(feature = "mutants")]
use crate::server::admin::mutant::{self, Mutant};

const O: What = What::Origin;
const S: What = What::Snap(0);
/// The disk of the first snapshot's COW; that of the second one follows.
const COW: usize = 1;
/// What a refusal says.
pub(super) const MIXTURE: &str = "which would show a mixture of two moments; zero its start with";

/// A machine that has started again, with a snapshot that keeps a chunk, and its origin's device.
fn of_disk() -> Result<Town, String> {
    let mut town = Town::new(0, false);
    for step in [S, O] {
        town.add(step)?;
    }
    town.write(O, 0);
    town.flush(O);
    town.flush(S);
    town.crash(true);
    town.add(O).map(|()| town)
}

impl SimMachine {
    /// Carries out what a user sends to a device during a command.
    pub(super) fn write_beside(&self) {
        let beside = self.site.kernel.borrow_mut().beside.take();
        let Some((jobs, id, pending)) = beside else { return };
        if let Some(jobs) = jobs.checked_sub(1) {
            self.site.kernel.borrow_mut().beside = Some((jobs, id, pending));
            return;
        }
        spawn_pass(&self.executor, &self.thread, id, &pending);
        drop(self.site.run(&self.executor, || pending.result.borrow().is_some()));
    }
}

impl Stack {
    /// Gives a device another table.
    pub(super) fn load(&mut self, device: DeviceRef, spec: DeviceSpec) -> Result<(), String> {
        for command in [Command::Load { device, spec }, Command::Resume { device }] {
            self.ask(command)?;
        }
        Ok(())
    }
}

pub(super) fn refused(found: Result<(), String>, what: &str) -> Result<(), String> {
    match found {
        Err(why) if why.contains(MIXTURE) => Ok(()),
        other => Err(format!("{what}: {other:?}, and not refused")),
    }
}

/// It is taken as it is.
fn taken(town: &mut Town) -> Result<(), String> {
    ask(town, DeviceSpec { other_origin: true, ..Town::spec(S) })
}

fn of_disks() -> Result<(), String> {
    let mut town = of_disk()?;
    town.add(S).map_err(|why| format!("nothing was written: {why}"))?;
    town.judge(S).map_err(|why| format!("{why:?}"))?;
    town.del(S, false)?;
    town.write(O, 5);
    let lost = town.add(S).expect_err("it has left and is lost");
    if !lost.contains("is lost") {
        return Err(lost);
    }
    let mut town = of_disk()?;
    town.write(O, 5);
    refused(town.add(S), "written")?;
    taken(&mut town)?;
    let mut town = of_disk()?;
    town.kill("o");
    town.recover()?;
    refused(town.add(S), "taken over")?;
    taken(&mut town)
}

/// An origin is written by the merge of another snapshot only; and its device has another table by
/// the time.
fn beside() -> Result<(), String> {
    let begun = || {
        let mut town = of_two(true)?;
        town.add(O).map(|()| town)
    };
    let mut town: Town = begun()?;
    town.add(What::Snap(1))?;
    town.merge(What::Snap(1), true)?;
    town.notice_end();
    refused(town.add(S), "merged into")?;
    taken(&mut town)?;
    let tables = |town: &mut Town, lines: &[&str]| {
        let device = town.devices[&O].device();
        for line in lines {
            let spec = DeviceSpec::of_line(line);
            for command in [Command::Load { device, spec }, Command::Resume { device }] {
                town.ask("o", command)?;
            }
        }
        Ok::<_, String>(())
    };
    let (own, error) = (Town::spec(O).table.to_string(), "0 8 error");
    let mut town: Town = begun()?;
    town.write(O, 5);
    tables(&mut town, &[error])?;
    refused(town.add(S), "written by a table that has gone")?;
    let mut town: Town = begun()?;
    tables(&mut town, &[error, &own])?;
    town.add(S).map_err(|why| format!("only its table was another one: {why}"))
}

/// A device that carries its snapshots has got other ranges meanwhile.
fn of_other_ranges() -> Result<(), String> {
    let mut stack = restarted(LOWER[1])?;
    let device = stack.device(Lower).ok_or("no device")?;
    stack.load(device, DeviceSpec::of_line("0 8 linear /b 0"))?;
    refused(stack.add(Upper).map(drop), "other ranges")
}

/// A machine that has started again, with a device of this table, and a snapshot of it that keeps a
/// chunk and is not there yet.
pub(super) fn restarted(line: &'static str) -> Result<Stack, String> {
    let mut stack = Stack::new(line, false);
    for step in [Do::Add(Lower), Do::Add(Upper), Do::Write(Lower, 0), Do::Flush(Upper)] {
        stack.act(step)?;
    }
    stack.crash(true, Do::Flush(Upper));
    (stack.lower, stack.upper) = (None, None);
    stack.act(Do::Add(Lower)).map(|_| stack)
}

/// A device is written for the first time while a snapshot of it is added, or gets its table:
/// before each job of the server. What was written before it joined, it has missed.
fn meanwhile(loaded: bool) -> Result<(), String> {
    for jobs in 0.. {
        let mut stack = restarted(LOWER[1])?;
        let other =
            if loaded { Some(stack.add_spec(DeviceSpec::of_line("0 8 error"))?) } else { None };
        let written = early::write(&mut stack, 5, 77);
        let id = stack.device(Lower).ok_or("no device")?.id;
        stack.town.site.kernel.borrow_mut().beside = Some((jobs, id, written.clone()));
        let found = match other {
            Some(device) => stack.load(device, stack.spec(Upper)).map(|()| device),
            None => stack.add(Upper),
        };
        if stack.town.site.kernel.borrow_mut().beside.take().is_some() {
            return found.map(drop).map_err(|why| format!("nothing was written: {why}"));
        }
        if !matches!(*written.result.borrow(), Some(Ok(()))) {
            return Err(format!("before job {jobs}: {:?}", written.result.borrow()));
        }
        let shown = match found {
            Err(why) if why.contains(MIXTURE) => continue,
            Err(why) => return Err(format!("before job {jobs}: {why}")),
            Ok(device) => stack.io(device, RequestKind::Read, 5, model::sector(0)),
        };
        match shown {
            Some(Ok(shown)) if shown == [205] => {}
            other => return Err(format!("before job {jobs}: shows {other:?}")),
        }
    }
    Ok(())
}

/// Adds a device as it is written here.
pub(super) fn ask(town: &mut Town, spec: DeviceSpec) -> Result<(), String> {
    match town.ask("o", Command::Add { name: None, id: None, spec })? {
        Reply::Added { .. } => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A machine that has started again, with two snapshots of a disk that keep a chunk, if `filled`.
pub(super) fn of_two(filled: bool) -> Result<Town, String> {
    let mut town = Town::new(0, false);
    for step in [S, What::Snap(1), O] {
        town.add(step)?;
    }
    if filled {
        town.write(O, 0);
    }
    [O, S, What::Snap(1)].into_iter().for_each(|what| town.flush(what));
    town.crash(true);
    Ok(town)
}

/// The store of a snapshot that was not there is at the path of one that has left properly.
fn by_path() -> Result<(), String> {
    let mut town = of_two(true)?;
    for step in [S, O] {
        town.add(step)?;
    }
    town.write(O, 5);
    town.del(S, false)?;
    let other = town.site.disks[COW + 1].disk.borrow().visible();
    let right = town.site.swap(COW, ("serial /c0".to_owned(), other));
    refused(ask(&mut town, Town::spec(S)), "at the path of another one")?;
    drop(town.site.swap(COW, right));
    ask(&mut town, Town::spec(S))
}

/// A snapshot that kept nothing when its origin was written shows a later moment: whoever expects
/// it to come back does not get that; to anybody else it is a new one.
fn of_nothing() -> Result<(), String> {
    let mut town = of_two(false)?;
    let expected = || DeviceSpec { continues: true, ..Town::spec(S) };
    town.add(O)?;
    town.write(O, 5);
    match ask(&mut town, expected()) {
        Err(why) if why.contains("which would show a later moment; zero its start with") => {}
        other => return Err(format!("empty: {other:?}, and not refused")),
    }
    ask(&mut town, Town::spec(S))?;
    let mut town = of_two(false)?;
    town.add(O)?;
    ask(&mut town, expected()).map_err(|why| format!("nothing was written: {why}"))?;
    // A merge has emptied it.
    let mut town = of_two(true)?;
    for step in [S, O] {
        town.add(step)?;
    }
    let name = town.left("o")?.iter().find(|one| one.cow.is_some()).map(|one| one.name.clone());
    town.merge(S, true)?;
    town.notice_end();
    match town.ask("o", Command::Add { name, id: None, spec: expected() })? {
        Reply::Added { .. } => Ok(()),
        other => Err(format!("merged: {other:?}")),
    }
}

/// An origin's device without its server, which was written before that died.
fn left_out() -> Result<(), String> {
    let mut town = of_two(true)?;
    town.add(What::Snap(1))?;
    let mut origin = Town::spec(O);
    origin.options.recovery = false;
    ask(&mut town, origin)?;
    town.kill("o");
    drop(town.recover());
    refused(ask(&mut town, Town::spec(S)), "left out")
}

/// A snapshot can be merged into a device that its users cannot write to: the next server does not
/// know that.
fn read_only() -> Result<(), String> {
    let mut town = of_two(true)?;
    town.processes.insert("o", Process::start(&town.site, "o").ok_or("no server")?);
    let mut origin = Town::spec(O);
    origin.options.read_only = true;
    ask(&mut town, origin)?;
    town.kill("o");
    town.recover()?;
    refused(ask(&mut town, Town::spec(S)), "read-only")
}

/// The same of a device that carries its snapshots.
fn of_devices() -> Result<(), String> {
    for line in LOWER.split_at(2).0 {
        for writes in [false, true] {
            let mut stack = restarted(line)?;
            if writes {
                stack.act(Do::Write(Lower, 5))?;
                refused(stack.add(Upper).map(drop), line)?;
                stack.adopts = true;
            }
            stack.add(Upper).map_err(|why| format!("{line}, {writes}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn what_is_written_without_a_snapshot_is_noticed() {
    of_disks().unwrap();
    of_devices().unwrap();
    beside().unwrap();
    of_other_ranges().unwrap();
    meanwhile(false).unwrap();
    meanwhile(true).unwrap();
    by_path().unwrap();
    of_nothing().unwrap();
    left_out().unwrap();
    read_only().unwrap();
}

#[test]
#[cfg(feature = "mutants")]
fn a_snapshot_that_missed_writes_is_noticed_to_be_taken() {
    mutant::set(Some(Mutant::MissedTaken));
    let found = (of_disks(), of_devices());
    mutant::set(None);
    assert!(found.0.is_err() && found.1.is_err(), "{found:?}");
    mutant::set(Some(Mutant::MissedBeside));
    let found = (beside(), of_other_ranges());
    mutant::set(None);
    assert!(found.0.is_err() && found.1.is_err(), "{found:?}");
    mutant::set(Some(Mutant::MissedMeanwhile));
    let found = (meanwhile(false), meanwhile(true));
    mutant::set(None);
    assert!(found.0.is_err() && found.1.is_err(), "{found:?}");
    for (mutant, check) in [
        (Mutant::MissedByPath, by_path as fn() -> Result<(), String>),
        (Mutant::MissedEmpty, of_nothing),
        (Mutant::MissedLeftOut, left_out),
    ] {
        mutant::set(Some(mutant));
        let found = check();
        mutant::set(None);
        assert!(found.is_err(), "{mutant:?}");
    }
}
