//! Whether a family can be upgraded, judged before anything is done to it.
//!
//! Rule kept here: a disk that the new server could not open is found while the old one, which has
//! it open, still serves the devices.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{self, Command, DeviceState, Reply};
use crate::server::admin::stays_with_server;
use crate::storage::{Access, Claim, OpenDisk, silent};
use crate::ublk::device::ours;
use crate::ublk::{Control, DeviceState as DiskState};

/// The server that is to be replaced.
pub(super) struct Old {
    pub pid: u32,
    /// Its process.
    pub process: OwnedFd,
    /// It knows the command to leave its devices.
    pub can_leave: bool,
}

/// Asks a server whether it answers, and refuses one in the foreground.
pub(super) fn server(connection: UnixStream) -> Result<Old, Reason> {
    let pid = socket_peercred(&connection).map_err(std::io::Error::from)?.pid;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from)?;
    // A process that answers has not ended, so its pid is not another process's.
    let can_leave = match protocol::ask(connection, &Command::Ping)? {
        Reply::Doing(doing) => doing.can_leave,
        _ => return Err("its server sent an unexpected reply".into()),
    };
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    let words = fs::read(format!("/proc/{pid}/cmdline"))?;
    if !is_in_background(&words) {
        let hint = "restart its service, whose process this is; that also runs the new program";
        let why = format!("its server, process {pid}, stays in the foreground: {hint}");
        return Err(Failure::new(Kind::Refused, why));
    }
    Ok(Old { pid, process, can_leave })
}

/// Whether these words, each with a zero after it, started a server in the background.
fn is_in_background(words: &[u8]) -> bool {
    words.split(|byte| *byte == 0).nth(1) == Some(b"serve")
}

/// Refuses devices that another server could not take over.
pub(super) fn devices(devices: &[DeviceState]) -> Result<(), Reason> {
    let mut control = Control::open()?;
    let mut disks = BTreeSet::new();
    for device in devices {
        // The server knows best of one that another program has deleted.
        let Some(info) = ours(&mut control, device.id, device.cookie)? else { continue };
        if let Some(why) = stays_with_server(device, &info) {
            return Err(why);
        }
        if info.state != DiskState::Live {
            let name = &device.name;
            let hint =
                format!("run `ublk-dm recover {name}` or `ublk-dm del --force {name}` first");
            let why = format!("{name}: it waits for a server; {hint}");
            return Err(Failure::new(Kind::Refused, why));
        }
        disks.extend(device.opened());
    }
    if let Some(disk) = silent::silent(&disks).first() {
        return Err(silent::no_answer(disk));
    }
    let numbers: BTreeSet<_> = devices.iter().flat_map(|device| device.disks.clone()).collect();
    for disk in &disks {
        let path = Path::new(disk);
        let opened = silent::within_limit(path, {
            let disk = disk.clone();
            move || OpenDisk::open(disk, Access::ReadOnly, Claim::Shared)
        })??;
        if !numbers.contains(&opened.id.block_number()) {
            let why = format!("{disk}: another disk is at this path by now");
            return Err(Failure::new(Kind::Refused, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_in_background;

    #[test]
    fn a_server_in_the_background_is_known_by_its_verb() {
        assert!(is_in_background(b"/usr/sbin/ublk-dm\0serve\0block-8-0\0"));
        assert!(is_in_background(b"ublk-dm\0serve\0block-8-0\0--standby\0"));
        assert!(!is_in_background(b"ublk-dm\0add\0origin\0--foreground\0--name\0serve\0"));
        assert!(!is_in_background(b"ublk-dm\0recover\0--foreground\0serve\0"));
        assert!(!is_in_background(b""));
    }
}
