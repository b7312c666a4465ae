//! The data thread of a server: an origin, its snapshots and their devices, all on one ring.
//!
//! One thread owns everything that an origin and its snapshots share, so nothing is locked and no
//! request changes threads. The control thread submits closures
//! ([`Handle::call`](super::Handle::call)); they run here between requests. What a device does with
//! a request is in [`super::device`].
//!
//! Rule kept here: a removed device is torn down in one order: its tags end, then its target is
//! closed, and last its file.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use dm_targets::copy;
use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Disk, Limits};
use dm_targets::exec::Executor;
use dm_targets::group::Group;
use dm_targets::segments::target::NO_DISK;
use dm_targets::units::{MAX_LEN, Sectors};

use super::device::ServedDevice;
use super::lines::Lines;
use super::mailbox::Mailbox;
use super::queue::{Queue, QueueOptions};
use crate::ring::Ring;
use crate::storage::OpenDisk;

/// The kernel's device of zeroes.
pub const ZEROES: &str = "/dev/zero";

/// Everything on the data thread.
pub struct DataThread {
    /// The ring.
    pub ring: Ring,
    /// Targets and devices.
    pub group: Group,
    /// The queues of devices, by ublk id.
    served: RefCell<HashMap<u32, Rc<ServedDevice>>>,
    /// The same by the data of their completions, until all their tags have ended.
    lines: Rc<Lines>,
    /// Called with the id of a device whose tags have all ended.
    lost: Rc<dyn Fn(u32)>,
}

impl DataThread {
    pub(super) fn new(wake: OwnedFd, lost: Rc<dyn Fn(u32)>) -> io::Result<Rc<DataThread>> {
        #[cfg(feature = "mutants")]
        break_a_rule();
        let ring = Ring::new()?;
        ring.listen(wake);
        let executor = Executor::new();
        let copy = copy::Client::new(&executor, &ring.host(), None)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let group = Group::new(executor, ring.host(), copy);
        let (served, lines) = (RefCell::default(), Rc::default());
        Ok(Rc::new(DataThread { ring, group, served, lines, lost }))
    }

    pub(super) fn run(self: Rc<Self>, mailbox: &Arc<Mutex<Mailbox<DataThread>>>) {
        let stopped = Rc::new(Cell::new(false));
        let (own, theirs, flag) = (self.clone(), mailbox.clone(), stopped.clone());
        self.group.executor.spawn(async move { own.read_mailbox(&theirs, &flag).await });
        while !stopped.get() {
            self.group.executor.run_ready();
            if stopped.get() {
                break;
            }
            let busy = self.group.executor.ready() > 0 || self.ring.has_told();
            if let Err(error) = self.ring.turn(busy) {
                log::error!("the ring failed and the server cannot continue: {error}");
                log::logger().flush();
                std::process::abort();
            }
            self.lines.tell(&self.ring);
        }
    }

    async fn read_mailbox(
        self: Rc<Self>,
        mailbox: &Arc<Mutex<Mailbox<DataThread>>>,
        stopped: &Cell<bool>,
    ) {
        loop {
            let job = std::future::poll_fn(|cx| {
                self.ring.wake_on_message(cx.waker());
                let mut mailbox = mailbox.lock().unwrap_or_else(PoisonError::into_inner);
                match mailbox.jobs.pop_front() {
                    Some(job) => Poll::Ready(Some(job)),
                    None if mailbox.stop => Poll::Ready(None),
                    None => Poll::Pending,
                }
            })
            .await;
            let Some(job) = job else { break };
            self.group.executor.spawn(job(self.clone()));
        }
        stopped.set(true);
    }

    /// A disk on this thread's ring.
    pub fn disk(&self, open: OpenDisk) -> Disk {
        let limits = disk_limits(&open);
        disk_on(&self.ring, open, limits)
    }

