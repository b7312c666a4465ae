//! `resize`: a device becomes longer while it is in use, as far as its disks have grown below it.
//!
//! Rules kept here: all that can be refused is refused before anything is changed, and first of all
//! what the kernel cannot do; the new length is on record before users can see it, so that the next
//! server has room for every request that they may send; and a device is never longer than its
//! disks. A server that dies in between leaves a device whose recorded length is the old or the new
//! one, and the next server shows its users the recorded one. A mirror's target grows before the
//! record does, the others after it: opened with the new length, a mirror must already know that
//! its new regions differ, and a snapshot must not have preserved anything for the new part.

use std::pin::Pin;
use std::rc::Rc;

use dm_targets::mirror::table::Leg;
use dm_targets::table::TargetParams;
use dm_targets::units::Sectors;

use super::devices::{Device, no_device};
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::silent::Silent;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Failure, Kind, Reason, wrong_usage};
use crate::protocol::{DeviceRef, DeviceState, Place, Reply};
use crate::storage::{Access, Claim};
use crate::ublk::device::replaced;
use crate::ublk::{DeviceState as DiskState, Params};

impl<M: Machine> Administrator<M> {
    /// Makes a device longer, up to so many bytes, or to the end of its disks.
    ///
    /// # Errors
    /// The device is as it was, or the error says what is left.
    pub(super) fn resize(&mut self, id: u32, bytes: Option<u64>) -> Result<Reply, Reason> {
        let name = self.name_of(id)?;
        let resized = self.grow(id, bytes);
        resized.map(|()| Reply::Done).map_err(|why| why.context(format!("{name}: not resized")))
    }

    fn grow(&mut self, id: u32, bytes: Option<u64>) -> Result<(), Reason> {
        self.refuse_unfinished(id)?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        refuse_to_grow(entry).map_or(Ok(()), |why| Err(refused(why)))?;
        self.refuse_beside_merge(entry)?;
        let (cookie, before) = (entry.info.target_flags, entry.spec.table.len);
        let info = self.ours(id, cookie)?.ok_or_else(|| replaced(id))?;
        if info.state != DiskState::Live {
            return Err(refused("the kernel has stopped it"));
        }
        let now = self.machine.params(id)?;
        let shown = Sectors(now.dev_sectors);
        // A kernel that cannot resize says so here, where nothing has been changed.
        self.machine.resize(id, shown)?;
        let len = self.new_length(id, bytes, &now)?;
        if (len, len) == (before, shown) {
            return Ok(());
        }
        self.refuse_content_behind(id, before, len)?;
        self.announce_growth(id, len)?;
        let prepared = self.prepare_length(id, len);
        self.has_left(id);
        prepared.inspect_err(|_| {
            // What was announced is more than the device has.
            let recorded = self.ensure_recorded();
            recorded.unwrap_or_else(|why| log::error!("/dev/ublkb{id}: {why}"));
        })?;
        let late = mutant::is(Mutant::GrownUnrecorded);
        self.record_length(id, len, late).inspect_err(|_| {
            self.cut_target(id, before);
        })?;
        self.give_length(id, before, len)?;
        if late { self.record(None) } else { Ok(()) }
    }

    /// Refuses a snapshot beside another one that is being merged into its origin, and the device
    /// that carries an origin into which one is merged.
    fn refuse_beside_merge(&self, device: &Device) -> Result<(), Reason> {
        let own = DeviceRef { id: device.info.id, cookie: device.info.target_flags };
        let is_snapshot = matches!(device.spec.table.params, TargetParams::Snapshot(_));
        let merges = |one: &DeviceState| {
            matches!(one.spec.table.params, TargetParams::SnapshotMerge(_))
                && (one.carrier() == Some(own)
                    || is_snapshot && one.carrier() == device.deps.carrier())
        };
        if !self.all_states().iter().any(merges) || mutant::is(Mutant::GrownBelowMerge) {
            return Ok(());
        }
        let which = if is_snapshot { "another" } else { "a" };
        let what = "it can be resized when the merge has ended";
        Err(refused(format!("{which} snapshot is being merged into its origin: {what}")))
    }

