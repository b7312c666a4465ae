//! Events on a machine other than its commands: killed processes, missing or failing disks, a full
//! or lost run directory, other programs.

use dm_targets::disk::Errno;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::units::Sector;

use super::kernel::Control;
use super::site::Attached;
use super::town::{Known, Town, What};
use crate::protocol::{Command, DeviceSpec};
use crate::ublk::device::is_ours;
use crate::ublk::{DeviceState as DiskState, Params};

impl Town {
    /// kill -9 between commands.
    pub(super) fn kill(&mut self, key: &'static str) {
        if self.processes.contains_key(key) {
            self.acting = Some(key);
            self.crash(false);
        }
    }

    pub(super) fn attach(&mut self, disk: usize, there: bool) {
        // An open disk stays open; only its path disappears.
        self.site.disks[disk].there.set(there);
    }

    pub(super) fn fill(&mut self, full: bool) {
        self.site.shared.lock().unwrap().full = full;
    }

    /// The run directory becomes full in the middle of an operation.
    pub(super) fn fill_later(&mut self, later: u64) {
        let mut shared = self.site.shared.lock().unwrap();
        shared.full_at = Some(shared.changes + later);
    }

    /// A state file is damaged in the middle of an operation.
    pub(super) fn damage_later(&mut self, key: &'static str, later: u64) {
        let mut shared = self.site.shared.lock().unwrap();
        shared.damage_at = Some((shared.changes + later, key));
    }

    /// The kernel refuses one request.
    pub(super) fn deny(&mut self, control: Control, skip: u32) {
        self.refusing = true;
        self.site.kernel.borrow_mut().denied.push((control, skip));
    }

    /// Another device is added on the COW of a snapshot that its family's server has left out.
    pub(super) fn add_beside(&mut self, at: usize, force: bool) -> Result<(), String> {
        let waits = self.devices.get(&What::Snap(at)).and_then(|known| self.kernel_state(known));
        if waits != Some(DiskState::Quiesced) || !self.processes.contains_key("o") {
            return Err("there is nothing beside which it would come".to_owned());
        }
        let spec = DeviceSpec { force, ..Town::spec(What::Snap(at)) };
        let command = Command::Add { name: Some("other".to_owned()), id: None, spec };
        match self.ask("o", command) {
            Ok(_) => {
                self.broken(format!("the COW of Snap({at}), which waits, is another device's"))
            }
            Err(why) => Err(why),
        }
    }

    /// Some operations of a disk fail.
    pub(super) fn fail(&mut self, disk: usize, class: Class, skip: u32) {
        self.faulty = true;
        self.failing.insert(disk);
        match (disk, class) {
            // The data to be copied cannot be read.
            (0, Class::Read) => self.doubtful = [true; 2],
            (1 | 2, _) => self.doubtful[disk - 1] = true,
            _ => {}
        }
        let (matcher, errno) = (Matcher::all(class), Errno::EIO);
        self.site.disks[disk].disk.borrow().inject(Fault { matcher, skip, times: 2, errno });
    }

    /// No operation of one class succeeds on a disk. With `probed`, neither does a read when the
    /// disk is opened.
    pub(super) fn break_down(&mut self, disk: usize, class: Class, probed: bool) {
        self.fail(disk, class, 0);
        let (matcher, errno) = (Matcher::all(class), Errno::EIO);
        let slot = &self.site.disks[disk];
        slot.disk.borrow().inject(Fault { matcher, skip: 0, times: u32::MAX, errno });
        slot.unreadable.set(probed);
    }

    /// The kernel does not start some of the devices that are taken over.
    pub(super) fn refuse_to_start(&mut self, count: u32) {
        (0..count).for_each(|_| self.deny(Control::StartAgain, 0));
    }

    /// All disks are present and work again, and the run directory has room.
    pub(super) fn mend(&mut self) {
        for disk in 0..self.site.disks.len() {
            self.site.disks[disk].there.set(true);
            self.put_right(disk);
            self.site.disks[disk].disk.borrow().mend();
            self.site.disks[disk].unreadable.set(false);
            self.hang(disk, false);
        }
        (self.faulty, self.refusing) = (false, false);
        self.failing.clear();
        self.site.kernel.borrow_mut().denied.clear();
        let mut shared = self.site.shared.lock().unwrap();
        (shared.full, shared.full_at, shared.damage_at) = (false, None, None);
    }

