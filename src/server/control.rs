//! The control thread of a server: takes devices through their life. What is asked of it comes from [`super::listener`].
//!
//! A device comes in steps of which each can still be undone: the disks are opened and claimed, the store is read and judged,
//! the kernel adds the device, its queues are served, and only then is the store written and the snapshot joins its origin;
//! starting the device comes last. A step that fails takes the earlier ones back, so a failed `add` leaves nothing.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dm_targets::table::TargetParams;

use super::devices::{Directory, Entry, LeftOut};
use super::listener::{AtWork, Desk, Visit};
pub(super) use super::prepared::Prepared;
use super::prepared::generated_name;
use super::recover::changes_origin;
use super::shutdown::{Ending, LOOK_AGAIN};
use super::undo::Undo;
use crate::data::{Family, FamilyHandle, QueueOptions, Served};
use crate::failure::Reason;
use crate::protocol::{self, Answer, DeviceOptions, DeviceSpec, DeviceState, Question};
use crate::rundir::RunDir;
use crate::storage::{DiskId, Limits};
use crate::ublk::device;
use crate::ublk::{Control, DeviceInfo};

/// How long a server that was started waits for its first device: commands ask at once.
const FIRST_DEVICE_LIMIT: Duration = Duration::from_secs(10);

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
    /// Devices that wait for a server and could not be taken over.
    pub(super) left_out: BTreeMap<u32, LeftOut>,
    /// The origin may have been changed since some were left out.
    pub(super) origin_changed: bool,
    visits: (Sender<Visit>, Receiver<Visit>),
    /// Whether it has been told to end, and what keeps it.
    pub(super) ending: Ending,
    /// The run directory's files describe devices of a dead server that have not been taken over yet.
    pub(super) keep_files: bool,
    /// Its files are removed and its disks closed.
    ended: bool,
    /// Something acknowledged was lost with a device, and the log says what.
    pub(super) lost_at_end: bool,
}

