//! A server's control thread: takes requests from [`super::listener`], one after the other, and
//! passes them to the administrator.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::admin::devices::Directory;
use super::admin::machine::Machine;
use super::admin::{Administrator, Ending, LOOK_AGAIN, Undo};
use super::listener::{AtWork, Listener, Pending};
use super::live::Live;
use super::upgrade::is_broken;
use crate::failure::Reason;
use crate::protocol::{self, Command, Reply};
use crate::rundir::RunDir;

/// How long a started server waits for its first device: commands send that immediately.
const FIRST_DEVICE_LIMIT: Duration = Duration::from_secs(10);

/// A server: one origin, its snapshots and their devices; or a mirror.
pub struct Server {
    admin: Administrator<Live>,
    directory: Directory,
    /// The current command, for clients that wait.
    at_work: AtWork,
    pending: (Sender<Pending>, Receiver<Pending>),
    /// A merge has ended whose origin could not get its plain table back yet.
    tries_again: bool,
    /// The server's files are removed and its disks closed.
    ended: bool,
}

impl Server {
    /// A server without devices.
    ///
    /// # Errors
    /// The control device cannot be opened, or the data thread cannot be started.
    pub fn start(key: &str, rundir: &RunDir) -> Result<Server, Reason> {
        let pending = channel();
        let lost: Sender<Pending> = pending.0.clone();
        let ended: Sender<Pending> = pending.0.clone();
        let live = Live::start(
            key,
            rundir,
            move |id| drop(lost.send(Pending::Lost(id))),
            move || drop(ended.send(Pending::Nothing)),
        )?;
        let directory = Directory::default();
        let mut admin = Administrator::new(live, directory.clone());
        let left = rundir.state(key).map(|state| state.map_or_else(Vec::new, |one| one.devices));
        // The command that reads a damaged file reports it.
        admin.publish_coming(left.ok());
        Ok(Server {
            admin,
            directory,
            at_work: AtWork::default(),
            pending,
            tries_again: false,
            ended: false,
        })
    }

    /// Answers commands until the last device is gone. Returns failure if acknowledged writes were
    /// lost with a device.
    pub fn run(mut self, listener: UnixListener) -> ExitCode {
        let handle = self.admin.machine().handle();
        match Listener::open(
            listener,
            &self.directory,
            handle,
            &self.at_work,
            self.pending.0.clone(),
        ) {
            Ok(()) => self.answer_all(),
            Err(error) => log::error!("the server cannot receive commands: {error}"),
        }
        self.end();
        if self.admin.has_lost() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// Carries out a command without a client.
    ///
    /// # Errors
    /// As [`Administrator::carry_out`].
    pub fn carry_out(&mut self, command: Command) -> Result<Reply, Reason> {
        self.admin.carry_out(command)
    }

    /// Where the signal thread of this process sends its command.
    pub(super) fn control(&self) -> Sender<Pending> {
        self.pending.0.clone()
    }

    /// Whether the server has no device, not even one that is being undone.
    pub fn is_idle(&self) -> bool {
        self.admin.is_idle()
    }

    /// Closes everything, once: later files of the same names are a successor's.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if self.admin.ending() == Ending::Leaves && !self.admin.is_idle() {
            // The kernel releases the devices' resources, as at any other end of a server; nothing
            // is closed here. A service manager must not take this for a complete end: I/O to the
            // devices waits.
            self.admin.machine().remove_socket();
            std::process::exit(1);
        }
        let (keeps_files, waits) = (self.admin.keeps_files(), self.admin.is_waiting());
        let machine = self.admin.machine();
        // I/O to a disk that does not answer ends with the process.
        let ended = if waits { Ok(()) } else { Machine::end(machine) };
        if let Err(error) = ended {
            log::error!("{error}");
        }
        if keeps_files {
            machine.remove_socket();
        } else {
            machine.remove_files();
        }
    }

    fn answer_all(&mut self) {
        while let Some(pending) = self.next_pending() {
            match pending {
                // A command whose client has left is not started.
                Pending::Command(command, connection) if protocol::has_left(&connection) => {
                    log::info!("{}: not started: its client has left", command.verb());
                }
                Pending::Command(command, connection) => {
                    self.at_work.begin(command.verb());
                    let answered = self.reply(*command, connection);
                    if self.admin.ending() != Ending::Leaves {
                        self.at_work.end();
                    }
                    if let Err(error) = answered {
                        log::warn!("control socket: {error}");
                    }
                }
                Pending::Lost(id) => self.admin.lose(id),
                Pending::Nothing => drop(self.admin.notice_stolen()),
            }
            // What the next server was told of the devices stays true.
            if self.admin.ending() == Ending::Leaves {
                break;
            }
            self.admin.finish_late_jobs();
            self.tries_again = self.admin.begin_activated() | self.admin.end_merges();
            if self.admin.ending() == Ending::Waits {
                if let Err(error) = self.admin.shut_down() {
                    log::error!("the server cannot end: {error}");
                }
            }
            if self.admin.is_idle() || self.admin.ending() == Ending::Leaves {
                break;
            }
        }
    }

    /// Returns the next request; `None` if there will be no more. A server kept running by users of
    /// its devices checks for them from time to time; the process that starts a server sends its
    /// command immediately, unless it was killed.
    fn next_pending(&self) -> Option<Pending> {
        let pending = &self.pending.1;
        if self.admin.is_idle() {
            return pending.recv_timeout(FIRST_DEVICE_LIMIT).ok();
        }
        match self.admin.ending() {
            Ending::No if !self.tries_again => pending.recv().ok(),
            Ending::No | Ending::Waits | Ending::Leaves => {
                Some(pending.recv_timeout(LOOK_AGAIN).unwrap_or(Pending::Nothing))
            }
        }
    }

    fn reply(&mut self, command: Command, mut connection: UnixStream) -> io::Result<()> {
        if matches!(command, Command::TakeOver(_)) && is_broken("refuses") {
            return protocol::write_line(&mut connection, &Reply::Failed("refused".into()));
        }
        let undo = Undo::of(&command, &self.admin);
        let reply = self.admin.carry_out(command).unwrap_or_else(Reply::Failed);
        let left = protocol::has_left(&connection);
        if left {
            self.admin.take_back(undo, &reply);
        }
        if self.admin.is_idle() {
            // The server ends before the reply: a client that reads the reply finds no trace of the
            // server, and can open its disks.
            self.end();
        }
        let written = protocol::write_line(&mut connection, &reply);
        if written.is_err() && !left {
            // The client has left between the check and the reply.
            self.admin.take_back(undo, &reply);
        }
        written
    }
}