    /// The files of a family in the run directory are removed by mistake while the family has no
    /// server.
    pub(super) fn lose_files(&mut self, key: &'static str, damage: bool) {
        if self.processes.contains_key(key) {
            return;
        }
        self.spoilt.insert(key);
        self.site.files(|files| files.spoil(key, damage));
        if !damage {
            // The devices are unknown, and the journaled writes are gone.
            self.devices.retain(|what, _| what.key() != key);
            self.in_flight.retain(|(what, ..)| what.key() != key);
            if key == "o" {
                // Journaled writes that were not yet on their COW are lost with the journals.
                self.snaps.iter_mut().flatten().for_each(|snap| snap.content.power_lost());
                self.forget_records();
            } else {
                self.mirror_forfeit = true;
            }
        }
    }

    /// Another program adds a device.
    pub(super) fn add_foreign(&mut self) {
        let mut kernel = self.site.kernel.borrow_mut();
        let options = Town::spec(What::Lines).options;
        if let Some(info) = kernel.add(None, &options, &Params::default(), u32::MAX) {
            let id = info.id;
            if let Some(device) = kernel.devices.get_mut(&id) {
                device.info.state = DiskState::Live;
            }
            self.foreign.push((id, info.target_flags));
        }
    }

    /// Another program deletes one of our devices and, if `replaced`, adds one with the same
    /// number; a living server notices it.
    pub(super) fn steal(&mut self, what: What, replaced: bool) {
        let Some(Known { id, cookie, .. }) = self.devices.get(&what) else { return };
        let (id, cookie) = (*id, *cookie);
        {
            let mut kernel = self.site.kernel.borrow_mut();
            if !kernel.devices.get(&id).is_some_and(|device| is_ours(&device.info, cookie)) {
                return;
            }
            if let Some(mut device) = kernel.devices.remove(&id) {
                device.fail();
            }
        }
        if replaced {
            self.add_foreign();
        }
        self.devices.remove(&what);
        if let What::Snap(at) = what {
            self.doubtful[at] = true;
            if let Some(snap) = self.snaps[at].as_mut() {
                (snap.on_record, snap.owed) = (true, false);
            }
        }
        self.in_flight.retain(|(other, ..)| *other != what);
        self.acting = Some(what.key());
        if let Some(process) = self.processes.get_mut(what.key()) {
            process.admin.lose(id);
            let full = self.site.shared.lock().unwrap().full;
            if let (What::Snap(at), true, false) = (what, full, self.family_goes_on()) {
                // Without room its departure is only in the log.
                self.snaps[at].iter_mut().for_each(|snap| snap.on_record = false);
            }
        }
        self.reap(what.key());
        self.collect_replies();
    }

    pub(super) fn replace(&mut self, leg: usize, disk: usize) -> Result<(), String> {
        let device = self.devices.get(&What::Mirror).ok_or("not there")?.device();
        let path = self.site.disks[disk].path.clone();
        if !self.site.is_own(disk) {
            return Err("it is another disk".to_owned());
        }
        let again = self.legs[leg] == disk;
        let other = !again && self.legs.contains(&disk);
        // Only the disk of a device is checked: its user has no other use for it.
        if disk == 0 && !self.has(What::Origin) {
            return Err("its content is wanted".to_owned());
        }
        let words = vec!["replace".to_owned(), leg.to_string(), path];
        self.freed.remove(&disk);
        if let Err(why) =
            self.ask(What::Mirror.key(), Command::Message { device, words, named: Vec::new() })
        {
            // The operation may have been carried out.
            self.loaded |= !other;
            return Err(why);
        }
        if other {
            return self.broken("a disk has become two legs".to_owned());
        }
        if again {
            return self.check_claims();
        }
        let freed = std::mem::replace(&mut self.legs[leg], disk);
        if !self.site.is_dead() && !self.loaded {
            // A disk that is no longer a leg belongs to its user, who writes to it.
            self.site.claim_for_user(freed);
            self.freed.insert(freed);
        }
        Ok(())
    }

