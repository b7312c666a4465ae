//! The data thread of a server: an origin, its snapshots and their devices, all on one ring.
//!
//! One thread owns everything that an origin and its snapshots share, so nothing is locked and no request changes
//! threads. The control thread hands in closures ([`FamilyHandle::call`]); they run here between requests. What a
//! device does with a request is in [`super::device`].
//!
//! Rule kept here: a device that is removed is taken apart in one order: its tags end, then its target is closed, and
//! its file last.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Poll;

use dm_targets::copy;
use dm_targets::disk::{Disk, Limits};
use dm_targets::exec::Executor;
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::Snapshot;
use dm_targets::units::Sectors;

use super::caller::{Caller, Mailbox};
use super::device::{Device, Opened, Served};
use super::queue::{Queue, QueueOptions};
use crate::ring::Ring;
use crate::storage::OpenDisk;

/// The control thread's end of a data thread.
pub struct FamilyHandle {
    caller: Caller,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Everything on the data thread.
pub struct Family {
    /// The ring.
    pub ring: Ring,
    /// Its tasks.
    pub executor: Executor,
    /// The copy client of the family.
    pub copy: copy::Client,
    /// The origin, present from the first target on.
    pub origin: RefCell<Option<Rc<Origin>>>,
    /// Targets opened and not yet given a device, by ticket.
    pub opened: RefCell<HashMap<u64, Opened>>,
    /// Devices by ublk id.
    pub devices: RefCell<HashMap<u32, Rc<Device>>>,
    /// Told of a device whose tags have all ended.
    lost: Rc<dyn Fn(u32)>,
}

impl FamilyHandle {
    /// Starts a data thread. `lost` is called on it with the id of a device that the kernel has stopped, whoever asked for
    /// that.
    pub fn start(lost: impl Fn(u32) + Send + 'static) -> io::Result<FamilyHandle> {
        let caller = Caller::new()?;
        let (report, started) = mpsc::channel();
        let (theirs, listen) = (caller.mailbox.clone(), caller.wake.try_clone()?);
        let thread = std::thread::Builder::new().name("data".into()).spawn(move || {
            match Family::new(listen, Rc::new(lost)) {
                Ok(family) => {
                    if report.send(Ok(())).is_ok() {
                        family.run(&theirs);
                    }
                }
                // If nobody listens any more there is nobody to tell.
                Err(error) => drop(report.send(Err(error))),
            }
        })?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the data thread ended at once")))?;
        Ok(FamilyHandle { caller, thread: Some(thread) })
    }

    /// For other threads.
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// As [`Caller::call`].
    pub fn call<T, F>(&self, job: impl FnOnce(Rc<Family>) -> F + Send + 'static) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.caller.call(job)
    }

    /// Ends the thread, which closes its disks. Its devices must be gone.
    pub fn stop(&mut self) -> io::Result<()> {
        self.caller.post(|mailbox| mailbox.stop = true)?;
        let thread = self.thread.take();
        thread.map_or(Ok(()), |thread| thread.join().map_err(|_| io::Error::other("the data thread panicked")))
    }
}

impl Family {
    fn new(wake: OwnedFd, lost: Rc<dyn Fn(u32)>) -> io::Result<Rc<Family>> {
        #[cfg(feature = "mutants")]
        break_a_rule();
        let ring = Ring::new()?;
        ring.listen(wake);
        let executor = Executor::new();
        let copy = copy::Client::new(&executor, &ring.host(), None)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Rc::new(Family {
            ring,
            executor,
            copy,
            origin: RefCell::default(),
            opened: RefCell::default(),
            devices: RefCell::default(),
            lost,
        }))
    }

    fn run(self: Rc<Self>, mailbox: &Arc<Mutex<Mailbox>>) {
        let stopped = Rc::new(Cell::new(false));
        let (family, theirs, flag) = (self.clone(), mailbox.clone(), stopped.clone());
        self.executor.spawn(async move { family.read_mailbox(&theirs, &flag).await });
        while !stopped.get() {
            self.executor.run_ready();
            if stopped.get() {
                break;
            }
            if let Err(error) = self.ring.turn(self.executor.ready() > 0) {
                log::error!("the ring failed, the server cannot go on: {error}");
                log::logger().flush();
                std::process::abort();
            }
        }
    }

