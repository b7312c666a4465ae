//! Snapshots of a mirror, and of a range, in the same server: what users do, what a crash leaves of
//! what they know, and the judgement at the end.

use dm_targets::request::RequestKind;

use super::carried_stack::{
    COW, Do, Ground, KEY, Known, Lower, Part, Stack, Top, UNDER_COW, Upper, is_origins,
};
use super::kernel::Device;
use super::process::Process;
use crate::protocol::{Command, DeviceRef, DeviceState, Reply};
use crate::server::admin::Ending;
use crate::ublk::DeviceState as DiskState;

impl Stack {
    /// Does one step. An `add` that does not end well is completed from the records, if it left a
    /// device.
    pub fn act(&mut self, step: Do) -> Result<(), String> {
        let told = match step {
            Do::Add(part) => {
                let shown = self.shown();
                let added = self.add(part);
                let device = added.clone().ok().filter(|_| !self.town.site.is_dead());
                match (part, device) {
                    (Lower, Some(device)) => self.lower = Some(device),
                    (Upper, Some(device)) => {
                        let content = shown.ok_or("a store is used whose origin has changed")?;
                        self.upper = Some(Known { device, content, owed: true });
                        self.left = None;
                    }
                    _ => {}
                }
                added.map(drop)
            }
            Do::Del(part, force) => self.del(part, force),
            Do::Write(part, sector) => {
                self.write(part, sector);
                Ok(())
            }
            Do::Flush(part) => self.flush(part),
            Do::Suspend(part) => {
                let device = self.device(part).ok_or("not there")?;
                self.ask(Command::Suspend { device, noflush: false }).map(drop)
            }
            Do::Resume(part) => {
                let device = self.device(part).ok_or("not there")?;
                self.ask(Command::Resume { device }).map(drop)
            }
            Do::Hold(held) => self.hold(held),
            Do::Use(part, in_use) => {
                self.set_use(part, in_use);
                Ok(())
            }
            Do::Attach(disk, there) => {
                self.away |= disk == COW;
                if let (Some(known), COW, true) = (&mut self.upper, disk, self.waits) {
                    known.owed = false;
                }
                self.town.attach(disk, there);
                Ok(())
            }
            Do::Kill => {
                self.town.kill(KEY);
                Ok(())
            }
            Do::Recover => self.recover(),
            Do::Terminate => self.terminate(),
            Do::Steal(part) => self.steal(part),
            Do::Upgrade(deny) => self.upgrade(deny),
            Do::Merge(keep) => self.merge(keep),
        };
        self.town.say(|| format!("{step:?}: {told:?}"));
        told
    }

    fn flush(&mut self, part: Part) -> Result<(), String> {
        let device = self.device(part).ok_or("not there")?;
        let flushed = self.io(device, RequestKind::Flush, 0, Vec::new());
        if matches!(flushed, Some(Ok(_))) && !self.town.site.is_dead() {
            self.content(part).unwrap().flush();
        }
        Ok(())
    }

    fn del(&mut self, part: Part, force: bool) -> Result<(), String> {
        let device = self.device(part).ok_or("not there")?;
        let is_used = self.is_in_use(Lower) || self.is_in_use(Top);
        let outlived = force || part == Upper && is_used;
        let deleted = self.ask(Command::Del { devices: vec![device], force }).map(drop);
        if deleted.is_ok() && !self.town.site.is_dead() {
            self.strike_gone();
        }
        if let (Some(known), true) = (&mut self.upper, outlived) {
            known.owed = false;
        }
        deleted
    }

    fn merge(&mut self, keep: bool) -> Result<(), String> {
        let device = self.device(Upper).ok_or("not there")?;
        let (force, defer, bytes_per_second) = (false, false, None);
        self.ask(Command::Merge { device, force, defer, keep, bytes_per_second })?;
        if !self.town.site.is_dead() {
            self.is_merged();
        }
        Ok(())
    }

    /// Suspends or resumes the device of the COW.
    fn hold(&mut self, held: bool) -> Result<(), String> {
        let device = *self.under.get(UNDER_COW).ok_or("not there")?;
        let command = match held {
            true => Command::Suspend { device, noflush: false },
            false => Command::Resume { device },
        };
        self.ask(command).map(drop)
    }

