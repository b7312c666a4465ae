//! How other threads run jobs on a data thread: a mailbox of jobs, and an eventfd that wakes the
//! thread's ring.
//!
//! A job runs between requests, and its caller waits for its result. A job for a client of the
//! server ([`Handle::call_for`]) is notified when the client has left, and may end early: no job
//! waits for a client that is gone.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Waker;

use rustix::event::{EventfdFlags, eventfd};

use super::mailbox::{Job, Mailbox};
use super::thread::DataThread;
use crate::protocol::until_left_or;

/// Access to a data thread for other threads.
#[derive(Clone)]
pub struct Handle {
    pub(super) mailbox: Arc<Mutex<Mailbox<DataThread>>>,
    pub(super) wake: Arc<OwnedFd>,
}

/// Whether the client of a job has left.
#[derive(Default)]
pub struct Left {
    set: AtomicBool,
    /// The job's task.
    task: Mutex<Option<Waker>>,
}

impl Left {
    /// Whether the client has left.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.set.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Runs a job. When the client leaves, the job's task is woken, whatever it waits for.
    async fn watched<F: Future>(&self, job: F) -> F::Output {
        let mut job = pin!(job);
        std::future::poll_fn(|cx| {
            let task = &mut *self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *task = Some(cx.waker().clone());
            }
            job.as_mut().poll(cx)
        })
        .await
    }
}

impl Handle {
    pub(super) fn new() -> io::Result<Handle> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        Ok(Handle { mailbox: Arc::default(), wake })
    }

    /// Runs a closure on the data thread and waits for its future's result.
    pub fn call<T, F>(
        &self,
        job: impl FnOnce(Rc<DataThread>) -> F + Send + 'static,
    ) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.begin(job, || {})?.recv().map_err(|_| died())
    }

    /// Like [`Handle::call`], for the client at the other end of a connection: when the client
    /// leaves, the job is notified, and should end.
    pub fn call_for<T, F>(
        &self,
        client: &UnixStream,
        job: impl FnOnce(Rc<DataThread>, Arc<Left>) -> F + Send + 'static,
    ) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let left = Arc::new(Left::default());
        // `open` closes when the job ends, however the job ends.
        let (done, open) = UnixStream::pair()?;
        let known = left.clone();
        let watched = move |thread: Rc<DataThread>| async move {
            known.watched(job(thread, known.clone())).await
        };
        let result = self.begin(watched, move || drop(open))?;
        if until_left_or(client, &done)? {
            left.set();
            self.wake()?;
        }
        result.recv().map_err(|_| died())
    }

    /// Submits a job and does not wait for its result. `ended` is called on the data thread when
    /// the result is available.
    pub fn begin<T, F>(
        &self,
        job: impl FnOnce(Rc<DataThread>) -> F + Send + 'static,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Receiver<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (reply, result) = mpsc::channel();
        let job: Job<DataThread> = Box::new(move |thread| {
            let work = job(thread);
            Box::pin(async move {
                drop(reply.send(work.await));
                ended();
            })
        });
        // A thread that has been told to end takes no more jobs: the result would never come.
        let mut is_over = false;
        self.post(|mailbox| match mailbox.stop {
            true => is_over = true,
            false => mailbox.jobs.push_back(job),
        })?;
        if is_over { Err(died()) } else { Ok(result) }
    }

    pub(super) fn post(&self, change: impl FnOnce(&mut Mailbox<DataThread>)) -> io::Result<()> {
        change(&mut self.mailbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake()
    }

    fn wake(&self) -> io::Result<()> {
        rustix::io::write(&self.wake, &1_u64.to_le_bytes())?;
        Ok(())
    }
}

fn died() -> io::Error {
    io::Error::other("the data thread has died")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_takes_no_more_jobs() {
        let handle = Handle::new().unwrap();
        handle.post(|mailbox| mailbox.stop = true).unwrap();
        assert!(handle.call(|_| async {}).is_err());
    }
}
