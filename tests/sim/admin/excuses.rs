//! The causes that excuse a device that is down, an invalid snapshot, or an error: only an event
//! that has really occurred, and only while it lasts.

use super::records::Files;
use super::town::{Broken, Known, Town, What};
use crate::ublk::DeviceState as DiskState;
use crate::ublk::device::is_ours;

impl Town {
    /// Whether a disk or the run directory is missing, full, failing or used by others now.
    pub(super) fn hindered(&self) -> bool {
        let full = self.site.shared.lock().unwrap().full;
        self.faulty || self.refusing || full || (0..self.site.disks.len()).any(|at| self.ails(at))
    }

    /// Whether a disk is faulty now.
    fn ails(&self, disk: usize) -> bool {
        let slot = &self.site.disks[disk];
        !slot.there.get()
            || slot.hangs.get()
            || !self.site.is_own(disk)
            || self.failing.contains(&disk)
    }

    /// Whether errors of a device's own disks may reach its users now.
    fn may_err(&self, what: What) -> bool {
        match what {
            What::Origin => self.failing.contains(&0),
            What::Lines => false,
            What::Mirror => self.legs.iter().any(|leg| self.failing.contains(leg)),
            What::Snap(at) => {
                self.doubtful[at]
                    || [0, 1 + at].into_iter().any(|disk| self.failing.contains(&disk))
            }
        }
    }

    /// Whether a fault keeps a new server from serving a device now.
    fn may_be_down(&self, what: What) -> bool {
        let full = self.site.shared.lock().unwrap().full;
        let disks = match what {
            What::Origin => vec![0],
            What::Snap(at) => vec![0, 1 + at],
            What::Lines => Vec::new(),
            What::Mirror => self.legs.to_vec(),
        };
        let mirror = what == What::Mirror && (self.loaded || self.mirror_forfeit);
        full || mirror
            || self.refusing
            || self.spoilt.contains(what.key())
            || disks.into_iter().any(|disk| self.ails(disk))
    }

    /// A family is taken over while a snapshot's COW is faulty: its origin may get a server, and
    /// from then on the snapshot may be invalid.
    pub(super) fn doubt_what_is_away(&mut self) {
        for at in 0..self.doubtful.len() {
            let away = self.ails(1 + at) || self.refusing || self.spoilt.contains("o");
            self.doubtful[at] |= self.has(What::Snap(at)) && away;
        }
    }

    /// The origin's content may have changed. As in the kernel, users add the snapshots of an
    /// origin before they write it; but the departure of a snapshot that was deleted while its
    /// family continued is recorded.
    pub(super) fn origin_changes(&mut self) {
        for at in 0..self.snaps.len() {
            if self.has(What::Snap(at)) {
                continue;
            }
            self.doubtful[at] |= self.snaps[at].is_some();
            let life = self.life;
            if let Some(snap) = self.snaps[at].as_mut() {
                snap.owed = false;
                snap.forfeit |= snap.life != life && !snap.on_record;
            }
        }
    }

    /// The records of the snapshots are gone: a lost snapshot cannot be distinguished from a valid
    /// one.
    pub(super) fn forget_records(&mut self) {
        for (snap, doubtful) in self.snaps.iter_mut().zip(self.doubtful) {
            if let Some(snap) = snap {
                snap.forfeit |= doubtful;
                snap.on_record = false;
            }
        }
    }

    /// The records of COWs are gone; state files list the existing devices.
    pub(super) fn lose_records(&mut self) {
        self.site.files(Files::forget_records);
        for at in 0..self.snaps.len() {
            let gone = !self.has(What::Snap(at));
            if let Some(snap) = self.snaps[at].as_mut().filter(|_| gone) {
                snap.forfeit |= self.doubtful[at];
                snap.on_record = false;
            }
        }
    }

    /// Whether an error that a user of a device sees has no excuse.
    pub(super) fn judge_error(&self, what: What, why: &str) -> Result<(), Broken> {
        if self.may_err(what) { Ok(()) } else { Err(format!("{what:?} fails in vain: {why}")) }
    }

    /// Whether a snapshot that is added again has been refused without an excuse.
    pub(super) fn judge_refusal(&mut self, at: usize, why: &str) -> Result<(), Broken> {
        let known = self.snaps[at].as_ref().is_some_and(|snap| !snap.forfeit);
        let unexcused = known && !self.doubtful[at] && !self.hindered();
        if unexcused && !self.site.is_dead() && why != "interrupted" {
            return self.broken(format!("Snap({at}) is refused in vain: {why}"));
        }
        Ok(())
    }

    /// After a recovery: a device is down only if a line names it, and only if one of its disks is
    /// faulty.
    pub(super) fn judge_down(&mut self, problems: &[String]) -> Result<(), Broken> {
        self.notice_damage();
        if self.site.is_dead() {
            return Ok(());
        }
        let down = self.devices.iter().filter_map(|(what, known)| {
            let state = self.kernel_state(known)?;
            let is_down = state != DiskState::Live && !self.spoilt.contains(what.key());
            is_down.then(|| (*what, state, self.name_of(*what, known)))
        });
        for (what, state, name) in down.collect::<Vec<_>>() {
            if !problems.iter().any(|line| names(line, name.as_deref().unwrap_or_default())) {
                return self.broken(format!(
                    "{what:?} ({name:?}) is {state:?} after recover, and no line says so: \
                     {problems:?}"
                ));
            }
            if state != DiskState::Dead && !self.may_be_down(what) {
                return self.broken(format!(
                    "{what:?} is {state:?} after recover, though nothing hinders it: {problems:?}"
                ));
            }
        }
        Ok(())
    }

    /// Takes note of state files that were damaged during an operation. A living server rewrites
    /// them.
    pub(super) fn notice_damage(&mut self) {
        let damaged = std::mem::take(&mut self.site.shared.lock().unwrap().damaged);
        self.spoilt.extend(damaged);
    }

    /// The state of one of our devices in the kernel.
    pub(super) fn kernel_state(&self, known: &Known) -> Option<DiskState> {
        let kernel = self.site.kernel.borrow();
        let device = kernel.devices.get(&known.id);
        device.filter(|device| is_ours(&device.info, known.cookie)).map(|device| device.info.state)
    }

    /// The name of a device in the state file of its family.
    fn name_of(&self, what: What, known: &Known) -> Option<String> {
        let state = self.state(what.key()).ok()?;
        state.into_iter().find(|device| device.cookie == known.cookie).map(|device| device.name)
    }
}

/// Whether a line of `recover` names a device.
fn names(line: &str, name: &str) -> bool {
    let (named, _) = line.split_once(": ").unwrap_or_default();
    named.split(", ").any(|other| other == name)
}