    /// What a suspended device has kept from being taken over is taken over.
    fn let_go_on(&mut self, recovered: &Result<(), String>) {
        if recovered.is_err() && self.act(Do::Hold(false)).is_ok() {
            drop(self.act(Do::Recover));
        }
    }

    fn terminate(&mut self) -> Result<(), String> {
        let ended = self.ask(Command::Shutdown).map(drop);
        let leaves = |process: &Process| process.admin.ending() == Ending::Leaves;
        if self.town.processes.get(KEY).is_some_and(leaves) && !self.town.site.is_dead() {
            self.town.processes.remove(KEY).unwrap().kill();
        }
        if !self.town.site.is_dead() {
            let used = self.is_in_use(Lower) || self.is_in_use(Top);
            let had = self.upper.is_some();
            self.strike_gone();
            if used && (self.lower.is_none() || had && self.upper.is_none()) {
                return Err("the end of the server has deleted what is in use".to_owned());
            }
        }
        ended
    }

    fn steal(&mut self, part: Part) -> Result<(), String> {
        let DeviceRef { id, .. } = self.device(part).ok_or("not there")?;
        if let Some(known) = &mut self.upper {
            known.owed = false;
        }
        if let Some(mut device) = self.town.site.kernel.borrow_mut().devices.remove(&id) {
            device.fail();
        }
        self.town.acting = Some(KEY);
        if let Some(process) = self.town.processes.get_mut(KEY) {
            process.admin.lose(id);
        }
        self.town.reap(KEY);
        Ok(())
    }

    /// The server or the power has ended at a step; what users knew is what the records tell.
    pub fn crash(&mut self, power: bool, step: Do) {
        let shown = self.shown();
        self.was_merging = self.is_merging();
        self.town.crash(power);
        if power {
            self.disk.power_lost();
            self.ground.power_lost();
            if let Some(known) = &mut self.upper {
                known.content.power_lost();
            }
            if matches!(step, Do::Merge(_)) && self.upper.is_some() || self.was_merging {
                // Who has asked for it asks again.
                self.is_merged();
                (self.unmerged, self.left, self.lower) = (true, None, None);
                self.under.clear();
                return;
            }
            // Whether the device will be the same is not known to any record.
            let is_kept = |known: &Known| known.owed && !matches!(step, Do::Add(_) | Do::Del(..));
            let kept = self.upper.take().filter(is_kept);
            self.left = kept.map(|known| (known.content, false));
            self.lower = None;
            self.under.clear();
            return;
        }
        self.waits = matches!(step, Do::Write(Lower | Top, _));
        if self.is_merging() {
            self.is_merged();
        }
        self.strike_gone();
        for device in self.left() {
            let found = device.device();
            if self.is_dead(found) {
                continue;
            }
            if let Some(word) = self.under_word(&device) {
                self.under.insert(word, found);
            } else if is_origins(&device, false) {
            } else if device.carrier().is_none() {
                self.lower.get_or_insert(found);
            } else if self.upper.is_none()
                && matches!(step, Do::Add(Upper))
                && device.spec.table.params.name() == "snapshot"
            {
                let Some(content) = shown.clone() else { continue };
                self.upper = Some(Known { device: found, content, owed: false });
            }
        }
        self.lower = self.lower.filter(|device| !self.is_dead(*device));
        let under = std::mem::take(&mut self.under).into_iter();
        self.under = under.filter(|(_, device)| !self.is_dead(*device)).collect();
        // A server that leaves a snapshot out records that, and the next one cannot know whether
        // the device has changed.
        let away = self.away && matches!(step, Do::Recover | Do::Write(Ground, _));
        let ends = matches!(step, Do::Del(Upper, _) | Do::Terminate);
        if let (Some(known), true) = (&mut self.upper, away || ends) {
            known.owed = false;
        }
    }

