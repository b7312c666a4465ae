//! The parts of the simulated machine that outlive its processes: disks, the kernel, the run
//! directory, and the step at which the machine or a process ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use dm_targets::exec::Executor;
use dm_targets::sim::Rng;
use dm_targets::sim::crash::{CrashKind, survivors};
use dm_targets::sim::disk::{DiskConfig, SimDisk};
use dm_targets::sim::host::SimHost;
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::units::{Sector, Sectors};

use super::kernel::Kernel;
use super::open::Claimant;
use super::records::{Directory, Files, Shared};
use crate::failure::Reason;
use crate::protocol::{KnownDisk, Part, Place};
use crate::rundir::devices_among;
use crate::storage::{DiskId, OpenErrorKind};
use crate::ublk::device::{BLOCK_PATH, is_ours};

/// Steps after which an operation counts as hanging.
const STEP_LIMIT: usize = 20_000;
/// Buffers of the machine.
const BUFFERS: usize = 4096;

/// A disk of the machine.
pub struct Slot {
    pub path: String,
    pub disk: RefCell<Rc<SimDisk>>,
    /// The disk that this is another name of, if any.
    pub same_as: Cell<Option<usize>>,
    /// Where its bytes begin on the disk that it is another name of.
    pub start: Cell<u64>,
    /// It is attached.
    pub there: Cell<bool>,
    /// Its lasting name.
    pub name: RefCell<String>,
    /// A number that no other disk has had on this machine.
    pub number: Cell<u64>,
    /// It hangs: an open waits, and so do its operations.
    pub hangs: Cell<bool>,
    /// It can be opened, and no read of it succeeds.
    pub unreadable: Cell<bool>,
    /// It is gone when it is closed.
    pub ends: Cell<bool>,
    /// The right disk, while another disk has its path.
    pub aside: RefCell<Option<Attached>>,
    /// It hangs after so many more operations.
    pub hangs_after: Cell<Option<u32>>,
    /// Claimed exclusively by that process.
    pub claim: Arc<Claimant>,
    /// Who else has it, that is no process here.
    pub other: Cell<Option<Other>>,
}

/// A user of a disk that is no server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// A table of device-mapper.
    Mapped,
    /// A file system, or swap.
    Mounted,
}

/// What stands at the path of a disk.
pub struct Attached {
    pub name: String,
    pub number: u64,
    pub image: Image,
}

/// The numbers of the disks that the machine begins with.
const FIRST_NUMBER: u64 = 10;

/// Everything that outlives a process.
pub struct Site {
    pub host: Rc<SimHost>,
    trace: Trace,
    pub disks: Vec<Slot>,
    pub kernel: RefCell<Kernel>,
    pub shared: Arc<Mutex<Shared>>,
    numbers: Cell<u64>,
    /// The run directory is on a disk, and outlives a power loss.
    pub keeps_files: Cell<bool>,
    pub rng: RefCell<Rng>,
    /// A violation of a rule of the machine itself, such as an operation that hangs.
    pub fault: RefCell<Option<String>>,
    /// The current operation must not wait for a hanging disk; otherwise the disk answers in the
    /// end.
    pub impatient: Cell<bool>,
    /// Operations that wait for a hanging disk time out, and the disk keeps hanging.
    pub gives_up: Cell<bool>,
    /// A disk that is a ublk device of another family, too, with that device's number.
    pub ublk: Cell<Option<(usize, u32)>>,
    /// What the machines have to do that stand beside those of servers.
    pub beside: RefCell<Vec<Executor>>,
}

impl Site {
    /// A machine with these disks; `named`: each has a serial number.
    pub fn new(seed: u64, disks: &[(&str, Image)], named: bool) -> Rc<Site> {
        let (host, trace) = (Rc::new(SimHost::new(BUFFERS)), Trace::default());
        let slot = |(number, (path, image)): (u64, &(&str, Image))| Slot {
            path: (*path).to_owned(),
            disk: RefCell::new(SimDisk::new(path, DISK, image.clone(), &host, &trace)),
            same_as: Cell::new(None),
            start: Cell::new(0),
            there: Cell::new(true),
            name: RefCell::new(if named { format!("serial {path}") } else { String::new() }),
            number: Cell::new(number),
            hangs: Cell::new(false),
            unreadable: Cell::new(false),
            ends: Cell::new(false),
            aside: RefCell::default(),
            hangs_after: Cell::new(None),
            claim: Arc::default(),
            other: Cell::new(None),
        };
        let disks = (FIRST_NUMBER..).zip(disks).map(slot).collect();
        Rc::new(Site {
            host,
            trace,
            disks,
            kernel: RefCell::default(),
            shared: Arc::default(),
            numbers: Cell::new(0),
            keeps_files: Cell::new(false),
            rng: RefCell::new(Rng::new(seed)),
            fault: RefCell::default(),
            impatient: Cell::new(false),
            gives_up: Cell::new(false),
            ublk: Cell::default(),
            beside: RefCell::default(),
        })
    }

