//! `upgrade` of a device and its snapshot in one server: the next server has both or none of them,
//! and nothing acknowledged is lost, with an end of a server or of the power at every step.

use std::rc::Rc;

use dm_targets::disk::Memory;
use dm_targets::request::{Request, RequestKind};
use dm_targets::units::{Sector, Sectors};

use super::carried_lives::live;
use super::carried_stack::{Do, KEY, LOWER, Lower, Part, Stack, Upper};
use super::early::write;
use super::kernel::{Control, Pending};
use super::process::Process;
use super::site::Site;
use crate::failure::Reason;
use crate::protocol::{Command, DeviceState, Reply};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::upgrade::{Outcome, Servers, upgrade};

/// The servers, as `cli::upgrade` has them.
struct Both<'a> {
    stack: &'a mut Stack,
    new: Option<Process>,
    devices: Vec<DeviceState>,
}

impl Both<'_> {
    /// Has a new server take the devices over; what is live counts.
    fn take(&mut self, process: Process, command: Command) -> Result<(), Reason> {
        self.stack.town.processes.insert(KEY, process);
        let reply = self.stack.ask(command);
        let is_dead = self.stack.town.site.is_dead();
        match reply {
            _ if is_dead => Err("it has died".into()),
            Ok(_) if self.stack.are_live() => Ok(()),
            Ok(reply) => Err(format!("{reply:?}").into()),
            Err(why) => Err(why.into()),
        }
    }
}

impl Servers for Both<'_> {
    fn stand_by(&mut self) -> Result<(), Reason> {
        self.new = Some(Process::start(&self.stack.town.site, KEY).ok_or("no server")?);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Reason> {
        let Reply::Left { devices } = self.stack.ask(Command::Leave)? else {
            return Err("another reply".into());
        };
        let town = &mut self.stack.town;
        if town.site.is_dead() {
            return Err("it has died".into());
        }
        self.devices = devices;
        if let Some(process) = town.processes.remove(KEY) {
            // It lives for a moment, in which it can still do harm.
            drop(town.site.run(&process.executor.clone(), || false));
            process.kill();
        }
        Ok(())
    }

    fn take_over(&mut self) -> Result<(), Reason> {
        let new = self.new.take().ok_or("the new server has ended")?;
        let command = Command::TakeOver(self.devices.clone());
        self.take(new, command)
    }

    fn end_new(&mut self) {
        let standby = self.new.take();
        let town = &mut self.stack.town;
        if town.site.is_dead() {
            return;
        }
        let new = standby.or_else(|| {
            let is_new = town.processes.get(KEY).is_some_and(|one| Some(one.pid) != town.upgrading);
            if is_new { town.processes.remove(KEY) } else { None }
        });
        new.into_iter().for_each(Process::kill);
    }

    fn roll_back(&mut self) -> Result<(), Reason> {
        if self.stack.town.site.is_dead() {
            return Err("the command has ended".into());
        }
        let old = Process::start(&self.stack.town.site, KEY).ok_or("no server")?;
        let devices = self.stack.town.state(KEY)?;
        self.take(old, Command::Recover(devices))
    }
}

impl Stack {
    /// Has a new server take the devices over. The kernel does not let it do one step, if any.
    pub(super) fn upgrade(&mut self, deny: Option<(Control, u32)>) -> Result<(), String> {
        let pid = self.town.processes.get(KEY).ok_or("it has no server")?.pid;
        self.town.upgrading = Some(pid);
        self.town.site.kernel.borrow_mut().denied.extend(deny);
        let outcome = upgrade(&mut Both { stack: self, new: None, devices: Vec::new() });
        self.town.site.kernel.borrow_mut().denied.clear();
        self.town.say(|| format!("   {outcome:?}"));
        if self.town.site.is_dead() {
            return Err("ended".to_owned());
        }
        let serves = self.town.processes.get(KEY).map(|process| process.pid);
        let fails = self.left().iter().any(|device| device.spec.options.fails());
        let wrong = match &outcome {
            _ if !self.are_live() => Some("a device waits"),
            Outcome::Upgraded if deny.is_some() => Some("a refusal is not noticed"),
            Outcome::Upgraded if fails => Some("requests fail in between"),
            Outcome::Upgraded if serves == Some(pid) => Some("the old server goes on"),
            Outcome::Unchanged(_) if serves != Some(pid) => Some("another server has them"),
            Outcome::RolledBack(_) if deny.is_none() => Some("nothing hinders it"),
            _ => None,
        };
        if let Some(why) = wrong {
            self.town.site.fault.borrow_mut().get_or_insert(format!("{why}: {outcome:?}"));
        }
        match outcome {
            Outcome::Upgraded => Ok(()),
            Outcome::Unchanged(why) | Outcome::RolledBack(why) => Err(why.to_string()),
            Outcome::Waits(why, back) => Err(format!("{why}; {back}")),
        }
    }
}