    /// The new length of a device, if it can have that.
    fn new_length(&mut self, id: u32, bytes: Option<u64>, now: &Params) -> Result<Sectors, Reason> {
        self.look_at_disks_again(id)?;
        let room = self.machine.call(move |thread| async move {
            let room = thread.group().device(id).and_then(|device| device.target().room());
            room.map(|(room, disk)| (room, disk.to_string()))
        })?;
        let (room, short) = room.ok_or_else(|| refused("it has no table: resume it first"))?;
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let (before, disks) = (entry.spec.table.len, entry.spec.table.params.devices());
        let disks = disks.join(", ");
        let room = in_blocks_of(now, room);
        let (has, block) = (before.bytes(), 1_u64 << now.logical_shift);
        if bytes.is_none() && self.shares_disks(entry) {
            return Err(refused(format!(
                "{disks}: used by others as well, so the new size must be given"
            )));
        }
        if bytes.is_none() && room < before {
            let room = room.bytes();
            return Err(refused(format!(
                "{short}: there is room for {room} bytes, and the device has {has}: the disk has \
                 become shorter"
            )));
        }
        let bytes = bytes.unwrap_or(room.bytes());
        if bytes < has {
            return Err(refused(format!(
                "it has {has} bytes and would have {bytes}: a device cannot shrink, because its \
                 users have data behind the new end"
            )));
        }
        if bytes % block != 0 {
            return Err(wrong_usage(format!(
                "{bytes} bytes are not a multiple of its block size of {block} bytes"
            )));
        }
        if bytes > room.bytes() && !mutant::is(Mutant::GrownBeyondDisk) {
            let room = room.bytes();
            return Err(refused(format!(
                "{short}: there is room for {room} bytes, not for {bytes}: make {short} longer \
                 first"
            )));
        }
        let len = Sectors::from_bytes(bytes);
        refuse_legs_that_meet(entry, len)?;
        self.refuse_neighbour(entry, len)?;
        if len > before {
            let fits = self.machine.call(move |thread| async move {
                thread.group().device(id).map(|device| device.target().check_size(len))
            });
            fits?.ok_or_else(|| no_device(id))?.map_err(refused)?;
        }
        Ok(len)
    }

