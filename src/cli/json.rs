//! The form of `--json`: one object a line, results on stdout, errors and log lines on stderr.
//!
//! Rules kept here: keys are added, never renamed; what is not known is `null`; and the flag
//! changes neither what a command does nor its exit code. `docs/ublk-dm.schema.json` has every
//! object.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::failure::{About, Failure};

/// The version of the objects that are printed: keys are added, never renamed.
pub const VERSION: u32 = 1;
/// The flag.
pub const FLAG: &str = "--json";

/// Whether this command prints objects. A process runs one command.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Prints objects from now on.
pub fn turn_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// Whether objects are printed.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// An object with the version before its own keys.
#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    object: &'a T,
}

/// An object as one line, with its version.
pub fn line_of(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(&Versioned { version: VERSION, object })
        .map_err(|error| Failure::from(io::Error::from(error)))
}

/// The object of an error.
#[derive(Serialize)]
struct ErrorObject<'a> {
    kind: &'static str,
    message: &'a str,
    errno: Option<ErrnoObject>,
    #[serde(flatten)]
    about: About,
    advice: Vec<String>,
}

/// A system call's error number.
#[derive(Serialize)]
struct ErrnoObject {
    number: i32,
    name: Option<&'static str>,
}

/// A line with an error; `message`: the line for people.
#[derive(Serialize)]
struct ErrorLine<'a> {
    error: ErrorObject<'a>,
}

/// A failure as one line; `message`: the line for people.
pub fn error_line(why: &Failure, message: &str) -> Result<String, Failure> {
    let errno = why.errno().map(|number| ErrnoObject { number, name: name_of(number) });
    let kind = why.kind.word();
    let (about, advice) = (why.about(), why.advice());
    line_of(&ErrorLine { error: ErrorObject { kind, message, errno, about, advice } })
}

/// The names of error numbers, from the C library's constants.
macro_rules! names {
    ($($name:ident)*) => {
        &[$((libc::$name, stringify!($name))),*]
    };
}

/// Those that storage, sockets and memory have; others are `null`.
const NAMES: &[(i32, &str)] = names! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE
    EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENODATA
    ETIME ENOLINK EPROTO EBADMSG EOVERFLOW EILSEQ EUSERS ENOTSOCK EOPNOTSUPP EADDRINUSE
    EADDRNOTAVAIL ENETDOWN ECONNABORTED ECONNRESET ENOBUFS ENOTCONN ESHUTDOWN ETIMEDOUT
    ECONNREFUSED EHOSTDOWN EALREADY EINPROGRESS ESTALE EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE
    ECANCELED ENOKEY EKEYREJECTED
};

fn name_of(number: i32) -> Option<&'static str> {
    NAMES.iter().find(|(other, _)| *other == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests;
