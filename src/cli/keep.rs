//! `--foreground` for a device that another process serves: the command runs as long as the device
//! exists, so that a service manager can own it. A family has one server: the process that came
//! first.
//!
//! The command asks nothing of that server meanwhile, so any number of commands can keep devices of
//! it: a kernel message reports the end of the device, and a pidfd the end of the server.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};

use super::stand_in;
use crate::failure::{Failure, Reason};
use crate::protocol::{self, Command, DeviceRef, Reply};
use crate::rundir::{FamilyLock, RunDir};
use crate::server::manager;
use crate::ublk::{Control, DeviceState, device};

/// The netlink group of the kernel's own messages about devices that come and go.
const FROM_KERNEL: u32 = 1;
/// Room for the longest of those messages.
const MESSAGE_BYTES: usize = 8 << 10;

/// Signals that end the command, from the call of [`Signals::catch`] on.
pub(super) struct Signals(UnixStream);

impl Signals {
    pub(super) fn catch() -> Result<Signals, Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        for signal in TERM_SIGNALS {
            signal_hook::low_level::pipe::register(*signal, theirs.try_clone()?)?;
        }
        // Closing a terminal must not delete a device.
        signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
        Ok(Signals(ours))
    }
}

/// All that keeping a device of a living server needs.
///
/// It is made before the server is asked for a device: what fails here leaves no device behind.
pub(super) struct Watch {
    control: Control,
    /// The server's process.
    server: OwnedFd,
    /// The kernel's messages about devices.
    devices: OwnedFd,
}

impl Watch {
    /// Watches a family's server, and the devices of the kernel.
    pub(super) fn begin(rundir: &RunDir, key: &str) -> Result<Watch, Failure> {
        let control = Control::open()?;
        let server = process_of(&rundir.socket(key))
            .map_err(|error| Failure::from(error).context("the server cannot be watched"))?;
        let unheard = "the kernel's device events cannot be received";
        let devices =
            messages_of_kernel().map_err(|error| Failure::from(error).context(unheard))?;
        Ok(Watch { control, server, devices })
    }
}

/// What a signal that ends the command does to the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// It is deleted, as by `del`.
    Deleted,
    /// It is deleted unless that loses a snapshot ([`Command::Retire`]), and its server has ended
    /// before the command does if it was the last one: the disks below may end next.
    DeletedInPeace,
}

/// How long the end of a server without devices is waited for.
const END_LIMIT: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// The device that this command keeps.
struct WatchedDevice<'a> {
    path: &'a str,
    device: DeviceRef,
    control: Control,
    at_end: AtEnd,
}

/// Watches over a device until it is deleted. A signal that ends a process deletes the device; if
/// the deletion fails, so does the command, and the device stays with its server. The death of the
/// server is a failure too, unless the device has another one by then (`upgrade`): a service
/// manager starts the command again, which takes over.
///
/// The lock has been held until now: everything that can happen to the device is watched.
pub(super) fn keep(
    rundir: &RunDir,
    key: &str,
    device: DeviceRef,
    (signals, watch): (&Signals, Watch),
    at_end: AtEnd,
    lock: FamilyLock,
) -> Result<ExitCode, Failure> {
    let path = &format!("{}{}", device::BLOCK_PATH, device.id);
    let Watch { control, mut server, devices } = watch;
    let mut kept = WatchedDevice { path, device, control, at_end };
    let socket = rundir.socket(key);
    drop(lock);
    manager::ready("the device answers; another process serves it");
    manager::watch(socket.clone());
    while !kept.is_gone()? {
        let [signal, died, changed] =
            [&signals.0 as &dyn std::os::fd::AsFd, &server, &devices].map(|fd| fd.as_fd());
        let mut fds = [signal, died, changed].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        retry_on_intr(|| poll(&mut fds, None)).map_err(io::Error::from)?;
        let [signal, died, changed] = fds.map(|fd| !fd.revents().is_empty());
        if changed {
            drain(&devices)?;
        }
        if signal {
            drain(&signals.0)?;
            manager::stopping();
            kept.delete(&socket)?;
            stand_in::delete_unused(rundir, "up");
            wait_for_end(&server, rundir, key, at_end)?;
        } else if died && !kept.is_gone()? {
            let hint = format!("run `ublk-dm recover {path}`");
            server = kept
                .next_server(rundir, key)
                .ok_or_else(|| format!("{path}: its server has died; {hint}"))?;
        }
    }
    manager::stopping();
    Ok(ExitCode::SUCCESS)
}