impl Server {
    /// A server without devices.
    pub fn start(key: &str, rundir: &RunDir) -> Result<Server, Reason> {
        let control = Control::open().map_err(|error| error.to_string())?;
        let visits = channel();
        let lost = visits.0.clone();
        let family = FamilyHandle::start(move |id| drop(lost.send(Visit::Lost(id))))
            .map_err(|error| format!("cannot start the data thread: {error}"))?;
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
            left_out: BTreeMap::new(),
            origin_changed: false,
            visits,
            ending: Ending::No,
            keep_files: false,
            ended: false,
            lost_at_end: false,
        })
    }

    /// Answers questions until the last device is gone. It has failed if something acknowledged was lost with a device.
    pub fn run(mut self, listener: UnixListener) -> ExitCode {
        match Desk::open(listener, &self.directory, self.family.caller(), &self.at_work, self.visits.0.clone()) {
            Ok(()) => self.answer_all(),
            Err(error) => log::error!("the server cannot be talked to: {error}"),
        }
        self.end();
        if self.lost_at_end { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// Lets go of everything, once: what has the same names afterwards is a successor's.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if self.ending == Ending::Leaves && !self.devices.is_empty() {
            // The kernel takes back what the devices hold, as at any other end of a server; nothing is taken apart.
            self.rundir.remove_socket(&self.key);
            std::process::exit(i32::from(self.lost_at_end));
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

    fn answer_all(&mut self) {
        while let Some(visit) = self.next_visit() {
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
                Visit::Lost(id) => self.lose(id),
                Visit::Nothing => {}
            }
            if self.ending == Ending::Waits {
                if let Err(error) = self.shut_down() {
                    log::error!("the server cannot end: {error}");
                }
            }
            if self.devices.is_empty() || self.ending == Ending::Leaves {
                break;
            }
        }
    }

    /// What is to be done next; `None` when nobody will want anything. A server that is kept by users of its devices looks at
    /// them from time to time; whoever has started one asks at once, unless they were killed.
    fn next_visit(&self) -> Option<Visit> {
        let visits = &self.visits.1;
        if self.devices.is_empty() {
            return visits.recv_timeout(FIRST_DEVICE_LIMIT).ok();
        }
        match self.ending {
            Ending::No => visits.recv().ok(),
            Ending::Waits | Ending::Leaves => Some(visits.recv_timeout(LOOK_AGAIN).unwrap_or(Visit::Nothing)),
        }
    }

    fn answer(&mut self, question: Question, mut connection: UnixStream) -> io::Result<()> {
        let undo = Undo::of(&question, self);
        let answer = self.carry_out(question).unwrap_or_else(|message| Answer::Failed { message });
        let left = protocol::has_left(&connection);
        if left {
            self.take_back(undo, &answer);
        }
        if self.devices.is_empty() {
            // Gone before the answer: whoever reads it finds no trace of the server, and can open its disks.
            self.end();
        }
        let written = protocol::write_line(&mut connection, &answer);
        if written.is_err() && !left {
            // It has left between the look and the answer.
            self.take_back(undo, &answer);
        }
        written
    }

    /// Does what a question asks for.
    pub fn carry_out(&mut self, question: Question) -> Result<Answer, Reason> {
        match question {
            Question::Add { name, id, spec } => self.add(name, id, spec),
            Question::Recover(devices) => self.recover(devices),
            Question::RecoverLeftOut { ids } => self.recover_left_out(&ids),
            Question::Del { ids, force } => self.del(&ids, force),
            Question::Suspend { id, noflush } => self.suspend(id, noflush),
            Question::Resume { id } => self.resume(id),
            Question::Load { id, spec } => self.load(id, spec),
            Question::Message { id, words } => self.message(id, &words),
            Question::Report | Question::Ping | Question::Wait { .. } => Err("a question for the desk".to_owned()),
            Question::Shutdown => self.shut_down().map(|()| Answer::Done),
        }
    }

    /// What has been changed is known to the desk, and to the next server.
    pub(super) fn save(&self) {
        self.publish();
        if let Err(error) = self.record(None) {
            log::error!("what has changed is not in the state file: {error}");
        }
    }

    pub(super) fn publish(&self) {
        self.directory.publish(&self.devices, &self.left_out);
    }

    /// Makes the state file tell, durably, of this server's devices, and of one that is to come.
    pub(super) fn record(&self, coming: Option<DeviceState>) -> Result<(), Reason> {
        let left_out = self.left_out.values().map(|left_out| left_out.device.clone());
        let devices = self.devices.values().map(Entry::state).chain(left_out);
        self.rundir.write_state(&self.key, devices.chain(coming).collect())
    }

    /// Adds one device.
    fn add(&mut self, name: Option<String>, id: Option<u32>, spec: DeviceSpec) -> Result<Answer, Reason> {
        let prepared = self.prepare(spec, name.as_deref(), false)?;
        let added = self.bring_up(&prepared, id, name);
        let note = self.note_of(prepared.ticket)?;
        self.forget_ticket(&prepared)?;
        let (info, name) = added?;
        let path = format!("/dev/ublkb{}", info.id);
        self.keep(prepared, info, name);
        self.save();
        Ok(Answer::Added { path, note })
    }

    /// Opens the disks of a target and the target itself, without writing anything.
    pub(super) fn prepare(&mut self, spec: DeviceSpec, name: Option<&str>, again: bool) -> Result<Prepared, Reason> {
        match spec.table.params.clone() {
            TargetParams::Snapshot(snapshot) => self.prepare_snapshot(&snapshot, spec, name, again),
            TargetParams::SnapshotOrigin { origin } => self.prepare_origin(&origin, spec),
            TargetParams::Mirror(mirror) => self.prepare_mirror(&mirror, spec, name, again),
            other @ TargetParams::SnapshotMerge(_) => {
                Err(format!("target {}: not served by this version", other.name()))
            }
        }
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// The data thread's own hold on a target is no longer needed.
    pub(super) fn forget_ticket(&self, prepared: &Prepared) -> Result<(), Reason> {
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

    /// Takes a device that is live among this server's. The caller makes that known.
    pub(super) fn keep(&mut self, prepared: Prepared, info: DeviceInfo, name: String) {
        let number = device::number(&mut self.control, info.id);
        log::info!("{name}: /dev/ublkb{} is live", info.id);
        let Prepared { spec, deps, read_only, .. } = prepared;
        let id = info.id;
        self.devices.insert(id, Entry { name, spec, info, number, deps, read_only, suspended: false, loaded: None });
    }

    /// Whether one more device can have its requests' pages used where they are. The kernel's table of them is large and
    /// not endless: devices that do not fit are served by copying.
    fn can_zero_copy(&self, options: &DeviceOptions) -> Result<bool, Reason> {
        let (queues, depth) = (options.queues, options.depth);
        let ask = move |family: Rc<Family>| async move { family.ring.has_room_for_buffers(queues, depth) };
        self.family.call(ask).map_err(|error| error.to_string())
    }

    /// Adds a device, serves its queues, makes its target usable and starts it; takes everything back if that fails. What the
    /// next server needs is written down before anyone can use the device.
    fn bring_up(
        &mut self,
        prepared: &Prepared,
        id: Option<u32>,
        name: Option<String>,
    ) -> Result<(DeviceInfo, String), Reason> {
        let zero_copy = self.can_zero_copy(&prepared.spec.options)?;
        let info = device::add(&mut self.control, id, &prepared.spec.options, &prepared.params, zero_copy)?;
        let name = self.register(prepared, &info, name).inspect_err(|_| {
            if let Err(error) = device::delete(&mut self.control, info.id) {
                log::warn!("{error}");
            }
        })?;
        let started =
            self.serve(&info, prepared, &name).and_then(|()| device::start(&mut self.control, info.id, false));
        if let Err(error) = started {
            let undone = self.take_down(info.id, info.target_flags, true);
            let undone = undone.and_then(|end| end.wrong.map_or_else(|| self.unmake(prepared), Err));
            if let Err(error) = undone {
                log::warn!("{error}");
            }
            self.save();
            return Err(error);
        }
        Ok((info, name))
    }

    /// Finds a name for a new device and writes down what the next server needs, while no other command looks for a name.
    fn register(&mut self, prepared: &Prepared, info: &DeviceInfo, name: Option<String>) -> Result<String, Reason> {
        let _directory = self.rundir.lock()?;
        if changes_origin(&prepared.spec) {
            self.lose_left_out();
        }
        let mut taken = self.rundir.names_beside(&self.key)?;
        taken.extend(self.devices.values().map(|entry| entry.name.clone()));
        let name = name.unwrap_or_else(|| generated_name(&prepared.spec.table, info.id, &taken));
        self.record(Some(prepared.state(info, &name)))?;
        Ok(name)
    }

    /// Serves a device's queues. A snapshot's store is written if it must be, and it joins its origin.
    pub(super) fn serve(&self, info: &DeviceInfo, prepared: &Prepared, name: &str) -> Result<(), Reason> {
        let id = info.id;
        let path = format!("/dev/ublkc{id}");
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| format!("{path}: {error}"))?;
        let zero_copy = device::is_zero_copy(info);
        let (depth, max_io_bytes) = (info.depth, info.max_io_bytes);
        let queues: Vec<_> = (0..info.queues).map(|id| QueueOptions { id, depth, max_io_bytes, zero_copy }).collect();
        let (name, ticket) = (name.to_owned(), prepared.ticket);
        let serve = move |family: Rc<Family>| async move {
            let opened = family.opened.borrow().get(&ticket).cloned().ok_or("the target is not open")?;
            opened.served.activate(&family.executor).await?;
            let result = family.serve(id, &name, file, &queues, opened.clone());
            match (&opened.served, &result) {
                (Served::Snapshot(snapshot), Ok(())) => family.join(snapshot.clone()).await,
                (_, Ok(())) => {}
                // Nothing has been acknowledged that could be lost.
                (served, Err(_)) => drop(served.close().await),
            }
            result.map_err(|error| format!("cannot serve the queues: {error}"))
        };
        self.family.call(serve).map_err(|error| error.to_string())?
    }
}
