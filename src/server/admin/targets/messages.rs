//! Messages to a live mirror: changes of its legs, recovery, throttle.

use std::cell::Cell;
use std::rc::Rc;

use super::disks::check_range;
use super::leg_content::{content_of_leg, foreign_content};
use super::leg_names::{identity, number_of};
use super::own_legs::NewLeg;
use crate::failure::{Failure, Reason, wrong_usage};
use crate::protocol::{DeviceRef, KnownDisk, Reply};
use crate::server::admin::devices::{Device, LegRef, MESSAGES, find_leg, no_device, not_a_leg};
use crate::server::admin::machine::{Machine, OpenDisk, Thread};
use crate::server::admin::mutant::{self, Mutant};
use crate::server::admin::silent::Silent;
use crate::server::admin::state::Administrator;
use crate::server::admin::waiting::Errand;
use crate::storage::DiskId;
use crate::storage::word::leg_of;
use crate::ublk::device;
use dm_targets::mirror::table::{Leg, Mirror as Table};
use dm_targets::mirror::target::Mirror;
use dm_targets::table::TargetParams;
use dm_targets::units::Sectors;

impl<M: Machine> Administrator<M> {
    /// Carries out a short message; long ones are answered by threads of their own.
    pub(in crate::server::admin) fn message(
        &mut self,
        id: u32,
        words: &[String],
        named: &[DeviceRef],
    ) -> Result<Reply, Reason> {
        self.refuse_unfinished(id)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match *words {
            ["replace", leg, disk] => {
                let (at, new) = (self.leg(id, leg)?, new_leg(disk)?);
                let opened = self.open_leg(id, &new, Some(at))?;
                self.refuse_renumbered(std::slice::from_ref(&new.device), named)?;
                let found = self.found(id, &opened);
                let change = Change::with(&new, found, move |legs, new| legs[at] = new);
                self.change(id, change, move |thread, mirror| async move {
                    let parts = opened.parts(&*thread, &mirror);
                    mirror.replace_leg(at, parts).await.map_err(Failure::from)
                })?;
            }
            ["add-leg", disk] => {
                let new = new_leg(disk)?;
                let opened = self.open_leg(id, &new, None)?;
                self.refuse_renumbered(std::slice::from_ref(&new.device), named)?;
                let found = self.found(id, &opened);
                let change = Change::with(&new, found, |legs, new| legs.push(new));
                self.change(id, change, move |thread, mirror| async move {
                    let parts = opened.parts(&*thread, &mirror);
                    mirror.add_leg(parts).await.map_err(Failure::from)
                })?;
            }
            ["remove-leg", leg] => {
                let at = self.leg(id, leg)?;
                let change =
                    Change { new: None, apply: Box::new(move |legs| drop(legs.remove(at))) };
                self.change(id, change, move |_, mirror| async move {
                    mirror.remove_leg(at).await.map_err(Failure::from)
                })?;
            }
            ["recover"] => self.on_mirror(id, move |_, mirror| async move {
                mirror.recover_again();
                Ok(())
            })?,
            ["throttle", percent] => {
                let percent =
                    percent.parse::<u32>().ok().filter(|percent| (1..=100).contains(percent));
                let percent = percent
                    .ok_or_else(|| wrong_usage("throttle: must be a percentage from 1 to 100"))?;
                self.on_mirror(id, move |_, mirror| async move {
                    mirror.set_throttle(percent);
                    Ok(())
                })?;
            }
            _ => return Err(not_a_message(&words)),
        }
        Ok(Reply::Lines(Vec::new()))
    }

