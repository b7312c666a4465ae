//! A device: its target, the gate before it, and what has happened to it. Where its requests come
//! from is the caller's business: a server's queues, or a simulated user.
//!
//! A *suspended* device holds new requests back; one that is *ending* fails them. What the target
//! could not carry out when it was suspended comes back and waits with the others, for the target
//! that is there when the device is resumed.
//!
//! Rules kept here: suspending ends only when the target has no request left, so that another
//! target can take its place. A suspension or an end that waits for a disk can be given up: the
//! device goes on as it was, at once if nothing but requests is waited for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::exec::WaitQueue;
use crate::gate::{Closed, Gate};
use crate::request::{Request, RequestKind, TargetError};
use crate::target::Target;

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
    pub fn notify(&self) {
        if let Some(device) = &*self.above.borrow() {
            return device.notify();
        }
        self.count.set(self.count.get().wrapping_add(1));
        self.changed.wake_all();
    }

    /// Waits until the count differs from `seen` and returns it; `None` when the device is gone, or
    /// `stopped` says that the wait is over.
    pub async fn after_or(&self, seen: u32, stopped: impl Fn() -> bool) -> Option<u32> {
        let other = |count: u32| (count != seen).then_some(Some(count));
        let ended = || self.gone.get() || stopped();
        self.changed.until(|| if ended() { Some(None) } else { other(self.count.get()) }).await
    }

    /// Counts the events of a target that has taken another one's place as its device's.
    fn forward_to(&self, device: &Rc<Events>) {
        *self.above.borrow_mut() = Some(device.clone());
    }

    /// Ends every wait: the device is gone.
    pub fn end(&self) {
        self.gone.set(true);
        self.changed.wake_all();
    }
}

/// A target that has been opened, and its events.
#[derive(Clone)]
pub struct Opened {
    /// The target.
    pub target: Target,
    /// Its events.
    pub events: Rc<Events>,
}

/// A device, from the moment where its target can be used.
pub struct Device {
    target: RefCell<Target>,
    events: Rc<Events>,
    /// Guards the target: inside are the requests that it has. Held while the device is suspended,
    /// and closed when it is ending.
    gate: Gate,
    /// The suspension or the end that has been begun is not wanted any more.
    given_up: Cell<bool>,
    /// Targets that have taken another one's place.
    swaps: Cell<u64>,
    /// Something was written or discarded through it.
    written: Cell<bool>,
}

impl Device {
    /// A device that runs.
    pub fn new(opened: Opened) -> Device {
        let Opened { target, events } = opened;
        Device {
            target: RefCell::new(target),
            events,
            gate: Gate::default(),
            given_up: Cell::new(false),
            swaps: Cell::new(0),
            written: Cell::new(false),
        }
    }

    /// What has happened to it.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Whether requests are held back.
    pub fn is_suspended(&self) -> bool {
        self.gate.is_held()
    }

    /// Whether something was written or discarded through it, or may have been.
    pub fn is_written(&self) -> bool {
        self.written.get()
    }

    /// Its target.
    pub fn target(&self) -> Target {
        self.target.borrow().clone()
    }

    /// Passes a request to the target, when the device is not suspended.
    ///
    /// # Errors
    /// The target's; `Ending` if the device is being deleted.
    pub async fn pass(&self, request: &Request) -> Result<(), TargetError> {
        loop {
            if let Err(Closed) = self.gate.opened().await {
                return Err(TargetError::Ending);
            }
            if matches!(request.kind, RequestKind::Write { .. } | RequestKind::Discard) {
                self.written.set(true);
            }
            let swaps = self.swaps.get();
            self.gate.enter();
            let target = self.target();
            let result = target.map(request).await;
            drop(target);
            self.gate.leave();
            match result {
                // It could not be carried out by this target and is for the next one. It is not
                // tried again before something has changed: a target that is away while its device
                // runs would be asked for ever.
                Err(TargetError::Requeue) => {
                    let changed = || !self.gate.is_open() || self.swaps.get() != swaps;
                    self.gate.until(|| changed().then_some(())).await;
                }
                result => return result,
            }
        }
    }

    /// Holds new requests back and waits for those that the target has. The device is suspended
    /// also after an error.
    ///
    /// # Errors
    /// What is lost of what was acknowledged; or it was given up, and the device runs on.
    pub async fn suspend(&self, noflush: bool) -> Result<(), String> {
        let ran = self.hold(noflush).await;
        let given_up = self.given_up.get();
        let committed = if given_up { Ok(()) } else { self.target().commit_all().await };
        if ran && self.given_up.take() {
            self.resume(true).await;
        } else if !given_up {
            return committed;
        }
        committed.and(Err("given up; the device is as it was".to_owned()))
    }

    /// Holds new requests back until the target has none any more, or that is given up. Says
    /// whether the device ran before.
    async fn hold(&self, noflush: bool) -> bool {
        let ran = self.gate.is_open();
        self.given_up.set(false);
        self.gate.hold();
        self.target().suspend(noflush).await;
        let over = || self.gate.inside() == 0 || self.given_up.get();
        self.gate.until(|| over().then_some(())).await;
        ran
    }

    /// Gives up a suspension or an end that is under way and waits for a disk. The device goes on
    /// as it was, as soon as it can.
    pub fn give_up(&self) {
        self.given_up.set(true);
        self.gate.wake();
        self.target().give_up();
    }

    /// Lets requests go on after a suspension or an end that was given up, and ended all the same.
    pub async fn run_on(&self) {
        self.resume(true).await;
    }

    /// Lets requests go on, to the target that was suspended or to a new one.
    pub async fn resume(&self, same_target: bool) {
        if same_target {
            self.target().resume().await;
        }
        self.gate.release();
    }

    /// Takes the target apart; nothing stands in its place.
    ///
    /// # Errors
    /// What is lost with it.
    pub async fn take_target(&self) -> Result<(), String> {
        let target = self.target.replace(Target::Nothing);
        target.close().await
    }

    /// Puts a target that can be used in the place of the one that was there.
    pub fn put_target(&self, opened: Opened) {
        opened.events.forward_to(&self.events);
        self.target.replace(opened.target);
        self.swaps.set(self.swaps.get() + 1);
        self.gate.wake();
    }

    /// Begins the device's end: what its target has is carried out or fails, what comes later
    /// waits until [`Device::end_requests`]. Says whether it has begun, and was not given up.
    pub async fn begin_delete(&self) -> bool {
        let ran = self.hold(false).await;
        if self.given_up.take() {
            if ran {
                self.resume(true).await;
            }
            return false;
        }
        true
    }

    /// Fails what waits and what comes from now on: the device ends.
    pub fn end_requests(&self) {
        self.gate.close();
    }
}
