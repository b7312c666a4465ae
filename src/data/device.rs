//! A device whose queues are served: requests come from its tags, and the target's results go back
//! to the kernel.
//!
//! Rule kept here: no request ends with `EAGAIN`, which the kernel does not treat as a disk error:
//! it gets `EIO` instead.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::device::Device;
use dm_targets::exec::Executor;
use dm_targets::request::RequestKind;

use crate::data::durations::Durations;
use crate::data::queue::{Descriptor, Queue};
use crate::protocol;
use crate::ring::Ring;

/// I/O counters of a device since it was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceStats {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub flushes: u64,
    pub discards: u64,
    pub errors: u64,
}

/// A device and its queues.
pub struct ServedDevice {
    device: Rc<Device>,
    queues: Vec<Rc<Queue>>,
    ring: Ring,
    stats: RefCell<DeviceStats>,
    durations: RefCell<Durations>,
}

impl ServedDevice {
    /// Serves the queues of a device.
    pub(super) fn start(
        executor: &Executor,
        ring: &Ring,
        name: &str,
        queues: Vec<Rc<Queue>>,
        device: Rc<Device>,
    ) -> Rc<ServedDevice> {
        device.events().set_name(name);
        let served = Rc::new(ServedDevice {
            device,
            queues,
            ring: ring.clone(),
            stats: RefCell::default(),
            durations: RefCell::default(),
        });
        for queue in &served.queues {
            for tag in 0..queue.depth() {
                let (queue, served) = (queue.clone(), served.clone());
                executor.spawn(async move {
                    queue.serve(tag, async |request| served.handle(request).await).await
                });
            }
        }
        served
    }

    /// Messages and events have this name from now on.
    pub fn rename(&self, name: &str) {
        self.device.events().set_name(name);
    }

    /// The device's I/O counters.
    pub fn stats(&self) -> DeviceStats {
        *self.stats.borrow()
    }

    /// How long its requests have taken.
    pub fn durations(&self) -> protocol::Durations {
        self.durations.borrow().object()
    }

    /// Whether all its tags have ended: the kernel has stopped the device.
    pub fn has_ended(&self) -> bool {
        self.queues.iter().all(|queue| queue.has_ended())
    }

    /// Waits until the tags have ended.
    pub(super) async fn all_ended(&self) {
        for queue in &self.queues {
            queue.all_ended().await;
        }
    }

    /// Ends the waits for events, and waits until the tags have ended.
    pub(super) async fn ended(&self) {
        self.device.events().end();
        self.all_ended().await;
    }

    async fn handle(&self, descriptor: &Descriptor) -> i32 {
        let Some(request) = &descriptor.request else { return -libc::EOPNOTSUPP };
        let result = self.device.pass(request).await;
        let ns = self.ring.round_ns().saturating_sub(descriptor.arrived_ns);
        self.durations.borrow_mut().add(request.kind, ns);
        let mut stats = self.stats.borrow_mut();
        let bytes = request.count.bytes();
        match request.kind {
            RequestKind::Read => {
                stats.reads += 1;
                stats.read_bytes += bytes;
            }
            RequestKind::Write { .. } => {
                stats.writes += 1;
                stats.write_bytes += bytes;
            }
            RequestKind::Flush => stats.flushes += 1,
            RequestKind::Discard => stats.discards += 1,
        }
        match result {
            // Reads and writes return their full length; the others return 0, because byte counts
            // could overflow.
            Ok(()) => match request.kind {
                RequestKind::Read | RequestKind::Write { .. } => {
                    i32::try_from(bytes).unwrap_or(i32::MAX)
                }
                RequestKind::Flush | RequestKind::Discard => 0,
            },
            Err(error) => {
                stats.errors += 1;
                if stats.errors.is_power_of_two() {
                    let (name, kind) = (self.device.events().name(), word(request.kind));
                    let sector = request.sector;
                    log::warn!(
                        "{name}: {kind} at sector {sector}: {error} (error {})",
                        stats.errors
                    );
                }
                // `EAGAIN` would make the kernel fail the request in another way.
                match error.errno().0 {
                    libc::EAGAIN => -libc::EIO,
                    errno => -errno,
                }
            }
        }
    }
}

/// The name of a request's kind, for a message.
fn word(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Read => "read",
        RequestKind::Write { .. } => "write",
        RequestKind::Flush => "flush",
        RequestKind::Discard => "discard",
    }
}
