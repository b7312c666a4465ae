//! The tags of a queue: each has a request from its arrival until its result is committed, and a
//! task for what needs one.
//!
//! Rule kept here: I6 (a request is in one place at a time, remapped or in the tag's task, so it is
//! completed exactly once).

use std::cell::RefCell;
use std::future::Future;
use std::task::{Poll, Waker};

use dm_targets::disk::Errno;
use dm_targets::request::{Request, TargetError};
use dm_targets::target::remap::{Next, Remapped, Rest};

use super::queue::Descriptor;

/// What the task of a tag has to do.
pub(super) enum Work {
    /// A request that needs a task.
    Request(Descriptor),
    /// What is left of one that did not, and when it arrived.
    Rest(Request, u64, Rest),
    /// To end: the kernel sends no more requests.
    End,
}

/// A request in flight without a task.
struct Flying {
    request: Request,
    arrived_ns: u64,
    remapped: Remapped,
}

/// A tag. Its request is either here or in its task.
#[derive(Default)]
struct Tag {
    flying: Option<Flying>,
    work: Option<Work>,
    /// The task, once it has run.
    waker: Option<Waker>,
}

impl Tag {
    fn give(&mut self, work: Work) {
        self.work = Some(work);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// The tags of a queue.
pub(super) struct Tags(RefCell<Vec<Tag>>);

impl Tags {
    pub(super) fn new(depth: u16) -> Tags {
        Tags(RefCell::new((0..depth).map(|_| Tag::default()).collect()))
    }

    /// A request has arrived. `remap` starts it if it needs no task.
    #[inline]
    pub(super) fn arrived(
        &self,
        tag: u16,
        descriptor: Descriptor,
        remap: impl FnOnce(&Request) -> Option<Remapped>,
    ) {
        let tag = &mut self.0.borrow_mut()[usize::from(tag)];
        let Descriptor { request, arrived_ns, needs_registration } = descriptor;
        match request {
            Some(request) if !needs_registration => match remap(&request) {
                Some(remapped) => tag.flying = Some(Flying { request, arrived_ns, remapped }),
                None => {
                    let request = Some(request);
                    tag.give(Work::Request(Descriptor { request, arrived_ns, needs_registration }));
                }
            },
            request => {
                tag.give(Work::Request(Descriptor { request, arrived_ns, needs_registration }));
            }
        }
    }

    /// An operation of a request without a task has completed; `end_io` tells how far the request
    /// is. If it has ended, `end` is called with it, when it arrived, and its result, and returns
    /// the result for the kernel.
    #[inline]
    pub(super) fn completed(
        &self,
        tag: u16,
        result: i32,
        end_io: impl FnOnce(&Request, &mut Remapped, Result<(), Errno>) -> Next,
        end: impl FnOnce(&Request, u64, &Result<(), TargetError>) -> i32,
    ) -> Option<i32> {
        let tag = &mut self.0.borrow_mut()[usize::from(tag)];
        let Some(Flying { request, arrived_ns, remapped }) = &mut tag.flying else {
            debug_assert!(false, "a completion of a request that has ended");
            return None;
        };
        let result = if result < 0 { Err(Errno(-result)) } else { Ok(()) };
        match end_io(request, remapped, result) {
            Next::Waits => None,
            Next::Done(result) => {
                let result = end(request, *arrived_ns, &result);
                tag.flying = None;
                Some(result)
            }
            Next::Rest(rest) => {
                if let Some(Flying { request, arrived_ns, .. }) = tag.flying.take() {
                    tag.give(Work::Rest(request, arrived_ns, rest));
                }
                None
            }
        }
    }

    /// Ends the task of a tag.
    pub(super) fn end(&self, tag: u16) {
        self.0.borrow_mut()[usize::from(tag)].give(Work::End);
    }

    /// The next work for the task of a tag.
    pub(super) fn work(&self, tag: u16) -> impl Future<Output = Work> {
        std::future::poll_fn(move |cx| {
            let tag = &mut self.0.borrow_mut()[usize::from(tag)];
            match tag.work.take() {
                Some(work) => Poll::Ready(work),
                None => {
                    tag.waker.get_or_insert_with(|| cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}
