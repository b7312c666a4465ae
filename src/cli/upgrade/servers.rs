//! The processes of an upgrade: the old server, the new one that stands by, and the old program
//! once more if the new one cannot take over.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Signal, pidfd_send_signal};

use super::judge::Old;
use super::program::Program;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{self, Command, DeviceState, Reply};
use crate::rundir::RunDir;
use crate::server::process::{self, Standby};
use crate::server::upgrade::Servers;
use crate::storage::{Access, Claim, OpenDisk, OpenErrorKind};
use crate::ublk::device::ours;
use crate::ublk::{Control, DeviceState as DiskState};

/// How long a server that has left its devices may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to notice the end of a server: it waits for the server's requests
/// to disks, and fails those after 30 s.
const KERNEL_LIMIT: Duration = Duration::from_secs(40);
/// How long the disks of a server that has ended may seem to be in use: the kernel closes its files
/// at most two seconds later. After that they have other users.
const CLOSING_LIMIT: Duration = Duration::from_secs(3);
/// The pause between two looks at either. It is a part of the time for which I/O is held.
const PAUSE: Duration = Duration::from_millis(2);

/// The servers of one family.
pub(super) struct Running<'a> {
    rundir: &'a RunDir,
    key: &'a str,
    old: Old,
    program: Program,
    new: Option<Standby<'a>>,
    /// The devices, as the last server that had them described them.
    devices: Vec<DeviceState>,
    /// When the old server was asked to leave its devices.
    begun: Option<Instant>,
    /// How long I/O was held, once the devices are live again.
    pub held: Option<Duration>,
    /// What the user must know of devices that are live again.
    pub problems: Vec<Reason>,
    /// For the log, once no device waits: it may be written to one of them.
    pub notes: Vec<String>,
}

