//! Errors of the control plane, and what to do about them.
//!
//! Each message is one line: what failed, on which device, why, the errno's text, and a hint. The
//! kernel's errno stays available to the caller, who may know more than the hint does.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::failure::{Failure, Kind};
use crate::sys::descriptors::limit_hint;

/// Kernel-internal errno that some kernels return for an unknown command instead of EOPNOTSUPP.
const ENOTSUPP: i32 = 524;

/// A failure of the control plane.
#[derive(Debug)]
pub enum ControlError {
    /// The driver is not loaded and could not be loaded.
    DriverAbsent {
        /// The module loader's message.
        reason: String,
    },
    /// The control device may not be opened.
    Permission {
        /// The refusal.
        source: io::Error,
    },
    /// io_uring is switched off for this process.
    IoUringDisabled {
        /// The value of `kernel.io_uring_disabled`: 1 or 2.
        setting: u8,
    },
    /// The kernel, or this device, does not have the command.
    Unsupported {
        /// The command without `UBLK_U_CMD_`.
        command: &'static str,
        /// The device it was for.
        device: Option<u32>,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// The kernel refused a command.
    Command {
        /// The command without `UBLK_U_CMD_`.
        command: &'static str,
        /// The device it was for.
        device: Option<u32>,
        /// The kernel's errno.
        errno: i32,
    },
    /// A command took longer than the limit.
    Timeout {
        /// The command without `UBLK_U_CMD_`.
        command: &'static str,
        /// The device it was for.
        device: Option<u32>,
        /// The limit.
        limit: Duration,
    },
    /// This program does not understand the kernel's answer.
    Unexpected {
        /// The command without `UBLK_U_CMD_`.
        command: &'static str,
        /// The device it was for.
        device: Option<u32>,
    },
    /// A system call failed.
    System {
        /// The failed action, to follow "cannot".
        what: String,
        /// What to do.
        hint: &'static str,
        /// The failure.
        source: io::Error,
    },
}

impl ControlError {
    /// The kernel's errno, if the failure has one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            ControlError::Command { errno, .. } => Some(*errno),
            ControlError::Permission { source } | ControlError::System { source, .. } => {
                source.raw_os_error()
            }
            ControlError::Unsupported { .. } => Some(libc::EOPNOTSUPP),
            ControlError::Timeout { .. } => Some(libc::ETIMEDOUT),
            ControlError::DriverAbsent { .. }
            | ControlError::IoUringDisabled { .. }
            | ControlError::Unexpected { .. } => None,
        }
    }

    /// Classifies a failed `io_uring_setup`.
    pub(super) fn of_ring_setup(source: io::Error) -> ControlError {
        let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let setting = setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        match source.raw_os_error() {
            Some(libc::EPERM) if setting > 0 => ControlError::IoUringDisabled { setting },
            errno => ControlError::System {
                what: "set up a ring for ublk commands".to_owned(),
                hint: match errno {
                    Some(libc::EPERM | libc::ENOSYS) => {
                        "a sandbox (seccomp) or the kernel's configuration forbids io_uring"
                    }
                    Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l)",
                    _ => "see the kernel log",
                },
                source,
            },
        }
    }

    /// Classifies a command's positive errno.
    pub(super) fn of_command(
        command: &'static str,
        since: &'static str,
        device: Option<u32>,
        errno: i32,
    ) -> ControlError {
        match errno {
            libc::EOPNOTSUPP | ENOTSUPP => ControlError::Unsupported { command, device, since },
            _ => ControlError::Command { command, device, errno },
        }
    }

    /// The kernel's answer to `command` is not understood.
    pub(super) fn unexpected(command: &'static str, device: Option<u32>) -> ControlError {
        ControlError::Unexpected { command, device }
    }
}

/// What to do about an errno of a command.
fn hint(command: &str, errno: i32) -> &'static str {
    match (command, errno) {
        (_, libc::EPERM) => "run as root (CAP_SYS_ADMIN)",
        ("ADD_DEV", libc::EACCES) => {
            "the limit of devices is reached: delete some or raise ublk_drv's parameter ublks_max"
        }
        (_, libc::EACCES) => "the device is in use or belongs to another user",
        ("TRY_STOP_DEV" | "QUIESCE_DEV" | "UPDATE_SIZE", libc::ENODEV) => {
            "there is no such ublk device, or it is not started"
        }
        (_, libc::ENODEV) => "there is no such ublk device; see `ublk-dm list`",
        ("ADD_DEV", libc::EEXIST) => "the id is in use: give another --id, or omit it",
        ("START_DEV", libc::EEXIST) => "the device is already started",
        ("ADD_DEV", libc::ENOSPC) => "the id is too large: give another --id, or omit it",
        ("ADD_DEV" | "START_DEV", libc::ENOMEM) => {
            "the kernel is short of memory: use fewer queues or a smaller depth"
        }
        ("START_USER_RECOVERY", libc::EBUSY) => {
            "its server is still alive, or another one is taking over"
        }
        ("START_USER_RECOVERY", libc::EINVAL) => {
            "the device was added without recovery, or its server is not gone"
        }
        ("TRY_STOP_DEV", libc::EBUSY) => "the disk is in use: unmount or close it first",
        ("QUIESCE_DEV", libc::EBUSY) => {
            "its requests are still in flight: try again with a longer timeout"
        }
        (_, libc::EBUSY) => "the device is busy: try again",
        ("SET_PARAMS" | "UPDATE_SIZE", libc::EINVAL) => {
            "the kernel refuses one of the limits; see the kernel log"
        }
        ("START_DEV", libc::EINVAL) => {
            "the server that opened the device must start it, after its limits are set"
        }
        ("ADD_DEV", libc::EINVAL) => {
            "the depth is at most 4096, requests at most 32 MiB in whole pages; or the flags are \
             incompatible"
        }
        (_, libc::EMFILE) => {
            "too many files are open: raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        }
        (_, libc::EINTR) => "it was interrupted: try again",
        _ => "see the kernel log",
    }
}