/// The stories: upgrades of devices in use, of suspended ones, without the snapshot, with one that
/// has left; a new server that cannot take over, or start, one of the two.
pub(super) fn stories() -> Vec<Vec<Do>> {
    use Do::*;
    let begun = [Add(Lower), Write(Lower, 0), Write(Lower, 3), Add(Upper), Use(Lower, true)];
    let of = |rest: &[Do]| begun.iter().chain(rest).copied().collect::<Vec<_>>();
    let denied = |control, at| {
        let (upgrade, write) = (Upgrade(Some((control, at))), Write(Lower, 4));
        of(&[Write(Lower, 0), Write(Upper, 1), upgrade, write])
    };
    vec![
        of(&[Write(Lower, 0), Write(Upper, 1), Upgrade(None), Write(Lower, 4), Upgrade(None)]),
        of(&[Suspend(Lower), Write(Lower, 0), Upgrade(None), Resume(Lower), Upgrade(None)]),
        of(&[Suspend(Upper), Suspend(Lower), Write(Lower, 0), Upgrade(None), Resume(Lower)]),
        of(&[Use(Lower, false), Del(Upper, false), Upgrade(None), Add(Upper), Write(Lower, 3)]),
        of(&[Use(Lower, false), Del(Upper, false), Upgrade(None), Write(Lower, 3)]),
        of(&[Kill, Recover, Upgrade(None), Write(Lower, 4), Kill, Recover]),
        denied(Control::TakeOver, 0),
        denied(Control::TakeOver, 1),
        denied(Control::StartAgain, 0),
        denied(Control::StartAgain, 1),
    ]
}

/// What any story shows that is wrong, without an end or with every end.
fn broken(ends: bool) -> Vec<String> {
    let (mut states, mut broken) = (0, Vec::new());
    for line in LOWER {
        for (number, story) in stories().iter().enumerate() {
            let (changes, judged, _) = live(line, story, None, false);
            let crashes =
                (1..=if ends { changes } else { 0 }).flat_map(|at| [(at, false), (at, true)]);
            let whole = judged.err().map(|why| (None, why));
            let ended = crashes.filter_map(|crash| {
                states += 1;
                let (_, judged, _) = live(line, story, Some(crash), false);
                Some((Some(crash), judged.err()?))
            });
            for (crash, why) in whole.into_iter().chain(ended) {
                let (.., log) = live(line, story, crash, true);
                let what = format!("{line}, story {number}, end {crash:?}: {why}");
                println!("{what}");
                broken.push(format!("{what}\n{}", log.join("\n")));
            }
        }
    }
    println!("carried, upgrades: states={states}");
    broken
}

#[test]
fn a_device_and_its_snapshot_get_another_server_together() {
    let mut broken = broken(true);
    broken.truncate(3);
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_their_upgrades_is_killed() {
    for mutant in [Mutant::TakenOverInPart, Mutant::HeldAwaited, Mutant::CarrierLeftFirst] {
        mutant::set(Some(mutant));
        let noticed = !broken(false).is_empty()
            || leave_of_a_held_one().is_err()
            || leave_with_requests().is_err();
        mutant::set(None);
        assert!(noticed, "{mutant:?} is not noticed");
    }
}

/// A device and its snapshot, with a write of each.
fn stack(line: &'static str) -> Stack {
    let mut stack = Stack::new(line, true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper), Do::Write(Upper, 1)] {
        stack.act(step).unwrap();
    }
    stack
}

/// The operations of a snapshot that a suspended device holds are not waited for: it is refused to
/// leave the snapshot, and the reason names the device.
fn leave_of_a_held_one() -> Result<(), String> {
    for line in LOWER {
        let mut stack = stack(line);
        stack.act(Do::Suspend(Lower))?;
        assert_eq!(stack.read(Upper), None, "it waits");
        match stack.ask(Command::Leave) {
            Err(why) if why.contains("is suspended and holds its I/O") => {}
            other => return Err(format!("{other:?}")),
        }
        stack.act(Do::Resume(Lower))?;
        for part in [Lower, Upper] {
            stack.judge(part)?;
        }
        stack.end()?;
    }
    Ok(())
}