    async fn read_mailbox(self: Rc<Self>, mailbox: &Arc<Mutex<Mailbox>>, stopped: &Cell<bool>) {
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
            self.executor.spawn(job(self.clone()));
        }
        stopped.set(true);
    }

    /// A disk on this thread's ring.
    pub fn disk(&self, open: OpenDisk) -> Disk {
        let limits = disk_limits(&open);
        disk_on(&self.ring, open, limits)
    }

    /// The origin of the family, made from an open disk the first time.
    pub fn origin_or(&self, open: impl FnOnce() -> Option<OpenDisk>) -> Option<Rc<Origin>> {
        if let Some(origin) = &*self.origin.borrow() {
            return Some(origin.clone());
        }
        let origin = Origin::new(self.disk(open()?), self.copy.clone());
        *self.origin.borrow_mut() = Some(origin.clone());
        Some(origin)
    }

    /// Starts serving a device's queues. Requests come once the kernel starts the device.
    pub fn serve(&self, id: u32, name: &str, file: File, queues: &[QueueOptions], opened: Opened) -> io::Result<()> {
        let file = self.ring.file(OwnedFd::from(file));
        let open = |options| Queue::open(&self.ring, &file, options);
        let queues = queues.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let device = Device::start(&self.executor, name, queues, opened);
        self.devices.borrow_mut().insert(id, device.clone());
        let lost = self.lost.clone();
        self.executor.spawn(async move {
            device.all_ended().await;
            drop(device);
            lost(id);
        });
        Ok(())
    }

    /// Adds a snapshot to the family's origin.
    pub async fn join(&self, snapshot: Rc<Snapshot>) {
        let origin = self.origin.borrow().clone();
        if let Some(origin) = origin {
            origin.join(snapshot).await;
        }
    }

    fn device(&self, id: u32) -> Option<Rc<Device>> {
        self.devices.borrow().get(&id).cloned()
    }

    /// Holds a device's new requests back and waits for those that its target has. With `noflush` those that the target
    /// cannot carry out now wait as well; else they fail. The error says what is lost.
    pub async fn suspend(&self, id: u32, noflush: bool) -> Result<(), String> {
        let Some(device) = self.device(id) else { return Ok(()) };
        device.suspend(noflush).await
    }

    /// Lets a device's requests go on, to the target that was suspended or to a new one.
    pub async fn resume(&self, id: u32, same_target: bool) {
        let Some(device) = self.device(id) else { return };
        device.resume(same_target).await;
    }

    /// Takes the target of a suspended device apart, so that its disks can be opened for another one.
    pub async fn take_target(&self, id: u32) -> Result<(), String> {
        let Some(device) = self.device(id) else { return Ok(()) };
        device.take_target().await
    }

    /// Gives a suspended device a target that has been opened under a ticket.
    pub async fn put_target(&self, id: u32, ticket: u64) -> Result<(), String> {
        let device = self.device(id).ok_or("the device is gone")?;
        let opened = self.opened.borrow_mut().remove(&ticket).ok_or("the target is not open")?;
        opened.served.activate(&self.executor).await?;
        device.put_target(opened);
        Ok(())
    }

    /// Prepares a device for its end: what its target has is carried out or fails, what comes later fails.
    pub async fn let_go(&self, id: u32) {
        let Some(device) = self.device(id) else { return };
        device.let_go().await;
    }

    /// Waits until a stopped device's tags have ended, and takes its target apart. The character device is closed after. With
    /// `outlived` the origin's device stays and is in use: a snapshot is marked invalid while it still holds the origin's
    /// writes back. The error says what is lost.
    pub async fn remove(&self, id: u32, outlived: bool) -> Result<(), String> {
        let Some(device) = self.devices.borrow_mut().remove(&id) else { return Ok(()) };
        device.ended().await;
        // Writes of the origin no longer preserve anything for a snapshot without a device.
        let (served, origin) = (device.served(), self.origin.borrow().clone());
        if let (Served::Snapshot(snapshot), Some(origin)) = (&served, origin) {
            if outlived {
                snapshot.give_up().await;
            }
            origin.leave(snapshot);
        }
        served.close().await
    }
}

/// An open disk on a ring.
pub fn disk_on(ring: &Ring, open: OpenDisk, limits: Limits) -> Disk {
    let size = Sectors(open.size_sectors);
    let name = open.path.display().to_string();
    if open.buffered {
        log::warn!("{name}: its file system has no direct I/O, so everything goes through the page cache");
    }
    let (id, block) = (open.id, limits.logical_block_bytes);
    let duplicate = open.file.try_clone();
    let probe = Box::new(move |_| crate::storage::size_now(duplicate.as_ref().ok()?, id, block).ok().map(Sectors));
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
        None => log::error!("UBLK_DM_MUTANT: no mutant is named {name:?}"),
    }
    log::warn!("this server breaks a rule on purpose: {name}");
}
