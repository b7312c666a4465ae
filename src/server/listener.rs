//! The desk of a server: takes questions, and answers those that change nothing itself.
//!
//! Whatever changes devices goes to the control thread, one thing after the other, and may take as long as a disk that
//! does not answer. Meanwhile the desk goes on: what there is and how it is can always be asked. Questions that wait for
//! something without changing anything (an event, a comparison) are answered by a thread of their own.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::devices::Directory;
use super::targets::mirror_messages::{compare_or_repair, takes_long};
use crate::data::{Caller, Family};
use crate::failure::Reason;
use crate::protocol::{self, Answer, Question};
use crate::server::report;

/// How long somebody who has come to the desk may take to say what he wants: commands do it at once.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

/// Questions that are answered aside at the same time: each costs a thread, and nobody needs more.
const MAX_ASIDE: usize = 32;

/// How many there are.
static ASIDE: AtomicUsize = AtomicUsize::new(0);

/// One of [`MAX_ASIDE`]; given back however its owner ends.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let more = |taken: usize| (taken < MAX_ASIDE).then_some(taken + 1);
        ASIDE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok().then(|| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        ASIDE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the control thread is to do, and who waits for it; `None` when somebody came and went without a question.
pub(super) type Visit = Option<(Question, UnixStream)>;

/// Takes questions for as long as the process lives.
pub(super) struct Desk {
    directory: Directory,
    family: Caller,
    control: Sender<Visit>,
}

impl Desk {
    /// Opens a desk at a socket. What it cannot answer itself comes out of the receiver.
    pub(super) fn open(listener: UnixListener, directory: &Directory, family: Caller) -> io::Result<Receiver<Visit>> {
        let (control, visits) = channel();
        let desk = Desk { directory: directory.clone(), family, control };
        std::thread::Builder::new().name("desk".into()).spawn(move || desk.serve(&listener))?;
        Ok(visits)
    }

    fn serve(&self, listener: &UnixListener) {
        for connection in listener.incoming() {
            let visit = match connection.and_then(|connection| self.answer(connection)) {
                Ok(Some(visit)) => Some(visit),
                Ok(None) => continue,
                Err(error) => {
                    log::warn!("control socket: {error}");
                    None
                }
            };
            if self.control.send(visit).is_err() {
                return;
            }
        }
    }

    /// Answers a question that changes nothing; gives back any other.
    fn answer(&self, mut connection: UnixStream) -> io::Result<Visit> {
        connection.set_read_timeout(Some(QUESTION_LIMIT))?;
        let question: Question = protocol::read_line(&connection)?;
        let legs = match &question {
            Question::Report => {
                // Nobody is told anything by a server that is ending: for whoever asks it is gone already.
                let reports = report::devices(&self.directory.devices(), &self.family).map_err(io::Error::other)?;
                protocol::write_line(&mut connection, &Answer::Devices(reports))?;
                return Ok(None);
            }
            Question::Wait { .. } => Vec::new(),
            Question::Message { id, words } if takes_long(words) => self.directory.legs_of(*id),
            _ => return Ok(Some((question, connection))),
        };
        let Some(place) = Place::take() else {
            let message = format!("more than {MAX_ASIDE} commands are waiting already");
            protocol::write_line(&mut connection, &Answer::Failed { message })?;
            return Ok(None);
        };
        let family = self.family.clone();
        let thread = move || {
            let answer = match &question {
                Question::Message { id, words } => compare_or_repair(&family, *id, words, &legs),
                question => wait(&family, question),
            };
            let answer = answer.unwrap_or_else(|message| Answer::Failed { message });
            drop(place);
            if let Err(error) = protocol::write_line(&mut connection, &answer) {
                log::debug!("control socket: {error}");
            }
        };
        std::thread::Builder::new().name("aside".into()).spawn(thread)?;
        Ok(None)
    }
}

/// Waits for a device's next event.
fn wait(family: &Caller, question: &Question) -> Result<Answer, Reason> {
    let Question::Wait { id, events } = *question else { return Err("not a question to be answered aside".to_owned()) };
    let wait = move |family: Rc<Family>| async move {
        let device = family.devices.borrow().get(&id).cloned()?;
        let seen = events.unwrap_or_else(|| device.events.count());
        drop(family);
        device.events.after(seen).await
    };
    let events = family.call(wait).map_err(|error| error.to_string())?;
    events.map(Answer::Events).ok_or_else(|| format!("/dev/ublkb{id}: the device is gone"))
}
