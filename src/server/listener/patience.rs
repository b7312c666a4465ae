//! How long the listener waits for the data thread: up to a limit, and once only.
//!
//! Rule kept here: a data thread that does not answer delays the listener by no more than the
//! limit, whatever is asked and however often, and at most one job of the listener waits in its
//! mailbox.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::data::{DataThread, Handle};

/// A job that the data thread has not run within its limit.
struct Late {
    begun: Instant,
    /// Waits for the job's end, up to a time. Returns whether it has ended.
    ended: Box<dyn FnMut(Duration) -> bool + Send>,
}

/// The listener's access to the data thread.
pub(super) struct Patience {
    family: Handle,
    late: Option<Late>,
}

impl Patience {
    pub(super) fn with(family: Handle) -> Patience {
        Patience { family, late: None }
    }

    /// The data thread, for threads that may wait as long as it takes.
    pub(super) fn handle(&self) -> &Handle {
        &self.family
    }

    /// Runs a job on the data thread and waits for its result, up to `limit`. `None`: the thread
    /// does not answer, for this job or for an earlier one.
    ///
    /// # Errors
    /// The thread has died.
    pub(super) fn ask<T, F>(
        &mut self,
        limit: Duration,
        job: impl FnOnce(Rc<DataThread>) -> F + Send + 'static,
    ) -> io::Result<Option<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        if let Some(late) = &mut self.late {
            if !(late.ended)(limit.saturating_sub(late.begun.elapsed())) {
                return Ok(None);
            }
            self.late = None;
        }
        let begun = Instant::now();
        let result = self.family.begin(job, || {})?;
        match result.recv_timeout(limit) {
            Ok(result) => Ok(Some(result)),
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the data thread has died"))
            }
            Err(RecvTimeoutError::Timeout) => {
                let ended = move |limit| {
                    !matches!(result.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
                };
                self.late = Some(Late { begun, ended: Box::new(ended) });
                Ok(None)
            }
        }
    }
}
