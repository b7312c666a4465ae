//! `rename`: a device gets another name while it is in use.
//!
//! Rules kept here: the new name is on record before anybody is told of it, and if it cannot be
//! recorded the device has the old one; and a merge that is to keep the snapshot of a device, or is
//! left to it, knows that device by its new name.

use super::devices::no_device;
use super::machine::{Machine, Records, Thread};
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, Reply};

impl<M: Machine> Administrator<M> {
    /// Refuses a uuid that another device has. The directory's lock is held.
    pub(super) fn refuse_taken_uuid(&mut self, spec: &DeviceSpec) -> Result<(), Reason> {
        let uuid = spec.options.uuid.as_deref().filter(|_| !mutant::is(Mutant::UuidGivenTwice));
        let Some(uuid) = uuid else { return Ok(()) };
        let mut others = self.all_states();
        others.extend(self.machine.records().devices_beside(None)?);
        others.retain(|one| one.spec.options.uuid.as_deref() == Some(uuid));
        for other in others {
            if self.ours(other.id, other.cookie)?.is_some() {
                return Err(format!("the uuid {uuid} is taken by {}", other.name).into());
            }
        }
        Ok(())
    }

    /// Gives a device another name, which the caller has reserved.
    ///
    /// # Errors
    /// The device has its old name.
    pub(super) fn rename(&mut self, id: u32, name: String) -> Result<Reply, Reason> {
        self.refuse_unfinished(id)?;
        let old = self.name_of(id)?;
        let is_taken = self.all_states().iter().any(|one| one.id != id && one.name == name);
        if is_taken && !mutant::is(Mutant::NameGivenTwice) {
            return Err(format!("the name {name} is taken by another device").into());
        }
        let before = self.devices.clone();
        for (other, entry) in &mut self.devices {
            let is_it = *other == id;
            let specs = [Some(&mut entry.spec), entry.loaded.as_mut()].into_iter().flatten();
            specs.for_each(|spec| follow(spec, is_it, &old, &name));
        }
        let entry = self.devices.get_mut(&id).ok_or_else(|| no_device(id))?;
        entry.name.clone_from(&name);
        let recorded =
            if mutant::is(Mutant::RenamedUnrecorded) { Ok(()) } else { self.record(None) };
        if let Err(why) = recorded {
            if !mutant::is(Mutant::RenamedThoughRefused) {
                self.devices = before;
            }
            return Err(why.context(format!("{old}: not renamed")));
        }
        // What is left out belongs to this server's record as well, but has no say in the outcome.
        self.publish();
        log::info!("{old}: its name is {name} from now on");
        let renamed = self.machine.call(move |thread| async move { thread.rename(id, &name) });
        renamed.unwrap_or_else(|why| log::error!("{old}: {why}"));
        self.machine.announce(id);
        Ok(Reply::Done)
    }
}

/// Has a merge know a device by its new name; `is_it`: it is that device's own.
fn follow(spec: &mut DeviceSpec, is_it: bool, old: &str, name: &str) {
    if mutant::is(Mutant::KeptByOldName) {
        return;
    }
    let wish = spec.merge.as_mut().filter(|wish| wish.keep || is_it);
    if let Some(known) = wish.and_then(|wish| wish.snapshot.as_mut()).filter(|known| *known == old)
    {
        name.clone_into(known);
    }
}
