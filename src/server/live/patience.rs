//! How long a job on the data thread is waited for that waits for disks.
//!
//! Rule kept here: as long as disks answer. One whose oldest operation has been the same for longer
//! than disks may be silent is not waited for, whatever the job is.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::data::{DataThread, Owner};
use crate::failure::Reason;
use crate::protocol::Silence;
use crate::server::admin::machine::Waited;
use crate::storage::silent::ANSWER_LIMIT;

/// How often it is looked whether a disk answers that a job waits for.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What is known of disks that are waited for.
pub(super) struct Patience {
    /// Since when they have been silent: one that is known to be is not waited for again.
    silence: RefCell<Silence>,
    /// Told when a job has ended, which may have been given up.
    ended: Arc<dyn Fn() + Send + Sync>,
}

impl Patience {
    pub(super) fn new(ended: impl Fn() + Send + Sync + 'static) -> Patience {
        Patience { silence: RefCell::default(), ended: Arc::new(ended) }
    }

    /// Runs a job on the data thread, and waits for what it comes to while disks answer.
    pub(super) fn call<T, F>(
        &self,
        thread: &Owner,
        job: impl FnOnce(Rc<DataThread>) -> F + Send + 'static,
    ) -> Result<Waited<T>, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let ended = self.ended.clone();
        let begun = thread.handle().begin(job, move || ended());
        let result = begun?;
        loop {
            match result.recv_timeout(LOOK_PAUSE) {
                Ok(result) => return Ok(Waited::Done(result)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("the data thread has died".into());
                }
            }
            let oldest = thread.call(|thread| async move { thread.ring.oldest() });
            let oldest = oldest?;
            let mut silence = self.silence.borrow_mut();
            if let Some(disk) = silence.longer_than(ANSWER_LIMIT, &oldest, Instant::now()) {
                return Ok(Waited::Silent(disk, Box::new(move || result.try_recv().ok())));
            }
        }
    }
}
