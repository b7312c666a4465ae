//! A server's control thread: takes what is asked for from [`super::listener`], one thing after the other, and has the
//! administrator do it.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::admin::devices::Directory;
use super::admin::machine::Machine;
use super::admin::{Administrator, Ending, LOOK_AGAIN, Undo};
use super::listener::{AtWork, Desk, Visit};
use super::live::Live;
use crate::failure::Reason;
use crate::protocol::{self, Answer, Question};
use crate::rundir::RunDir;

/// How long a server that was started waits for its first device: commands ask at once.
const FIRST_DEVICE_LIMIT: Duration = Duration::from_secs(10);

/// A server: one origin, its snapshots and their devices; or a mirror.
pub struct Server {
    admin: Administrator<Live>,
    directory: Directory,
    /// What it is doing, for those who wait.
    at_work: AtWork,
    visits: (Sender<Visit>, Receiver<Visit>),
    /// Its files are removed and its disks closed.
    ended: bool,
}

impl Server {
    /// A server without devices.
    ///
    /// # Errors
    /// The control device cannot be opened, or the data thread not be started.
    pub fn start(key: &str, rundir: &RunDir) -> Result<Server, Reason> {
        let visits = channel();
        let lost: Sender<Visit> = visits.0.clone();
        let live = Live::start(key, rundir, move |id| drop(lost.send(Visit::Lost(id))))?;
        let directory = Directory::default();
        let admin = Administrator::new(live, directory.clone());
        Ok(Server { admin, directory, at_work: AtWork::default(), visits, ended: false })
    }

    /// Answers questions until the last device is gone. It has failed if something acknowledged was lost with a device.
    pub fn run(mut self, listener: UnixListener) -> ExitCode {
        let caller = self.admin.machine().caller();
        match Desk::open(listener, &self.directory, caller, &self.at_work, self.visits.0.clone()) {
            Ok(()) => self.answer_all(),
            Err(error) => log::error!("the server cannot be talked to: {error}"),
        }
        self.end();
        if self.admin.has_lost() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// Does what a question asks for, without a client.
    ///
    /// # Errors
    /// As [`Administrator::carry_out`].
    pub fn carry_out(&mut self, question: Question) -> Result<Answer, Reason> {
        self.admin.carry_out(question)
    }

    /// Lets go of everything, once: what has the same names afterwards is a successor's.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if self.admin.ending() == Ending::Leaves && !self.admin.is_idle() {
            // The kernel takes back what the devices hold, as at any other end of a server; nothing is taken apart.
            self.admin.machine().remove_socket();
            std::process::exit(i32::from(self.admin.has_lost()));
        }
        let keeps_files = self.admin.keeps_files();
        let machine = self.admin.machine();
        if let Err(error) = Machine::end(machine) {
            log::error!("{error}");
        }
        if keeps_files {
            machine.remove_socket();
        } else {
            machine.remove_files();
        }
    }

    fn answer_all(&mut self) {
        while let Some(visit) = self.next_visit() {
            match visit {
                // What nobody waits for any more is not begun.
                Visit::Command(question, connection) if protocol::has_left(&connection) => {
                    log::info!("{}: not begun, its client has left", question.verb());
                }
                Visit::Command(question, connection) => {
                    self.at_work.begin(question.verb());
                    let answered = self.answer(question, connection);
                    self.at_work.end();
                    if let Err(error) = answered {
                        log::warn!("control socket: {error}");
                    }
                }
                Visit::Lost(id) => self.admin.lose(id),
                Visit::Nothing => {}
            }
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

    /// What is to be done next; `None` when nobody will want anything. A server that is kept by users of its devices looks at
    /// them from time to time; whoever has started one asks at once, unless they were killed.
    fn next_visit(&self) -> Option<Visit> {
        let visits = &self.visits.1;
        if self.admin.is_idle() {
            return visits.recv_timeout(FIRST_DEVICE_LIMIT).ok();
        }
        match self.admin.ending() {
            Ending::No => visits.recv().ok(),
            Ending::Waits | Ending::Leaves => Some(visits.recv_timeout(LOOK_AGAIN).unwrap_or(Visit::Nothing)),
        }
    }

    fn answer(&mut self, question: Question, mut connection: UnixStream) -> io::Result<()> {
        let undo = Undo::of(&question, &self.admin);
        let answer = self.admin.carry_out(question).unwrap_or_else(|message| Answer::Failed { message });
        let left = protocol::has_left(&connection);
        if left {
            self.admin.take_back(undo, &answer);
        }
        if self.admin.is_idle() {
            // Gone before the answer: whoever reads it finds no trace of the server, and can open its disks.
            self.end();
        }
        let written = protocol::write_line(&mut connection, &answer);
        if written.is_err() && !left {
            // It has left between the look and the answer.
            self.admin.take_back(undo, &answer);
        }
        written
    }
}
