//! The desk of a server: takes questions, and answers those that change nothing itself.
//!
//! Whatever changes devices goes to the control thread, one thing after the other, and may take as long as a disk that
//! does not answer. Meanwhile the desk goes on: what there is and how it is can always be asked. Questions that wait for
//! something without changing anything (an event, a comparison) are answered by a thread of their own.
//!
//! Rule kept here: no client keeps another one waiting. One that says nothing, or does not read, is not waited for; one
//! that leaves gives up its place, and what it has asked for and is not begun yet is not done.

mod arrivals;
mod aside;
mod place;
mod reply;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use super::admin::devices::{Directory, Entry, LeftOut};
use super::compare::takes_long;
use super::orphan;
use crate::data::Caller;
use crate::protocol::{Answer, Doing, Question};
use crate::server::report;
use crate::storage::opening;
use arrivals::Arrivals;
use aside::aside;
use place::Place;
use reply::reply;

/// What the control thread is told.
pub(super) enum Visit {
    /// Do this; the client waits for the answer.
    Command(Question, UnixStream),
    /// All tags of this device have ended.
    Lost(u32),
    /// A client has come and left without a question: it may be the one that has started the server.
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

/// Takes questions for as long as the process lives.
pub(super) struct Desk {
    directory: Directory,
    family: Caller,
    at_work: AtWork,
    control: Sender<Visit>,
}

impl Desk {
    /// Opens a desk at a socket. What it cannot answer itself goes to `control`.
    pub(super) fn open(
        listener: UnixListener,
        directory: &Directory,
        family: Caller,
        at_work: &AtWork,
        control: Sender<Visit>,
    ) -> io::Result<()> {
        let desk = Desk { directory: directory.clone(), family, at_work: at_work.clone(), control };
        let arrivals = Arrivals::at(listener)?;
        std::thread::Builder::new().name("desk".into()).spawn(move || desk.serve(arrivals)).map(drop)
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
            let answered = asked.map(|(question, connection)| self.answer(question, connection));
            let visit = match answered {
                Some(Ok(None)) => continue,
                Some(Ok(Some(visit))) => visit,
                Some(Err(error)) => {
                    log::warn!("control socket: {error}");
                    Visit::Nothing
                }
                None => Visit::Nothing,
            };
            if self.control.send(visit).is_err() {
                return;
            }
        }
    }

    /// Answers a question that changes nothing; hands on any other.
    fn answer(&self, question: Question, connection: UnixStream) -> io::Result<Option<Visit>> {
        match &question {
            Question::Report => {
                // Nobody is told anything by a server that is ending: for whoever asks it is gone already.
                let mut reports = report::devices(&self.directory.devices(), &self.family).map_err(io::Error::other)?;
                let left_out = self.directory.left_out();
                let state = |one: &LeftOut| if one.waits { "quiesced" } else { "dead" };
                reports.extend(left_out.values().map(|one| orphan::report(&one.device, state(one), None)));
                reply(connection, &Answer::Devices(reports))?;
            }
            Question::Ping => reply(connection, &Answer::Doing(self.doing()?))?,
            Question::Wait { .. } => self.answer_aside(question, connection)?,
            Question::Message { words, .. } if takes_long(words) => self.answer_aside(question, connection)?,
            _ => return Ok(Some(Visit::Command(question, connection))),
        }
        Ok(None)
    }

    fn answer_aside(&self, question: Question, connection: UnixStream) -> io::Result<()> {
        let devices = self.directory.devices();
        if let Err(message) = question.refuse_replaced(|id| Some(devices.get(&id)?.info.target_flags)) {
            return reply(connection, &Answer::Failed { message });
        }
        let legs = match &question {
            Question::Message { device, .. } => devices.get(&device.id).and_then(Entry::legs).unwrap_or_default(),
            _ => Vec::new(),
        };
        match Place::take() {
            Some(place) => aside(place, &self.family, question, legs, connection),
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
