//! Why a disk could not be opened, and what to do about it: one line.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Kind};
use crate::sys::descriptors::limit_hint;

/// A disk that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// The path as given.
    pub path: PathBuf,
    /// Why.
    pub kind: OpenErrorKind,
}

/// Why a disk could not be opened.
#[derive(Debug)]
pub enum OpenErrorKind {
    /// There is nothing at the path (ENOENT, ENOTDIR).
    Missing,
    /// The user lacks permission (EACCES, EPERM).
    Permission(io::Error),
    /// Neither a block device nor a regular file.
    WrongKind {
        /// The kind of file, with its article.
        what: &'static str,
    },
    /// The path led to another disk when it was opened.
    Replaced,
    /// It is claimed by another user.
    Busy {
        /// The user, as far as it is found; continues "it is".
        by: Option<String>,
    },
    /// It is a disk of a device that waits for its next server.
    Awaited {
        /// The device's name.
        name: String,
        /// Its number.
        id: u32,
    },
    /// Whether it is a disk of such a device is not known.
    Unclear {
        /// Why.
        why: Failure,
    },
    /// It must be writable and is not (EROFS, a read-only device).
    ReadOnly,
    /// There is a device node but no device, or no medium (ENXIO, ENODEV, ENOMEDIUM).
    NoDevice(io::Error),
    /// Its size is 0.
    Empty,
    /// It is smaller than one logical block.
    TooSmall {
        /// Its size.
        bytes: u64,
        /// Its logical block, in bytes.
        block: u32,
    },
    /// Its size is not a multiple of its logical block: the rest would be inaccessible.
    Ragged {
        /// Its size.
        bytes: u64,
        /// Its logical block, in bytes.
        block: u32,
    },
    /// A system call failed.
    Io(io::Error),
}

impl OpenErrorKind {
    /// Classifies a failed system call.
    pub(super) fn of_io(error: io::Error) -> OpenErrorKind {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => OpenErrorKind::Missing,
            Some(libc::EACCES | libc::EPERM) => OpenErrorKind::Permission(error),
            Some(libc::EROFS) => OpenErrorKind::ReadOnly,
            Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM) => OpenErrorKind::NoDevice(error),
            _ => OpenErrorKind::Io(error),
        }
    }
}

/// What to do about a system call that failed.
fn hint(error: &io::Error) -> String {
    if let Some(limit) = error.raw_os_error().and_then(limit_hint) {
        return limit;
    }
    match error.raw_os_error() {
        Some(libc::ENOMEM) => "the machine is short of memory".to_owned(),
        Some(libc::ELOOP | libc::ENAMETOOLONG) => "check the path".to_owned(),
        _ => "see the kernel log".to_owned(),
    }
}

/// What can be typed to end a use of a disk, in brackets.
fn command_to_end(by: &str, path: &Path) -> String {
    let device = by.strip_prefix("a disk of ").and_then(|rest| rest.split_once(" ("));
    let point = by.strip_prefix("mounted on ").filter(|point| !point.contains(char::is_whitespace));
    let command = match (device, point) {
        (Some((name, _)), _) => format!("ublk-dm del {name}"),
        (None, Some(point)) => format!("umount {point}"),
        (None, None) if by == "used as swap" => format!("swapoff {}", path.display()),
        (None, None) => return String::new(),
    };
    format!(" (`{command}`)")
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open {}: ", self.path.display())?;
        match &self.kind {
            OpenErrorKind::Missing => write!(f, "there is no such device or file: check the path"),
            OpenErrorKind::Permission(error) => {
                write!(f, "{error}: run as root or change its permissions")
            }
            OpenErrorKind::WrongKind { what } => {
                write!(f, "it is {what}: name a block device or a regular file")
            }
            OpenErrorKind::Replaced => {
                write!(f, "it was replaced while it was being opened: try again")
            }
            OpenErrorKind::Busy { by: Some(by) } => {
                write!(f, "it is {by}: end that use first{}", command_to_end(by, &self.path))
            }
            OpenErrorKind::Busy { by: None } => {
                write!(f, "it is mounted or in use (errno {}): end that use first", libc::EBUSY)
            }
            OpenErrorKind::Awaited { name, id } => {
                write!(
                    f,
                    "it is a disk of {name} (/dev/ublkb{id}), which waits for a server: recover \
                     that device (`ublk-dm recover {name}`) or delete it (`ublk-dm del --force \
                     {name}`) first"
                )
            }
            OpenErrorKind::Unclear { why } => {
                write!(f, "cannot determine whether it belongs to a waiting device: {why}")
            }
            OpenErrorKind::ReadOnly => {
                write!(f, "it is read-only: make it writable (blockdev --setrw, or remount)")
            }
            OpenErrorKind::NoDevice(error) => {
                write!(f, "{error}: check that its driver is loaded and its medium is present")
            }
            OpenErrorKind::Empty => {
                write!(f, "its size is 0: give it a size (truncate -s), or connect the device")
            }
            OpenErrorKind::TooSmall { bytes, block } => {
                write!(f, "it has {bytes} bytes, fewer than one block of {block}: enlarge it")
            }
            OpenErrorKind::Ragged { bytes, block } => {
                write!(
                    f,
                    "it has {bytes} bytes, not a multiple of its block size of {block}: change its \
                     size (truncate -s)"
                )
            }
            OpenErrorKind::Io(error) => write!(f, "{error}: {}", hint(error)),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let kind = match &error.kind {
            OpenErrorKind::Missing => Kind::NotFound,
            OpenErrorKind::Busy { .. } | OpenErrorKind::Awaited { .. } => Kind::InUse,
            OpenErrorKind::Unclear { why } => why.kind,
            OpenErrorKind::Permission(cause)
            | OpenErrorKind::NoDevice(cause)
            | OpenErrorKind::Io(cause) => Kind::of(cause),
            OpenErrorKind::WrongKind { .. }
            | OpenErrorKind::Replaced
            | OpenErrorKind::ReadOnly
            | OpenErrorKind::Empty
            | OpenErrorKind::TooSmall { .. }
            | OpenErrorKind::Ragged { .. } => Kind::Refused,
        };
        Failure::new(kind, error.to_string()).of_disk(error.path)
    }
}

impl Error for OpenError {
    // The messages already contain their causes, so that one line says it all.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_of_a_disk_has_the_command_that_ends_it() {
        let said = |by: &str| {
            let kind = OpenErrorKind::Busy { by: Some(by.to_owned()) };
            OpenError { path: "/dev/sda".into(), kind }.to_string()
        };
        for (by, command) in [
            ("mounted on /srv", " (`umount /srv`)"),
            ("mounted on /my files", ""),
            ("used as swap", " (`swapoff /dev/sda`)"),
            ("a disk of m (/dev/ublkb0), in use by process 1 (ublk-dm)", " (`ublk-dm del m`)"),
            ("used by dm-0 (device-mapper v)", ""),
        ] {
            let expected = format!("cannot open /dev/sda: it is {by}: end that use first{command}");
            assert_eq!(said(by), expected);
        }
    }
}