/// What to do about a command that has taken too long.
fn hint_of_timeout(command: &str) -> &'static str {
    match command {
        "DEL_DEV" => {
            "a process still has its character device open; the device is deleted when that \
             process ends"
        }
        _ => "check that its server is alive and serves every queue",
    }
}

/// An errno as text with its number.
fn errno_text(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Says why a command, on a device or on none, has failed.
fn failed(
    f: &mut fmt::Formatter<'_>,
    command: &str,
    device: Option<u32>,
    why: fmt::Arguments<'_>,
) -> fmt::Result {
    write!(f, "ublk command {command}")?;
    if let Some(id) = device {
        write!(f, " on /dev/ublkb{id}")?;
    }
    write!(f, " failed: {why}")
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::DriverAbsent { reason } => {
                write!(
                    f,
                    "the kernel's ublk driver is absent ({reason}): run `modprobe ublk_drv`, or \
                     use a kernel that has it (Linux 6.4 or later with CONFIG_BLK_DEV_UBLK)"
                )
            }
            ControlError::Permission { source } => {
                write!(f, "cannot open /dev/ublk-control: {source}: run as root (CAP_SYS_ADMIN)")
            }
            ControlError::IoUringDisabled { setting: 1 } => {
                write!(
                    f,
                    "io_uring is disabled for ordinary users: run as root or set the sysctl \
                     kernel.io_uring_disabled=0"
                )
            }
            ControlError::IoUringDisabled { .. } => {
                write!(f, "io_uring is disabled: set the sysctl kernel.io_uring_disabled=0")
            }
            ControlError::Unsupported { command, device, since } => {
                let why = "not supported by this kernel or device: it needs Linux";
                failed(f, command, *device, format_args!("{why} {since} or later"))
            }
            ControlError::Command { command, device, errno } => {
                let (why, hint) = (errno_text(*errno), hint(command, *errno));
                failed(f, command, *device, format_args!("{why}: {hint}"))
            }
            ControlError::Timeout { command, device, limit } => {
                let (hint, ms) = (hint_of_timeout(command), limit.as_millis());
                failed(f, command, *device, format_args!("no answer within {ms} ms: {hint}"))
            }
            ControlError::Unexpected { command, device } => {
                let why = "the kernel's reply has an unknown format: use a newer ublk-dm";
                failed(f, command, *device, format_args!("{why}"))
            }
            ControlError::System { what, hint, source } => {
                let limit = source.raw_os_error().and_then(limit_hint);
                write!(f, "cannot {what}: {source}: {}", limit.as_deref().unwrap_or(hint))
            }
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        let kind = match (&error, error.errno()) {
            (ControlError::Unsupported { .. } | ControlError::DriverAbsent { .. }, _) => {
                Kind::Unsupported
            }
            (ControlError::Timeout { .. }, _) => Kind::NoAnswer,
            (_, Some(errno)) => Kind::System { errno },
            (_, None) => Kind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

impl Error for ControlError {
    // The messages already contain their causes, so that one line says it all.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_command_device_errno_and_hint() {
        let error = ControlError::of_command("ADD_DEV", "6.4", Some(7), libc::EEXIST);
        assert_eq!(error.errno(), Some(libc::EEXIST));
        assert_eq!(
            error.to_string(),
            "ublk command ADD_DEV on /dev/ublkb7 failed: File exists (os error 17): \
             the id is in use: give another --id, or omit it"
        );
    }

    #[test]
    fn the_limit_that_is_reached_is_named() {
        let error = ControlError::of_command("ADD_DEV", "6.4", None, libc::EMFILE);
        let said = error.to_string();
        assert!(said.contains("ulimit -Hn") && !said.contains("kernel log"), "{said}");
    }

    #[test]
    fn an_unknown_command_names_the_kernel_that_has_it() {
        for errno in [libc::EOPNOTSUPP, ENOTSUPP] {
            let error = ControlError::of_command("TRY_STOP_DEV", "7.0", Some(0), errno);
            assert!(matches!(error, ControlError::Unsupported { since: "7.0", .. }));
            assert!(error.to_string().contains("Linux 7.0"), "{error}");
        }
    }

    #[test]
    fn a_missing_driver_says_what_to_run() {
        let error = ControlError::DriverAbsent { reason: "no module".to_owned() };
        assert!(error.to_string().contains("modprobe ublk_drv"));
        assert_eq!(error.errno(), None);
    }
}
