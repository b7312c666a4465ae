//! The control thread of a server: takes devices through their life. What is asked of it comes from [`super::listener`].
//!
//! A device comes in steps of which each can still be undone: the disks are opened and claimed, the store is read and judged,
//! the kernel adds the device, its queues are served, and only then is the store written and the snapshot joins its origin;
//! starting the device comes last. A step that fails takes the earlier ones back, so a failed `add` leaves nothing.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::mpsc::Receiver;

use super::devices::{Directory, Entry, Over, no_device};
use super::listener::{AtWork, Desk, Visit};
use crate::data::{Family, FamilyHandle, QueueOptions, Served};
use crate::failure::Reason;
use crate::protocol::{self, Answer, Common, DeviceState, Question};
use crate::rundir::{RunDir, State};
use crate::storage::{DiskId, Limits};
use crate::ublk::device;
use crate::ublk::{Control, DeviceInfo, Params};

/// A server: one origin, its snapshots and their devices; or a mirror.
pub struct Server {
    pub key: String,
    pub rundir: RunDir,
    pub devices: BTreeMap<u32, Entry>,
    pub family: FamilyHandle,
    directory: Directory,
    /// What it is doing, for those who wait.
    at_work: AtWork,
    pub(super) control: Control,
    pub(super) origin: Option<(DiskId, Limits, bool)>,
    pub(super) tickets: u64,
    /// The run directory's files describe devices of a dead server that have not been taken over yet.
    keep_files: bool,
    /// Its files are removed and its disks closed.
    ended: bool,
}

/// How a command is taken back whose client has left.
enum Undo {
    Add,
    Suspend(u32),
    /// It is not: it has been done, whoever knows.
    No,
}

impl Undo {
    fn of(question: &Question) -> Undo {
        match question {
            Question::AddSnapshot(_) | Question::AddOrigin(_) | Question::AddMirror(_) => Undo::Add,
            Question::Suspend { id, .. } => Undo::Suspend(*id),
            _ => Undo::No,
        }
    }
}

/// A device about to be added or taken over: its target is open and nothing has been written.
pub(super) struct Prepared {
    pub(super) params: Params,
    pub(super) common: Common,
    /// Names the opened target to the data thread.
    pub(super) ticket: u64,
    pub(super) over: Over,
    pub(super) read_only: bool,
    pub(super) added: Question,
}

impl Prepared {
    fn is_origin(&self) -> bool {
        matches!(self.over, Over::Origin { .. })
    }

    fn name(&self, id: u32) -> String {
        let kind = match self.over {
            Over::Origin { .. } => "origin",
            Over::Snapshot { .. } => "snap",
            Over::Mirror { .. } => "mirror",
        };
        self.common.name.clone().unwrap_or_else(|| format!("{kind}{id}"))
    }
}

impl Server {
    /// A server without devices.
    pub fn start(key: &str, rundir: &RunDir) -> Result<Server, Reason> {
        let control = Control::open().map_err(|error| error.to_string())?;
        let family = FamilyHandle::start().map_err(|error| format!("cannot start the data thread: {error}"))?;
        Ok(Server {
            key: key.to_owned(),
            rundir: rundir.clone(),
            devices: BTreeMap::new(),
            family,
            directory: Directory::default(),
            at_work: AtWork::default(),
            control,
            origin: None,
            tickets: 0,
            keep_files: false,
            ended: false,
        })
    }

    /// Answers questions until the last device is gone.
    pub fn run(mut self, listener: UnixListener) {
        match Desk::open(listener, &self.directory, self.family.caller(), &self.at_work) {
            Ok(visits) => self.answer_all(&visits),
            Err(error) => log::error!("the server cannot be talked to: {error}"),
        }
        self.end();
    }