    /// A disk of zeroes: the kernel's, so that they also reach pages of users that this process
    /// does not see.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn zeroes(&self) -> io::Result<Disk> {
        let file = File::open(ZEROES)?;
        let backend = self.ring.disk(OwnedFd::from(file), NO_DISK, MAX_LEN, Box::new(|_| None));
        Ok(Disk::new(ZEROES, backend))
    }

    /// Adds a device for an opened target and serves its queues. Requests arrive once the kernel
    /// starts the device.
    ///
    /// # Errors
    /// As [`Group::add`].
    pub async fn serve(
        &self,
        id: u32,
        name: &str,
        file: File,
        (queues, again): (&[QueueOptions], bool),
        opened: OpenTarget,
    ) -> Result<(), String> {
        self.group
            .add(id, opened, |device| {
                if again {
                    device.hold_until_started();
                }
                self.start(id, name, file, queues, device).map_err(|why| why.to_string())
            })
            .await
    }

    fn start(
        &self,
        id: u32,
        name: &str,
        file: File,
        queues: &[QueueOptions],
        device: Rc<Device>,
    ) -> io::Result<()> {
        let file = self.ring.file(OwnedFd::from(file));
        let open = |options| Queue::open(&self.ring, &file, options);
        let queues = queues.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let make = |line| ServedDevice::new(&self.ring, line, name, queues, device);
        let served =
            self.lines.add(make).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        served.start(&self.group.executor);
        self.served.borrow_mut().insert(id, served.clone());
        let (lost, lines) = (self.lost.clone(), self.lines.clone());
        self.group.executor.spawn(async move {
            served.all_ended().await;
            lines.remove(served.line());
            drop(served);
            lost(id);
        });
        Ok(())
    }

    /// A device's queues.
    pub fn served(&self, id: u32) -> Option<Rc<ServedDevice>> {
        self.served.borrow().get(&id).cloned()
    }

    /// Waits until a stopped device's tags have ended, and closes its target. The character device
    /// is closed afterwards.
    ///
    /// # Errors
    /// As [`Group::remove`].
    pub async fn remove(&self, id: u32, outlived: bool) -> Result<(), String> {
        let served = self.served.borrow_mut().remove(&id);
        if let Some(served) = &served {
            served.ended().await;
        }
        let removed = self.group.remove(id, outlived).await;
        drop(served);
        removed
    }
}

/// An open disk on a ring.
pub fn disk_on(ring: &Ring, open: OpenDisk, limits: Limits) -> Disk {
    let size = Sectors(open.size_sectors);
    let name = open.path.display().to_string();
    if open.buffered {
        log::warn!(
            "{name}: its file system does not support direct I/O, so all I/O goes through the page \
             cache"
        );
    }
    let (id, block) = (open.id, limits.logical_block_bytes);
    let duplicate = open.file.try_clone();
    let probe = Box::new(move |_| {
        crate::storage::size_now(duplicate.as_ref().ok()?, id, block).ok().map(Sectors)
    });
    Disk::new(&name, ring.disk(OwnedFd::from(open.file), limits, size, probe))
}

/// What a target must know about an open disk.
pub fn disk_limits(open: &OpenDisk) -> Limits {
    let limits = &open.limits;
    Limits {
        logical_block_bytes: limits.logical_block_size,
        physical_block_bytes: limits.physical_block_size,
        volatile_cache: limits.volatile_cache,
        read_only: limits.read_only || open.access == crate::storage::Access::ReadOnly,
        max_discard: Sectors::from_bytes(limits.discard_max_bytes),
        discard_granularity_bytes: limits.discard_granularity,
        max_write_zeroes: Sectors::from_bytes(limits.write_zeroes_max_bytes),
    }
}

/// Breaks the rule that a test names, on this thread.
#[cfg(feature = "mutants")]
fn break_a_rule() {
    use dm_targets::mutant::{Mutant, set};
    let name = std::env::var("UBLK_DM_MUTANT").unwrap_or_default();
    match Mutant::named(&name) {
        Some(mutant) => set(Some(mutant)),
        None => log::error!("UBLK_DM_MUTANT: no mutant is named \"{name}\""),
    }
    log::warn!("this server breaks a rule on purpose: {name}");
}