    /// Every leg of a mirror that is served is claimed.
    pub(super) fn check_claims(&mut self) -> Result<(), String> {
        let free = |disk: &usize| self.site.disks[*disk].claim.get().is_none();
        match self.legs.into_iter().find(free).filter(|_| !self.site.is_dead()) {
            Some(disk) => self.broken(format!("disk {disk} is a leg, and not claimed")),
            None => Ok(()),
        }
    }

    pub(super) fn load(&mut self, short: bool) -> Result<(), String> {
        let device = self.devices.get(&What::Mirror).ok_or("not there")?.device();
        self.loaded = true;
        self.freed.clear();
        self.ask(What::Mirror.key(), Command::Load { device, spec: self.mirror_table(short) })
            .map(drop)
    }

    /// A disk does not answer for a while: its operations wait.
    pub(super) fn hang(&mut self, disk: usize, hangs: bool) {
        self.site.disks[disk].hangs.set(hangs);
        if !hangs {
            self.collect_replies();
        }
    }

    /// Another disk takes the path of a disk that no server has open, or the right disk returns. In
    /// place of a COW it is a copy: the same store, on another disk.
    pub(super) fn swap(&mut self, disk: usize) {
        if !self.site.is_own(disk) {
            self.put_right(disk);
            return;
        }
        let slot = &self.site.disks[disk];
        if slot.claim.get().is_some() {
            return;
        }
        let mut image = slot.disk.borrow().visible();
        if !slot.path.starts_with("/c") {
            image.write(Sector(0), &vec![0x5A; usize::try_from(image.size().bytes()).unwrap()]);
        }
        let named = !slot.name.borrow().is_empty();
        let name = if named { format!("serial of another {}", slot.path) } else { String::new() };
        let number = self.site.foreign_number();
        self.foreign_disks.insert(disk, image.clone());
        let right = self.site.exchange(disk, Attached { name, number, image });
        self.site.disks[disk].aside.replace(Some(right));
    }

    /// Puts the right disk at its path again. The other disk must not have been written meanwhile.
    fn put_right(&mut self, disk: usize) {
        let Some(right) = self.site.disks[disk].aside.take() else { return };
        let foreign = self.site.exchange(disk, right);
        if self.foreign_disks.remove(&disk).is_some_and(|image| differ(&image, &foreign.image)) {
            let path = self.site.disks[disk].path.clone();
            drop(self.broken::<()>(format!("{path}: another disk was there, and was written")));
        }
    }

    /// Zeroes the first sector of an unused COW, to use it for a new snapshot.
    pub(super) fn wipe(&mut self, at: usize) {
        let own = self.site.is_own(1 + at);
        if self.has(What::Snap(at)) || self.processes.contains_key("o") || !own {
            return;
        }
        self.site.wipe(1 + at);
        (self.snaps[at], self.doubtful[at]) = (None, false);
    }

    pub(super) fn set_use(&mut self, what: What, in_use: bool) {
        let Some(known) = self.devices.get_mut(&what) else { return };
        let cookie = known.cookie;
        let mut kernel = self.site.kernel.borrow_mut();
        let device =
            kernel.devices.get_mut(&known.id).filter(|device| is_ours(&device.info, cookie));
        if let Some(device) = device {
            (device.in_use, known.in_use) = (in_use, in_use);
        }
    }

    /// A device that users have open and that does not exist.
    pub(super) fn in_use_and_gone(&self) -> Option<What> {
        let kernel = self.site.kernel.borrow();
        let is_there = |known: &Known| {
            kernel.devices.get(&known.id).is_some_and(|device| is_ours(&device.info, known.cookie))
        };
        let dead = self.site.is_dead();
        self.devices
            .iter()
            .find(|(_, known)| known.in_use && !dead && !is_there(known))
            .map(|(what, _)| *what)
    }
}

/// Whether two disks hold different things.
fn differ(one: &Image, other: &Image) -> bool {
    one.read(Sector(0), one.size()) != other.read(Sector(0), other.size())
}