    /// Lets go of everything, once: what has the same names afterwards is a successor's.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Err(error) = self.family.stop() {
            log::error!("{error}");
        }
        if self.keep_files {
            self.rundir.remove_socket(&self.key);
        } else {
            self.rundir.remove(&self.key);
        }
    }

    fn answer_all(&mut self, visits: &Receiver<Visit>) {
        for visit in visits {
            match visit {
                // What nobody waits for any more is not begun.
                Visit::Command(question, connection) if protocol::has_left(&connection) => {
                    log::info!("{}: not begun, its client has left", question.verb());
                }
                Visit::Command(question, connection) => {
                    self.at_work.begin(question.verb());
                    let answered = self.answer(question, connection);
                    self.at_work.end();
                    if let Err(error) = answered {
                        log::warn!("control socket: {error}");
                    }
                }
                Visit::Nothing => {}
            }
            if self.devices.is_empty() {
                break;
            }
        }
    }

    fn answer(&mut self, question: Question, mut connection: UnixStream) -> io::Result<()> {
        let undo = Undo::of(&question);
        let answer = self.carry_out(question).unwrap_or_else(|message| Answer::Failed { message });
        if protocol::has_left(&connection) {
            self.take_back(undo, &answer);
        }
        if self.devices.is_empty() {
            // Gone before the answer: whoever reads it finds no trace of the server, and can open its disks.
            self.end();
        }
        protocol::write_line(&mut connection, &answer)
    }

    /// Takes back what a command has done whose client has left without waiting for its end: it has told its user that the
    /// command failed.
    fn take_back(&mut self, undo: Undo, answer: &Answer) {
        let taken_back = match (undo, answer) {
            (Undo::Add, Answer::Added { path }) => {
                let id = path.trim_start_matches(device::BLOCK_PATH).parse();
                id.map_err(|_| path.clone()).and_then(|id| self.del(&[id], false))
            }
            (Undo::Suspend(id), Answer::Done) => self.resume(id),
            _ => return,
        };
        match taken_back {
            Ok(_) => log::warn!("taken back: the client of the command has left before its end"),
            Err(error) => log::warn!("cannot be taken back, though the client of the command has left: {error}"),
        }
    }

    /// Does what a question asks for.
    pub fn carry_out(&mut self, question: Question) -> Result<Answer, Reason> {
        match question {
            Question::AddSnapshot(_) | Question::AddOrigin(_) | Question::AddMirror(_) => self.add(question),
            Question::Recover(devices) => self.recover(devices),
            Question::Del { ids, force } => self.del(&ids, force),
            Question::Suspend { id, noflush } => self.suspend(id, noflush),
            Question::Resume { id } => self.resume(id),
            Question::Load { id, table } => self.load(id, *table),
            Question::Message { id, words } => self.message(id, &words),
            Question::Report | Question::Ping | Question::Wait { .. } => Err("a question for the desk".to_owned()),
            Question::Shutdown => {
                let ids: Vec<u32> = self.devices.keys().copied().collect();
                self.del(&ids, true)
            }
        }
    }

    /// What has been changed is known to the desk, and to whoever comes after this server.
    pub(super) fn save(&self) {
        self.directory.publish(&self.devices);
        let devices = self.devices.iter();
        let device =
            |(id, entry): (&u32, &Entry)| DeviceState { id: *id, name: entry.name.clone(), added: entry.added.clone() };
        let state = State { pid: std::process::id(), devices: devices.map(device).collect() };
        if let Err(error) = self.rundir.write_state(&self.key, &state) {
            log::error!("state file of {}: {error}", self.key);
        }
    }

    /// Adds one device.
    fn add(&mut self, question: Question) -> Result<Answer, Reason> {
        let prepared = self.prepare(question, false)?;
        let added = self.bring_up(&prepared);
        self.forget_ticket(&prepared)?;
        let info = added?;
        let path = format!("/dev/ublkb{}", info.id);
        self.keep(prepared, info, None);
        Ok(Answer::Added { path })
    }

    /// Takes over the devices of a server that died. Every target is there before any device lives again: requests that
    /// waited are sent once more, and an origin's must find all its snapshots.
    fn recover(&mut self, devices: Vec<DeviceState>) -> Result<Answer, Reason> {
        self.keep_files = true;
        let mut all = Vec::new();
        for device in devices {
            all.push((self.prepare(device.added, true)?, device.id, device.name));
        }
        // Snapshots before origins.
        all.sort_by_key(|(prepared, ..)| prepared.is_origin());
        let mut served = Vec::new();
        for (prepared, id, name) in all {
            let info = device::take_over(&mut self.control, id)?;
            self.serve(&info, &prepared)?;
            self.forget_ticket(&prepared)?;
            served.push((prepared, info, name));
        }
        for (_, info, _) in &served {
            device::start(&mut self.control, info.id, true)?;
        }
        for (prepared, info, name) in served {
            self.keep(prepared, info, Some(name));
        }
        self.keep_files = false;
        Ok(Answer::Recovered)
    }

    /// Opens the disks of a target and the target itself, without writing anything.
    fn prepare(&mut self, question: Question, again: bool) -> Result<Prepared, Reason> {
        match question {
            Question::AddSnapshot(add) => self.prepare_snapshot(add, again),
            Question::AddOrigin(add) => self.prepare_origin(add),
            Question::AddMirror(add) => self.prepare_mirror(add, again),
            _ => Err("this adds no device".to_owned()),
        }
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// The data thread's own hold on a target is no longer needed.
    fn forget_ticket(&self, prepared: &Prepared) -> Result<(), Reason> {
        let ticket = prepared.ticket;
        let forget = move |family: Rc<Family>| async move {
            let opened = family.opened.borrow_mut().remove(&ticket);
            if let Some(Served::Snapshot(snapshot)) = opened.map(|opened| opened.served) {
                snapshot.store().keep();
            }
        };
        self.family.call(forget).map_err(|error| error.to_string())
    }

    /// Puts back what the store of a snapshot that gets no device has overwritten.
    fn unmake(&self, prepared: &Prepared) -> Result<(), Reason> {
        let ticket = prepared.ticket;
        let unmake = move |family: Rc<Family>| async move {
            let opened = family.opened.borrow().get(&ticket).cloned();
            match opened.map(|opened| opened.served) {
                Some(Served::Snapshot(snapshot)) => snapshot.store().unmake().await.map_err(|error| error.to_string()),
                _ => Ok(()),
            }
        };
        self.family.call(unmake).map_err(|error| error.to_string())?
    }

    fn keep(&mut self, prepared: Prepared, info: DeviceInfo, name: Option<String>) {
        let name = name.unwrap_or_else(|| prepared.name(info.id));
        let number = device::number(&mut self.control, info.id);
        log::info!("{name}: /dev/ublkb{} is live", info.id);
        let Prepared { added, over, read_only, .. } = prepared;
        let id = info.id;
        self.devices.insert(id, Entry { name, added, info, number, over, read_only, loaded: None });
        self.save();
    }

    /// Refuses disks, by the device that they would make, that cannot come below one that is there already.
    pub(super) fn refuse_unfit(&mut self, id: u32, below: &Params) -> Result<(), Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        let now = self.control.get_params(id).map_err(|error| error.to_string())?;
        device::unfit(&now, below, device::is_zero_copy(&entry.info)).map_or(Ok(()), Err)
    }

    /// Whether one more device can have its requests' pages used where they are. The kernel's table of them is large and
    /// not endless: devices that do not fit are served by copying.
    fn can_zero_copy(&self, common: &Common) -> Result<bool, Reason> {
        let (queues, depth) = (common.queues, common.depth);
        let ask = move |family: Rc<Family>| async move { family.ring.has_room_for_buffers(queues, depth) };
        self.family.call(ask).map_err(|error| error.to_string())
    }

    /// Adds a device, serves its queues, makes its target usable and starts it; takes everything back if that fails.
    fn bring_up(&mut self, prepared: &Prepared) -> Result<DeviceInfo, Reason> {
        let zero_copy = self.can_zero_copy(&prepared.common)?;
        let info = device::add(&mut self.control, &prepared.common, &prepared.params, zero_copy)?;
        let started = self.serve(&info, prepared).and_then(|()| device::start(&mut self.control, info.id, false));
        if let Err(error) = started {
            if let Err(error) = self.take_down(info.id, true).and_then(|()| self.unmake(prepared)) {
                log::warn!("{error}");
            }
            return Err(error);
        }
        Ok(info)
    }

    /// Serves a device's queues. A snapshot's store is written if it must be, and it joins its origin.
    fn serve(&self, info: &DeviceInfo, prepared: &Prepared) -> Result<(), Reason> {
        let id = info.id;
        let path = format!("/dev/ublkc{id}");
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| format!("{path}: {error}"))?;
        let zero_copy = device::is_zero_copy(info);
        let (depth, max_io_bytes) = (info.depth, info.max_io_bytes);
        let queues: Vec<_> = (0..info.queues).map(|id| QueueOptions { id, depth, max_io_bytes, zero_copy }).collect();
        let (name, ticket) = (prepared.name(id), prepared.ticket);
        let serve = move |family: Rc<Family>| async move {
            let opened = family.opened.borrow().get(&ticket).cloned().ok_or("the target is not open")?;
            opened.served.activate(&family.executor).await?;
            let result = family.serve(id, &name, file, &queues, opened.clone());
            match (&opened.served, &result) {
                (Served::Snapshot(snapshot), Ok(())) => family.join(snapshot.clone()).await,
                (_, Ok(())) => {}
                (served, Err(_)) => served.close().await,
            }
            result.map_err(|error| format!("cannot serve the queues: {error}"))
        };
        self.family.call(serve).map_err(|error| error.to_string())?
    }

    /// Stops a device, takes its target apart and deletes it. One that may be in use is told to fail its requests first: the
    /// kernel waits for them, and a mirror may hold some for ever.
    fn take_down(&mut self, id: u32, force: bool) -> Result<(), Reason> {
        if force || !device::try_stop(&mut self.control, id)? {
            self.family
                .call(move |family| async move { family.let_go(id).await })
                .map_err(|error| error.to_string())?;
            if let Err(error) = device::stop(&mut self.control, id) {
                log::warn!("{error}");
            }
        }
        let removed = self.family.call(move |family| async move { family.remove(id).await });
        device::delete(&mut self.control, id);
        removed.map_err(|error| error.to_string())
    }

    fn del(&mut self, ids: &[u32], force: bool) -> Result<Answer, Reason> {
        if !force {
            // All or none: nothing has been deleted when one of them is refused here.
            ids.iter().try_for_each(|id| device::not_in_use(*id))?;
        }
        for id in ids.iter().filter(|id| self.devices.contains_key(id)).copied().collect::<Vec<_>>() {
            self.take_down(id, force)?;
            if let Some(entry) = self.devices.remove(&id) {
                log::info!("{}: deleted", entry.name);
            }
            self.save();
        }
        Ok(Answer::Deleted)
    }
}
