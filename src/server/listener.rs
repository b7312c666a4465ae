//! The listener of a server: takes commands, and answers those that change nothing itself.
//!
//! Whatever changes devices goes to the control thread, one thing after the other, and may take as
//! long as a disk that does not answer. Meanwhile the listener goes on: what there is and how it is
//! can always be asked. Commands that wait for something without changing anything (an event, a
//! comparison) are answered by a thread of their own.
//!
//! Rule kept here: no client keeps another one waiting. One that says nothing, or does not read, is
//! not waited for; one that leaves gives up its place, and what it has asked for and is not begun
//! yet is not done.

mod arrivals;
mod aside;
mod place;
mod reply;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use super::admin::devices::{Device, Directory, LeftOut};
use super::compare::takes_long;
use super::orphan;
use crate::data::Handle;
use crate::protocol::{Command, Doing, Reply};
use crate::server::report;
use crate::storage::opening;
use arrivals::Arrivals;
use aside::aside;
use place::Place;
use reply::reply;

/// What the control thread is told.
pub(super) enum Pending {
    /// Do this; the client waits for the answer.
    Command(Command, UnixStream),
    /// All tags of this device have ended.
    Lost(u32),
    /// A client has come and left without a command: it may be the one that has started the server.
    /// Or one has asked for devices of which some are left out, and may be gone.
    Nothing,
}

/// The verb that the control thread is carrying out.
#[derive(Clone, Default)]
pub(super) struct AtWork(Arc<Mutex<Option<String>>>);

impl AtWork {
    /// From now on it is this one.
    pub(super) fn begin(&self, verb: &str) {
        self.set(Some(verb.to_owned()));
    }

    /// None any more.
    pub(super) fn end(&self) {
        self.set(None);
    }

    fn set(&self, verb: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = verb;
    }

    fn verb(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes commands for as long as the process lives.
pub(super) struct Listener {
    directory: Directory,
    family: Handle,
    at_work: AtWork,
    control: Sender<Pending>,
}

impl Listener {
    /// Starts the thread that listens at a socket. What it cannot answer itself goes to `control`.
    pub(super) fn open(
        socket: UnixListener,
        directory: &Directory,
        family: Handle,
        at_work: &AtWork,
        control: Sender<Pending>,
    ) -> io::Result<()> {
        let listener =
            Listener { directory: directory.clone(), family, at_work: at_work.clone(), control };
        let arrivals = Arrivals::at(socket)?;
        std::thread::Builder::new()
            .name("listener".into())
            .spawn(move || listener.serve(arrivals))
            .map(drop)
    }

    fn serve(&self, mut arrivals: Arrivals) {
        loop {
            let asked = match arrivals.next() {
                Ok(asked) => asked,
                Err(error) => {
                    log::error!("the server cannot be talked to any more: {error}");
                    return;
                }
            };
            let answered = asked.map(|(command, connection)| self.reply(command, connection));
            let pending = match answered {
                Some(Ok(None)) => continue,
                Some(Ok(Some(pending))) => pending,
                Some(Err(error)) => {
                    log::warn!("control socket: {error}");
                    Pending::Nothing
                }
                None => Pending::Nothing,
            };
            if self.control.send(pending).is_err() {
                return;
            }
        }
    }

    /// Answers a command that changes nothing; hands on any other.
    fn reply(&self, command: Command, connection: UnixStream) -> io::Result<Option<Pending>> {
        match &command {
            Command::Report => {
                // Nobody is told anything by a server that is ending: for whoever asks it is gone
                // already.
                let devices = self.directory.devices();
                let (waiting, devices): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    devices.into_iter().partition(|(_, device)| device.waits);
                let mut reports = report::devices(&devices, &self.family)
                    .map_err(|why| io::Error::other(why.to_string()))?;
                reports.extend(
                    waiting.values().map(|one| orphan::report(&one.state(), "quiesced", None)),
                );
                let left_out = self.directory.left_out();
                let state = |one: &LeftOut| if one.waits { "quiesced" } else { "dead" };
                reports.extend(
                    left_out.values().map(|one| orphan::report(&one.device, state(one), None)),
                );
                reply(connection, &Reply::Devices(reports))?;
                if !left_out.is_empty() {
                    // Whether they are still there is not known without a look.
                    return Ok(Some(Pending::Nothing));
                }
            }
            Command::Ping => reply(connection, &Reply::Doing(self.doing()?))?,
            Command::Wait { .. } => self.answer_aside(command, connection)?,
            Command::Message { words, .. } if takes_long(words) => {
                self.answer_aside(command, connection)?
            }
            _ => return Ok(Some(Pending::Command(command, connection))),
        }
        Ok(None)
    }

    fn answer_aside(&self, command: Command, connection: UnixStream) -> io::Result<()> {
        let devices = self.directory.devices();
        if let Err(message) =
            command.refuse_replaced(|id| Some(devices.get(&id)?.info.target_flags))
        {
            return reply(connection, &Reply::Failed(message));
        }
        let legs = match &command {
            Command::Message { device, .. } => {
                devices.get(&device.id).and_then(Device::legs).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        match Place::take() {
            Some(place) => aside(place, &self.family, command, legs, connection),
            None => reply(connection, &place::no_place()),
        }
    }

    /// What the server is doing, and which disks it waits for.
    fn doing(&self) -> io::Result<Doing> {
        let mut oldest = self.family.call(|thread| async move { thread.ring.oldest() })?;
        oldest.extend(opening());
        Ok(Doing { command: self.at_work.verb(), oldest })
    }
}
