//! `upgrade`: a family's server leaves its devices, and another one takes them over, in any
//! condition and with an end of either, of the command or of the machine at every step. No request
//! fails, nothing acknowledged is lost, and what the outcome says of the devices is true.

use dm_targets::sim::disk::Class;

use super::Step::{self, *};
use super::kernel::{Control, Pending};
use super::process::Process;
use super::town::What::{Mirror, Origin, Snap};
use super::town::{Town, What};
use crate::failure::Reason;
use crate::protocol::{Command, DeviceState, Reply};
use crate::server::upgrade::{Outcome, Servers, upgrade};
use crate::ublk::DeviceState as DiskState;

/// The disk of the first snapshot's COW, and of the mirror's first leg.
pub(super) const COW: usize = 1;
const LEG: usize = 3;
pub(super) const O: &str = "o";
pub(super) const M: &str = "mirror-a";

/// The stories of upgrades.
pub(super) fn stories() -> Vec<Vec<Step>> {
    let mounted = vec![Add(Origin), Add(Snap(0)), Write(Snap(0), 1), Use(Origin, true)];
    let with = |first: &[Step], then: &[Step]| [first, then].concat();
    vec![
        with(&mounted, &[Upgrade(O, true), Write(Origin, 2), Upgrade(O, true), Write(Origin, 3)]),
        // Its requests wait before the upgrade, and after it.
        vec![Add(Origin), Suspend(Origin), Write(Origin, 1), Upgrade(O, true), Upgrade(O, true)],
        // The kernel does not let the new server take over, or start, one of the devices.
        with(&mounted, &[Deny(Control::TakeOver, 0), Upgrade(O, true), Write(Origin, 2)]),
        with(&mounted, &[Deny(Control::TakeOver, 1), Upgrade(O, true), Write(Origin, 2)]),
        with(&mounted, &[Deny(Control::StartAgain, 0), Upgrade(O, true), Write(Origin, 2)]),
        with(&mounted, &[Deny(Control::StartAgain, 1), Upgrade(O, true), Write(Origin, 2)]),
        // The new program does not start.
        with(&mounted, &[Upgrade(O, false), Write(Origin, 2), Upgrade(M, false)]),
        with(&mounted, &[Full(true), Upgrade(O, true), Write(Origin, 2), Full(false)]),
        // The command is interrupted.
        with(&mounted, &[Leave, Upgrade(O, true), Write(Origin, 2), Write(Snap(0), 3)]),
        // A COW that could not be opened again.
        with(&mounted, &[Attach(COW, false), Upgrade(O, true), Write(Origin, 2)]),
        with(&mounted, &[Hang(COW), Upgrade(O, true), Write(Origin, 2), Answer, Upgrade(O, true)]),
        // A mirror's leg has missed a write.
        vec![
            Add(Mirror),
            Write(Mirror, 1),
            Fail(LEG, Class::Write, 0),
            Write(Mirror, 3),
            Upgrade(M, true),
            Write(Mirror, 4),
        ],
        vec![Add(Mirror), Replace(0, 5), Write(Mirror, 3), Upgrade(M, true), Write(Mirror, 4)],
    ]
}

/// The servers of a family, as `cli::upgrade` has them.
struct Both<'a> {
    town: &'a mut Town,
    key: &'static str,
    new: Option<Process>,
    /// The devices, as the last server that had them described them.
    devices: Vec<DeviceState>,
    /// The new program starts.
    starts: bool,
    /// A server that ends is noticed by the command, which goes on; otherwise both end.
    goes_on: bool,
}

impl Both<'_> {
    fn reply(&mut self, command: Command) -> Result<Vec<String>, Reason> {
        let reply = self.town.ask(self.key, command);
        if self.town.site.is_dead() {
            if self.goes_on {
                self.town.crash(false);
            }
            return Err("it has died".into());
        }
        match reply {
            Ok(Reply::Recovered { problems, .. }) => {
                Ok(problems.into_iter().map(|problem| problem.why.to_string()).collect())
            }
            Ok(Reply::Left { devices }) => {
                self.devices = devices;
                Ok(Vec::new())
            }
            Ok(_) => Err("another reply".into()),
            Err(why) => Err(why.into()),
        }
    }

    /// Has the family's process take devices over; what is live counts.
    fn take(&mut self, command: impl FnOnce(Vec<DeviceState>) -> Command) -> Result<(), Reason> {
        let problems = self.reply(command(self.devices.clone()))?;
        if self.town.are_live(self.key) { Ok(()) } else { Err(problems.join("; ").into()) }
    }
}

impl Servers for Both<'_> {
    fn stand_by(&mut self) -> Result<(), Reason> {
        self.town.state(self.key)?;
        if !self.starts {
            return Err("the new program does not start".into());
        }
        self.new = Some(Process::start(&self.town.site, self.key).ok_or("no memory")?);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Reason> {
        let had = self.town.processes.contains_key(self.key);
        let left = self.reply(Command::Leave);
        match self.town.processes.remove(self.key) {
            Some(process) if left.is_ok() => {
                // It lives for a moment, in which it can still do harm.
                drop(self.town.site.run(&process.executor.clone(), || false));
                process.kill();
                Ok(())
            }
            Some(process) => {
                self.town.processes.insert(self.key, process);
                left.map(drop)
            }
            // It has died, and its last state is on record.
            None if had && self.goes_on => {
                self.devices = self.town.state(self.key)?;
                Ok(())
            }
            None => Err("there is no server".into()),
        }
    }

    fn take_over(&mut self) -> Result<(), Reason> {
        if self.town.site.is_dead() {
            return Err("the command has ended".into());
        }
        let new = self.new.take().ok_or("the new server has ended")?;
        self.town.processes.insert(self.key, new);
        self.take(Command::TakeOver)
    }

    fn end_new(&mut self) {
        // A server that stands by has nothing; one that was to take over has the family.
        let standby = self.new.take();
        if self.town.site.is_dead() {
            return;
        }
        let new = standby.or_else(|| {
            let is_new = self.town.is_new(self.key);
            if is_new { self.town.processes.remove(self.key) } else { None }
        });
        if let Some(new) = new {
            new.kill();
        }
    }

    fn roll_back(&mut self) -> Result<(), Reason> {
        if self.town.site.is_dead() {
            return Err("the command has ended".into());
        }
        let old = Process::start(&self.town.site, self.key).ok_or("no memory")?;
        self.town.processes.insert(self.key, old);
        self.devices = self.town.state(self.key).unwrap_or(self.devices.clone());
        let taken = self.take(Command::Recover);
        if taken.is_err() {
            self.town.doubt_what_is_away();
        }
        taken
    }
}

