//! The jobs that a data thread has received and not started.
//!
//! It knows nothing of the thread except that a job receives it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// A job for a data thread of type `T`.
pub(super) type Job<T> = Box<dyn FnOnce(Rc<T>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Jobs that have not been started yet.
pub(super) struct Mailbox<T> {
    pub(super) jobs: VecDeque<Job<T>>,
    pub(super) stop: bool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox { jobs: VecDeque::new(), stop: false }
    }
}
