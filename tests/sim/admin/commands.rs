//! The administrators' commands, as the verbs carry them out, and their results. An exit of 0 is a
//! promise.

use super::process::Process;
use super::records::StateFile;
use super::site::Site;
use super::town::{Known, Snap, Town, What};
use crate::failure::Failure;
use crate::protocol::{Command, DeviceRef, DeviceState, Reply};
use crate::server::admin::{Ending, Undo};
use crate::ublk::DeviceState as DiskState;
use crate::ublk::device::is_ours;

impl Town {
    /// Sends a command to the server of a family, as the control thread does; a server without
    /// devices ends.
    pub(super) fn ask(&mut self, key: &'static str, command: Command) -> Result<Reply, String> {
        self.acting = Some(key);
        let leaves = std::mem::take(&mut self.client_leaves);
        let mut stays = false;
        let process = self.processes.get_mut(key).ok_or("there is no server")?;
        let patient = !matches!(
            command,
            Command::Recover(_)
                | Command::TakeOver(_)
                | Command::RecoverLeftOut { .. }
                | Command::Del { force: true, .. }
        );
        self.site.impatient.set(!patient);
        let undo = Undo::of(&command, &process.admin);
        let mut reply = process.admin.carry_out(command);
        if leaves {
            let told = reply.unwrap_or_else(Reply::Failed);
            process.admin.take_back(undo, &told);
            stays = taken_back_and_there(&self.site, &told);
            reply = Err("interrupted".into());
        }
        self.site.impatient.set(false);
        self.reap(key);
        if stays && !self.hindered() {
            return self.broken("an interrupted add has left its device".to_owned());
        }
        self.say(|| format!("   {reply:?}"));
        reply.map_err(to_line)
    }

    /// A server without devices ends, as in `server::manager`.
    pub(super) fn reap(&mut self, key: &'static str) {
        let idle = self.processes.get(key).is_some_and(|process| process.admin.is_idle());
        if self.site.is_dead() || !idle {
            return;
        }
        let Some(process) = self.processes.remove(key) else { return };
        if !process.admin.keeps_files() {
            self.site.directory(key).remove();
        }
        if self.site.is_dead() {
            self.processes.insert(key, process);
        } else {
            process.kill();
        }
    }

    /// The content of a state file.
    pub(super) fn state(&self, key: &str) -> Result<Vec<DeviceState>, String> {
        match self.site.files(|files| files.states.get(key).cloned()) {
            None => Ok(Vec::new()),
            Some(StateFile::Damaged) => Err("the state file is damaged".to_owned()),
            Some(StateFile::Whole(devices)) => Ok(devices),
        }
    }

    /// The devices of a state file that the kernel still has.
    pub(super) fn left(&self, key: &str) -> Result<Vec<DeviceState>, String> {
        let devices = self.state(key)?;
        let kernel = self.site.kernel.borrow();
        let is_there = |device: &DeviceState| {
            kernel.devices.get(&device.id).is_some_and(|found| is_ours(&found.info, device.cookie))
        };
        Ok(devices.into_iter().filter(is_there).collect())
    }

    /// As `cli::family::lock` and `cli::add`: a family has one server, and a family whose server
    /// has died is recovered first.
    pub(super) fn add(&mut self, what: What) -> Result<(), String> {
        let key = what.key();
        if self.has(what) {
            return Err("it is there".to_owned());
        }
        if (0..self.site.disks.len()).any(|disk| !self.site.is_own(disk)) {
            return Err("first the right disks are put back".to_owned());
        }
        if !self.processes.contains_key(key) {
            if !self.left(key)?.is_empty() {
                return Err("its server has died".to_owned());
            }
            self.forget_gone(key, None)?;
            let process = Process::start(&self.site, key).ok_or("the server did not start")?;
            self.processes.insert(key, process);
        }
        let spec = if what == What::Mirror { self.mirror_table(false) } else { Town::spec(what) };
        let command = Command::Add { name: None, id: None, spec };
        match self.ask(key, command) {
            Ok(Reply::Added { path, note, .. }) if !self.site.is_dead() => {
                self.told.extend(note);
                self.added(what, &path)
            }
            reply => self.not_added(what, reply),
        }
    }

