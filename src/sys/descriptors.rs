//! File descriptors of this process: their limit, and those that a server has inherited.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open files as far as this process may: a server has several for each device,
/// and the soft limit is meant for programs that use `select`.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        log::warn!("the limit of open files cannot be raised from {}: {error}", limit());
    }
}

fn limit() -> String {
    getrlimit(Resource::Nofile)
        .current
        .map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

/// The hint for an error of too many open files.
pub fn limit_hint() -> String {
    format!(
        "at most {} files may be open in this process: raise the hard limit (ulimit -Hn, \
         LimitNOFILE=)",
        limit()
    )
}

/// Closes every descriptor but stdin, stdout and stderr.
///
/// What the caller of a server has open is the caller's: a lock that it holds, a pipe whose end it
/// waits for, a file system that it wants to unmount. Called first in a process, before the process
/// opens anything of its own.
pub fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: nothing in this process owns a descriptor from FIRST on yet, so none is closed under
    // its owner.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if closed != 0 {
        log::warn!("close_range: {}", std::io::Error::last_os_error());
    }
}
