//! Resource limits of the starting process (`ulimit`) that are not meant for a server.
//!
//! A server outlives the shell whose limits it was started with. A limit on CPU time would kill it
//! in the middle of a request, one on memory would make it fail when a device is added, and one on
//! the size of files is meant for files: here a file may be a disk, and a write that the limit
//! refuses is an error of that disk, never the end of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits that a server lifts, with the flag of `ulimit`, for messages.
const LIFTED: [(Resource, &str); 4] = [
    (Resource::Fsize, "the size of files (ulimit -f)"),
    (Resource::Cpu, "CPU time (ulimit -t)"),
    (Resource::As, "address space (ulimit -v)"),
    (Resource::Data, "data (ulimit -d)"),
];

/// Makes a write beyond the limit on the size of files fail with EFBIG instead of killing the
/// process. Child processes inherit this.
pub fn ignore_signal() {
    // SAFETY: ignoring a signal installs no handler, so nothing runs when the signal comes; no
    // other thread exists yet.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        log::warn!("SIGXFSZ cannot be ignored: {}", std::io::Error::last_os_error());
    }
}

/// Lifts the limits as far as this process may. Returns those that stay, in words.
pub fn lift() -> Vec<String> {
    LIFTED.into_iter().filter_map(|(resource, what)| lift_one(resource, what).err()).collect()
}

fn lift_one(resource: Resource, what: &str) -> Result<(), String> {
    let found = getrlimit(resource);
    if found.current.is_none() {
        return Ok(());
    }
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(resource, unlimited).is_ok() {
        return Ok(());
    }
    let as_far_as_allowed = Rlimit { current: found.maximum, maximum: found.maximum };
    match (setrlimit(resource, as_far_as_allowed), found.maximum) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(most)) => Err(format!("the limit on {what} stays at {most}")),
        (Err(error), _) => Err(format!("the limit on {what} stays: {error}")),
    }
}