    /// Adds a device to the model.
    pub(super) fn added(&mut self, what: What, path: &str) -> Result<(), String> {
        let id: u32 = path.trim_start_matches("/dev/ublkb").parse().map_err(|_| path.to_owned())?;
        let cookie =
            self.site.kernel.borrow().devices.get(&id).map_or(0, |device| device.info.target_flags);
        self.devices.insert(what, Known { id, cookie, suspended: false, in_use: false });
        let told = self.state(what.key())?.iter().any(|device| device.cookie == cookie);
        if !told && !self.hindered() {
            return self.broken(format!(
                "{what:?} has been added, and the state file does not tell of it"
            ));
        }
        if what == What::Origin {
            self.life += 1;
            for at in 0..self.snaps.len() {
                let there = self.has(What::Snap(at));
                if let Some(snap) = self.snaps[at].as_mut().filter(|_| there) {
                    snap.life = self.life;
                }
            }
        }
        if let What::Snap(at) = what {
            let fresh = Snap {
                content: self.origin.frozen(),
                life: self.life,
                owed: false,
                on_record: false,
                forfeit: false,
            };
            let snap = self.snaps[at].get_or_insert(fresh);
            (snap.life, snap.on_record) = (self.life, false);
        }
        Ok(())
    }

    /// Judges an `add` that has failed.
    fn not_added(&mut self, what: What, reply: Result<Reply, String>) -> Result<(), String> {
        if let (What::Snap(at), Err(why)) = (what, &reply) {
            let owed = self.snaps[at].as_ref().is_some_and(|snap| snap.owed && !snap.forfeit);
            if owed && !self.site.is_dead() && why != "interrupted" && !self.hindered() {
                return self.broken(format!("{what:?} is owed, and refused: {why}"));
            }
            self.judge_refusal(at, why)?;
        }
        // After a failed add, the store that it leaves is not known to be a snapshot of the
        // origin.
        let unsure = self.site.is_dead() || matches!(&reply, Err(why) if why == "interrupted");
        if let (What::Snap(at), true) = (what, unsure) {
            let content = self.origin.frozen();
            let snap = self.snaps[at].get_or_insert(Snap {
                content,
                life: self.life,
                owed: false,
                on_record: false,
                forfeit: true,
            });
            snap.owed = false;
            self.doubtful[at] = true;
        }
        Err(reply.err().unwrap_or_else(|| "ended".to_owned()))
    }

    /// Whether a device of the origin's family exists.
    pub(super) fn family_goes_on(&self) -> bool {
        self.devices.keys().any(|what| what.key() == "o")
    }

    pub(super) fn broken<T>(&mut self, why: String) -> Result<T, String> {
        self.say(|| why.clone());
        self.site.fault.borrow_mut().get_or_insert(why.clone());
        Err(why)
    }

    /// Deletes a device as the command does (`cli::remove::del_one`): by its server or, if the
    /// server has died, in this process.
    pub(super) fn del(&mut self, what: What, force: bool) -> Result<(), String> {
        let Some(Known { id, cookie, .. }) = self.devices.get(&what) else {
            return Err("not there".to_owned());
        };
        let (id, cookie, key) = (*id, *cookie, what.key());
        let in_use = self.site.kernel.borrow().devices.get(&id).is_some_and(|device| device.in_use);
        let was_right =
            !force && matches!(what, What::Snap(_)) && matches!(self.read(what), Some(Ok(_)));
        let deleted = if self.processes.contains_key(key) {
            self.ask(key, Command::Del { devices: vec![DeviceRef { id, cookie }], force }).map(drop)
        } else {
            self.del_orphan(key, id, cookie, force)
        };
        let gone = !self
            .site
            .kernel
            .borrow()
            .devices
            .get(&id)
            .is_some_and(|device| is_ours(&device.info, cookie));
        if gone && in_use && !force && !self.site.is_dead() {
            return self.broken(format!("{what:?}: deleted while it was in use"));
        }
        if deleted.is_ok() && !self.site.is_dead() && !gone {
            return self.broken(format!("{what:?}: del has ended well and the device is there"));
        }
        if let What::Snap(at) = what {
            // A snapshot that is deleted while its origin is in use is marked.
            let outlived = self.devices.get(&What::Origin).is_some_and(|origin| origin.in_use);
            let owed = was_right && deleted.is_ok() && !self.site.is_dead() && !outlived;
            // A command that has ended half way reports nothing; and if a command reports that the
            // next server does not know of the deletion, that server may take it for another
            // program's.
            let unknown = self.site.is_dead() || gone && deleted.is_err();
            self.doubtful[at] |= force || outlived || unknown;
            if let Some(snap) = self.snaps[at].as_mut() {
                snap.owed = owed;
            }
        }
        if gone {
            self.devices.remove(&what);
            if let What::Snap(at) = what {
                if let Some(snap) = self.snaps[at].as_mut() {
                    snap.on_record = true;
                }
            }
            if self.in_flight.iter().any(|(other, ..)| *other == What::Origin) {
                self.origin_changes();
            }
        }
        deleted
    }

