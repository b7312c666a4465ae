//! A served device: its target, how a request passes through it, and what has happened to it.
//!
//! Between the kernel and the target stands a gate. A *suspended* device holds new requests back; one that is *ending*
//! fails them. What the target could not carry out when it was suspended comes back and waits with the others, for the
//! target that is there when the device is resumed.
//!
//! Rules kept here: suspending ends only when the target has no request left, so that another target can take its
//! place; and no request ends with `EAGAIN`, which the kernel does not take for the error of a disk: it gets `EIO`
//! instead.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dm_targets::exec::{Executor, WaitQueue};
use dm_targets::mirror::target::Mirror;
use dm_targets::request::{Request, RequestKind, TargetError};
use dm_targets::snapshot::Cause;
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::Snapshot;

use crate::data::queue::{Descriptor, Queue};

/// What a device does with its requests.
#[derive(Clone)]
pub enum Served {
    /// A snapshot's device.
    Snapshot(Rc<Snapshot>),
    /// The origin's device.
    Origin(Rc<Origin>),
    /// A mirror's device.
    Mirror(Rc<Mirror>),
    /// A suspended device between two targets.
    Nothing,
}

impl Served {
    async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match self {
            Served::Snapshot(snapshot) => snapshot.handle(request).await,
            Served::Origin(origin) => origin.handle(request).await,
            Served::Mirror(mirror) => mirror.handle(request).await,
            Served::Nothing => Err(TargetError::Requeue),
        }
    }

    /// Writes what the target needs to be used, and starts its tasks.
    pub async fn activate(&self, executor: &Executor) -> Result<(), String> {
        match self {
            Served::Snapshot(snapshot) => snapshot.activate(executor).await.map_err(|error| error.to_string()),
            Served::Origin(_) | Served::Nothing => Ok(()),
            Served::Mirror(mirror) => mirror.activate(executor).await.map_err(|error| error.to_string()),
        }
    }

    /// Waits until nothing of the target is in flight and its tasks have ended. The error says what is lost with it.
    pub async fn close(&self) -> Result<(), String> {
        match self {
            Served::Snapshot(snapshot) => snapshot.close().await.map_err(|cause| lost(snapshot, &cause)),
            Served::Origin(_) | Served::Nothing => Ok(()),
            Served::Mirror(mirror) => {
                mirror.close().await;
                Ok(())
            }
        }
    }

    /// The target gives back or fails what it holds, and takes no more of that kind.
    async fn suspend(&self, noflush: bool) {
        if let Served::Mirror(mirror) = self {
            mirror.suspend(noflush).await;
        }
    }

    /// What the target has acknowledged is where another program would look for it. The error says what is not.
    async fn commit_all(&self) -> Result<(), String> {
        match self {
            Served::Snapshot(snapshot) => snapshot.commit_all().await.map_err(|cause| lost(snapshot, &cause)),
            Served::Origin(_) | Served::Mirror(_) | Served::Nothing => Ok(()),
        }
    }

    async fn resume(&self) {
        if let Served::Mirror(mirror) = self {
            mirror.resume().await;
        }
    }
}

/// What is lost when the last records of a snapshot cannot be written.
fn lost(snapshot: &Snapshot, cause: &Cause) -> String {
    let cow = snapshot.cow().name();
    format!("COW {cow}: {cause}; writes that were acknowledged and not flushed are lost, and the snapshot is invalid")
}

/// What has happened to a device that an administrator may be waiting for.
#[derive(Default)]
pub struct Events {
    count: Cell<u32>,
    gone: Cell<bool>,
    changed: WaitQueue,
    /// The events of the device that counts them.
    above: RefCell<Option<Rc<Events>>>,
}

impl Events {
    /// How many there were.
    pub fn count(&self) -> u32 {
        self.count.get()
    }

    /// Counts one.
    pub fn happen(&self) {
        if let Some(device) = &*self.above.borrow() {
            return device.happen();
        }
        self.count.set(self.count.get().wrapping_add(1));
        self.changed.wake_all();
    }

    /// Waits until there are others than so many and returns their count; `None` when the device is gone, or `stopped` says
    /// that nobody waits any more.
    pub async fn after_or(&self, seen: u32, stopped: impl Fn() -> bool) -> Option<u32> {
        let other = |count: u32| (count != seen).then_some(Some(count));
        let ended = || self.gone.get() || stopped();
        self.changed.until(|| if ended() { Some(None) } else { other(self.count.get()) }).await
    }

    /// What happens to a target that has taken another one's place happens to its device.
    fn be_part_of(&self, device: &Rc<Events>) {
        *self.above.borrow_mut() = Some(device.clone());
    }

    fn end(&self) {
        self.gone.set(true);
        self.changed.wake_all();
    }
}

/// A target that has been opened, and its events.
#[derive(Clone)]
pub struct Opened {
    pub served: Served,
    pub events: Rc<Events>,
}

/// What went through a device since it was added.
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

/// A device whose queues are served.
pub struct Device {
    served: RefCell<Served>,
    pub events: Rc<Events>,
    queues: Vec<Rc<Queue>>,
    stats: Cell<DeviceStats>,
    name: String,
    /// Requests wait.
    suspended: Cell<bool>,
    /// Requests fail.
    ending: Cell<bool>,
    /// Requests that the target has.
    inside: Cell<usize>,
    /// Targets that have taken another one's place.
    swaps: Cell<u64>,
    changed: WaitQueue,
}

