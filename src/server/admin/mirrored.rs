//! A mirror in the place of ranges, and ranges in the place of a mirror, on a device in use: this
//! is how its data moves to another disk.
//!
//! Rules kept here (I10): what a mirror is made of the data of a device is recovered from the leg
//! that has them; a mirror is left only for a leg that is known to be right, which is judged again
//! when no request is under way; which leg is right is on record before the new table is, so that
//! the next server knows it whichever table it finds; and from then on the other legs of a mirror
//! that is left count as stale. What the mirror has in sync is durable on its legs when it is
//! suspended: no flush of a later table has to reach it. A log that is left knows nothing of the
//! legs from then on, and says so itself: in another boot there is no other record.

use std::rc::Rc;

use dm_targets::mirror::leg_state::LegState;
use dm_targets::mirror::status::LegHealth;
use dm_targets::mirror::table::{Leg, Mirror as Table};
use dm_targets::mirror::target::{LegReport, Mirror, RecordError};
use dm_targets::segments::table::placed;
use dm_targets::table::TargetParams;
use dm_targets::target::Target;
use dm_targets::units::{Sectors, overlap};

use super::devices::{Device, Published, is_mirror, no_device, ranges_of};
use super::held::Held;
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::state::Administrator;
use super::targets::{Replaced, Whose};
use super::waiting::Errand;
use crate::failure::{Failure, Reason};
use crate::protocol::DeviceSpec;
use crate::storage::{Access, Claim, DiskId};

