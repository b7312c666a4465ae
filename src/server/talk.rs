//! Changing devices that are live: suspend and resume, another table.

use std::rc::Rc;

use super::{Failure, Over, Prepared, Server, no_device};
use crate::device;
use crate::family::Family;
use crate::proto::{Answer, Question};

impl Server {
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
        let unfit = if size.is_some_and(|size| size.0 != params.dev_sectors) {
            Some(format!("the table makes a device of {} sectors: its length cannot change", params.dev_sectors))
        } else {
            device::unfit(&self.params(id)?, &params).map(|why| format!("the table: {why}"))
        };
        if let Some(why) = unfit {
            let forget = move |family: Rc<Family>| async move { drop(family.opened.borrow_mut().remove(&ticket)) };
            self.family.call(forget).map_err(|error| error.to_string())?;
            return Err(why);
        }
        let put = move |family: Rc<Family>| async move { family.put_target(id, ticket).await };
        self.family.call(put).map_err(|error| error.to_string())??;
        if let Some(entry) = self.devices.get_mut(&id) {
            (entry.over, entry.added) = (over, added);
        }
        self.save();
        Ok(())
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
