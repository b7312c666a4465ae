//! Completions that are told.
//!
//! A completion reaches its request in a task of the simulator, so in any order with whatever else
//! is ready by then; in a server it comes before other tasks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::task::{Poll, Waker};

use crate::disk::{Errno, UserData};

/// The completions of one request.
#[derive(Default)]
struct Waiting {
    told: VecDeque<(UserData, Result<(), Errno>)>,
    waker: Option<Waker>,
}

/// The requests of a machine that wait for completions. Each has a number of its own, also those
/// of a process that has died.
#[derive(Default)]
pub struct Told {
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waiting>>,
}

impl Told {
    /// A completion: called by the disks.
    pub(super) fn tell(&self, data: UserData, result: Result<(), Errno>) {
        let mut waiting = self.waiting.borrow_mut();
        let Some(request) = waiting.get_mut(&data.with_part(0).0) else {
            panic!("I6: an operation outlived its request, or was told twice: {}", data.0);
        };
        request.told.push_back((data, result));
        if let Some(waker) = request.waker.take() {
            waker.wake();
        }
    }

    /// A new request, and the user data for its operations.
    pub fn begin(&self) -> UserData {
        let data = UserData(self.next.replace(self.next.get() + 1));
        self.waiting.borrow_mut().insert(data.0, Waiting::default());
        data
    }

    /// A request has no operation in flight any more.
    pub fn end(&self, data: UserData) {
        self.waiting.borrow_mut().remove(&data.0);
    }

    /// Waits for the next completion of a request: its data and its result.
    pub fn next(&self, data: UserData) -> impl Future<Output = (UserData, Result<(), Errno>)> {
        std::future::poll_fn(move |cx| {
            let mut waiting = self.waiting.borrow_mut();
            let request = waiting.entry(data.0).or_default();
            match request.told.pop_front() {
                Some(told) => Poll::Ready(told),
                None => {
                    request.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}