    /// The legs of a mirror, or the error that the device is no mirror.
    fn legs(&self, id: u32) -> Result<Vec<LegRef>, Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        entry.legs().ok_or_else(|| format!("/dev/ublkb{id}: only a mirror takes messages").into())
    }

    fn leg(&self, id: u32, word: &str) -> Result<usize, Reason> {
        let legs = self.legs(id)?;
        find_leg(&legs, word).ok_or_else(|| not_a_leg(&legs, id, word))
    }

    fn open_leg(
        &mut self,
        id: u32,
        leg: &Leg,
        place: Option<usize>,
    ) -> Result<NewLeg<M::Open>, Reason> {
        self.refuse_circle_of_leg(id, &leg.device, place)?;
        if self.own_at(&leg.device).is_none() {
            Silent::on(&self.machine, [leg.device.clone()])?;
        }
        let legs = self.legs(id)?;
        let (disk, claimed_by) = self.open_new_leg(id, leg, place, &legs)?;
        self.refuse_own_disk(id, &disk, leg, place)?;
        let below = device::params(&[disk.limits()], true, Sectors(0), false, None);
        self.check_fits(id, &below).map_err(|why| why.context(&leg.device))?;
        let len = self.devices.get(&id).ok_or_else(|| no_device(id))?.spec.table.len;
        check_range(&disk, leg.offset, len)?;
        if !self.is_disk_of_leg(id, &disk, leg, place) {
            self.refuse_other_content(id, &disk, leg)?;
        }
        self.refuse_leg_of_ended(&disk, leg)?;
        let (identity, offset) = (identity(&disk, leg), leg.offset);
        let number = number_of(&disk);
        Ok(NewLeg { disk, offset, identity, number, claimed_by })
    }

    /// Refuses a disk that holds other content than the mirror's own; a former leg holds the
    /// latter.
    fn refuse_other_content(&self, id: u32, disk: &M::Open, leg: &Leg) -> Result<(), Reason> {
        let len = self.devices.get(&id).ok_or_else(|| no_device(id))?.spec.table.len;
        if foreign_content(disk, leg.offset, len, &[], false)?.is_none() {
            return Ok(());
        }
        let sources = move |thread: Rc<M::Thread>| async move {
            let mirror = thread.group().mirror(id)?;
            Ok::<_, Reason>(mirror.legs().iter().map(|leg| leg.source).collect::<Vec<_>>())
        };
        let sources = self.machine.call(sources)??;
        let Some(mirror) = self.devices.get(&id).and_then(Device::mirror) else { return Ok(()) };
        let sources = mirror.legs.iter().zip(sources).filter(|(_, source)| *source);
        let right = sources.filter_map(|(other, _)| {
            let disk = self.look_at(&other.device).ok()?;
            content_of_leg(&disk, other.offset, len).ok()
        });
        let right: Vec<_> = right.flatten().collect();
        let found = foreign_content(disk, leg.offset, len, &right, false)?;
        found.map_or(Ok(()), |found| {
            let (path, remedy) = (&leg.device, found.remedy(&leg.device));
            Err(format!("{path}: {found}, which recovery would destroy; {remedy} first").into())
        })
    }

    /// Changes a mirror's legs and records that. A change that waits for a disk that does not
    /// answer is canceled, or, if it is too late for that, completed when the disk answers.
    fn change<F: Future<Output = Result<(), Reason>> + 'static>(
        &mut self,
        id: u32,
        change: Change,
        job: impl FnOnce(Rc<M::Thread>, Rc<Mirror>) -> F + Send + 'static,
    ) -> Result<(), Reason> {
        if let Some((leg, disk)) = &change.new {
            self.announce(id, leg, disk)?;
        }
        let change = Rc::new(Cell::new(Some(change)));
        let later = change.clone();
        let job = move |thread: Rc<M::Thread>| async move {
            let mirror = thread.group().mirror(id)?;
            job(thread, mirror).await
        };
        let then = move |admin: &mut Administrator<M>, changed: Result<(), Reason>| {
            let recorded = changed.and_then(|()| {
                log::warn!("/dev/ublkb{id}: its disk answers again; its legs have been changed");
                later.take().map_or(Ok(()), |change| admin.change_legs(id, change))
            });
            if let Err(why) = recorded {
                log::warn!("/dev/ublkb{id}: {why}");
                admin.withdraw(id);
            }
        };
        match self.wait_for(Errand::on(id, "message"), job, then) {
            Ok(changed) => {
                changed.inspect_err(|_| self.withdraw(id))?;
                change.take().map_or(Ok(()), |change| self.change_legs(id, change))
            }
            Err(why) => {
                self.give_up_change(id);
                Err(why.context(format!("/dev/ublkb{id}: its legs have not been changed")))
            }
        }
    }

    pub(in crate::server::admin) fn give_up_change(&mut self, id: u32) {
        let given_up = self.on_mirror(id, |_, mirror| async move {
            mirror.give_up();
            Ok(())
        });
        if let Err(why) = given_up {
            log::error!("{why}");
        }
        self.finish_late_jobs();
    }

    fn on_mirror<F: Future<Output = Result<(), Reason>> + 'static>(
        &self,
        id: u32,
        job: impl FnOnce(Rc<M::Thread>, Rc<Mirror>) -> F + Send + 'static,
    ) -> Result<(), Reason> {
        self.machine.call(move |thread| async move {
            let mirror = thread.group().mirror(id)?;
            job(thread, mirror).await
        })?
    }

    /// What is recorded of a new leg's disk.
    fn found(&self, id: u32, leg: &NewLeg<M::Open>) -> (DiskId, KnownDisk) {
        let mirror = self.devices.get(&id).and_then(Device::mirror);
        let old = mirror.zip(leg.claimed_by).and_then(|(mirror, at)| mirror.legs.get(at));
        let known = old.and_then(|old| self.known_of(id, &old.device));
        let shared = known.is_some_and(|known| known.shared);
        // A disk that the mirror has without a claim is opened like that by the next server.
        let entry = self.devices.get(&id);
        let own = entry.and_then(|entry| entry.deps.of(leg.disk.id()));
        let unclaimed = own.is_some_and(|own| own.unclaimed);
        (leg.disk.id(), KnownDisk { shared, unclaimed, ..self.known_disk(&leg.disk) })
    }

    /// Records changed legs for `list`, `table` and the next server.
    fn change_legs(&mut self, id: u32, change: Change) -> Result<(), Reason> {
        self.set_coming(id, None);
        if let Some(entry) = self.devices.get_mut(&id) {
            if let TargetParams::Mirror(Table { legs, .. }) = &mut entry.spec.table.params {
                (change.apply)(legs);
            }
            if let Some((leg, (id, known))) = change.new {
                entry.deps.insert(&leg.device, id, known);
            }
            // A removed disk is free for other devices.
            entry.deps.retain(&entry.spec.table.params.devices());
            entry.spec.force &= entry.deps.known().values().any(|disk| disk.shared);
        }
        self.publish();
        if mutant::is(Mutant::LegsNotRecorded) {
            return Ok(());
        }
        self.record(None).map_err(|why| {
            why.context("done, but the state file still lists the old legs")
                .ending("; repeat the message when the run directory has room")
        })
    }
}

/// Changes the legs of a table.
type Apply = Box<dyn FnOnce(&mut Vec<Leg>)>;

/// A change of a table's legs.
struct Change {
    /// A new leg, and its disk.
    new: Option<(Leg, (DiskId, KnownDisk))>,
    apply: Apply,
}

impl Change {
    fn with(
        leg: &Leg,
        disk: (DiskId, KnownDisk),
        apply: impl FnOnce(&mut Vec<Leg>, Leg) + 'static,
    ) -> Change {
        let new = Some((leg.clone(), disk));
        let leg = leg.clone();
        Change { new, apply: Box::new(move |legs| apply(legs, leg)) }
    }
}

fn new_leg(word: &str) -> Result<Leg, Reason> {
    leg_of(word)
}

fn not_a_message(words: &[&str]) -> Reason {
    let what = match words {
        ["replace" | "add-leg" | "remove-leg" | "recover" | "throttle", ..] => {
            "wrong number of words"
        }
        _ => "unknown",
    };
    wrong_usage(format!("message '{}': {what}; a mirror takes {MESSAGES}", words.join(" ")))
}