/// What must stay as it is.
struct Before {
    pid: u32,
    /// Requests that had not ended.
    waiting: Vec<(What, Pending)>,
    /// A server may have ended on the way.
    goes_on: bool,
}

impl Town {
    /// Whether a family's server is not the one that an upgrade has begun with.
    fn is_new(&self, key: &str) -> bool {
        let old = self.upgrading;
        self.processes.get(key).is_some_and(|process| Some(process.pid) != old)
    }

    fn are_live(&self, key: &str) -> bool {
        let mut known = self.devices.iter().filter(|(what, _)| what.key() == key);
        known
            .all(|(_, known)| self.kernel_state(known).is_none_or(|state| state == DiskState::Live))
    }

    /// Has a new server take a family over, as `cli::upgrade` does; `starts`: the new program does.
    pub(super) fn upgrade(&mut self, key: &'static str, starts: bool) -> Result<(), String> {
        self.upgrade_with(key, starts, false).map(drop)
    }

    pub(super) fn upgrade_with(
        &mut self,
        key: &'static str,
        starts: bool,
        goes_on: bool,
    ) -> Result<Option<Outcome>, String> {
        self.could_be_left(key)?;
        let pid = self.processes.get(key).ok_or("it has no server")?.pid;
        self.upgrading = Some(pid);
        // Those that have ended, which their users have not seen yet, are not the upgrade's.
        let waits = |pending: &Pending| pending.result.borrow().is_none();
        let of_family =
            self.in_flight.iter().filter(|(what, _, it)| what.key() == key && waits(it));
        let waiting = of_family.map(|(what, _, pending)| (*what, pending.clone())).collect();
        let devices = self.state(key)?;
        let mut both = Both { town: self, key, new: None, devices, starts, goes_on };
        let outcome = upgrade(&mut both);
        let standby = both.new.take();
        if self.site.is_dead() {
            drop(standby);
            return Err("ended".to_owned());
        }
        standby.into_iter().for_each(Process::kill);
        self.say(|| format!("   {outcome:?}"));
        self.judge_upgrade(key, &outcome, &Before { pid, waiting, goes_on })?;
        self.collect_replies();
        match outcome {
            Outcome::Upgraded => Ok(Some(outcome)),
            Outcome::Unchanged(why) | Outcome::RolledBack(why) if !goes_on => Err(why.to_string()),
            Outcome::Waits(why, back) if !goes_on => Err(format!("{why}; {back}")),
            outcome => Ok(Some(outcome)),
        }
    }

    /// As `cli::upgrade::judge`: all devices are served, and all disks can be opened.
    fn could_be_left(&mut self, key: &str) -> Result<(), String> {
        for device in self.left(key)? {
            let state = self.site.kernel.borrow().devices[&device.id].info.state;
            if state != DiskState::Live {
                return Err(format!("{}: it waits for a server", device.name));
            }
            for disk in device.spec.table.params.devices() {
                let slot = self.site.slot(&disk).ok_or_else(|| format!("{disk}: not there"))?;
                if self.site.disks[slot].hangs.get() || !self.site.is_own(slot) {
                    return Err(format!("{disk}: it does not answer, or is another disk"));
                }
            }
        }
        Ok(())
    }

    fn judge_upgrade(
        &mut self,
        key: &'static str,
        outcome: &Outcome,
        before: &Before,
    ) -> Result<(), String> {
        self.notice_damage();
        let (live, hindered) = (self.are_live(key), self.hindered());
        let hindered = hindered || self.spoilt.contains(key);
        let serves = self.processes.get(key).map(|process| process.pid);
        let failed = |pending: &Pending| matches!(&*pending.result.borrow(), Some(Err(_)));
        let failed = before.waiting.iter().find(|(_, pending)| failed(pending));
        if let Some((what, _)) = failed.filter(|_| !hindered) {
            return self.broken(format!("{what:?}: a request has failed in an upgrade"));
        }
        let wrong = match outcome {
            Outcome::Upgraded if !live => Some("a device is not live, and all went well"),
            Outcome::Upgraded if serves == Some(before.pid) => Some("the old server goes on"),
            Outcome::Unchanged(_) if serves.is_some_and(|pid| pid != before.pid) => {
                Some("another server has the devices, and it is said that nothing has changed")
            }
            Outcome::Unchanged(_) if !live && !hindered => Some("a device waits"),
            Outcome::RolledBack(_) if !live => Some("a device is not live after a roll-back"),
            Outcome::RolledBack(_) if !hindered && !before.goes_on => {
                Some("rolled back, though nothing hinders it")
            }
            Outcome::Waits(..) if !hindered => Some("devices wait, though nothing hinders it"),
            _ => None,
        };
        wrong.map_or(Ok(()), |why| self.broken(format!("{key}: {why}: {outcome:?}")))
    }
}