/// Requests of the snapshot that need the device are under way when both are left, more than the
/// device has at a time; they end under the next server, if not before.
fn leave_with_requests() -> Result<(), String> {
    for line in LOWER {
        let mut stack = stack(line);
        let (id, site) = (stack.device(Upper).unwrap().id, stack.town.site.clone());
        let reads: Vec<Pending> = (0..200).map(|number| pending(&site, number % 8)).collect();
        for read in &reads {
            site.kernel.borrow_mut().devices.get_mut(&id).unwrap().pending.push(read.clone());
            stack.town.processes[KEY].pass(id, read);
        }
        stack.act(Do::Upgrade(None))?;
        for part in [Lower, Upper] {
            stack.judge(part)?;
        }
        let ended = |read: &Pending| matches!(*read.result.borrow(), Some(Ok(())));
        if !reads.iter().all(ended) {
            return Err("a request has not ended well".to_owned());
        }
        stack.end()?;
    }
    Ok(())
}

/// A read of one sector.
pub(super) fn pending(site: &Rc<Site>, sector: u64) -> Pending {
    let payload = site.payload(vec![0; 512]);
    let (kind, memory) = (RequestKind::Read, Memory::payload(payload));
    let request = Request { kind, sector: Sector(sector), count: Sectors(1), memory };
    Pending { request, payload, result: Rc::default() }
}

/// A device is suspended, or left, while writes of its users wait for copies to its snapshot. They
/// need more of the device, which waits for none of them.
fn held_among_writes(step: Do) -> Result<(), String> {
    for (line, steps) in LOWER.iter().flat_map(|line| (0..40).map(move |steps| (*line, steps))) {
        let mut stack = stack(line);
        let (id, site) = (stack.device(Lower).unwrap().id, stack.town.site.clone());
        let writes = [2, 4, 6].map(|sector| (sector, write(&mut stack, sector, 70)));
        for (_, write) in &writes {
            site.kernel.borrow_mut().devices.get_mut(&id).unwrap().pending.push(write.clone());
            stack.town.processes[KEY].pass(id, write);
        }
        let executor = stack.town.processes[KEY].executor.clone();
        let mut left = steps;
        drop(site.run(&executor, || {
            left -= 1;
            left < 0
        }));
        stack.act(step)?;
        if matches!(step, Do::Suspend(_)) {
            stack.act(Do::Resume(Lower))?;
        }
        for part in [Lower, Upper] {
            stack.judge(part)?;
        }
        for (sector, write) in &writes {
            if !matches!(*write.result.borrow(), Some(Ok(()))) {
                return Err(format!("{line}, {steps}: the write of {sector} has not ended"));
            }
            stack.disk.acknowledge(*sector, 70);
        }
        for part in [Lower, Upper] {
            stack.judge(part)?;
        }
        stack.end()?;
    }
    Ok(())
}

#[test]
fn writes_that_wait_for_copies_hold_up_nothing() {
    held_among_writes(Do::Upgrade(None)).unwrap();
    held_among_writes(Do::Suspend(Lower)).unwrap();
}

#[cfg(feature = "mutants")]
#[test]
fn a_device_that_is_held_from_below_is_noticed() {
    for step in [Do::Upgrade(None), Do::Suspend(Lower)] {
        dm_targets::mutant::set(Some(dm_targets::mutant::Mutant::HeldFromBelow));
        let held = std::panic::catch_unwind(|| held_among_writes(step));
        dm_targets::mutant::set(None);
        assert!(!matches!(held, Ok(Ok(()))), "{step:?}: it is not noticed");
    }
}

#[test]
fn requests_of_a_snapshot_hold_up_no_upgrade() {
    leave_with_requests().unwrap();
}

#[test]
fn what_a_suspended_device_holds_is_not_left() {
    leave_of_a_held_one().unwrap();
}

/// A command that ends before it has its answer leaves both as they were.
#[test]
fn an_interrupted_upgrade_changes_nothing() {
    for line in LOWER {
        let mut stack = stack(line);
        stack.town.client_leaves = true;
        let why = stack.act(Do::Upgrade(None)).unwrap_err();
        assert!(why.contains("interrupted"), "{why}");
        for part in [Part::Lower, Part::Upper] {
            assert!(matches!(stack.read(part), Some(Ok(_))), "{part:?} waits");
            stack.judge(part).unwrap();
        }
        stack.end().unwrap();
    }
}
