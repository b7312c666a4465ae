//! An opened target, as the control thread owns it.
//!
//! The target itself cannot leave the thread that has the targets. A job of its own, the *keeper*,
//! has it there from the moment when it is opened until the owner is dropped, and carries out what
//! the owner asks for. So nothing is looked up, and nothing is left when a command fails: what is
//! dropped here is closed there.
//!
//! Rules kept here: when the owner has been dropped, the target is closed and its disks are free,
//! unless a job on it waits for a disk that does not answer: then it is closed when that job has
//! ended. The owner never waits for such a job.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use dm_targets::device::OpenTarget;

use super::thread::{Thread, ThreadHandle};
use crate::failure::Reason;

/// A job's future: it stays on the thread that has the targets.
type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// A job for the thread `T`.
type Job<T, R> = Box<dyn FnOnce(Rc<T>) -> Local<R> + Send>;

/// A job on the target.
struct Work<T> {
    run: Box<dyn FnOnce(Rc<T>, OpenTarget) -> Local<()> + Send>,
    /// The keeper gives its target away with it, and ends.
    last: bool,
}

/// What the owner and the keeper share.
struct Line<T> {
    work: VecDeque<Work<T>>,
    /// The target is being opened, or a job on it has not ended.
    busy: bool,
    /// The owner has been dropped.
    dropped: bool,
    /// The target is no longer kept.
    ended: bool,
}

/// The owner of an opened target.
#[must_use]
pub struct Held<C: ThreadHandle> {
    handle: C,
    line: Arc<Shared<Line<C::Thread>>>,
    /// The last job has been given the target.
    given: bool,
}

impl<C: ThreadHandle> Held<C> {
    /// The owner of the target that the job [`Held::opening`] opens.
    pub fn new(handle: C) -> Held<C> {
        let line = Line { work: VecDeque::new(), busy: true, dropped: false, ended: false };
        Held { handle, line: Arc::new(Shared::of(line)), given: false }
    }

    /// The job that opens the target. What `open` returns beside the target is its result. A target
    /// that is opened when its owner has been dropped is closed at once.
    pub fn opening<R, F>(
        &self,
        open: impl FnOnce(Rc<C::Thread>) -> F + Send + 'static,
    ) -> Job<C::Thread, Result<R, Reason>>
    where
        R: 'static,
        F: Future<Output = Result<(OpenTarget, R), Reason>> + 'static,
    {
        let line = self.line.clone();
        Box::new(move |thread| {
            Box::pin(async move {
                let opened = open(thread.clone()).await;
                let (opened, found) =
                    opened.inspect_err(|_| line.change(|line| line.ended = true))?;
                let opened = Some(thread.group().hold(opened));
                line.change(|line| line.busy = false);
                // The thread ends without waiting for the keeper, which must not keep it.
                let keeper = Keeper { opened, line, thread: Rc::downgrade(&thread) };
                thread.group().executor.spawn(keeper.work());
                Ok(found)
            })
        })
    }

    /// A job on the target.
    pub fn job<R, F>(
        &self,
        job: impl FnOnce(Rc<C::Thread>, OpenTarget) -> F + Send + 'static,
    ) -> Job<C::Thread, R>
    where
        R: Send + 'static,
        F: Future<Output = R> + 'static,
    {
        self.post(false, job)
    }

    /// The last job on the target: the target is closed when the job drops it.
    pub fn last_job<R, F>(
        mut self,
        job: impl FnOnce(Rc<C::Thread>, OpenTarget) -> F + Send + 'static,
    ) -> Job<C::Thread, R>
    where
        R: Send + 'static,
        F: Future<Output = R> + 'static,
    {
        self.given = true;
        self.post(true, job)
    }

    fn post<R, F>(
        &self,
        last: bool,
        job: impl FnOnce(Rc<C::Thread>, OpenTarget) -> F + Send + 'static,
    ) -> Job<C::Thread, R>
    where
        R: Send + 'static,
        F: Future<Output = R> + 'static,
    {
        let line = self.line.clone();
        Box::new(move |_| {
            Box::pin(async move {
                let result = Arc::new(Shared::of(None));
                let theirs = result.clone();
                let run = move |thread, opened| -> Local<()> {
                    let job = job(thread, opened);
                    Box::pin(async move {
                        let outcome = job.await;
                        theirs.change(|result| *result = Some(outcome));
                    })
                };
                line.change(|line| {
                    line.busy = true;
                    line.work.push_back(Work { run: Box::new(run), last });
                });
                result.until(Option::take).await
            })
        })
    }
}

impl<C: ThreadHandle> Drop for Held<C> {
    fn drop(&mut self) {
        let is_free = |line: &mut Line<C::Thread>| {
            line.dropped = line.busy;
            line.ended || line.busy
        };
        if self.given || self.line.change(is_free) {
            return;
        }
        let line = self.line.clone();
        let ended = self.handle.call(move |_| async move {
            line.change(|line| line.dropped = true);
            line.until(|line| line.ended.then_some(())).await;
        });
        if let Err(why) = ended {
            log::debug!("{why}");
        }
    }
}

/// The job that has the target.
struct Keeper<T> {
    opened: Option<Rc<OpenTarget>>,
    line: Arc<Shared<Line<T>>>,
    thread: Weak<T>,
}

impl<T> Keeper<T> {
    async fn work(mut self) {
        let next = |line: &mut Line<T>| match line.work.pop_front() {
            None => line.dropped.then_some(None),
            work => Some(work),
        };
        while let Some(Work { run, last }) = self.line.until(next).await {
            let kept = if last { self.opened.take() } else { self.opened.clone() };
            let (Some(thread), Some(kept)) = (self.thread.upgrade(), kept) else { return };
            let opened = OpenTarget::clone(&kept);
            drop(kept);
            run(thread, opened).await;
            if last {
                return;
            }
            self.line.change(|line| line.busy = !line.work.is_empty());
        }
    }
}

impl<T> Drop for Keeper<T> {
    /// The target first.
    fn drop(&mut self) {
        self.opened.take();
        self.line.change(|line| line.ended = true);
    }
}

/// What one side changes and the other one waits for.
struct Shared<T>(Mutex<(T, Vec<Waker>)>);

impl<T> Shared<T> {
    fn of(state: T) -> Shared<T> {
        Shared(Mutex::new((state, Vec::new())))
    }

    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let (result, wakers) = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (change(&mut inner.0), std::mem::take(&mut inner.1))
        };
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// Waits until `ready` returns something. It is called at once and after each change.
    async fn until<R>(&self, mut ready: impl FnMut(&mut T) -> Option<R>) -> R {
        std::future::poll_fn(move |cx| {
            let (state, wakers) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(result) = ready(state) else {
                wakers.push(cx.waker().clone());
                return Poll::Pending;
            };
            Poll::Ready(result)
        })
        .await
    }
}
