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

/// What to do about a system call that failed because too many files are open: which limit that
/// is. `None` for any other errno.
pub fn limit_hint(errno: i32) -> Option<String> {
    match errno {
        libc::EMFILE => Some(format!(
            "at most {} files may be open in this process: raise the hard limit (ulimit -Hn, \
             LimitNOFILE=)",
            limit()
        )),
        libc::ENFILE => Some(
            "the machine's limit of open files is reached: raise the sysctl fs.file-max".to_owned(),
        ),
        _ => None,
    }
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
