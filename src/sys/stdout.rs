//! Whether the caller has closed stdout (`>&-`).
//!
//! The standard library opens `/dev/null` in the place of a closed descriptor before `main`, so
//! that a result would be discarded and the command would exit 0. That cannot be told from a
//! caller's own `/dev/null`; only what runs before the standard library can see it.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Called by the C library before it starts the program.
extern "C" fn look() {
    // SAFETY: reads the flags of a descriptor by its number; no memory is passed.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}

#[used]
// SAFETY: the section is a list of functions with the C calling convention; this one uses nothing
// that the standard library sets up.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = look;

/// Whether stdout was closed when this process started.
pub fn was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