    pub fn directory(&self, key: &str) -> Directory {
        Directory { shared: self.shared.clone(), key: key.to_owned() }
    }

    pub fn files<T>(&self, look: impl FnOnce(&mut Files) -> T) -> T {
        look(&mut self.directory("").lock().files)
    }

    /// The disk that holds the bytes of a disk.
    pub fn place(&self, disk: usize) -> Place {
        let start = self.disks[disk].start.get();
        let disk = self.disks[disk].same_as.get().unwrap_or(disk);
        let on = format!("disk {disk} {}", self.disks[disk].number.get());
        Place { on, start, end: u64::MAX }
    }

    /// Why a family must not take a disk: a device of another one is made of it.
    pub fn claimed(
        &self,
        own: &Directory,
        (id, disk): (DiskId, &KnownDisk),
        parts: Option<&[Part]>,
    ) -> Option<OpenErrorKind> {
        let kernel = self.kernel.borrow();
        let found = devices_among(own.files_beside().into_iter(), id, disk, parts);
        let held = found.devices.into_iter().find_map(|device| {
            let there = kernel.devices.get(&device.id)?;
            let is_there = is_ours(&there.info, device.cookie);
            let (name, id) = (device.name, device.id);
            is_there.then_some(OpenErrorKind::Awaited { name, id })
        });
        held.or_else(|| found.unread.map(|why| OpenErrorKind::Unclear { why }))
    }

    /// Whether the process or machine that acts has ended.
    pub fn is_dead(&self) -> bool {
        self.directory("").lock().dead
    }

    /// Counts a change that is about to happen; `false` if everything has ended before it.
    pub fn step(&self) -> bool {
        self.directory("").lock().step()
    }

    pub fn next_number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    pub fn slot(&self, path: &str) -> Option<usize> {
        let is_it = |(_, id): &(usize, u32)| path == format!("{BLOCK_PATH}{id}");
        let device = self.ublk.get().filter(is_it).map(|(slot, _)| slot);
        device.or_else(|| self.slot_of(path))
    }

    fn slot_of(&self, path: &str) -> Option<usize> {
        self.disks.iter().position(|slot| slot.path == path && slot.there.get())
    }

    /// Runs tasks and completes disk operations until `done`, or until no step is left.
    pub fn run(&self, executor: &Executor, mut done: impl FnMut() -> bool) -> Result<(), Reason> {
        for _ in 0..STEP_LIMIT {
            if self.is_dead() {
                return Err("the machine has ended".into());
            }
            if done() {
                return Ok(());
            }
            if executor.ready() > 0 {
                executor.run_one(0);
                continue;
            }
            for slot in self.disks.iter().filter(|slot| slot.hangs_after.get() == Some(0)) {
                if !slot.disk.borrow().completable().is_empty() {
                    slot.hangs_after.set(None);
                    slot.hangs.set(true);
                }
            }
            let disks = self
                .disks
                .iter()
                .filter(|slot| !slot.hangs.get())
                .map(|slot| slot.disk.borrow().clone());
            let open = disks
                .flat_map(|disk| disk.completable().into_iter().map(move |id| (disk.clone(), id)))
                .next();
            match open {
                Some((disk, id)) => {
                    if self.step() {
                        self.count(&disk);
                        disk.complete(id);
                    }
                }
                None if self.host.advance_to_timer() => {}
                None => return Err("it waits for what does not come".into()),
            }
        }
        self.fault.borrow_mut().get_or_insert("something goes on for ever".to_owned());
        Err("it goes on for ever".into())
    }

    /// Counts down the operations of a disk until it hangs.
    fn count(&self, disk: &Rc<SimDisk>) {
        let same = |slot: &&Slot| Rc::ptr_eq(&slot.disk.borrow(), disk);
        if let Some(slot) = self.disks.iter().find(same) {
            slot.hangs_after.set(slot.hangs_after.get().map(|left| left.saturating_sub(1)));
        }
    }

