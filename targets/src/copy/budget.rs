//! The memory and the throttle shared by the jobs of one client.
//!
//! Rule kept here: a job always makes progress. When the shared memory is used up, the job gets the
//! client's own reserve, one slice, or is woken when the reserve is returned.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use super::throttle::Throttle;
use crate::disk::{Buffer, Host};
use crate::units::Sectors;

/// The resources that running jobs take from their client.
pub(super) struct Budget {
    host: Rc<dyn Host>,
    throttle: Throttle,
    reserve: RefCell<Option<Buffer>>,
    reserve_id: u32,
    waiting_for_memory: RefCell<Vec<Waker>>,
    /// Sectors of the source processed since the client was created.
    moved: Cell<u64>,
}

impl Budget {
    /// With a reserve of `reserve_bytes`; `None` if the host cannot lend it.
    pub(super) fn new(
        host: &Rc<dyn Host>,
        throttle: Throttle,
        reserve_bytes: u32,
    ) -> Option<Budget> {
        let reserve = Buffer::acquire(host, reserve_bytes)?;
        Some(Budget {
            host: host.clone(),
            throttle,
            reserve_id: reserve.id().0,
            reserve: RefCell::new(Some(reserve)),
            waiting_for_memory: RefCell::default(),
            moved: Cell::new(0),
        })
    }

    pub(super) fn host(&self) -> &Rc<dyn Host> {
        &self.host
    }

    pub(super) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// The time for the throttle; without a limit the clock is not read.
    pub(super) fn throttle_ms(&self) -> u64 {
        if self.throttle.counts_time() { self.host.now_ms() } else { 0 }
    }

    /// Memory for a slice: shared memory if available, else the reserve; `None` if neither is, and
    /// the task is woken later.
    pub(super) fn take_buffer(&self, count_sectors: u64, cx: &mut Context<'_>) -> Option<Buffer> {
        let buffer = self.spare_buffer(count_sectors).or_else(|| self.reserve.borrow_mut().take());
        if buffer.is_none() {
            let mut waiting = self.waiting_for_memory.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
        }
        buffer
    }

    /// Shared memory for a slice, if available.
    pub(super) fn spare_buffer(&self, count_sectors: u64) -> Option<Buffer> {
        let bytes = u32::try_from(Sectors(count_sectors).bytes()).ok()?;
        Buffer::acquire(&self.host, bytes)
    }

    /// Returns the memory of a slice that has ended.
    pub(super) fn give_back(&self, buffer: Buffer) {
        if buffer.id().0 == self.reserve_id {
            *self.reserve.borrow_mut() = Some(buffer);
        }
        if !self.waiting_for_memory.borrow().is_empty() {
            for waker in self.waiting_for_memory.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    pub(super) fn add_moved(&self, sectors: u64) {
        self.moved.set(self.moved.get() + sectors);
    }

    /// Sectors of the source processed so far.
    pub(super) fn moved(&self) -> Sectors {
        Sectors(self.moved.get())
    }
}
