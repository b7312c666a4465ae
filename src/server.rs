//! The control thread of a server: answers questions, and takes devices through their life.
//!
//! A device comes in steps of which each can still be undone: the disks are opened and claimed, the store is read and judged,
//! the kernel adds the device, its queues are served, and only then is the store written and the snapshot joins its origin;
//! starting the device comes last. A step that fails takes the earlier ones back, so a failed `add` leaves nothing.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::units::{ChunkSize, Sectors};

use crate::control::{Control, DeviceInfo, Params};
use crate::device;
use crate::family::{Family, FamilyHandle, Served};
use crate::open::{Access, Claim, DiskId, Limits, OpenDisk, OpenErrorKind};
use crate::proto::{self, AddOrigin, AddSnapshot, Answer, Common, Question};
use crate::queue::QueueOptions;
use crate::report;
use crate::rundir::{DeviceState, RunDir, State};
use crate::signature::{self, SignatureKind};

/// What went wrong, in one line for the user.
pub type Failure = String;

/// A device of this server.
pub struct Entry {
    pub name: String,
    pub added: Question,
    pub info: DeviceInfo,
    /// Major and minor of the disk.
    pub number: Option<(u32, u32)>,
    pub origin: DiskId,
    pub origin_path: String,
    pub cow: Option<(DiskId, String)>,
    pub read_only: bool,
}

/// A server: one origin, its snapshots and their devices.
pub struct Server {
    pub key: String,
    pub rundir: RunDir,
    pub devices: BTreeMap<u32, Entry>,
    pub family: FamilyHandle,
    control: Control,
    origin: Option<(DiskId, Limits, bool)>,
    tickets: u64,
    /// The run directory's files describe devices of a dead server that have not been taken over yet.
    keep_files: bool,
}

/// A device about to be added or taken over: its target is open and nothing has been written.
struct Prepared {
    params: Params,
    common: Common,
    /// Names the opened snapshot to the data thread; `None` for the origin's device.
    ticket: Option<u64>,
    origin: DiskId,
    origin_path: String,
    cow: Option<(DiskId, String)>,
    read_only: bool,
    added: Question,
}

impl Prepared {
    fn name(&self, id: u32) -> String {
        let kind = if self.ticket.is_some() { "snap" } else { "origin" };
        self.common.name.clone().unwrap_or_else(|| format!("{kind}{id}"))
    }
}

/// What the data thread found out about a snapshot it opened.
struct Opened {
    chunk: Sectors,
    len: Sectors,
}

impl Server {
    /// A server without devices.
    pub fn start(key: &str, rundir: &RunDir) -> Result<Server, Failure> {
        let control = Control::open().map_err(|error| error.to_string())?;
        let family = FamilyHandle::start().map_err(|error| format!("cannot start the data thread: {error}"))?;
        Ok(Server {
            key: key.to_owned(),
            rundir: rundir.clone(),
            devices: BTreeMap::new(),
            family,
            control,
            origin: None,
            tickets: 0,
            keep_files: false,
        })
    }

    /// Answers questions until the last device is gone.
    pub fn run(mut self, listener: &UnixListener) {
        for connection in listener.incoming() {
            match connection.and_then(|connection| self.answer(connection)) {
                Ok(()) => {}
                Err(error) => log::warn!("control socket: {error}"),
            }
            if self.devices.is_empty() {
                break;
            }
        }
        self.remove_files();
        if let Err(error) = self.family.stop() {
            log::error!("{error}");
        }
    }

    fn answer(&mut self, mut connection: UnixStream) -> io::Result<()> {
        let question: Question = proto::read_line(&connection)?;
        let answer = self.carry_out(question).unwrap_or_else(|message| Answer::Failed { message });
        if self.devices.is_empty() {
            // Gone before the answer: whoever reads it finds no trace of the server.
            self.remove_files();
        }
        proto::write_line(&mut connection, &answer)
    }