    /// A process ends. The disks carry out its outstanding operations.
    pub fn process_ended(&self, pid: u32) {
        self.kernel.borrow_mut().process_ended(pid);
        for slot in &self.disks {
            let disk = slot.disk.borrow();
            for id in disk.completable() {
                disk.complete(id);
            }
            if slot.claim.get() == Some(pid) {
                slot.claim.set(None);
            }
        }
    }

    /// The power fails: writes that were not durable are kept or lost, and memory is empty.
    pub fn power_lost(&self) {
        let mut rng = self.rng.borrow_mut();
        let spaces: Vec<_> = self
            .disks
            .iter()
            .map(|slot| slot.disk.borrow().crash_space(CrashKind::Power))
            .collect();
        let images = survivors(&spaces, 1, &mut rng).swap_remove(0);
        for (slot, image) in self.disks.iter().zip(images) {
            *slot.disk.borrow_mut() =
                SimDisk::new(&slot.path, DISK, image, &self.host, &self.trace);
            slot.claim.set(None);
        }
        self.kernel.borrow_mut().devices.clear();
        let kept = self.keeps_files.get();
        self.files(|files| if kept { files.reboot() } else { *files = Files::default() });
    }

    /// Puts another disk at the path of a disk, which is returned and can be put back later.
    pub fn swap(&self, disk: usize, (name, image): (String, Image)) -> (String, Image) {
        let own = name == format!("serial {}", self.disks[disk].path);
        let number = if own { FIRST_NUMBER + disk as u64 } else { self.foreign_number() };
        let was = self.exchange(disk, Attached { name, number, image });
        (was.name, was.image)
    }

    /// A number that no disk of the machine has.
    pub fn foreign_number(&self) -> u64 {
        FIRST_NUMBER + self.disks.len() as u64 + self.next_number()
    }

    /// Whether the disk is the one that the machine began with.
    pub fn is_own(&self, disk: usize) -> bool {
        self.disks[disk].number.get() == FIRST_NUMBER + disk as u64
    }

    pub fn exchange(&self, disk: usize, other: Attached) -> Attached {
        let slot = &self.disks[disk];
        let image = slot.disk.borrow().visible();
        let number = slot.number.replace(other.number);
        let name = slot.name.replace(other.name);
        self.put(disk, other.image);
        Attached { name, number, image }
    }

    /// Makes the disks answer that are waited for. `false`: none of them hangs.
    pub fn answer(&self) -> bool {
        let waited_for = |slot: &&Slot| slot.hangs.get() && slot.disk.borrow().in_flight() > 0;
        let answering: Vec<_> = self.disks.iter().filter(waited_for).collect();
        answering.iter().for_each(|slot| slot.hangs.set(false));
        !answering.is_empty()
    }

    /// Another user has a disk and writes to it.
    pub fn claim_for_user(&self, disk: usize) {
        let mut image = self.disks[disk].disk.borrow().visible();
        image.write(Sector(0), &[0xA5; 512]);
        let slot = &self.disks[disk];
        *slot.disk.borrow_mut() = SimDisk::new(&slot.path, DISK, image, &self.host, &self.trace);
    }

    /// Whether that user's data is still there.
    pub fn is_users(&self, disk: usize) -> bool {
        self.disks[disk].disk.borrow().visible().read(Sector(0), Sectors(1)) == [0xA5; 512]
    }

    /// Zeroes the first sector of a disk, durably.
    pub fn wipe(&self, disk: usize) {
        let mut image = self.disks[disk].disk.borrow().visible();
        image.write(Sector(0), &[0; 512]);
        self.put(disk, image);
    }

    /// Writes content to a disk, durably.
    pub fn put(&self, disk: usize, image: Image) {
        let slot = &self.disks[disk];
        *slot.disk.borrow_mut() = SimDisk::new(&slot.path, DISK, image, &self.host, &self.trace);
    }

    /// Memory for a user's request.
    pub fn payload(&self, bytes: Vec<u8>) -> dm_targets::disk::PayloadId {
        self.host.add_payload(bytes)
    }

    pub fn take_payload(&self, id: dm_targets::disk::PayloadId) -> Vec<u8> {
        self.host.take_payload(id)
    }
}

/// How the disks behave: a failed flush really loses what was written since the last good one.
const DISK: DiskConfig = DiskConfig {
    logical_block_bytes: 512,
    volatile_cache: true,
    failed_flush_loses: true,
    failed_fua_loses: false,
    max_discard: Sectors(0),
    max_write_zeroes: Sectors(0),
    immediate: false,
};
