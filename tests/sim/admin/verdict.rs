//! The end of a life: everything is repaired and taken over, and what users then read is judged.

use super::town::{Broken, Known, Town, What};
use crate::ublk::DeviceState as DiskState;
use crate::ublk::device::is_ours;

impl Town {
    /// Repairs everything, takes everything over, and judges all devices; then the same after a
    /// clean end.
    pub(super) fn end(&mut self) -> Result<(), Broken> {
        // Requests that resume now also change the records.
        self.mend();
        self.notice_damage();
        self.check_known()?;
        let recovered = self.recover();
        self.say(|| format!("end: recover: {recovered:?}"));
        let all: Vec<What> = self.devices.keys().copied().collect();
        for what in &all {
            self.check_promise(*what, &recovered)?;
        }
        self.collect_replies();
        for what in &all {
            let resumed = self.resume(*what);
            self.say(|| format!("end: resume {what:?}: {resumed:?}"));
            if resumed.is_ok() && self.is_live(*what) && self.read(*what).is_none() {
                return Err(format!("{what:?} was resumed, and does not answer"));
            }
        }
        self.collect_replies();
        for what in &all {
            self.judge(*what)?;
        }
        // All devices are unmounted, deleted and added again: snapshots before their origin.
        for what in &all {
            self.set_use(*what, false);
        }
        for what in [What::Mirror, What::Origin, What::Snap(0), What::Snap(1)] {
            if self.has(what) {
                let deleted = self.del(what, false);
                self.say(|| format!("end: del {what:?}: {deleted:?}"));
            }
        }
        for what in [What::Snap(0), What::Snap(1), What::Origin] {
            let known = if let What::Snap(at) = what { self.snaps[at].is_some() } else { true };
            if known && !self.has(what) {
                let added = self.add(what);
                self.say(|| format!("end: add {what:?}: {added:?}"));
            }
        }
        for what in [What::Snap(0), What::Snap(1), What::Origin] {
            self.judge(what)?;
        }
        self.judge_added_mirror()?;
        if let Some(disk) = self.freed.iter().find(|disk| !self.site.is_users(**disk)) {
            return Err(format!("disk {disk} is no leg any more, and was written"));
        }
        for (id, cookie) in &self.foreign {
            let kernel = self.site.kernel.borrow();
            let device = kernel.devices.get(id).filter(|device| is_ours(&device.info, *cookie));
            if device.is_none_or(|device| device.info.state != DiskState::Live) {
                return Err(format!("another program's device {id} was touched"));
            }
        }
        let fault = self.site.fault.borrow_mut().take();
        fault.map_or(Ok(()), Err)
    }

    /// The mirror is added by the same line, before and after which it shows what was acknowledged.
    fn judge_added_mirror(&mut self) -> Result<(), Broken> {
        if self.has(What::Mirror) {
            return Ok(());
        }
        let added = self.add(What::Mirror);
        self.say(|| format!("end: add Mirror: {added:?}"));
        match added {
            Ok(()) => self.judge(What::Mirror),
            Err(_) => Ok(()),
        }
    }

    fn is_live(&self, what: What) -> bool {
        let kernel = self.site.kernel.borrow();
        let known = self.devices.get(&what);
        let device = known.and_then(|known| kernel.devices.get(&known.id));
        device.is_some_and(|device| device.info.state == DiskState::Live)
    }

    /// Whether every device that has a disk is in a state file: an unrecorded device cannot be
    /// taken over.
    fn check_known(&self) -> Result<(), Broken> {
        if !self.spoilt.is_empty() {
            return Ok(());
        }
        let told: Vec<u64> = ["o", "mirror-a"]
            .iter()
            .filter_map(|key| self.state(key).ok())
            .flatten()
            .map(|state| state.cookie)
            .collect();
        let kernel = self.site.kernel.borrow();
        let ours = kernel
            .devices
            .values()
            .filter(|device| !self.foreign.contains(&(device.info.id, device.info.target_flags)));
        let unknown = ours.filter(|device| {
            device.info.state != DiskState::Dead && !told.contains(&device.info.target_flags)
        });
        unknown
            .map(|device| {
                Err(format!("/dev/ublkb{} is there, and no state file tells of it", device.info.id))
            })
            .next()
            .unwrap_or(Ok(()))
    }

    /// Whether a device is as its last command promised: it exists, and is suspended if it should
    /// be.
    pub(super) fn check_promise(
        &mut self,
        what: What,
        recovered: &Result<(), String>,
    ) -> Result<(), Broken> {
        let Known { id, cookie, suspended, .. } = self.devices[&what];
        let state = {
            let kernel = self.site.kernel.borrow();
            let device = kernel.devices.get(&id).filter(|device| is_ours(&device.info, cookie));
            device.map(|device| device.info.state)
        };
        match state {
            Some(DiskState::Live) if suspended => match self.read(what) {
                Some(result) => Err(format!("{what:?} was suspended and answers: {result:?}")),
                None => Ok(()),
            },
            Some(DiskState::Live) => Ok(()),
            // That a line names the device has already been judged.
            Some(_) if recovered.is_err() => Ok(()),
            state => Err(format!("{what:?} is {state:?}, and recover has ended well")),
        }
    }
}