impl<M: Machine> Administrator<M> {
    /// Opens a mirror that replaces a device's table of ranges. It is recovered from the leg that
    /// has the device's data.
    pub(super) fn prepare_mirror_over(
        &mut self,
        id: u32,
        table: &DeviceSpec,
    ) -> Result<NewDevice<M>, Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let TargetParams::Mirror(mirror) = &table.table.params else {
            return Err(format!("/dev/ublkb{id}: this is no mirror's table").into());
        };
        let beside = self.devices.len() + self.left_out.len() + self.undone_later.len();
        if beside > 1 && self.has_others_than_lower(&table.table.params, None) {
            let what = "its server has other devices, and a mirror is alone in its server, but for \
                        what it stands on and what stands on it: delete the others first";
            return Err(format!("/dev/ublkb{id}: {what}").into());
        }
        // A mirror that was left may have ended with its record where the new one's will be.
        if !mutant::is(Mutant::LeftLegsOverwritten) {
            self.keep_former_legs().map_err(|why| {
                why.context("what an earlier mirror knew of its legs cannot be kept on record")
            })?;
        }
        // Its disks may be others than when it was loaded.
        self.refuse_circle_of(&table.table.params, Some(id))?;
        let (name, mirror) = (entry.name.clone(), mirror.clone());
        let data_on = self.leg_with_data(entry, &mirror);
        if data_on.is_none() && !table.force {
            refuse_torn_data(entry, &mirror, |leg| self.machine.disk_at(leg))?;
            self.refuse_no_data(entry, table)?;
        }
        let data_on = data_on.filter(|_| !mutant::is(Mutant::LegWithDataForgotten));
        if let (Some(source), Some(right), false) = (table.source, data_on, table.force) {
            if source != right {
                let (source, right) = (&mirror.legs[source].device, &mirror.legs[right].device);
                return Err(format!(
                    "{source}: the data of the device are on {right}, which would be overwritten; \
                     --force takes {source} as the source nevertheless"
                )
                .into());
            }
        }
        let spec = DeviceSpec { source: table.source.or(data_on), ..table.clone() };
        let data_on = data_on.filter(|right| spec.source == Some(*right));
        let over = Some(Replaced { device: id, data_on });
        let whose = Whose { name: Some(&name), closed: None };
        self.open_mirror(&mirror, spec, whose, Default::default(), None, over)
    }

    /// The leg that has what a device of ranges shows: each of its ranges that is on a disk.
    fn leg_with_data(&self, entry: &Device, mirror: &Table) -> Option<usize> {
        let lines = ranges_of(&entry.spec.table)?;
        let is_it = |leg: &Leg| {
            let disk = self.machine.disk_at(&leg.device);
            let mut ranges = placed(&lines)
                .filter_map(|(start, line)| Some((start, line.params.linear()?)))
                .peekable();
            disk.is_some()
                && ranges.peek().is_some()
                && ranges.all(|(start, linear)| {
                    entry.deps.id(&linear.device) == disk
                        && linear.offset == leg.offset.plus(Sectors(start.0))
                })
        };
        mirror.legs.iter().position(is_it)
    }

    /// Refuses a mirror none of whose legs has any of a device's data, unless one is named: what
    /// the device showed would be gone without a word.
    fn refuse_no_data(&self, entry: &Device, table: &DeviceSpec) -> Result<(), Reason> {
        let lines = ranges_of(&entry.spec.table).unwrap_or_default();
        let data = lines.iter().find_map(|line| line.params.linear());
        let asked = table.source.is_none() && !mutant::is(Mutant::NoLegWithData);
        let Some(linear) = data.filter(|_| asked) else { return Ok(()) };
        for leg in table.table.params.devices() {
            // A leg that has the data under another name is refused for that.
            if let Ok(disk) = self.machine.open(&leg, Access::ReadOnly, Claim::Shared) {
                self.refuse_second_name(&leg, &disk)?;
            }
        }
        Err(format!(
            "{}: the device's data are on it, and no leg has them in their place: name the leg \
             that is right with --source, or use --force",
            linear.device
        )
        .into())
    }

    /// Refuses ranges in the place of a mirror that are on a leg that is not known to be right, or
    /// where another part of the data would be.
    pub(super) fn refuse_left_leg(&self, id: u32, table: &DeviceSpec) -> Result<(), Reason> {
        let Some(leg) = self.left_for(id, table)? else { return Ok(()) };
        if table.force || mutant::is(Mutant::LeftUnjudged) {
            return Ok(());
        }
        let legs = |mirror: &Mirror| mirror.legs().iter().map(not_right).collect::<Vec<_>>();
        let Some(legs) = self.call_mirror(id, legs)? else {
            return Err(format!(
                "/dev/ublkb{id}: its mirror is not there, so whether leg {leg} is right is not \
                 known: load the mirror's table first, or use --force"
            )
            .into());
        };
        let Some((path, Some(why))) = legs.get(leg) else { return Ok(()) };
        let others = legs.iter().enumerate().filter(|(_, (_, why))| why.is_none());
        let others: Vec<_> = others.map(|(at, (path, _))| format!("leg {at} ({path})")).collect();
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        Err(format!(
            "{path}: leg {leg} of the mirror is not known to be right: {why}; up to date: \
             {others}; if it is being recovered, `ublk-dm wait {id} --in-sync` waits until it is; \
             --force takes it as it is"
        )
        .into())
    }

    /// The leg that a table of ranges is on which replaces a mirror's. `None`: it is on none of
    /// them, or none of the two is such a table.
    ///
    /// # Errors
    /// It is on more than one leg, or on a part of the data that belongs elsewhere.
    fn left_for(&self, id: u32, table: &DeviceSpec) -> Result<Option<usize>, Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let (Some(mirror), Some(lines)) = (entry.mirror(), ranges_of(&table.table)) else {
            return Ok(None);
        };
        let len = table.table.len;
        let mut found = None;
        for (start, line) in placed(&lines) {
            let Some(linear) = line.params.linear() else { continue };
            let Some(disk) = self.machine.disk_at(&linear.device) else { continue };
            let on_disk = |leg: &Leg| entry.deps.id(&leg.device) == Some(disk);
            let range = (linear.offset, line.len);
            let overlaps = |leg: &Leg| overlap(range, (leg.offset, len));
            let legs = mirror.legs.iter().enumerate();
            for (at, leg) in legs.filter(|(_, leg)| on_disk(leg) && overlaps(leg)) {
                let path = &linear.device;
                if linear.offset != leg.offset.plus(Sectors(start.0)) {
                    let what = "the range is not where the mirror has that part of its data";
                    return Err(format!("{path}: leg {at} of the mirror: {what}").into());
                }
                if found.is_some_and(|other| other != at) {
                    let what = "the table is on more than one leg of the mirror: use one of them";
                    return Err(format!("{path}: {what}").into());
                }
                found = Some(at);
            }
        }
        Ok(found)
    }

    /// Records which leg is right before a table is replaced by another one: that of the mirror
    /// that is left, or the source of the mirror that begins. The device is suspended.
    ///
    /// # Errors
    /// The leg is not right any more, or that cannot be recorded.
    pub(super) fn record_right_leg(
        &self,
        id: u32,
        table: &DeviceSpec,
        new: &Held<M::Handle>,
    ) -> Result<(), Reason> {
        let recorded = if is_mirror(table) {
            if mutant::is(Mutant::BegunUnrecorded) {
                return Ok(());
            }
            self.machine.call(new.job(|_, opened| async move {
                match opened.target {
                    Target::Mirror(mirror) => mirror.record_again().map(|()| true),
                    _ => Ok(true),
                }
            }))?
        } else {
            // It may have failed since the table was prepared.
            self.refuse_left_leg(id, table)?;
            let leg = self.left_for(id, table)?.filter(|_| !mutant::is(Mutant::LeftUnrecorded));
            let (Some(leg), force) = (leg, table.force) else { return Ok(()) };
            self.machine.call(move |thread| async move {
                match thread.group().device(id).map(|device| device.target()) {
                    Some(Target::Mirror(mirror)) => mirror.record_left(leg, force).await,
                    _ => Ok(true),
                }
            })?
        };
        if !recorded.map_err(cannot_be_recorded)? {
            warn_of_log(id);
        }
        Ok(())
    }

    /// Closes the mirror of a suspended device, which `new` replaces. If that has another log, the
    /// present log will know nothing of the legs, and says so first; `force`: or is left as it is
    /// if it cannot be written. `again`: `new` is put back.
    ///
    /// # Errors
    /// It cannot be recorded or said, and the mirror stays. Or a disk does not answer: the mirror
    /// is closed when it does.
    pub(super) fn leave_mirror(
        &mut self,
        id: u32,
        new: &Table,
        force: bool,
        again: bool,
    ) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let log = entry.mirror().and_then(Table::log_device).and_then(|log| entry.deps.id(log));
        let new_log = new.log_device().and_then(|log| self.machine.disk_at(log));
        let leaves_log = log.is_some() && log != new_log && !again;
        self.close_target(id, if leaves_log { OldLog::Left { force } } else { OldLog::Stays })
    }

    /// Closes a suspended device's target.
    ///
    /// # Errors
    /// Its log cannot be left, and it stays. Or a disk does not answer: the target is closed when
    /// it does.
    pub(super) fn close_target(&mut self, id: u32, old_log: OldLog) -> Result<(), Reason> {
        let job = move |thread: Rc<M::Thread>| async move {
            let target = thread.group().device(id).map(|device| device.target());
            if let (Some(Target::Mirror(mirror)), OldLog::Left { force }) = (target, old_log) {
                if !mirror.leave_log(force).await.map_err(cannot_be_recorded)? {
                    warn_of_log(id);
                }
            }
            thread.group().take_target(id).await.map_err(Failure::from)
        };
        let then = move |_: &mut Administrator<M>, closed: Result<(), Failure>| {
            let lost = closed.err().map_or_else(String::new, |lost| format!("; {lost}"));
            log::warn!("/dev/ublkb{id}: its disk answers again, its old table is closed{lost}");
        };
        self.wait_for(Errand::on(id, "resume"), job, then)?
    }

    /// Keeps what a mirror that has been left for ranges knows of its legs, for later mirrors. In a
    /// family that has a mirror the record is that one's.
    pub(super) fn keep_left_legs(&self, id: u32) {
        let Published { devices, left_out, coming } = self.directory.all();
        let served = devices.values().map(|entry| &entry.spec);
        let left = left_out.values().map(|left| &left.device).chain(&coming);
        let mut specs = served.chain(left.map(|device| &device.spec));
        if specs.any(is_mirror) && !mutant::is(Mutant::LiveLegsMoved) {
            return;
        }
        match self.keep_former_legs() {
            Ok(None) => {}
            Ok(Some(state)) => log::info!("/dev/ublkb{id}: its mirror has ended; {}", state.told()),
            // The record stays where it was, and is kept when the server ends.
            Err(why) => log::error!("/dev/ublkb{id}: {why}"),
        }
    }

    /// The record of a mirror that is not there any more is kept for later mirrors, or removed: it
    /// must not speak again when a later mirror has said something else of its legs.
    fn keep_former_legs(&self) -> Result<Option<LegState>, Reason> {
        let kept = self.machine.records().keep_legs()?;
        if kept.is_none() {
            self.machine.records().forget_legs()?;
        }
        Ok(kept)
    }

    /// Forgets the record of a mirror's legs that was not put in the place of a device's ranges.
    pub(super) fn forget_begun(&self, id: u32) {
        if let Err(why) = self.machine.records().forget_legs() {
            log::error!("/dev/ublkb{id}: the record of a mirror that has not begun stays: {why}");
        }
    }

    /// Asks a device's mirror, if it has one.
    pub(super) fn call_mirror<T: Send + 'static>(
        &self,
        id: u32,
        ask: impl FnOnce(&Mirror) -> T + Send + 'static,
    ) -> Result<Option<T>, Reason> {
        self.machine.call(move |thread| async move {
            match thread.group().device(id)?.target() {
                Target::Mirror(mirror) => Some(ask(&mirror)),
                _ => None,
            }
        })
    }
}