/// Waits for the end of a server that has no device any more.
fn wait_for_end(
    server: &OwnedFd,
    rundir: &RunDir,
    key: &str,
    at_end: AtEnd,
) -> Result<(), Failure> {
    let has_devices = rundir.state(key)?.is_some_and(|state| !state.devices.is_empty());
    if at_end == AtEnd::Deleted || has_devices {
        return Ok(());
    }
    let mut fds = [PollFd::new(server, PollFlags::IN)];
    if retry_on_intr(|| poll(&mut fds, Some(&END_LIMIT))).map_err(io::Error::from)? == 0 {
        log::warn!("{key}: its server has no device and has not ended");
    }
    Ok(())
}

impl WatchedDevice<'_> {
    /// Whether the device has been deleted, and not only stopped: a device that died with its
    /// server still exists.
    fn is_gone(&mut self) -> Result<bool, Reason> {
        // While a program has the device open, its number is not free yet.
        let has_node = Path::new(&format!("/dev/ublkc{}", self.device.id)).exists();
        Ok(!has_node
            || device::ours(&mut self.control, self.device.id, self.device.cookie)?.is_none())
    }

    /// The process of the server that has taken the device over from the one that has ended, as in
    /// an upgrade.
    fn next_server(&mut self, rundir: &RunDir, key: &str) -> Option<OwnedFd> {
        // An upgrade has the lock until the device is served again.
        let _lock = rundir.lock_family(key, "add").ok()?;
        let DeviceRef { id, cookie } = self.device;
        let info = device::ours(&mut self.control, id, cookie).ok()??;
        let is_live = info.state == DeviceState::Live;
        is_live.then(|| process_of(&rundir.socket(key)).ok())?
    }

    fn delete(&mut self, socket: &Path) -> Result<(), Reason> {
        if self.is_gone()? {
            return Ok(());
        }
        let path = self.path;
        let command = match self.at_end {
            AtEnd::DeletedInPeace => Command::Retire { device: self.device },
            _ => Command::Del { devices: vec![self.device], force: false },
        };
        let stays =
            |why: Failure| why.context(format!("{path}: not deleted, it stays with its server"));
        match protocol::connect(socket).and_then(|server| protocol::ask(server, &command)) {
            Ok(Reply::Deleted) => Ok(()),
            Ok(Reply::DeletedNoted { notes }) => {
                notes.iter().for_each(|note| log::warn!("{note}"));
                Ok(())
            }
            Ok(Reply::Failed(why)) if self.is_gone()? => Err(why),
            Ok(Reply::Failed(why)) => Err(stays(why)),
            Ok(_) => Err(stays("the server sent an unexpected reply".into())),
            Err(error) => Err(stays(error.into())),
        }
    }
}

/// The process that listens on a socket, as a descriptor to wait for.
fn process_of(socket: &Path) -> io::Result<OwnedFd> {
    let connection = protocol::connect(socket)?;
    let process = pidfd_open(socket_peercred(&connection)?.pid, PidfdFlags::empty())?;
    // A process that answers has not exited, so its pid is not another process's.
    protocol::ask(connection, &Command::Ping)?;
    Ok(process)
}

/// The socket of the kernel's device messages. A removal comes after the device's files are gone.
fn messages_of_kernel() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, FROM_KERNEL))?;
    Ok(socket)
}

/// Discards pending input: only the fact that it came matters.
fn drain(from: impl std::os::fd::AsFd) -> io::Result<()> {
    let mut bytes = [0; MESSAGE_BYTES];
    loop {
        match read(&from, &mut bytes) {
            Err(Errno::WOULDBLOCK) | Ok(0) => return Ok(()),
            // The buffer overflowed: one look at the device serves for all messages.
            Err(Errno::INTR | Errno::NOBUFS) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_server_is_watched_by_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("family.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            protocol::write_line(&mut connection, &Reply::Doing(protocol::Doing::default()))
                .unwrap();
            connection
        });
        let process = process_of(&socket).unwrap();
        drop(server.join().unwrap());
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        assert_eq!(poll(&mut fds, Some(&now)).unwrap(), 0, "this process lives");
        std::fs::remove_file(&socket).unwrap();
        assert!(process_of(&socket).is_err());
    }

    #[test]
    fn the_kernel_can_be_heard_without_waiting() {
        drain(messages_of_kernel().unwrap()).unwrap();
    }
}
