//! Talking to devices that are live: suspend and resume, messages, events.
//!
//! Questions that may take long (waiting for an event) are answered by a thread of their own, so that the control
//! thread goes on answering others.

use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Failure, Server};
use crate::family::{Caller, Family};
use crate::proto::{self, Answer, Question};

/// Questions that are answered aside at the same time: each costs a thread, and nobody needs more.
const MAX_ASIDE: usize = 32;

/// How many there are.
static ASIDE: AtomicUsize = AtomicUsize::new(0);

impl Server {
    /// Hands a question that may take long to a thread; gives back any other.
    pub(super) fn answer_aside(&self, question: Question, connection: &UnixStream) -> io::Result<Option<Question>> {
        if !matches!(question, Question::Wait { .. }) {
            return Ok(Some(question));
        }
        let mut connection = connection.try_clone()?;
        if ASIDE.fetch_add(1, Ordering::Relaxed) >= MAX_ASIDE {
            ASIDE.fetch_sub(1, Ordering::Relaxed);
            let message = format!("more than {MAX_ASIDE} commands are waiting already");
            proto::write_line(&mut connection, &Answer::Failed { message })?;
            return Ok(None);
        }
        let family = self.family.caller();
        let thread = move || {
            let answer = wait(&family, &question).unwrap_or_else(|message| Answer::Failed { message });
            ASIDE.fetch_sub(1, Ordering::Relaxed);
            if let Err(error) = proto::write_line(&mut connection, &answer) {
                log::debug!("control socket: {error}");
            }
        };
        std::thread::Builder::new().name("aside".into()).spawn(thread)?;
        Ok(None)
    }

    pub(super) fn suspend(&mut self, id: u32, noflush: bool) -> Result<Answer, Failure> {
        self.on_device(id, move |family| async move { family.suspend(id, noflush).await })
    }

    pub(super) fn resume(&mut self, id: u32) -> Result<Answer, Failure> {
        self.on_device(id, move |family| async move { family.resume(id).await })
    }

    fn on_device<F: Future<Output = ()> + 'static>(
        &self,
        id: u32,
        job: impl FnOnce(Rc<Family>) -> F + Send + 'static,
    ) -> Result<Answer, Failure> {
        if !self.devices.contains_key(&id) {
            return Err(no_device(id));
        }
        self.family.call(job).map_err(|error| error.to_string())?;
        Ok(Answer::Done)
    }
}

fn no_device(id: u32) -> Failure {
    format!("/dev/ublkb{id}: no such device; see `ublk-dm list`")
}

/// Waits for a device's next event.
fn wait(family: &Caller, question: &Question) -> Result<Answer, Failure> {
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