/// Refuses a mirror that would copy one of its legs over a part of a device's data, none of whose
/// legs has all of that.
fn refuse_torn_data(
    entry: &Device,
    mirror: &Table,
    disk_at: impl Fn(&str) -> Option<DiskId>,
) -> Result<(), Reason> {
    let len = entry.spec.table.len;
    for line in ranges_of(&entry.spec.table).unwrap_or_default() {
        let Some(linear) = line.params.linear() else { continue };
        let disk = entry.deps.id(&linear.device);
        let meets = |leg: &&Leg| {
            disk.is_some()
                && disk_at(&leg.device) == disk
                && overlap((linear.offset, line.len), (leg.offset, len))
        };
        if let Some(leg) = mirror.legs.iter().find(meets) {
            return Err(format!(
                "{}: a part of the device's data is on this leg, and no leg has all of the data in \
                 its place: recovery would overwrite that part; move the data to one disk first, \
                 or use --force",
                leg.device
            )
            .into());
        }
    }
    Ok(())
}

/// What becomes of the log on disk of a mirror that is closed.
#[derive(Clone, Copy)]
pub(super) enum OldLog {
    /// There is none, or the next table has it.
    Stays,
    /// It is not used any more. `force`: also if it cannot be written, and so cannot say that.
    Left { force: bool },
}

/// By force, a log is left that could not be written.
fn warn_of_log(id: u32) {
    log::warn!(
        "/dev/ublkb{id}: its former log could not be written, and may call legs up to date that \
         are not: zero its first 4096 bytes before it is used again"
    );
}

/// The path of a leg, and why it is not known to be right.
fn not_right(leg: &LegReport) -> (String, Option<&'static str>) {
    let why = match leg {
        // One that cannot be read everywhere has all writes nevertheless.
        leg if leg.source && is_written(leg.health) => None,
        leg if leg.stale => Some("it has missed writes"),
        leg if !leg.source => Some("it is not in sync"),
        _ => Some("it has had errors"),
    };
    (leg.name.to_string(), why)
}

/// Whether no write to a leg and no flush of it has failed.
const fn is_written(health: LegHealth) -> bool {
    matches!(health, LegHealth::Alive | LegHealth::ReadFailed | LegHealth::SyncFailed)
}

fn cannot_be_recorded(RecordError(why): RecordError) -> Failure {
    Failure::from(why).context("the state of the legs cannot be recorded")
}