impl<'a> Running<'a> {
    pub(super) fn new(
        rundir: &'a RunDir,
        key: &'a str,
        old: Old,
        program: Program,
        devices: Vec<DeviceState>,
    ) -> Running<'a> {
        let (new, begun, held) = (None, None, None);
        let (problems, notes) = (Vec::new(), Vec::new());
        Running { rundir, key, old, program, new, devices, begun, held, problems, notes }
    }

    /// The process that serves the family now.
    pub(super) fn serves(&self) -> Option<u32> {
        let server = protocol::connect(&self.rundir.socket(self.key)).ok()?;
        Some(socket_peercred(server).ok()?.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Whether the old server ends within a limit.
    pub(super) fn old_has_ended(&self, limit: Duration) -> bool {
        has_ended(&self.old.process, limit)
    }

    /// Waits until no server has the devices or their disks, and frees the family's socket.
    fn until_left(&self) -> Result<(), Reason> {
        wait_until_left(&self.devices)?;
        wait_until_closed(&self.devices);
        self.rundir.remove_socket(self.key);
        Ok(())
    }

    /// Takes the devices from the state file, if it can be read.
    fn read_devices(&mut self) {
        if let Ok(Some(state)) = self.rundir.state(self.key) {
            self.devices = state.devices;
        }
    }

    /// Has a server take devices over.
    fn ask(
        &mut self,
        server: UnixStream,
        command: impl FnOnce(Vec<DeviceState>) -> Command,
    ) -> Result<(), Reason> {
        let command = command(self.devices.clone());
        let reply = protocol::ask(server, &command).map_err(Failure::from);
        let mut problems = match reply {
            Ok(Reply::Recovered { problems, .. }) => {
                problems.into_iter().map(|problem| problem.why).collect()
            }
            Ok(Reply::Failed(why)) | Err(why) => vec![why],
            Ok(_) => vec!["the server sent an unexpected reply".into()],
        };
        // What counts is what the kernel says: a server of another version may say less.
        let down = down(&self.devices)?;
        if down.is_empty() {
            self.held = self.begun.map(|begun| begun.elapsed());
            self.problems.append(&mut problems);
            return Ok(());
        }
        let why = || format!("{}: not taken over", down.join(", ")).into();
        Err(Failure::all(problems).unwrap_or_else(why))
    }
}

impl Servers for Running<'_> {
    fn stand_by(&mut self) -> Result<(), Reason> {
        self.new = Some(Standby::start(self.rundir, self.key)?);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Reason> {
        self.begun = Some(Instant::now());
        let mut has_left = false;
        if self.old.can_leave {
            let server = protocol::connect(&self.rundir.socket(self.key))?;
            match protocol::ask(server, &Command::Leave) {
                Ok(Reply::Left { devices }) => (self.devices, has_left) = (devices, true),
                Ok(Reply::Failed(why)) => return Err(why),
                Ok(_) => return Err("its server sent an unexpected reply".into()),
                // It goes on, and undoes what it has done of this command.
                Err(error) if !has_ended(&self.old.process, END_LIMIT) => return Err(error.into()),
                Err(error) => self.notes.push(format!("the old server has died: {error}")),
            }
        }
        if !self.old.can_leave || !has_ended(&self.old.process, END_LIMIT) {
            // One of an earlier version ends as if it died, which loses no acknowledged write.
            match pidfd_send_signal(&self.old.process, Signal::KILL) {
                // It has just ended.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) if !has_left => return Err(io::Error::from(errno).into()),
                Err(errno) => self.notes.push(format!("process {}: {errno}", self.old.pid)),
            }
            if !has_ended(&self.old.process, KERNEL_LIMIT) {
                self.notes.push(format!("process {} has not ended yet", self.old.pid));
            }
        }
        if !has_left {
            self.read_devices();
        }
        Ok(())
    }

    fn take_over(&mut self) -> Result<(), Reason> {
        self.until_left()?;
        let new = self.new.as_mut().ok_or("the new server has ended")?;
        let server = new.listen()?;
        self.ask(server, Command::TakeOver)
    }

    fn end_new(&mut self) {
        if let Some(new) = self.new.take() {
            self.notes.push(format!("the new server, process {}, was ended", new.process()));
            new.kill();
        }
    }

    fn roll_back(&mut self) -> Result<(), Reason> {
        self.until_left()?;
        // The new server may have changed what is recorded of them.
        self.read_devices();
        let server = process::start_program(self.rundir, self.key, self.program.process())?;
        self.ask(server, Command::Recover)
    }
}

/// Whether a process ends within a limit.
pub(super) fn has_ended(process: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    let ended = || poll(&mut [PollFd::new(&process.as_fd(), PollFlags::IN)], limit.as_ref());
    retry_on_intr(ended).is_ok_and(|ready| ready > 0)
}

/// Waits until the kernel has taken all devices back from their server.
fn wait_until_left(devices: &[DeviceState]) -> Result<(), Reason> {
    let (mut control, end) = (Control::open()?, Instant::now() + KERNEL_LIMIT);
    for device in devices {
        while ours(&mut control, device.id, device.cookie)?
            .is_some_and(|info| info.state == DiskState::Live)
        {
            if Instant::now() >= end {
                let seconds = KERNEL_LIMIT.as_secs();
                let what = "the kernel still waits for requests of its old server to disks";
                let why = format!("{}: after {seconds} s {what}", device.name);
                return Err(Failure::new(Kind::NoAnswer, why));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Waits until the disks of the devices have no user, which may be a server that has just ended.
/// Disks that are shared with other users never come to that.
fn wait_until_closed(devices: &[DeviceState]) {
    let words = devices.iter().flat_map(|device| {
        let is_shared = |word: &String| {
            device.known.get(word).is_some_and(|known| known.shared || known.unclaimed)
        };
        device.opened().into_iter().filter(move |word| !is_shared(word))
    });
    let end = Instant::now() + CLOSING_LIMIT;
    for word in words.collect::<BTreeSet<_>>() {
        let is_busy = || {
            let opened = OpenDisk::open(&word, Access::ReadOnly, Claim::Exclusive);
            opened.is_err_and(|error| matches!(error.kind, OpenErrorKind::Busy { .. }))
        };
        while is_busy() && Instant::now() < end {
            std::thread::sleep(PAUSE);
        }
    }
}

/// The names of the devices that no server serves.
fn down(devices: &[DeviceState]) -> Result<Vec<String>, Reason> {
    let mut control = Control::open()?;
    let mut down = Vec::new();
    for device in devices {
        let info = ours(&mut control, device.id, device.cookie)?;
        if info.is_some_and(|info| info.state != DiskState::Live) {
            down.push(device.name.clone());
        }
    }
    Ok(down)
}
