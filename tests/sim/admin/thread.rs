//! The simulated thread that has the targets, and how the administrator reaches it: what it asks
//! for runs at once, until it has ended.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use dm_targets::disk::Disk;
use dm_targets::exec::Executor;
use dm_targets::group::Group;
use dm_targets::sim::disk::{DiskConfig, SimDisk};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::units::Sectors;

use super::open::{Held, SimOpen};
use super::site::Site;
use super::town::SECTORS;
use crate::failure::Reason;
use crate::server::admin::machine::{Thread, ThreadHandle};

/// The thread of a process.
pub struct SimThread {
    pub(super) group: Group,
    pub(super) site: Rc<Site>,
}

impl Thread for SimThread {
    type Open = SimOpen;

    fn group(&self) -> &Group {
        &self.group
    }

    fn disk(&self, open: SimOpen) -> Disk {
        if let Some((device, ..)) = open.own {
            return self.group.disk_of(device.id, &open.path);
        }
        let disk = self.site.disks[open.slot].disk.borrow().clone();
        Held::disk(&open.path, disk, open.hold)
    }

    fn zeroes(&self) -> Result<Disk, Reason> {
        let config = DiskConfig { immediate: true, volatile_cache: false, ..DiskConfig::default() };
        let (image, trace) = (Image::zeroes(Sectors(SECTORS as u64)), Trace::default());
        Ok(SimDisk::new("zeroes", config, image, &self.site.host, &trace).disk())
    }
}

/// How a process reaches its thread.
#[derive(Clone)]
pub struct SimHandle {
    pub(super) site: Rc<Site>,
    pub(super) executor: Executor,
    pub(super) thread: Rc<SimThread>,
}

impl SimHandle {
    /// Hands a job in; its result appears.
    pub(super) fn begin<T, F>(
        &self,
        job: impl FnOnce(Rc<SimThread>) -> F + Send + 'static,
    ) -> Rc<RefCell<Option<T>>>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let result: Rc<RefCell<Option<T>>> = Rc::default();
        let (slot, work) = (result.clone(), job(self.thread.clone()));
        self.executor.spawn(async move {
            let outcome = work.await;
            *slot.borrow_mut() = Some(outcome);
        });
        result
    }

    /// Waits for something. A disk that hangs answers in the end.
    pub(super) fn wait(&self, mut done: impl FnMut() -> bool) -> Result<(), Reason> {
        loop {
            match self.site.run(&self.executor, &mut done) {
                Err(why) if self.site.is_dead() || self.site.gives_up.get() => return Err(why),
                Err(why) if !self.site.answer() => return Err(why),
                Err(_) => {}
                Ok(()) => return Ok(()),
            }
        }
    }
}

impl ThreadHandle for SimHandle {
    type Thread = SimThread;

    fn call<T, F>(&self, job: impl FnOnce(Rc<SimThread>) -> F + Send + 'static) -> Result<T, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let result = self.begin(job);
        self.wait(|| result.borrow().is_some())?;
        result.borrow_mut().take().ok_or_else(|| "the thread has died".into())
    }
}