impl Device {
    /// Serves queues with a target that has been opened.
    pub(super) fn start(executor: &Executor, name: &str, queues: Vec<Rc<Queue>>, opened: Opened) -> Rc<Device> {
        let Opened { served, events } = opened;
        let device = Rc::new(Device {
            served: RefCell::new(served),
            events,
            queues,
            stats: Cell::default(),
            name: name.to_owned(),
            suspended: Cell::new(false),
            ending: Cell::new(false),
            inside: Cell::new(0),
            swaps: Cell::new(0),
            changed: WaitQueue::default(),
        });
        for queue in &device.queues {
            for tag in 0..queue.depth() {
                let (queue, device) = (queue.clone(), device.clone());
                executor.spawn(async move { queue.serve(tag, async |request| device.handle(request).await).await });
            }
        }
        device
    }

    /// What went through it.
    pub fn stats(&self) -> DeviceStats {
        self.stats.get()
    }

    /// Whether requests are held back.
    pub fn is_suspended(&self) -> bool {
        self.suspended.get()
    }

    /// Its target.
    pub fn served(&self) -> Served {
        self.served.borrow().clone()
    }

    /// Holds new requests back and waits for those that the target has. The device is suspended also after an error, which
    /// says what is lost.
    pub(super) async fn suspend(&self, noflush: bool) -> Result<(), String> {
        self.suspended.set(true);
        self.changed.wake_all();
        self.served().suspend(noflush).await;
        self.changed.until(|| (self.inside.get() == 0).then_some(())).await;
        self.served().commit_all().await
    }

    /// Lets requests go on.
    pub(super) async fn resume(&self, same_target: bool) {
        if same_target {
            self.served().resume().await;
        }
        self.suspended.set(false);
        self.changed.wake_all();
    }

    /// Takes the target apart; nothing stands in its place.
    pub(super) async fn take_target(&self) -> Result<(), String> {
        let served = self.served.replace(Served::Nothing);
        served.close().await
    }

    /// Puts a target that can be used in the place of the one that was there.
    pub(super) fn put_target(&self, opened: Opened) {
        opened.events.be_part_of(&self.events);
        self.served.replace(opened.served);
        self.swaps.set(self.swaps.get() + 1);
        self.changed.wake_all();
    }

    /// What the target has is carried out or fails, what comes later fails.
    pub(super) async fn let_go(&self) {
        self.suspended.set(true);
        self.served().suspend(false).await;
        self.ending.set(true);
        self.suspended.set(false);
        self.changed.wake_all();
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

    /// Tells whoever waits for events that no more will come, and waits until the tags have ended.
    pub(super) async fn ended(&self) {
        self.events.end();
        self.all_ended().await;
    }

    async fn pass(&self, request: &Request) -> Result<(), TargetError> {
        loop {
            if self.suspended.get() {
                self.changed.until(|| (!self.suspended.get()).then_some(())).await;
            }
            if self.ending.get() {
                return Err(TargetError::Ending);
            }
            let swaps = self.swaps.get();
            self.inside.set(self.inside.get() + 1);
            let served = self.served();
            let result = served.handle(request).await;
            drop(served);
            self.inside.set(self.inside.get() - 1);
            if self.suspended.get() {
                self.changed.wake_all();
            }
            match result {
                // It could not be carried out by this target and is for the next one. Nobody tries again before something
                // has changed: a target that is away while its device runs would be asked for ever.
                Err(TargetError::Requeue) => {
                    let changed = || self.suspended.get() || self.ending.get() || self.swaps.get() != swaps;
                    self.changed.until(|| changed().then_some(())).await;
                }
                result => return result,
            }
        }
    }

    async fn handle(&self, descriptor: &Descriptor) -> i32 {
        let Some(request) = &descriptor.request else { return -libc::EOPNOTSUPP };
        let result = self.pass(request).await;
        let mut stats = self.stats.get();
        let bytes = request.count.bytes();
        match request.kind {
            RequestKind::Read => (stats.reads, stats.read_bytes) = (stats.reads + 1, stats.read_bytes + bytes),
            RequestKind::Write { .. } => {
                (stats.writes, stats.write_bytes) = (stats.writes + 1, stats.write_bytes + bytes)
            }
            RequestKind::Flush => stats.flushes += 1,
            RequestKind::Discard => stats.discards += 1,
        }
        let outcome = match result {
            // Reads and writes end with their full length; the others with nothing, because byte counts overflow.
            Ok(()) => match request.kind {
                RequestKind::Read | RequestKind::Write { .. } => i32::try_from(bytes).unwrap_or(i32::MAX),
                RequestKind::Flush | RequestKind::Discard => 0,
            },
            Err(error) => {
                stats.errors += 1;
                if stats.errors.is_power_of_two() {
                    log::warn!(
                        "{}: {:?} at sector {}: {error} (error {})",
                        self.name,
                        request.kind,
                        request.sector,
                        stats.errors
                    );
                }
                // A busy errno would make the kernel fail the request in another way.
                match error.errno().0 {
                    libc::EAGAIN => -libc::EIO,
                    errno => -errno,
                }
            }
        };
        self.stats.set(stats);
        outcome
    }
}
