//! Which disk is being opened or examined, for threads that wait: a disk that hangs blocks its
//! thread inside the kernel, where it cannot be queried.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The disk, and the number of the attempt.
static NOW: Mutex<(Option<String>, u64)> = Mutex::new((None, 0));

/// Marks a disk as being opened until this is dropped.
#[must_use]
pub struct Opening(());

impl Opening {
    /// Marks the disk at a path as being opened.
    pub fn of(path: &Path) -> Opening {
        let mut now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (Some(path.display().to_string()), now.1 + 1);
        Opening(())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        NOW.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
    }
}

/// The disk that is being opened, and the number of the attempt.
pub fn opening() -> Option<(String, u64)> {
    let now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
    now.0.clone().map(|path| (path, now.1))
}
