//! What a server makes of its process before it does anything else.
//!
//! Rules kept here:
//!
//! - A server holds nothing of its caller's: no descriptor, no session, no working directory, no
//!   umask.
//! - A server never waits for storage that it serves itself. The program's text and data are locked
//!   before anything else is mapped, what is mapped later is locked when it is touched, and every
//!   thread (the setting is inherited, so it is made before there is a second one) is an I/O
//!   flusher: memory that it needs is never got by writing to its own devices. A lock or an
//!   allocator that the data thread shares with another thread is so never held by one that waits
//!   for it.
//! - The machine's last memory is not found by killing what its disks depend on.

use std::fs;

use rustix::fs::Mode;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{configure_io_flusher_behavior, setsid, umask};

use crate::sys::descriptors;

/// The process is not killed when memory runs out, as is usual for what serves block devices: to
/// kill it would make everything that uses its devices wait, and free next to nothing.
const OOM_SCORE: &str = "-1000";
const OOM_FILE: &str = "/proc/self/oom_score_adj";

/// Closes what the caller has left open, at the start of a process that will be a server.
pub fn close_inherited() {
    descriptors::close_inherited();
}

/// Makes a server's process of this one, which has one thread yet. A server in the foreground
/// belongs to the caller's session, and keeps the OOM score that its service manager has chosen.
///
/// Returns what could not be done: there is no log yet.
pub(super) fn prepare(foreground: bool) -> Vec<String> {
    let mut failed = Vec::new();
    let mut note = |what: &str, result: Result<(), std::io::Error>| {
        if let Err(error) = result {
            failed.push(format!("{what}: {error}"));
        }
    };
    if !foreground {
        note("setsid", setsid().map(drop).map_err(Into::into));
    }
    umask(Mode::from_raw_mode(0o077));
    note("chdir to /", std::env::set_current_dir("/"));
    note("PR_SET_IO_FLUSHER", configure_io_flusher_behavior(true).map_err(Into::into));
    note(OOM_FILE, protect_from_oom(foreground));
    // Text and data are read now; of what comes later, which is large and sparse, only what is
    // touched.
    note("mlockall", mlockall(MlockAllFlags::CURRENT).map_err(Into::into));
    note("mlockall", mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(Into::into));
    descriptors::raise_limit();
    failed
}

fn protect_from_oom(foreground: bool) -> std::io::Result<()> {
    let chosen = foreground && fs::read_to_string(OOM_FILE)?.trim() != "0";
    if chosen { Ok(()) } else { fs::write(OOM_FILE, OOM_SCORE) }
}
