//! A device: its target, the gate before it, and its events. Its requests come from the caller: a
//! server's queues, or a simulated user.
//!
//! A *suspended* device holds new requests back; an *ending* one fails them. Requests that the
//! target could not carry out when it was suspended come back and wait with the others, for the
//! target that is there when the device is resumed.
//!
//! A device can *carry* an origin, whose disk it is (`crate::stack`). The requests of its own users
//! then go through the origin, so that they change nothing that its snapshots do not have (I5), and
//! only the origin's operations reach the target.
//!
//! Rules kept here: a suspension completes only when the target has no request left, so that
//! another target can replace it. A suspension or an end that waits for a disk can be given up: the
//! device continues as before, immediately if it waits for nothing but requests. When a device has
//! begun to carry an origin, no request of a user is under way past it (I5).

mod events;
mod passing;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::disk::DiskKey;
use crate::gate::Gate;
use crate::mutant::{self, Mutant};
use crate::snapshot::origin::Origin;
use crate::target::Target;

pub use events::Events;

/// A target that has been opened, and its events.
#[derive(Clone)]
pub struct OpenTarget {
    /// The target.
    pub target: Target,
    /// Its events.
    pub events: Rc<Events>,
}

/// A device, from the moment its target can be used.
pub struct Device {
    target: RefCell<Target>,
    events: Rc<Events>,
    /// Guards the target: inside are the requests that it has. Held while the device is suspended,
    /// and closed when it is ending.
    gate: Gate,
    /// The origin that the device carries.
    carried: RefCell<Option<Rc<Origin>>>,
    /// The same for the users: inside are those of their requests that the origin has, if the
    /// device carries one; held and closed with the other one then. Held in any case until a device
    /// that is taken over is about to be started.
    users: Gate,
    /// Requests of users that the target has without the origin.
    direct: Cell<usize>,
    /// The suspension or end in progress has been given up.
    given_up: Cell<bool>,
    /// How often a target has been replaced.
    swaps: Cell<u64>,
    /// Something was written or discarded through it.
    written: Cell<bool>,
    /// It was live before.
    taken_over: Cell<bool>,
    /// It had a table of another kind, or of other ranges, with data of its own.
    exchanged: Cell<bool>,
    /// The disks of origins that were changed through it under earlier tables.
    changed: RefCell<Vec<DiskKey>>,
}

impl Device {
    /// A device that is running.
    pub fn new(opened: OpenTarget) -> Device {
        let OpenTarget { target, events } = opened;
        Device {
            target: RefCell::new(target),
            events,
            gate: Gate::default(),
            carried: RefCell::default(),
            users: Gate::default(),
            direct: Cell::new(0),
            given_up: Cell::new(false),
            swaps: Cell::new(0),
            written: Cell::new(false),
            taken_over: Cell::new(false),
            exchanged: Cell::new(false),
            changed: RefCell::default(),
        }
    }

    /// Its events.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Whether requests are held back.
    pub fn is_suspended(&self) -> bool {
        self.gate.is_held()
    }

    /// Whether something was written or discarded through it here, or may have been.
    pub fn is_written(&self) -> bool {
        self.written.get()
    }

    /// The same in its whole life: whoever takes it over does not know that.
    pub fn was_in_use(&self) -> bool {
        self.written.get() || self.taken_over.get()
    }

    /// Whether it has got a table of another kind, or of other ranges, in the place of one with
    /// data: it may show something else.
    pub fn is_exchanged(&self) -> bool {
        self.exchanged.get()
    }

    /// It gets such a table.
    pub fn set_exchanged(&self) {
        self.exchanged.set(true);
    }

    /// It gets another table, and its origin's disk has been changed.
    pub(crate) fn set_changed(&self, disk: Option<DiskKey>) {
        let new = disk.filter(|disk| !self.has_changed(*disk));
        self.changed.borrow_mut().extend(new);
    }

    /// The disk is gone.
    pub(crate) fn forget_changed(&self, disk: Option<DiskKey>) {
        self.changed.borrow_mut().retain(|known| Some(*known) != disk);
    }

    pub(crate) fn has_changed(&self, disk: DiskKey) -> bool {
        self.changed.borrow().contains(&disk)
    }

    /// Its target.
    pub fn target(&self) -> Target {
        self.target.borrow().clone()
    }

    /// The origin that the device carries.
    pub fn carried(&self) -> Option<Rc<Origin>> {
        self.carried.borrow().clone()
    }

