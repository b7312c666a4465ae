//! What happens to a machine beside its commands: processes that are killed, disks that go away or fail, a run directory
//! that is full or lost, other programs.

use dm_targets::disk::Errno;
use dm_targets::sim::disk::{Class, Fault, Matcher};

use super::town::{Known, Town, What};
use crate::protocol::Question;
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
        // A disk that is open stays so; it is its path that goes.
        self.troubled |= !there;
        self.site.disks[disk].there.set(there);
    }

    pub(super) fn fill(&mut self, full: bool) {
        self.troubled |= full;
        self.site.shared.lock().unwrap().full = full;
    }

    /// Some operations of a disk fail.
    pub(super) fn fail(&mut self, disk: usize, class: Class, skip: u32) {
        (self.troubled, self.faulty) = (true, true);
        let (matcher, errno) = (Matcher::all(class), Errno::EIO);
        self.site.disks[disk].disk.borrow().inject(Fault { matcher, skip, times: 2, errno });
    }

    /// All disks are there and work again, and there is room.
    pub(super) fn mend(&mut self) {
        for slot in &self.site.disks {
            slot.there.set(true);
            slot.disk.borrow().mend();
        }
        self.faulty = false;
        self.site.shared.lock().unwrap().full = false;
    }

    /// The run directory of a family is lost, as by a careless hand, while no server of it lives.
    pub(super) fn lose_files(&mut self, key: &'static str, damage: bool) {
        if self.processes.contains_key(key) {
            return;
        }
        self.troubled = true;
        self.site.files(|files| files.spoil(key, damage));
        if !damage {
            // Nothing knows of the devices, and what was noted is gone.
            self.devices.retain(|what, _| what.key() != key);
            self.in_flight.retain(|(what, ..)| what.key() != key);
            if key == "o" {
                self.snaps.iter_mut().flatten().for_each(|snap| snap.forfeit = true);
            } else {
                self.mirror_forfeit = true;
            }
        }
    }

    /// Another program adds a device.
    pub(super) fn add_foreign(&mut self) {
        let mut kernel = self.site.kernel.borrow_mut();
        if let Some(info) = kernel.add(None, true, &Params::default(), u32::MAX) {
            let id = info.id;
            if let Some(device) = kernel.devices.get_mut(&id) {
                device.info.state = DiskState::Live;
            }
            self.foreign.push((id, info.target_flags));
        }
    }

    /// Another program deletes a device of ours; the server notices it if it lives.
    pub(super) fn steal(&mut self, what: What) {
        let Some(Known { id, cookie, .. }) = self.devices.get(&what) else { return };
        let (id, cookie) = (*id, *cookie);
        self.troubled = true;
        {
            let mut kernel = self.site.kernel.borrow_mut();
            if !kernel.devices.get(&id).is_some_and(|device| is_ours(&device.info, cookie)) {
                return;
            }
            if let Some(mut device) = kernel.devices.remove(&id) {
                device.fail();
            }
        }
        self.devices.remove(&what);
        self.in_flight.retain(|(other, ..)| *other != what);
        self.acting = Some(what.key());
        if let Some(process) = self.processes.get_mut(what.key()) {
            process.admin.lose(id);
        }
        self.reap(what.key());
        self.settle();
    }

    pub(super) fn replace(&mut self, leg: usize, disk: usize) -> Result<(), String> {
        let device = self.devices.get(&What::Mirror).ok_or("not there")?.device();
        let path = self.site.disks[disk].path.clone();
        let words = vec!["replace".to_owned(), leg.to_string(), path];
        self.ask(What::Mirror.key(), Question::Message { device, words }).map(drop)
    }

    pub(super) fn load(&mut self) -> Result<(), String> {
        let device = self.devices.get(&What::Mirror).ok_or("not there")?.device();
        self.ask(What::Mirror.key(), Question::Load { device, spec: Town::spec(What::Mirror) }).map(drop)
    }

    /// Zeroes the first sector of a COW that no snapshot has, to use it for a new one.
    pub(super) fn wipe(&mut self, at: usize) {
        if self.has(What::Snap(at)) || self.processes.contains_key("o") {
            return;
        }
        self.site.wipe(1 + at);
        self.snaps[at] = None;
    }

    pub(super) fn set_use(&mut self, what: What, in_use: bool) {
        let Some(known) = self.devices.get(&what) else { return };
        if let Some(device) = self.site.kernel.borrow_mut().devices.get_mut(&known.id) {
            device.in_use = in_use;
        }
    }
}
