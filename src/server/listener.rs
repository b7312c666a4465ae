//! The listener of a server: accepts commands, and answers those that change nothing itself.
//!
//! Commands that change devices go to the control thread, one after the other, and may take as long
//! as a disk that does not answer. Meanwhile the listener continues: devices and their status can
//! always be queried. Commands that wait for something without changing anything (an event, a
//! comparison) are answered by a thread of their own.
//!
//! Rules kept here: no client delays another one. A client that sends nothing, or does not read, is
//! not waited for; one that disconnects gives up its place, and its command is not carried out if
//! that has not been started. And the data thread, which has the targets, is waited for up to a
//! limit only: without it, devices are reported as they are known here.

mod arrivals;
mod aside;
mod patience;
mod place;
mod reply;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::admin::devices::{Device, Directory, LeftOut, Published};
use super::compare::takes_long;
use super::facts;
use super::orphan;
use super::report;
use crate::data::Handle;
use crate::protocol::{Command, DeviceReport, DeviceState, Doing, Reply, RunState};
use crate::storage::opening;
use arrivals::Arrivals;
use aside::aside;
use patience::Patience;
use place::Place;
use reply::reply;

/// Requests to the control thread.
pub(super) enum Pending {
    /// A command; the client waits for the reply.
    Command(Box<Command>, UnixStream),
    /// All tags of the device with this id have ended.
    Lost(u32),
    /// A client has disconnected without a command: it may be the one that started the server. Or a
    /// client has queried devices of which some are left out, and may be gone.
    Nothing,
}

/// How long the data thread may compute before its disks are reported without it: shorter than a
/// report, because a client that asks this already waits for something.
const BUSY_LIMIT: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 2000 });
/// How long the data thread may compute before its devices are reported without it: as not
/// answering, which makes commands refuse them. A client gives a server up after ten seconds, so
/// this leaves it three for a slow machine.
const REPORT_LIMIT: Duration = Duration::from_millis(if cfg!(test) { 250 } else { 7000 });

/// The verb that the control thread is carrying out.
#[derive(Clone, Default)]
pub(super) struct AtWork(Arc<Mutex<Option<String>>>);

impl AtWork {
    /// Sets the current verb.
    pub(super) fn begin(&self, verb: &str) {
        self.set(Some(verb.to_owned()));
    }

    /// Clears the current verb.
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

/// Accepts commands as long as the process lives.
pub(super) struct Listener {
    directory: Directory,
    thread: Patience,
    at_work: AtWork,
    control: Sender<Pending>,
}

impl Listener {
    /// Starts the thread that listens at a socket. It passes other commands to `control`.
    pub(super) fn open(
        socket: UnixListener,
        directory: &Directory,
        family: Handle,
        at_work: &AtWork,
        control: Sender<Pending>,
    ) -> io::Result<()> {
        let mut listener = Listener {
            directory: directory.clone(),
            thread: Patience::with(family),
            at_work: at_work.clone(),
            control,
        };
        let arrivals = Arrivals::at(socket)?;
        std::thread::Builder::new()
            .name("listener".into())
            .spawn(move || listener.serve(arrivals))
            .map(drop)
    }

    fn serve(&mut self, mut arrivals: Arrivals) {
        loop {
            let asked = match arrivals.next() {
                Ok(asked) => asked,
                Err(error) => {
                    log::error!("the server can no longer receive commands: {error}");
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

    /// Answers a command that changes nothing; passes on any other.
    fn reply(&mut self, command: Command, connection: UnixStream) -> io::Result<Option<Pending>> {
        match &command {
            Command::Report => {
                // On an error there is no reply: the server is ending, and to the client it is gone
                // already.
                let Published { devices, left_out, coming } = self.directory.all();
                let (waiting, devices): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    devices.into_iter().partition(|(_, device)| device.waits);
                let facts =
                    self.thread.ask(REPORT_LIMIT, |thread| async move { facts::look(&thread) })?;
                let mut reports = match facts {
                    Some(facts) => report::devices(&devices, facts),
                    None => devices.values().map(report::unanswered).collect(),
                };
                reports.extend(
                    waiting
                        .values()
                        .map(|one| orphan::report(&one.state(), RunState::Quiesced, None)),
                );
                reports.extend(coming.iter().map(coming_report));
                let state =
                    |one: &LeftOut| if one.waits { RunState::Quiesced } else { RunState::Dead };
                reports.extend(
                    left_out.values().map(|one| orphan::report(&one.device, state(one), None)),
                );
                reply(connection, &Reply::Devices(reports))?;
                if !left_out.is_empty() {
                    // Whether they still exist must be checked.
                    return Ok(Some(Pending::Nothing));
                }
            }
            Command::Ping => reply(connection, &Reply::Doing(self.doing()?))?,
            Command::Wait { .. } => self.answer_aside(command, connection)?,
            Command::Message { words, .. } if takes_long(words) => {
                self.answer_aside(command, connection)?
            }
            _ => return Ok(Some(Pending::Command(Box::new(command), connection))),
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
            Some(place) => aside(place, self.thread.handle(), command, legs, connection),
            None => reply(connection, &place::no_place()),
        }
    }

    /// What the server is doing, and which disks it is waiting for.
    fn doing(&mut self) -> io::Result<Doing> {
        let looked = self.thread.ask(BUSY_LIMIT, |thread| async move { thread.ring.oldest() })?;
        // Otherwise it computes: the bits of a large dirty log, for instance. No disk keeps it.
        let mut oldest = looked.unwrap_or_default();
        oldest.extend(opening());
        Ok(Doing { command: self.at_work.verb(), oldest, can_leave: true })
    }
}

/// The report of a device that is about to be taken over: it waits until then.
fn coming_report(device: &DeviceState) -> DeviceReport {
    let waits = device.spec.options.recovery;
    let state = if waits { RunState::Quiesced } else { RunState::Dead };
    orphan::report(device, state, None)
}

#[cfg(test)]
mod tests;
