//! How long a command waits for a job on the data thread that waits for disks.
//!
//! Rule kept here: as long as disks answer. A job is not waited for any more if the oldest disk
//! operation has been the same for longer than disks may be silent, whatever the job is.

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

/// How often it is checked whether a job's disks answer.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The silence of the disks that jobs wait for.
pub(super) struct Patience {
    /// Since when disks have been silent: a disk known to be silent is not waited for again.
    silence: RefCell<Silence>,
    /// Called when a job has ended, which may have been abandoned.
    ended: Arc<dyn Fn() + Send + Sync>,
}

impl Patience {
    pub(super) fn new(ended: impl Fn() + Send + Sync + 'static) -> Patience {
        Patience { silence: RefCell::default(), ended: Arc::new(ended) }
    }

    /// What is called when a job has ended.
    pub(super) fn ended(&self) -> Arc<dyn Fn() + Send + Sync> {
        self.ended.clone()
    }

    /// Runs a job on the data thread, and waits for its result while disks answer.
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
            let oldest = thread.call(|thread| async move {
                // What a device holds that carries an origin is not on the ring.
                let carried = thread.group.oldest_carried();
                thread.ring.oldest().into_iter().chain(carried).collect::<Vec<_>>()
            })?;
            let mut silence = self.silence.borrow_mut();
            if let Some(disk) = silence.longer_than(ANSWER_LIMIT, &oldest, Instant::now()) {
                return Ok(Waited::Silent(disk, Box::new(move || result.try_recv().ok())));
            }
        }
    }
}
