//! A disk and memory that do nothing, at as few instructions as possible.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use dm_targets::disk::{Backend, BufferId, Completions, Errno, Host, Limits, Op, OpId, UserData};
use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::units::Sectors;

use super::SIZE;

/// Memory that stores nothing; metadata reads as zeroes. Neither this nor [`NoDisk`] is
/// [`dm_targets::ram`], which copies the data, at more instructions than the data path, and would
/// hold all of a 128 GiB disk in memory.
#[derive(Default)]
pub struct NoMemory {
    pub lent: Cell<u32>,
    pub told: Rc<RefCell<Vec<UserData>>>,
}

/// Nothing is lost here.
pub struct NoLosses;

impl LossRecord for NoLosses {
    fn cow(&self) -> &[String] {
        &[]
    }

    fn record(&self, _: Loss) -> Result<(), String> {
        Ok(())
    }
}

impl Host for NoMemory {
    fn acquire(&self, _: u32) -> Option<BufferId> {
        self.lent.set(self.lent.get() + 1);
        Some(BufferId(self.lent.get()))
    }
    fn tell(&self, data: UserData) {
        self.told.borrow_mut().push(data);
    }
    fn retain(&self, _: BufferId) {}
    fn release(&self, _: BufferId) {}
    fn read(&self, _: BufferId, _: u32, out: &mut [u8]) {
        out.fill(0);
    }
    fn write(&self, _: BufferId, _: u32, _: &[u8]) {}
    fn now_ms(&self) -> u64 {
        0
    }
    fn wake_at(&self, _: u64, _: &Waker) {}
}

/// The slot of an operation: whether it has completed, and the waiting task.
#[derive(Default)]
struct Flight {
    done: bool,
    waker: Option<Waker>,
}

/// A disk whose operations complete at the end of the round, so that every request waits as on the
/// server's ring; those of a [`dm_targets::ram::RamDisk`] complete immediately.
#[derive(Default)]
pub struct NoDisk {
    flights: RefCell<Vec<Flight>>,
    free: RefCell<Vec<u32>>,
    started: RefCell<VecDeque<u32>>,
    /// Operations whose completion is told, and what else there is to tell.
    pub sent: Rc<RefCell<Vec<UserData>>>,
}

impl NoDisk {
    pub fn complete_all(&self) {
        for index in self.started.borrow_mut().drain(..) {
            let flight = &mut self.flights.borrow_mut()[index as usize];
            flight.done = true;
            if let Some(waker) = flight.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Completions for NoDisk {
    fn send(&self, _: Op, data: UserData) {
        self.sent.borrow_mut().push(data);
    }
    fn refuse(&self, data: UserData, _: Errno) {
        panic!("{data:?} was outside the contract");
    }
}

impl Backend for NoDisk {
    fn completions(self: Rc<Self>) -> Option<Rc<dyn Completions>> {
        Some(self)
    }
    fn start(&self, _: Op) -> OpId {
        let mut flights = self.flights.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            flights.push(Flight::default());
            u32::try_from(flights.len() - 1).unwrap_or(u32::MAX)
        });
        flights[index as usize].done = false;
        self.started.borrow_mut().push_back(index);
        OpId(index)
    }
    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>> {
        let flight = &mut self.flights.borrow_mut()[id.0 as usize];
        if flight.done {
            self.free.borrow_mut().push(id.0);
            return Poll::Ready(Ok(()));
        }
        flight.waker = Some(waker.clone());
        Poll::Pending
    }
    fn detach(&self, _: OpId) {}
    fn limits(&self) -> Limits {
        Limits {
            logical_block_bytes: 4096,
            physical_block_bytes: 4096,
            volatile_cache: false,
            read_only: false,
            max_discard: Sectors(0),
            discard_granularity_bytes: 0,
            max_write_zeroes: Sectors(0),
        }
    }
    fn size(&self) -> Sectors {
        SIZE
    }
}
