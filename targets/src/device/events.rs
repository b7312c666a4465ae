//! The events of a device: their number, for whoever waits for the next one, and the device's name
//! in messages. Those of a target that has replaced another one are its device's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::exec::WaitQueue;

/// Events of a device that an administrator may be waiting for, and its name in messages.
#[derive(Default)]
pub struct Events {
    count: Cell<u32>,
    gone: Cell<bool>,
    changed: WaitQueue,
    name: RefCell<String>,
    /// The events of the device to which these are forwarded.
    above: RefCell<Option<Rc<Events>>>,
}

impl Events {
    /// Those of a target that has this name until its device gives it one.
    pub fn named(name: String) -> Events {
        Events { name: RefCell::new(name), ..Events::default() }
    }

    /// The name of the device.
    pub fn name(&self) -> String {
        match &*self.above.borrow() {
            Some(device) => device.name(),
            None => self.name.borrow().clone(),
        }
    }

    /// The device has this name from now on.
    pub fn set_name(&self, name: &str) {
        name.clone_into(&mut self.name.borrow_mut());
    }

    /// The number of events.
    pub fn count(&self) -> u32 {
        self.count.get()
    }

    /// Counts an event.
    pub fn notify(&self) {
        if let Some(device) = &*self.above.borrow() {
            return device.notify();
        }
        self.count.set(self.count.get().wrapping_add(1));
        self.changed.wake_all();
    }

    /// Waits until the count differs from `seen` and returns it; `None` when the device is gone, or
    /// `stopped` returns `true`.
    pub async fn after_or(&self, seen: u32, stopped: impl Fn() -> bool) -> Option<u32> {
        let other = |count: u32| (count != seen).then_some(Some(count));
        let ended = || self.gone.get() || stopped();
        self.changed.until(|| if ended() { Some(None) } else { other(self.count.get()) }).await
    }

    /// Forwards the events of a target that has replaced another one to its device.
    pub(super) fn forward_to(&self, device: &Rc<Events>) {
        *self.above.borrow_mut() = Some(device.clone());
    }

    /// Ends every wait: the device is gone.
    pub fn end(&self) {
        self.gone.set(true);
        self.changed.wake_all();
    }
}
