//! Places for what is done beside the listener, each of which costs a thread.
//!
//! Rule kept here: there are only so many, and each is given back however its owner ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::protocol::Reply;

/// Commands that are answered aside at the same time: each costs a thread, and nobody needs more.
const MAX_ASIDE: usize = 32;

/// How many there are.
static ASIDE: AtomicUsize = AtomicUsize::new(0);

/// One of [`MAX_ASIDE`]; given back however its owner ends.
pub(super) struct Place;

impl Place {
    pub(super) fn take() -> Option<Place> {
        let more = |taken: usize| (taken < MAX_ASIDE).then_some(taken + 1);
        ASIDE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok().then(|| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        ASIDE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client is told for whom there is no place.
pub(super) fn no_place() -> Reply {
    Reply::Failed(format!("more than {MAX_ASIDE} commands are waiting already").into())
}