    /// A merge comes to its end, and its origin gets its plain table back.
    fn end_merge(&mut self) -> Result<(), String> {
        if let Some(process) = self.town.processes.get_mut(KEY) {
            drop(self.town.site.run(&process.executor.clone(), || false));
            process.admin.end_merges();
        }
        if let (true, Some(device)) = (self.unmerged, self.device(Top)) {
            // A table began it, and stays in place.
            match self.ask(Command::Del { devices: vec![device], force: false })? {
                Reply::Deleted => {}
                other => return Err(format!("the merge has not ended: {other:?}")),
            }
        }
        if self.is_merging() {
            return Err("the merge has not ended".to_owned());
        }
        self.judge(Lower)
    }

    /// After a loss of power the devices are added again, and what was asked for is asked again.
    fn add_again(&mut self) -> Result<(), String> {
        self.act(Do::Add(Lower))?;
        self.adopts = true;
        if self.unmerged {
            self.act(Do::Add(Top))?;
        }
        if self.left.as_ref().is_some_and(|(_, changed)| !changed) {
            self.act(Do::Add(Upper))?;
        }
        Ok(())
    }

    /// Does something, in which the server dies at a change, counted from 1, and is followed by
    /// another one. Returns whether it has come to that change.
    pub fn ends_at(&mut self, change: u64, act: impl FnOnce(&mut Stack)) -> bool {
        let has_ended = self.dies_at(change, act);
        if has_ended {
            self.recover().unwrap();
        }
        has_ended
    }

    /// The same without another server.
    pub fn dies_at(&mut self, change: u64, act: impl FnOnce(&mut Stack)) -> bool {
        let shared = self.town.site.shared.clone();
        let first = shared.lock().unwrap().changes;
        shared.lock().unwrap().crash_at = Some(first + change);
        act(self);
        let has_ended = self.town.site.is_dead();
        if has_ended {
            self.town.crash(false);
        }
        shared.lock().unwrap().crash_at = None;
        has_ended
    }

    /// Everything is taken over and judged, changed, judged again, and ends.
    pub fn end(&mut self) -> Result<(), String> {
        for disk in 0..self.town.site.disks.len() {
            self.town.attach(disk, true);
        }
        let recovered = self.recover();
        self.town.say(|| format!("end: recover: {recovered:?}"));
        self.let_go_on(&recovered);
        let is_other = |device: &DeviceState| {
            self.under_word(device).is_none() || self.is_dead(device.device())
        };
        if self.lower.is_none() && self.left().iter().any(is_other) {
            // One that was recorded and never live.
            return Ok(());
        }
        if self.lower.is_none() {
            self.add_again()?;
        }
        for part in [Lower, Upper, Top, Ground] {
            self.set_use(part, false);
            if let Some(device) = self.device(part) {
                drop(self.ask(Command::Resume { device }));
            }
        }
        for sector in [None, Some(2), Some(5)] {
            if let Some(sector) = sector {
                self.write(Lower, sector);
                self.write(Top, sector + 1);
                self.write(Ground, sector);
            }
            [Ground, Lower, Top, Upper].into_iter().try_for_each(|part| self.judge(part))?;
        }
        self.end_merge()?;
        self.judge_nodes()?;
        let mut all = self.left();
        all.sort_by_key(|device| (device.carrier().is_none(), device.joined().next().is_none()));
        for DeviceState { name, id, cookie, .. } in all {
            if !self.town.processes.contains_key(KEY) {
                let deleted = self.town.del_orphan(KEY, id, cookie, true);
                self.town.say(|| format!("end: del --force {name}: {deleted:?}"));
                continue;
            }
            let devices = vec![DeviceRef { id, cookie }];
            // A snapshot whose `add` has not come to its store has none to be marked.
            let deleted = self.ask(Command::Del { devices, force: true });
            self.town.say(|| format!("end: del {name}: {deleted:?}"));
            self.judge_nodes()?;
        }
        // What a server did not live to record has never been live.
        let kernel = self.town.site.kernel.borrow();
        let is_left = |device: &&Device| device.info.state != DiskState::Dead;
        let left = kernel.devices.values().filter(is_left).count();
        let fault = self.town.site.fault.borrow_mut().take();
        match fault {
            Some(why) => Err(why),
            None if left > 0 => Err(format!("{left} devices are left")),
            None => Ok(()),
        }
    }
}
