//! What a data thread has been handed and has not begun.
//!
//! It knows nothing of the thread but that a job is handed it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// What a data thread of type `T` is to do.
pub(super) type Job<T> = Box<dyn FnOnce(Rc<T>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// What has not been begun yet.
pub(super) struct Mailbox<T> {
    pub(super) jobs: VecDeque<Job<T>>,
    pub(super) stop: bool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox { jobs: VecDeque::new(), stop: false }
    }
}