    /// Takes over the waiting devices, family by family, as `cli::remove::recover_family` and
    /// `ask_to_recover` do. Problems are returned, and make the exit code 1.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        let mut problems = Vec::new();
        self.doubt_what_is_away();
        for key in ["mirror-a", "o"] {
            if self.site.is_dead() {
                break;
            }
            let known = self.devices.iter().filter(|(what, _)| what.key() == key);
            let known: Vec<DeviceRef> = known.map(|(_, known)| known.device()).collect();
            let reply = if self.processes.contains_key(key) {
                self.ask(key, Command::RecoverLeftOut { devices: known })
            } else {
                match self.left(key) {
                    Ok(devices) if devices.is_empty() => {
                        problems.extend(self.forget_gone(key, None).err());
                        continue;
                    }
                    Ok(_) => {
                        let devices = self.state(key)?;
                        let Some(process) = Process::start(&self.site, key) else { continue };
                        self.processes.insert(key, process);
                        self.ask(key, Command::Recover(devices))
                    }
                    Err(why) => Err(why),
                }
            };
            match reply {
                Ok(Reply::Recovered { problems: some, notes }) => {
                    self.told.extend(notes);
                    problems.extend(some.into_iter().map(|problem| to_line(problem.why)))
                }
                Ok(_) => {}
                Err(why) => {
                    let names = self.state(key).unwrap_or_default();
                    let names: Vec<_> = names.iter().map(|device| device.name.as_str()).collect();
                    problems.push(format!("{}: not recovered: {why}", names.join(", ")));
                }
            }
        }
        self.judge_down(&problems)?;
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    pub(super) fn suspend(&mut self, what: What) -> Result<(), String> {
        let device = self.devices.get(&what).ok_or("not there")?.device();
        self.ask(what.key(), Command::Suspend { device, noflush: false })?;
        if !self.site.is_dead() {
            self.devices.get_mut(&what).ok_or("not there")?.suspended = true;
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, what: What) -> Result<(), String> {
        let device = self.devices.get(&what).ok_or("not there")?.device();
        let resumed = self.ask(what.key(), Command::Resume { device }).map(drop);
        if let Some(known) = self.devices.get_mut(&what) {
            // Whatever the result, the device may run.
            known.suspended = false;
        }
        self.collect_replies();
        resumed
    }

    /// SIGTERM.
    pub(super) fn terminate(&mut self, key: &'static str) -> Result<(), String> {
        let ended = self.ask(key, Command::Shutdown).map(drop);
        let leaves =
            self.processes.get(key).is_some_and(|process| process.admin.ending() == Ending::Leaves);
        if leaves && !self.site.is_dead() {
            if let Some(process) = self.processes.remove(key) {
                process.kill();
            }
        }
        if let Some(what) = self.in_use_and_gone() {
            return self
                .broken(format!("{what:?} was in use, and the end of its server has deleted it"));
        }
        let snaps = |town: &Town| [0, 1].map(|at| town.has(What::Snap(at)));
        let before = snaps(self);
        self.strike_gone();
        if self.is_alive(What::Origin) && !self.site.is_dead() && before != snaps(self) {
            return self.broken(
                "the end of a server has deleted a snapshot whose origin stays".to_owned(),
            );
        }
        ended
    }

    /// Whether a device has a disk, served or waiting.
    fn is_alive(&self, what: What) -> bool {
        let kernel = self.site.kernel.borrow();
        let known = self.devices.get(&what);
        let device = known.and_then(|known| Some((kernel.devices.get(&known.id)?, known.cookie)));
        device.is_some_and(|(device, cookie)| {
            is_ours(&device.info, cookie) && device.info.state != DiskState::Dead
        })
    }

    /// Forgets devices that no longer exist.
    pub(super) fn strike_gone(&mut self) {
        let kernel = self.site.kernel.borrow();
        let is_there = |known: &Known| {
            kernel.devices.get(&known.id).is_some_and(|device| is_ours(&device.info, known.cookie))
        };
        self.devices.retain(|_, known| is_there(known));
    }
}

/// Whether a device whose add was undone still exists.
fn taken_back_and_there(site: &Site, reply: &Reply) -> bool {
    let Reply::Added { path, .. } = reply else { return false };
    let id = path.trim_start_matches("/dev/ublkb").parse::<u32>().ok();
    !site.is_dead() && id.is_some_and(|id| site.kernel.borrow().devices.contains_key(&id))
}

pub(super) fn to_line(why: Failure) -> String {
    why.to_string()
}