    /// Begins to carry an origin, whose disk it is, and waits until no request of a user is under
    /// way past it: whatever changes the device from then on asks the origin's snapshots.
    pub(crate) async fn carry(&self, origin: Rc<Origin>) {
        self.carried.replace(Some(origin));
        if self.gate.is_held() {
            self.users.hold();
        }
        let drained = || self.direct.get() == 0 || mutant::is(Mutant::CarriesTooEarly);
        self.gate.until(|| drained().then_some(())).await;
    }

    /// Carries no origin any more: the device has ended.
    pub(crate) fn put_down(&self) -> Option<Rc<Origin>> {
        self.carried.take()
    }

    /// Holds back the users of a device that carries an origin, and waits for those of their
    /// requests that the origin has; the origin's operations continue.
    pub async fn hold_users(&self) {
        self.users.hold();
        self.users.drained().await;
    }

    /// Waits until the origin that the device carries has no request of a user that it had before.
    pub async fn drain_users(&self) {
        self.hold_users().await;
        self.release_users();
    }

    /// Holds the users of a new device back until [`Device::release_users`]: the kernel may send
    /// their requests before what they need is there. An earlier server may have written to it.
    pub fn hold_until_started(&self) {
        self.users.hold();
        self.taken_over.set(true);
    }

    /// Lets the users of a device continue that is not suspended.
    pub fn release_users(&self) {
        if !self.gate.is_held() {
            self.users.release();
        }
    }

    /// Holds new requests back and waits for those of the target. The device is suspended even
    /// after an error.
    ///
    /// # Errors
    /// The acknowledged writes that are lost; or it was given up, and the device continues.
    pub async fn suspend(&self, noflush: bool) -> Result<(), String> {
        self.suspend_as(noflush, false).await
    }

    /// Suspends a device that was suspended by an earlier server, before its first request.
    ///
    /// # Errors
    /// What the earlier server had acknowledged is lost.
    pub async fn suspend_again(&self) -> Result<(), String> {
        self.suspend_as(true, true).await
    }

    async fn suspend_as(&self, noflush: bool, again: bool) -> Result<(), String> {
        let ran = self.hold(noflush).await;
        let given_up = self.given_up.get();
        let committed = match (given_up, again) {
            (true, _) => Ok(()),
            (false, true) => self.target().commit_again().await,
            (false, false) => self.target().commit_all().await,
        };
        if ran && self.given_up.take() {
            self.resume(true).await;
        } else if !given_up {
            return committed;
        }
        committed.and(Err("canceled; the device is unchanged".to_owned()))
    }

    /// Holds new requests back until the target has none left, or that is given up. Returns whether
    /// the device ran before.
    ///
    /// Requests of users that the origin has which the device carries are not waited for: they may
    /// need more of the target, which waits like new ones.
    async fn hold(&self, noflush: bool) -> bool {
        let ran = self.gate.is_open();
        self.given_up.set(false);
        if self.carried.borrow().is_some() {
            self.users.hold();
            if mutant::is(Mutant::HeldFromBelow) {
                self.target().suspend(noflush).await;
                self.users.until(|| (self.users.inside() == 0 || noflush).then_some(())).await;
            }
        }
        // A target that is suspended takes in what it cannot carry out: nothing may reach it then.
        self.gate.hold();
        self.target().suspend(noflush).await;
        let over = || self.gate.inside() == 0 || self.given_up.get();
        self.gate.until(|| over().then_some(())).await;
        ran
    }

    /// Gives up a suspension or an end in progress that waits for a disk. The device continues as
    /// before, as soon as it can.
    pub fn give_up(&self) {
        self.given_up.set(true);
        self.gate.wake();
        self.target().give_up();
    }

    /// Lets requests continue after a suspension or an end that was given up but completed anyway.
    pub async fn run_on(&self) {
        self.resume(true).await;
    }

    /// Lets requests continue, to the suspended target or to a new one.
    pub async fn resume(&self, same_target: bool) {
        if same_target {
            self.target().resume().await;
        }
        self.gate.release();
        self.users.release();
    }

    /// Closes the target; none replaces it yet.
    ///
    /// # Errors
    /// What is lost with it.
    pub async fn take_target(&self) -> Result<(), String> {
        let target = self.target.replace(Target::Nothing);
        target.close().await
    }

    /// Replaces the previous target with one that can be used.
    pub fn put_target(&self, opened: OpenTarget) {
        opened.events.forward_to(&self.events);
        self.target.replace(opened.target);
        self.swaps.set(self.swaps.get() + 1);
        self.gate.wake();
    }

    /// Begins the device's end: its target's requests are carried out or fail, later ones wait
    /// until [`Device::end_requests`]. Returns whether it has begun and was not given up.
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

    /// Fails waiting and later requests: the device ends.
    pub fn end_requests(&self) {
        self.gate.close();
        self.users.close();
    }
}