    /// Opens a device's disks once more: each must still be the one that its path leads to. A
    /// partition that has grown is in a larger place than before, which is recorded with the new
    /// length.
    fn look_at_disks_again(&mut self, id: u32) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let known = entry.deps.known();
        // A device of this server is not opened.
        let words = entry.state().opened();
        Silent::on(&self.machine, words.clone())?;
        for word in words {
            let disk = self.machine.open(&word, Access::ReadOnly, Claim::Shared)?;
            let found = self.recognized(&word, &disk, Some(&known))?;
            for device in self.devices.values_mut() {
                device.deps.set_place(&word, &found.place);
            }
            if let Some(origin) = self.origins.of_mut(None) {
                let mut all = self.devices.values();
                if all.any(|one| one.deps.id(&word) == Some(origin.disk)) {
                    origin.known.place = found.place;
                }
            }
        }
        Ok(())
    }

    /// Whether other devices or programs may use what is behind the end of a device.
    fn shares_disks(&self, device: &Device) -> bool {
        let in_part = device.deps.disks().any(|(.., known)| known.unclaimed);
        if !matches!(device.spec.table.params, TargetParams::Linear(_) | TargetParams::Mirror(_)) {
            return in_part;
        }
        let id = device.info.id;
        let others = || self.devices.values().filter(move |other| other.info.id != id);
        in_part
            || device.spec.force
            || device
                .deps
                .disks()
                .any(|(_, disk, known)| known.shared || others().any(|one| one.deps.has(disk)))
    }

    /// Refuses a range that would grow over that of another device on the same disk, unless they
    /// share the disk by force.
    fn refuse_neighbour(&self, device: &Device, len: Sectors) -> Result<(), Reason> {
        let TargetParams::Linear(linear) = &device.spec.table.params else { return Ok(()) };
        let Some(disk) = device.deps.id(&linear.device) else { return Ok(()) };
        let Some(known) = device.deps.of(disk).filter(|known| !known.shared) else { return Ok(()) };
        let has = device.spec.table.len;
        let range = (linear.offset.plus(has), Sectors(len.0.saturating_sub(has.0)));
        let served = self.user_of(disk, range, Some(device.info.id));
        let served = served.map(|other| (other.info.id, &other.name));
        let waits = || self.waits_for(disk, &known, range).map(|other| (other.id, &other.name));
        match served.or_else(waits) {
            Some((id, name)) => Err(refused(format!(
                "{}: the part behind its end is in use by /dev/ublkb{id} ({name})",
                linear.device
            ))),
            None => Ok(()),
        }
    }

    /// What a target does before its new length is on record.
    fn prepare_length(&mut self, id: u32, len: Sectors) -> Result<(), Reason> {
        let job = move |thread: Rc<M::Thread>| async move {
            match thread.group().device(id) {
                Some(device) => device.target().prepare_size(len).await,
                None => Err("the device is gone".to_owned()),
            }
        };
        let then = move |admin: &mut Administrator<M>, prepared: Result<(), String>| {
            if let Some(before) = admin.devices.get(&id).map(|entry| entry.spec.table.len) {
                admin.cut_target(id, before);
            }
            let now = prepared.err().unwrap_or_else(|| "its `resize` can be repeated".to_owned());
            log::warn!("/dev/ublkb{id}: its disk answers again, and it has its old size: {now}");
        };
        let prepared = self.wait_for(Errand::on(id, "resize"), job, then);
        let prepared = prepared.inspect_err(|_| self.give_up_change(id))?;
        prepared.map_err(Reason::from)
    }

    /// Gives a device its recorded length: its target first, then its users.
    fn give_length(&mut self, id: u32, before: Sectors, len: Sectors) -> Result<(), Reason> {
        let then = move |admin: &mut Administrator<M>, set| match admin
            .show_length(id, before, len, set)
        {
            Ok(()) => log::warn!("/dev/ublkb{id}: its disk answers again; it is resized"),
            Err(why) => log::error!("/dev/ublkb{id}: not resized: {why}"),
        };
        let set = self.wait_for(Errand::on(id, "resize"), set_size(id, len), then);
        let set =
            set.map_err(|why| why.ending("; the device gets its new size when that answers"))?;
        self.show_length(id, before, len, set)
    }

    /// Shows its users the length that a target has been given, or takes that back.
    fn show_length(
        &mut self,
        id: u32,
        before: Sectors,
        len: Sectors,
        set: Result<(), String>,
    ) -> Result<(), Reason> {
        let shown = set.map_err(Reason::from).and_then(|()| self.machine.resize(id, len));
        if let Err(why) = shown {
            // The kernel may have done what it did not answer in time.
            let has = self.machine.params(id).is_ok_and(|now| now.dev_sectors == len.0);
            if !has {
                return Err(self.take_length_back(id, before, why));
            }
        }
        self.publish();
        if let Some(entry) = self.devices.get(&id) {
            let (from, to) = (before.bytes(), len.bytes());
            log::info!("{}: resized from {from} to {to} bytes", entry.name);
        }
        Ok(())
    }

    /// Gives a device that could not be resized its old length again.
    fn take_length_back(&mut self, id: u32, before: Sectors, why: Reason) -> Reason {
        self.cut_target(id, before);
        self.set_length(id, before);
        match self.record(None) {
            Ok(()) => why,
            Err(record) => why.ending(format!(
                "; besides, its old size cannot be recorded ({record}): the next server may give \
                 it the new one"
            )),
        }
    }

    /// Gives a device's target the length again that its users have: a mirror has grown before that
    /// was on record, and would recover regions that no user sees.
    fn cut_target(&mut self, id: u32, before: Sectors) {
        let then = |_: &mut Administrator<M>, _| {};
        let set = self.wait_for(Errand::on(id, "resize"), set_size(id, before), then);
        if let Err(why) = set.and_then(|set| set.map_err(Reason::from)) {
            log::error!("/dev/ublkb{id}: its target is longer than the device: {why}");
        }
    }

    /// Records a device's new length.
    fn record_length(&mut self, id: u32, len: Sectors, late: bool) -> Result<(), Reason> {
        let before = self.devices.get(&id).ok_or_else(|| no_device(id))?.spec.table.len;
        self.set_length(id, len);
        let recorded = if late { Ok(()) } else { self.record(None) };
        recorded.map_err(|why| {
            self.set_length(id, before);
            why.context("its new size cannot be recorded")
        })
    }

    fn set_length(&mut self, id: u32, len: Sectors) {
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.spec.table.len = len;
        }
    }

    /// Shows a device that has been taken over in its recorded length: the server before may have
    /// died just before it could.
    pub(super) fn finish_growth(&mut self, id: u32) {
        let Some(entry) = self.devices.get(&id) else { return };
        let (name, recorded) = (entry.name.clone(), entry.spec.table.len);
        let grown = self.machine.params(id).and_then(|now| {
            let len = in_blocks_of(&now, recorded);
            if len.0 <= now.dev_sectors || mutant::is(Mutant::GrowthUnfinished) {
                return Ok(());
            }
            self.machine.resize(id, len)
        });
        if let Err(why) = grown {
            let hint = format!("`ublk-dm resize {name}` tries again");
            log::warn!("{name}: its users do not see its size as it is recorded: {why}; {hint}");
        }
    }
}

