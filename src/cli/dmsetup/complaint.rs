//! What dmsetup says when something fails: its own line, with the words of the errno, so that
//! scripts that look for them find them; and after these our reason.
//!
//! Rule kept here: the words of an errno follow from the kind of the failure; a failure that has
//! none gets none.

use std::io::{self, Write};

use crate::failure::{Failure, Kind, one_line};

/// Says that there is no such device, where dmsetup asks before it acts.
pub(super) fn absent() -> Failure {
    Failure::new(Kind::NotFound, "Device does not exist.")
}

/// A failure of what dmsetup asks the kernel for, on a device.
pub(super) fn ioctl(ioctl: &str, name: &str, why: Failure) -> Failure {
    let words = words_of(why.kind).map_or_else(String::new, |words| format!("{words}: "));
    why.after(format!("device-mapper: {ioctl} ioctl on {name}  failed: {words}"))
}

/// The same for a device that there is not.
pub(super) fn no_device(ioctl: &str, name: &str) -> Failure {
    let words = words_of(Kind::NotFound).unwrap_or_default();
    let what = format!("device-mapper: {ioctl} ioctl on {name}  failed: {words}");
    Failure::new(Kind::NotFound, what)
}

/// What dmsetup prints for a kind of failure.
fn words_of(kind: Kind) -> Option<String> {
    let errno = match kind {
        Kind::Usage | Kind::Refused => libc::EINVAL,
        Kind::NotFound => libc::ENXIO,
        Kind::InUse => libc::EBUSY,
        Kind::Unsupported => libc::EOPNOTSUPP,
        Kind::NoAnswer => libc::ETIMEDOUT,
        Kind::System { errno } => errno,
        Kind::Failed => return None,
    };
    let text = io::Error::from_raw_os_error(errno).to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    Some(text[..end].to_owned())
}

/// Prints a line on stderr, without what a terminal would act on.
pub(super) fn say(line: &str) {
    drop(writeln!(io::stderr(), "{}", one_line(line)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_errno_come_first() {
        let of = |kind| ioctl("remove", "v", Failure::new(kind, "why")).to_string();
        let line = |words: &str| format!("device-mapper: remove ioctl on v  failed: {words}why");
        assert_eq!(of(Kind::InUse), line("Device or resource busy: "));
        assert_eq!(of(Kind::Usage), line("Invalid argument: "));
        assert_eq!(of(Kind::System { errno: libc::EIO }), line("Input/output error: "));
        assert_eq!(of(Kind::Failed), line(""));
        let none = "device-mapper: wait ioctl on v  failed: No such device or address";
        assert_eq!(no_device("wait", "v").to_string(), none);
    }
}
