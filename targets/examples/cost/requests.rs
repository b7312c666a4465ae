//! Requests that are carried out as the server does it: in a task only where the target needs one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

use dm_targets::device::Device;
use dm_targets::disk::{Memory, PayloadId, UserData};
use dm_targets::request::{Request, RequestKind};
use dm_targets::target::Target;
use dm_targets::target::remap::{Next, Remapped, Rest};
use dm_targets::units::{Sector, Sectors};

use super::{CHUNK_SECTORS, CHUNKS, DEPTH, STRIDE};

/// The target of the requests.
#[derive(Clone)]
pub enum To {
    Target(Target),
    Device(Rc<Device>),
}

/// What a slot's task has to do.
enum Work {
    /// A request that needs a task.
    Whole,
    /// What is left of one that did not.
    Rest(Rest),
}

/// A request in flight, as a server's tag has it.
pub struct Slot {
    request: Request,
    remapped: Option<Remapped>,
    work: Option<Work>,
    waker: Option<Waker>,
}

/// The requests of a run.
pub struct Requests {
    to: To,
    kind: RequestKind,
    first: u64,
    next: Cell<u64>,
    count: u64,
    pub left: Cell<u64>,
    pub slots: Vec<RefCell<Slot>>,
}

impl Requests {
    /// `count` requests of a kind, from chunk `first` on, with [`DEPTH`] in flight together.
    pub fn new(count: u64, first: u64, kind: RequestKind, to: &To) -> Requests {
        let slot = |_| {
            let (sector, length) = (Sector(0), Sectors(0));
            let request = Request { kind, sector, count: length, memory: Memory::None };
            RefCell::new(Slot { request, remapped: None, work: None, waker: None })
        };
        Requests {
            to: to.clone(),
            kind,
            first,
            next: Cell::new(0),
            count,
            left: Cell::new(DEPTH),
            slots: (0..DEPTH).map(slot).collect(),
        }
    }

    /// Begins the next request in a slot, if there is one.
    pub fn begin(&self, number: usize) {
        if self.next.get() == self.count {
            self.left.set(self.left.get() - 1);
            return;
        }
        let chunk = (self.first + self.next.replace(self.next.get() + 1)).wrapping_mul(STRIDE);
        let mut slot = self.slots[number].borrow_mut();
        slot.request = Request {
            kind: self.kind,
            sector: Sector(chunk % CHUNKS * CHUNK_SECTORS),
            count: Sectors(CHUNK_SECTORS),
            memory: Memory::payload(PayloadId(0)),
        };
        let data = UserData(number as u64);
        slot.remapped = match &self.to {
            To::Target(target) => target.remap(&slot.request, data),
            To::Device(device) => device.remap(&slot.request, data),
        };
        if slot.remapped.is_none() {
            slot.give(Work::Whole);
        }
    }

    /// A completion was told.
    pub fn told(&self, data: UserData) {
        let number = usize::try_from(data.with_part(0).0).unwrap_or(usize::MAX);
        let next = {
            let mut slot = self.slots[number].borrow_mut();
            let Slot { request, remapped, .. } = &mut *slot;
            let Some(remapped) = remapped else { return };
            let next = match &self.to {
                To::Target(target) => target.end_io(request, remapped, data, Ok(())),
                To::Device(device) => device.end_io(request, remapped, data, Ok(())),
            };
            match next {
                Next::Rest(rest) => return slot.give(Work::Rest(rest)),
                next => next,
            }
        };
        if let Next::Done(result) = next {
            assert!(result.is_ok(), "{result:?}");
            self.begin(number);
        }
    }

    /// The task of a slot.
    pub async fn serve(self: Rc<Self>, number: usize) {
        loop {
            let (work, request) = std::future::poll_fn(|cx| {
                let slot = &mut *self.slots[number].borrow_mut();
                match slot.work.take() {
                    Some(work) => Poll::Ready((work, slot.request.clone())),
                    None => {
                        slot.waker.get_or_insert_with(|| cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await;
            let result = match (work, &self.to) {
                (Work::Whole, To::Target(target)) => target.map(&request).await,
                (Work::Whole, To::Device(device)) => device.pass(&request).await,
                (Work::Rest(rest), To::Target(target)) => target.finish(&request, rest).await,
                (Work::Rest(rest), To::Device(device)) => device.finish(&request, rest).await,
            };
            assert!(result.is_ok(), "{result:?}");
            self.begin(number);
        }
    }
}

impl Slot {
    fn give(&mut self, work: Work) {
        self.work = Some(work);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