/// The job that gives a device's target another length.
fn set_size<T: Thread>(id: u32, len: Sectors) -> impl FnOnce(Rc<T>) -> Sizing + Send + 'static {
    move |thread| Box::pin(async move { thread.group().set_size(id, len).await })
}

/// A job's future: it stays on the thread that has the targets.
type Sizing = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// Refuses a mirror with two legs on one disk that would overlap.
fn refuse_legs_that_meet(device: &Device, len: Sectors) -> Result<(), Reason> {
    let Some(mirror) = device.mirror() else { return Ok(()) };
    let known = device.deps.known();
    let place =
        |leg: &Leg| Some(known.get(&leg.device)?.place.part(leg.offset.bytes(), len.bytes()));
    let places: Vec<_> = mirror.legs.iter().map(place).collect();
    for (at, here) in places.iter().enumerate() {
        let meets = |other: &Option<Place>| {
            other.as_ref().zip(here.as_ref()).is_some_and(|(other, here)| other.overlaps(here))
        };
        if places[..at].iter().any(meets) {
            let leg = &mirror.legs[at].device;
            return Err(refused(format!("{leg}: two legs on it would overlap")));
        }
    }
    Ok(())
}

fn refused(why: impl Into<String>) -> Reason {
    Failure::new(Kind::Refused, why)
}

/// The part of a length that is made of whole blocks of a device.
fn in_blocks_of(device: &Params, len: Sectors) -> Sectors {
    len.whole_blocks(1 << device.logical_shift.max(9))
}

/// Why a device cannot be resized now, or ever.
fn refuse_to_grow(device: &Device) -> Option<String> {
    let name = &device.name;
    if device.waits {
        return Some(format!("it waits for a server: `ublk-dm recover {name}` gives it one"));
    }
    if device.suspended {
        return Some(format!("it is suspended: `ublk-dm resume {name}` comes first"));
    }
    if device.loaded.is_some() {
        return Some(format!(
            "a table is loaded for it, with the old size: `ublk-dm resume {name}` puts that in \
             place first"
        ));
    }
    let never = match device.spec.table.params {
        TargetParams::Linear(_)
        | TargetParams::SnapshotOrigin { .. }
        | TargetParams::Snapshot(_)
        | TargetParams::Mirror(_) => return None,
        TargetParams::SnapshotMerge(_) => {
            "a snapshot is being merged into it: it can be resized when the merge has ended"
        }
        TargetParams::Segments(_) => "its table has several lines, each of its own length",
        TargetParams::Error | TargetParams::Zero => "it has no disk that could have grown",
    };
    Some(never.to_owned())
}
