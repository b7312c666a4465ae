//! How a server sets up its process before it does anything else.
//!
//! Rules kept here:
//!
//! - A server keeps nothing of its caller: no descriptor, no session, no working directory, no
//!   umask, no resource limit, and in the background no schedule (in the foreground the schedule is
//!   what its service manager has chosen).
//! - A server never waits for storage that it serves itself. The program's text and data are locked
//!   before anything else is mapped, later mappings are locked when they are touched, and every
//!   thread (the setting is inherited, so it is made before a second thread starts) is an I/O
//!   flusher: its allocations never cause writes to the server's own devices. So a thread that
//!   holds a lock or an allocator shared with the data thread never waits for such writes.
//! - The OOM killer does not kill the server that the machine's disks depend on.

use std::fs;

use rustix::fs::Mode;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{configure_io_flusher_behavior, setsid, umask};

use crate::sys::{descriptors, limits, scheduling};

/// Exempts the process from the OOM killer, as is usual for servers of block devices: killing it
/// would block all users of its devices, and free next to nothing.
const OOM_SCORE: &str = "-1000";
const OOM_FILE: &str = "/proc/self/oom_score_adj";

/// The name by which tools show the process: that of a server which an upgrade has started would be
/// that of a link.
const NAME: &str = "ublk-dm";
const NAME_FILE: &str = "/proc/self/comm";

/// Closes the descriptors that the caller has left open, when a server process starts.
pub fn close_inherited() {
    descriptors::close_inherited();
}

/// Turns this process, which is still single-threaded, into a server. A server in the foreground
/// stays in the caller's session, and keeps the OOM score that its service manager has chosen.
///
/// Returns what failed: there is no log yet.
pub(super) fn prepare(foreground: bool) -> Vec<String> {
    let mut failed = Vec::new();
    let mut note = |what: &str, result: Result<(), std::io::Error>| {
        if let Err(error) = result {
            failed.push(format!("{what}: {error}"));
        }
    };
    if !foreground {
        note("setsid", setsid().map(drop).map_err(Into::into));
        scheduling::reset().into_iter().for_each(|(what, result)| note(what, result));
    }
    umask(Mode::from_raw_mode(0o077));
    note("chdir to /", std::env::set_current_dir("/"));
    note("PR_SET_IO_FLUSHER", configure_io_flusher_behavior(true).map_err(Into::into));
    note(NAME_FILE, fs::write(NAME_FILE, NAME));
    note(OOM_FILE, protect_from_oom(foreground));
    note("mlockall", lock_memory());
    descriptors::raise_limit();
    failed.extend(limits::lift());
    failed
}

/// Keeps the process in memory: text and data are read now; later mappings, large and sparse, are
/// locked only where touched.
pub fn lock_memory() -> std::io::Result<()> {
    mlockall(MlockAllFlags::CURRENT)?;
    mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}

fn protect_from_oom(foreground: bool) -> std::io::Result<()> {
    let chosen = foreground && fs::read_to_string(OOM_FILE)?.trim() != "0";
    if chosen { Ok(()) } else { fs::write(OOM_FILE, OOM_SCORE) }
}
