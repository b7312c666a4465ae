//! `--foreground` for a device that another process serves: the command stays for as long as the
//! device does, so that a service manager can own it. A family has one server, which is the process
//! that came first.
//!
//! Nothing is asked of that server meanwhile, so there is no limit to how many commands keep
//! devices of it: that the device is gone is heard from the kernel, and that the server has died
//! from the server's process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};

use crate::failure::{Failure, Reason};
use crate::protocol::{self, Command, DeviceRef, Reply};
use crate::rundir::{FamilyLock, RunDir};
use crate::server::manager;
use crate::ublk::{Control, device};

/// The kernel's own messages about devices that come and go.
const FROM_KERNEL: u32 = 1;
/// The longest of them, and some.
const MESSAGE_BYTES: usize = 8 << 10;

/// Signals that end the command, from the moment on when they are caught.
pub(super) struct Signals(UnixStream);

impl Signals {
    pub(super) fn catch() -> Result<Signals, Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        for signal in TERM_SIGNALS {
            signal_hook::low_level::pipe::register(*signal, theirs.try_clone()?)?;
        }
        // A device must not go because a terminal was closed.
        signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
        Ok(Signals(ours))
    }
}

/// A device that is kept.
struct Kept<'a> {
    path: &'a str,
    device: DeviceRef,
    control: Control,
}

/// Watches over a device until it is deleted. Signals that end a process delete it; the death of
/// its server is a failure, so that a service manager starts the command again, which takes the
/// device over. So is a signal at which it cannot be deleted: it stays with its server then.
///
/// The lock is held until everything that can happen to the device is watched.
pub(super) fn keep(
    rundir: &RunDir,
    key: &str,
    device: DeviceRef,
    signals: &Signals,
    lock: FamilyLock,
) -> Result<ExitCode, Failure> {
    let path = &format!("{}{}", device::BLOCK_PATH, device.id);
    let control = Control::open().map_err(|error| error.to_string())?;
    let mut kept = Kept { path, device, control };
    let socket = rundir.socket(key);
    let server = process_of(&socket)
        .map_err(|error| format!("{path}: its server cannot be watched: {error}"))?;
    let devices = messages_of_kernel()
        .map_err(|error| format!("{path}: the kernel cannot be heard: {error}"))?;
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
        } else if died && !kept.is_gone()? {
            return Err(format!("{path}: its server has died; see `ublk-dm recover`").into());
        }
    }
    manager::stopping();
    Ok(ExitCode::SUCCESS)
}

impl Kept<'_> {
    /// Whether it has been deleted, and not only stopped: a device that died with its server is
    /// still there.
    fn is_gone(&mut self) -> Result<bool, Reason> {
        // While a program has it open, its number is not free yet.
        let has_node = Path::new(&format!("/dev/ublkc{}", self.device.id)).exists();
        Ok(!has_node
            || device::ours(&mut self.control, self.device.id, self.device.cookie)?.is_none())
    }

    fn delete(&mut self, socket: &Path) -> Result<(), Reason> {
        if self.is_gone()? {
            return Ok(());
        }
        let path = self.path;
        let command = Command::Del { devices: vec![self.device], force: false };
        let stays =
            |why: Failure| why.context(format!("{path}: not deleted, it stays with its server"));
        match protocol::connect(socket).and_then(|server| protocol::ask(server, &command)) {
            Ok(Reply::Deleted) => Ok(()),
            Ok(Reply::Failed(why)) if self.is_gone()? => Err(why),
            Ok(Reply::Failed(why)) => Err(stays(why)),
            Ok(_) => Err(stays("it gave an answer to another question".into())),
            Err(error) => Err(stays(error.into())),
        }
    }
}

/// The process that listens at a socket, to be waited for.
fn process_of(socket: &Path) -> io::Result<OwnedFd> {
    let connection = protocol::connect(socket)?;
    let process = pidfd_open(socket_peercred(&connection)?.pid, PidfdFlags::empty())?;
    // Who answers has not ended, and its number is not another process's.
    protocol::ask(connection, &Command::Ping)?;
    Ok(process)
}

/// Where the kernel says that devices come and go. It does so after their files have gone.
fn messages_of_kernel() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, FROM_KERNEL))?;
    Ok(socket)
}

/// Takes away what has come: that something has is all that matters.
fn drain(from: impl std::os::fd::AsFd) -> io::Result<()> {
    let mut bytes = [0; MESSAGE_BYTES];
    loop {
        match read(&from, &mut bytes) {
            Err(Errno::WOULDBLOCK) | Ok(0) => return Ok(()),
            // More has come than there was room for: it is looked at once, as for any.
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
