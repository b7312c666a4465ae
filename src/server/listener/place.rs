//! Places for work beside the listener, each of which costs a thread.
//!
//! Rule kept here: their number is limited, and each is returned however its owner ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::protocol::Reply;

/// Most commands that threads of their own answer at the same time: users need no more.
const MAX_ASIDE: usize = 32;

/// The places in use.
static ASIDE: AtomicUsize = AtomicUsize::new(0);

/// One of [`MAX_ASIDE`]; returned however its owner ends.
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

/// The reply to a client for which there is no place.
pub(super) fn no_place() -> Reply {
    Reply::Failed(format!("more than {MAX_ASIDE} commands are waiting already").into())
}
