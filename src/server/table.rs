//! Changing devices that are live: suspend and resume, another table.

use std::rc::Rc;

use dm_targets::mirror::leg_state::Past;

use super::control::{Prepared, Server};
use super::devices::{Over, no_device};
use crate::data::{Family, Served};
use crate::failure::Reason;
use crate::protocol::{Answer, Question};

impl Server {
    pub(super) fn suspend(&mut self, id: u32, noflush: bool) -> Result<Answer, Reason> {
        let suspended = self.on_device(id, move |family| async move { family.suspend(id, noflush).await })?;
        suspended.map(|()| Answer::Done).map_err(|lost| format!("/dev/ublkb{id}: suspended, but {lost}"))
    }

    /// Lets requests go on; a table that was loaded takes the place of the old one first.
    pub(super) fn resume(&mut self, id: u32) -> Result<Answer, Reason> {
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let loaded = entry.loaded.take();
        let same_target = loaded.is_none();
        if let Some(table) = loaded {
            let old = entry.added.clone();
            if let Err(error) = self.change_table(id, table, false) {
                // The device had a target before, and has to have one again, with what is known of its disks by now.
                let back = self.change_table(id, old, true);
                return Err(back.map_or_else(
                    |back| format!("{error}; and the old table cannot be put back, the device stays suspended: {back}"),
                    |()| format!("{error}; the old table is still in place, the device stays suspended"),
                ));
            }
        }
        if !self.has_target(id)? {
            return Err(format!("/dev/ublkb{id}: it has no table any more: load one first"));
        }
        self.on_device(id, move |family| async move { family.resume(id, same_target).await })?;
        Ok(Answer::Done)
    }

    fn has_target(&self, id: u32) -> Result<bool, Reason> {
        let ask = move |family: Rc<Family>| async move {
            let device = family.devices.borrow().get(&id).cloned();
            device.is_some_and(|device| !matches!(device.served(), Served::Nothing))
        };
        self.family.call(ask).map_err(|error| error.to_string())
    }

    /// Takes a table for the next resume. Its disks are opened then, when the old table no longer has them.
    pub(super) fn load(&mut self, id: u32, table: Question) -> Result<Answer, Reason> {
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        match (&entry.over, &table) {
            (Over::Mirror { .. }, Question::AddMirror(_)) => entry.loaded = Some(table),
            _ => return Err(format!("/dev/ublkb{id}: only a mirror's table can be replaced, and by a mirror's")),
        }
        Ok(Answer::Done)
    }

    /// Puts another table in the place of a suspended device's; `again`: one that it had before.
    fn change_table(&mut self, id: u32, table: Question, again: bool) -> Result<(), Reason> {
        let Question::AddMirror(mut add) = table else { return Err("this is no mirror".to_owned()) };
        let take = move |family: Rc<Family>| async move { family.take_target(id).await };
        self.family.call(take).map_err(|error| error.to_string())??;
        // What the old target has put on record in its end counts as well.
        let past = if again {
            // The word that was given with this table was about another moment.
            add.source = None;
            self.past_of(&add)
        } else {
            Past::Replaced(self.rundir.legs(&self.key).ok())
        };
        let prepared = self.open_mirror(add, past)?;
        let Prepared { ticket, over, added, params, .. } = prepared;
        let fits = self.refuse_unfit(id, &params).map_err(|why| format!("the table: {why}"));
        if let Err(why) = fits.and_then(|()| self.record_table(id, over, added, again)) {
            let forget = move |family: Rc<Family>| async move { drop(family.opened.borrow_mut().remove(&ticket)) };
            self.family.call(forget).map_err(|error| error.to_string())?;
            return Err(why);
        }
        let put = move |family: Rc<Family>| async move { family.put_target(id, ticket).await };
        self.family.call(put).map_err(|error| error.to_string())?
    }

    /// Writes down what the device is made of from now on: the next server must not open the disks of the old table. The one
    /// that goes back is in the file already if it cannot be written.
    fn record_table(&mut self, id: u32, over: Over, added: Question, again: bool) -> Result<(), Reason> {
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        let old = (std::mem::replace(&mut entry.over, over), std::mem::replace(&mut entry.added, added));
        match self.record(None) {
            Err(why) if !again => {
                if let Some(entry) = self.devices.get_mut(&id) {
                    (entry.over, entry.added) = old;
                }
                return Err(format!("the table cannot be recorded: {why}"));
            }
            Err(why) => log::error!("the old table is back and the state file may tell of the other one: {why}"),
            Ok(()) => {}
        }
        self.publish();
        Ok(())
    }

    fn on_device<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        id: u32,
        job: impl FnOnce(Rc<Family>) -> F + Send + 'static,
    ) -> Result<T, Reason> {
        if !self.devices.contains_key(&id) {
            return Err(no_device(id));
        }
        self.family.call(job).map_err(|error| error.to_string())
    }
}
