//! Talking to devices that are live: suspend and resume, messages, events.
//!
//! Questions that may take long (waiting for an event) are answered by a thread of their own, so that the control
//! thread goes on answering others.

use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::mirror_talk::{compare_or_repair, takes_long};
use super::{Failure, NamedLeg, Over, Prepared, Server, no_device};
use crate::family::{Caller, Family};
use crate::proto::{self, Answer, Question};

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

impl Server {
    /// Hands a question that may take long to a thread; gives back any other.
    pub(super) fn answer_aside(&self, question: Question, connection: &UnixStream) -> io::Result<Option<Question>> {
        let legs = match &question {
            Question::Wait { .. } => Vec::new(),
            Question::Message { id, words } if takes_long(words) => self.legs_of(*id),
            _ => return Ok(Some(question)),
        };
        let mut connection = connection.try_clone()?;
        let Some(place) = Place::take() else {
            let message = format!("more than {MAX_ASIDE} commands are waiting already");
            proto::write_line(&mut connection, &Answer::Failed { message })?;
            return Ok(None);
        };
        let family = self.family.caller();
        let thread = move || {
            let answer = match &question {
                Question::Message { id, words } => compare_or_repair(&family, *id, words, &legs),
                question => wait(&family, question),
            };
            let answer = answer.unwrap_or_else(|message| Answer::Failed { message });
            drop(place);
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

    /// Lets requests go on; a table that was loaded takes the place of the old one first.
    pub(super) fn resume(&mut self, id: u32) -> Result<Answer, Failure> {
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let loaded = entry.loaded.take();
        let same_target = loaded.is_none();
        if let Some(table) = loaded {
            let old = entry.added.clone();
            if let Err(error) = self.change_table(id, table) {
                // The device had a target before, and has to have one again.
                let back = self.change_table(id, old);
                return Err(back.map_or_else(
                    |back| format!("{error}; and the old table cannot be put back, the device stays suspended: {back}"),
                    |()| format!("{error}; the old table is still in place, the device stays suspended"),
                ));
            }
        }
        self.on_device(id, move |family| async move { family.resume(id, same_target).await })
    }

    /// Takes a table for the next resume. Its disks are opened then, when the old table no longer has them.
    pub(super) fn load(&mut self, id: u32, table: Question) -> Result<Answer, Failure> {
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        match (&entry.over, &table) {
            (Over::Mirror { .. }, Question::AddMirror(_)) => entry.loaded = Some(table),
            _ => return Err(format!("/dev/ublkb{id}: only a mirror's table can be replaced, and by a mirror's")),
        }
        Ok(Answer::Done)
    }

    fn change_table(&mut self, id: u32, table: Question) -> Result<(), Failure> {
        let take = move |family: Rc<Family>| async move {
            let size = family.devices.borrow().get(&id).and_then(|device| device.served().len());
            family.take_target(id).await;
            size
        };
        let size = self.family.call(take).map_err(|error| error.to_string())?;
        let Question::AddMirror(add) = table else { return Err("this is no mirror".to_owned()) };
        let prepared = self.open_mirror(add, false)?;
        let Prepared { ticket, over, added, params, .. } = prepared;
        if size.is_some_and(|size| size.0 != params.dev_sectors) {
            let forget = move |family: Rc<Family>| async move { drop(family.opened.borrow_mut().remove(&ticket)) };
            self.family.call(forget).map_err(|error| error.to_string())?;
            return Err(format!(
                "the table makes a device of {} sectors: its length cannot change",
                params.dev_sectors
            ));
        }
        let put = move |family: Rc<Family>| async move { family.put_target(id, ticket).await };
        self.family.call(put).map_err(|error| error.to_string())??;
        if let Some(entry) = self.devices.get_mut(&id) {
            (entry.over, entry.added) = (over, added);
        }
        self.save();
        Ok(())
    }

    fn legs_of(&self, id: u32) -> Vec<NamedLeg> {
        match self.devices.get(&id).map(|entry| &entry.over) {
            Some(Over::Mirror { legs, .. }) => legs.clone(),
            _ => Vec::new(),
        }
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
