//! A device whose queues are served: requests come from its tags, and the target's results go back
//! to the kernel.
//!
//! A request that needs no task is started where its arrival is told, and ends where the completion
//! of its operation is told. For all others each tag has a task, which is created with the device.
//!
//! Rule kept here: I6 (a request is completed once, and only after nothing of it is in flight).

use std::rc::Rc;

use dm_targets::device::Device;
use dm_targets::disk::UserData;
use dm_targets::exec::Executor;
use dm_targets::request::{Request, TargetError};
use libublk::sys;

use super::account::Account;
use super::place::Place;
use super::queue::{Descriptor, Queue};
use super::tags::{Tags, Work};
use crate::protocol;
use crate::ring::Ring;

pub use super::account::DeviceStats;

/// A device and its queues.
pub struct ServedDevice {
    device: Rc<Device>,
    line: u16,
    queues: Vec<(Rc<Queue>, Tags)>,
    ring: Ring,
    account: Account,
}

impl ServedDevice {
    /// A device on a line.
    pub(super) fn new(
        ring: &Ring,
        line: u16,
        name: &str,
        queues: Vec<Rc<Queue>>,
        device: Rc<Device>,
    ) -> Rc<ServedDevice> {
        device.events().set_name(name);
        let with_tags = |queue: Rc<Queue>| {
            let tags = Tags::new(queue.depth());
            (queue, tags)
        };
        let queues = queues.into_iter().map(with_tags).collect();
        Rc::new(ServedDevice {
            device,
            line,
            queues,
            ring: ring.clone(),
            account: Account::default(),
        })
    }

    /// Serves the queues.
    pub(super) fn start(self: &Rc<Self>, executor: &Executor) {
        for (number, (queue, _)) in (0..).zip(&self.queues) {
            for tag in 0..queue.depth() {
                let place = Place { line: self.line, queue: number, tag };
                let served = self.clone();
                executor.spawn(async move { served.serve(place).await });
                queue.fetch(tag, place.command());
            }
        }
    }

    /// Its line.
    pub(super) fn line(&self) -> u16 {
        self.line
    }

    /// Messages and events have this name from now on.
    pub fn rename(&self, name: &str) {
        self.device.events().set_name(name);
    }

    /// The device's I/O counters.
    pub fn stats(&self) -> DeviceStats {
        self.account.stats()
    }

    /// How long its requests have taken.
    pub fn durations(&self) -> protocol::Durations {
        self.account.durations()
    }

    /// Whether all its tags have ended: the kernel has stopped the device.
    pub fn has_ended(&self) -> bool {
        self.queues.iter().all(|(queue, _)| queue.has_ended())
    }

    /// Waits until the tags have ended.
    pub(super) async fn all_ended(&self) {
        for (queue, _) in &self.queues {
            queue.all_ended().await;
        }
    }

    /// Ends the waits for events, and waits until the tags have ended.
    pub(super) async fn ended(&self) {
        self.device.events().end();
        self.all_ended().await;
    }

    /// The command of a tag has completed: a request has arrived, or there will be no more.
    pub(super) fn commanded(&self, place: Place, result: i32) {
        let (queue, tags) = &self.queues[usize::from(place.queue)];
        if u32::try_from(result) != Ok(sys::UBLK_IO_RES_OK) {
            return tags.end(place.tag);
        }
        let data = place.operation();
        tags.arrived(place.tag, queue.descriptor(place.tag), |request| {
            self.device.remap(request, data)
        });
    }

    /// What a request that has no task waited for has happened.
    pub(super) fn completed(&self, place: Place, data: UserData, result: i32) {
        let (queue, tags) = &self.queues[usize::from(place.queue)];
        let ended = tags.completed(
            place.tag,
            result,
            |request, remapped, result| self.device.end_io(request, remapped, data, result),
            |request, arrived_ns, result| self.result(request, arrived_ns, result),
        );
        if let Some(result) = ended {
            queue.commit(place.tag, result, place.command());
        }
    }

    /// The task of a tag.
    async fn serve(self: Rc<Self>, place: Place) {
        let (queue, tags) = &self.queues[usize::from(place.queue)];
        loop {
            let result = match tags.work(place.tag).await {
                Work::Request(descriptor) => self.handle(queue, place.tag, &descriptor).await,
                Work::Rest(request, arrived_ns, rest) => {
                    let result = self.device.finish(&request, rest).await;
                    self.result(&request, arrived_ns, &result)
                }
                Work::End => break,
            };
            queue.commit(place.tag, result, place.command());
        }
        queue.end_tag();
    }

    async fn handle(&self, queue: &Queue, tag: u16, descriptor: &Descriptor) -> i32 {
        let Some(request) = &descriptor.request else { return -libc::EOPNOTSUPP };
        if descriptor.needs_registration {
            // The kernel had no memory to register the buffer with the request: a separate command
            // tries once more.
            if let Err(errno) = queue.register(tag).await {
                return errno;
            }
        }
        let result = self.device.pass(request).await;
        let result = self.result(request, descriptor.arrived_ns, &result);
        if descriptor.needs_registration {
            if let Err(errno) = queue.unregister(tag).await {
                return errno;
            }
        }
        result
    }

    /// The result of a request for the kernel.
    #[inline]
    fn result(&self, request: &Request, arrived_ns: u64, result: &Result<(), TargetError>) -> i32 {
        let ns = self.ring.round_ns().saturating_sub(arrived_ns);
        self.account.end(request, ns, result, || self.device.events().name().to_string())
    }
}