    /// Does what a question asks for.
    pub fn carry_out(&mut self, question: Question) -> Result<Answer, Failure> {
        match question {
            Question::AddSnapshot(_) | Question::AddOrigin(_) => self.add(question),
            Question::Recover(devices) => self.recover(devices),
            Question::Del { ids, force } => self.del(&ids, force),
            Question::Report => Ok(Answer::Devices(report::devices(self)?)),
            Question::Shutdown => {
                let ids: Vec<u32> = self.devices.keys().copied().collect();
                self.del(&ids, true)
            }
        }
    }

    fn remove_files(&self) {
        if self.keep_files {
            self.rundir.remove_socket(&self.key);
        } else {
            self.rundir.remove(&self.key);
        }
    }

    fn save(&self) {
        let devices = self.devices.iter();
        let device =
            |(id, entry): (&u32, &Entry)| DeviceState { id: *id, name: entry.name.clone(), added: entry.added.clone() };
        let state = State { pid: std::process::id(), devices: devices.map(device).collect() };
        if let Err(error) = self.rundir.write_state(&self.key, &state) {
            log::error!("state file of {}: {error}", self.key);
        }
    }

    /// Adds one device.
    fn add(&mut self, question: Question) -> Result<Answer, Failure> {
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
    fn recover(&mut self, devices: Vec<DeviceState>) -> Result<Answer, Failure> {
        self.keep_files = true;
        let mut all = Vec::new();
        for device in devices {
            all.push((self.prepare(device.added, true)?, device.id, device.name));
        }
        // Snapshots before origins.
        all.sort_by_key(|(prepared, ..)| prepared.ticket.is_none());
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
    fn prepare(&mut self, question: Question, again: bool) -> Result<Prepared, Failure> {
        match question {
            Question::AddSnapshot(add) => self.prepare_snapshot(add, again),
            Question::AddOrigin(add) => self.prepare_origin(add),
            _ => Err("this adds no device".to_owned()),
        }
    }

    fn prepare_origin(&mut self, add: AddOrigin) -> Result<Prepared, Failure> {
        let is_origin = |entry: &&Entry| matches!(entry.added, Question::AddOrigin(_));
        if let Some(entry) = self.devices.values().find(is_origin) {
            return Err(format!(
                "{} already has a device: /dev/ublkb{} ({})",
                add.origin.display(),
                entry.info.id,
                entry.name
            ));
        }
        let (origin, limits, read_only) = self.claim_origin(&add.origin, add.common.force)?;
        let read_only = read_only || add.common.read_only;
        let size = self.origin_size()?;
        Ok(Prepared {
            params: device::params(&[&limits], limits.volatile_cache, size, read_only, None),
            common: add.common.clone(),
            ticket: None,
            origin,
            origin_path: add.origin.display().to_string(),
            cow: None,
            read_only,
            added: Question::AddOrigin(add),
        })
    }

    fn prepare_snapshot(&mut self, add: AddSnapshot, again: bool) -> Result<Prepared, Failure> {
        let (origin, origin_limits, _) = self.claim_origin(&add.origin, add.common.force)?;
        let cow = std::fs::metadata(&add.cow).ok().and_then(|metadata| DiskId::of(&metadata));
        if cow == Some(origin) {
            return Err(format!("{}: the origin cannot be its own COW", add.cow.display()));
        }
        let cow = OpenDisk::open(&add.cow, Access::ReadWrite, Claim::Exclusive).map_err(|error| error.to_string())?;
        let overwrite = !again && check_content(&cow, add.persistent, add.common.force)?;
        let (cow_id, cow_limits) = (cow.id, cow.limits);
        self.tickets += 1;
        let ticket = self.tickets;
        let opened = self.open_snapshot(&add, cow, overwrite, ticket, again)?;
        let discard = add.discard_zeroes_cow.then_some(opened.chunk);
        let limits = [&origin_limits, &cow_limits];
        let read_only = add.common.read_only;
        Ok(Prepared {
            params: device::params(&limits, cow_limits.volatile_cache, opened.len, read_only, discard),
            common: add.common.clone(),
            ticket: Some(ticket),
            origin,
            origin_path: add.origin.display().to_string(),
            cow: Some((cow_id, add.cow.display().to_string())),
            read_only,
            added: Question::AddSnapshot(add),
        })
    }

    /// The data thread's own hold on a snapshot is no longer needed.
    fn forget_ticket(&self, prepared: &Prepared) -> Result<(), Failure> {
        let Some(ticket) = prepared.ticket else { return Ok(()) };
        let forget = move |family: Rc<Family>| async move { drop(family.opened.borrow_mut().remove(&ticket)) };
        self.family.call(forget).map_err(|error| error.to_string())
    }

    fn keep(&mut self, prepared: Prepared, info: DeviceInfo, name: Option<String>) {
        let name = name.unwrap_or_else(|| prepared.name(info.id));
        let number = device::number(&mut self.control, info.id);
        log::info!("{name}: /dev/ublkb{} is live", info.id);
        let Prepared { added, origin, origin_path, cow, read_only, .. } = prepared;
        let id = info.id;
        self.devices.insert(id, Entry { name, added, info, number, origin, origin_path, cow, read_only });
        self.save();
    }

    /// Opens the origin for the family, once.
    fn claim_origin(&mut self, path: &Path, force: bool) -> Result<(DiskId, Limits, bool), Failure> {
        if let Some((id, limits, read_only)) = &self.origin {
            return Ok((*id, *limits, *read_only));
        }
        let claim = if force { Claim::Shared } else { Claim::Exclusive };
        let disk = match OpenDisk::open(path, Access::ReadWrite, claim) {
            Err(error) if matches!(error.kind, OpenErrorKind::ReadOnly) => {
                OpenDisk::open(path, Access::ReadOnly, claim)
            }
            other => other,
        };
        let disk = disk.map_err(|error| error.to_string())?;
        let (id, limits) = (disk.id, disk.limits);
        let read_only = disk.access == Access::ReadOnly;
        self.family
            .call(move |family| async move { drop(family.origin_or(|| Some(disk))) })
            .map_err(|error| error.to_string())?;
        self.origin = Some((id, limits, read_only));
        Ok((id, limits, read_only))
    }

    fn origin_size(&self) -> Result<Sectors, Failure> {
        let size = self
            .family
            .call(|family| async move { family.origin.borrow().as_ref().map(|origin| origin.disk().size()) });
        size.map_err(|error| error.to_string())?.ok_or_else(|| "the family has no origin".to_owned())
    }

    fn open_snapshot(
        &self,
        add: &AddSnapshot,
        cow: OpenDisk,
        overwrite: bool,
        ticket: u64,
        again: bool,
    ) -> Result<Opened, Failure> {
        let on_full = if add.overflow { OnFull::Overflow } else { OnFull::Invalidate };
        let (discard_zeroes_cow, discard_passdown_origin) = (add.discard_zeroes_cow, add.discard_passdown_origin);
        let options = Options { on_full, discard_zeroes_cow, discard_passdown_origin };
        let chunk_size = match add.chunk_sectors {
            None => None,
            Some(sectors) => Some(ChunkSize::from_sectors(sectors).ok_or_else(|| bad_chunk_size(sectors))?),
        };
        // What a transient store held died with the server that held it.
        let lost = again && !add.persistent;
        let (persistent, len) = (add.persistent, add.len_sectors.map(Sectors));
        let label = add.common.name.clone().unwrap_or_else(|| add.cow.display().to_string());
        let open = move |family: Rc<Family>| async move {
            let origin = family.origin.borrow().clone().ok_or("the family has no origin")?;
            let cow = family.disk(cow);
            let host = family.ring.host();
            let parts = Parts {
                executor: &family.executor,
                host: &host,
                copy: &family.copy,
                origin: origin.disk(),
                cow: &cow,
                chunk_size,
                persistent,
                overwrite,
                lost,
                len,
                options,
                listener: Rc::new(move |event| log::warn!("{label}: {event}")),
            };
            let snapshot = Snapshot::open(parts).await.map_err(|error| error.to_string())?;
            let opened = Opened { chunk: snapshot.chunk_size().sectors(), len: snapshot.len() };
            family.opened.borrow_mut().insert(ticket, snapshot);
            Ok::<Opened, Failure>(opened)
        };
        self.family.call(open).map_err(|error| error.to_string())?
    }

    fn has_buffer_table(&self) -> Result<bool, Failure> {
        let ask = |family: Rc<Family>| async move { family.ring.has_registered_buffers() };
        self.family.call(ask).map_err(|error| error.to_string())
    }

    /// Adds a device, serves its queues, makes its target usable and starts it; takes everything back if that fails.
    fn bring_up(&mut self, prepared: &Prepared) -> Result<DeviceInfo, Failure> {
        let zero_copy = self.has_buffer_table()?;
        let info = device::add(&mut self.control, &prepared.common, &prepared.params, zero_copy)?;
        let started = self.serve(&info, prepared).and_then(|()| device::start(&mut self.control, info.id, false));
        if let Err(error) = started {
            if let Err(error) = self.take_down(info.id, true) {
                log::warn!("{error}");
            }
            return Err(error);
        }
        Ok(info)
    }

    /// Serves a device's queues. A snapshot's store is written if it must be, and it joins its origin.
    fn serve(&self, info: &DeviceInfo, prepared: &Prepared) -> Result<(), Failure> {
        let id = info.id;
        let path = format!("/dev/ublkc{id}");
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| format!("{path}: {error}"))?;
        let zero_copy = device::is_zero_copy(info);
        let (depth, max_io_bytes) = (info.depth, info.max_io_bytes);
        let queues: Vec<_> = (0..info.queues).map(|id| QueueOptions { id, depth, max_io_bytes, zero_copy }).collect();
        let (name, ticket) = (prepared.name(id), prepared.ticket);
        let serve = move |family: Rc<Family>| async move {
            let origin = family.origin.borrow().clone().ok_or("the family has no origin")?;
            let snapshot = ticket.and_then(|ticket| family.opened.borrow().get(&ticket).cloned());
            let served = snapshot.clone().map_or(Served::Origin(origin.clone()), Served::Snapshot);
            if let Some(snapshot) = &snapshot {
                snapshot.activate(&family.executor).await.map_err(|error| error.to_string())?;
            }
            let result = family.serve(id, &name, file, &queues, served);
            match (snapshot, &result) {
                (Some(snapshot), Ok(())) => origin.join(snapshot).await,
                (Some(snapshot), Err(_)) => snapshot.close().await,
                (None, _) => {}
            }
            result.map_err(|error| format!("cannot serve the queues: {error}"))
        };
        self.family.call(serve).map_err(|error| error.to_string())?
    }

    /// Stops a device, takes its target apart and deletes it.
    fn take_down(&mut self, id: u32, force: bool) -> Result<(), Failure> {
        match device::stop(&mut self.control, id, force) {
            Err(error) if !force => return Err(error),
            Err(error) => log::warn!("{error}"),
            Ok(()) => {}
        }
        let removed = self.family.call(move |family| async move { family.remove(id).await });
        device::delete(&mut self.control, id);
        removed.map_err(|error| error.to_string())
    }

    fn del(&mut self, ids: &[u32], force: bool) -> Result<Answer, Failure> {
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

/// Refuses a COW that holds something else; says whether it may be overwritten.
fn check_content(cow: &OpenDisk, persistent: bool, force: bool) -> Result<bool, Failure> {
    if force {
        return Ok(true);
    }
    let size = cow.size_sectors * 512;
    let block = cow.limits.logical_block_size;
    let unreadable = |error: io::Error| format!("{}: cannot be read: {error}", cow.path.display());
    match signature::find_in_file(&cow.file, size, block).map_err(unreadable)? {
        None if signature::starts_with_zeroes(&cow.file, block).map_err(unreadable)? => Ok(false),
        None => Err(format!(
            "{}: holds something unknown, which a snapshot would destroy; zero its first sector, or use --force",
            cow.path.display()
        )),
        Some(found) if found.kind == SignatureKind::SnapshotStore && persistent => Ok(false),
        Some(found) => Err(format!(
            "{}: holds {} (at byte {}), which a snapshot would destroy; wipe it, or use --force",
            cow.path.display(),
            found.name,
            found.offset
        )),
    }
}

fn bad_chunk_size(sectors: u64) -> Failure {
    format!("chunk size of {sectors} sectors: it must be a power of two of at least one sector and at most 1 GiB")
}
