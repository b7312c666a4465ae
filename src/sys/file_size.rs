//! The limit on the size of files that a process writes (`ulimit -f`), which is meant for files and
//! not for disks: here a file may be a disk, and a write that the limit refuses is an error of that
//! disk, never the end of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Makes a write beyond the limit fail with EFBIG instead of killing the process. Child processes
/// inherit this.
pub fn ignore_signal() {
    // SAFETY: ignoring a signal installs no handler, so nothing runs when the signal comes; no
    // other thread exists yet.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        log::warn!("SIGXFSZ cannot be ignored: {}", std::io::Error::last_os_error());
    }
}

/// Lifts the limit as far as this process may: a server outlives the shell whose limit it was.
pub fn lift() {
    let found = getrlimit(Resource::Fsize);
    if found.current.is_none() {
        return;
    }
    let unlimited = Rlimit { current: None, maximum: None };
    let as_far_as_allowed = Rlimit { current: found.maximum, maximum: found.maximum };
    if setrlimit(Resource::Fsize, unlimited).is_ok() {
        return;
    }
    match (setrlimit(Resource::Fsize, as_far_as_allowed), found.maximum) {
        (Ok(()), None) => {}
        (Ok(()), Some(bytes)) => {
            log::warn!("files behind byte {bytes} cannot be written (ulimit -f)")
        }
        (Err(error), _) => log::warn!("the limit on the size of files stays (ulimit -f): {error}"),
    }
}
