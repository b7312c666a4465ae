//! The control thread of a server: answers questions, and takes devices through their life.
//!
//! A device comes in steps of which each can still be undone: the disks are opened and claimed, the store is read and judged,
//! the kernel adds the device, its queues are served, and only then is the store written and the snapshot joins its origin;
//! starting the device comes last. A step that fails takes the earlier ones back, so a failed `add` leaves nothing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::units::{ChunkSize, Sectors};
use libublk::sys;

use crate::control::{AddDevice, Control, DeviceInfo, Discard, Params, attrs};
use crate::family::{Family, FamilyHandle, Served};
use crate::open::{Access, Claim, DiskId, Limits, OpenDisk, OpenErrorKind};
use crate::proto::{self, AddOrigin, AddSnapshot, Answer, Common, Question};
use crate::queue::QueueOptions;
use crate::report;
use crate::rundir::{DeviceState, RunDir, State};
use crate::signature::{self, SignatureKind};

/// Largest request the kernel hands over in one piece: a slice of the copy engine.
const MAX_IO_BYTES: u32 = 1 << 19;

/// What went wrong, in one line for the user.
pub type Failure = String;

/// A device of this server.
pub struct Entry {
    pub name: String,
    pub added: Question,
    pub info: DeviceInfo,
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
        self.rundir.remove(&self.key);
        if let Err(error) = self.family.stop() {
            log::error!("{error}");
        }
    }

    fn answer(&mut self, mut connection: UnixStream) -> io::Result<()> {
        let question: Question = proto::read_line(&connection)?;
        let answer = self.carry_out(question).unwrap_or_else(|message| Answer::Failed { message });
        if self.devices.is_empty() {
            // Gone before the answer: whoever reads it finds no trace of the server.
            self.rundir.remove(&self.key);
        }
        proto::write_line(&mut connection, &answer)
    }

    /// Does what a question asks for.
    pub fn carry_out(&mut self, question: Question) -> Result<Answer, Failure> {
        match question {
            Question::AddSnapshot(add) => self.add_snapshot(add),
            Question::AddOrigin(add) => self.add_origin(add),
            Question::Del { ids, force } => self.del(&ids, force),
            Question::Report => Ok(Answer::Devices(report::devices(self)?)),
            Question::Shutdown => {
                let ids: Vec<u32> = self.devices.keys().copied().collect();
                self.del(&ids, true)
            }
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

    fn add_origin(&mut self, add: AddOrigin) -> Result<Answer, Failure> {
        let is_origin = |entry: &Entry| matches!(entry.added, Question::AddOrigin(_));
        if let Some(entry) = self.devices.values().find(|entry| is_origin(entry)) {
            return Err(format!(
                "{} already has a device: /dev/ublkb{} ({})",
                add.origin.display(),
                entry.info.id,
                entry.name
            ));
        }
        let (id, limits, read_only) = self.claim_origin(&add.origin, add.common.force)?;
        let read_only = read_only || add.common.read_only;
        let size = self.origin_size()?;
        let params = params(&[&limits], limits.volatile_cache, size, read_only, None);
        let info = self.create(&add.common, &params)?;
        let name = add.common.name.clone().unwrap_or_else(|| format!("origin{}", info.id));
        self.bring_up(&info, &name, move |family| family.origin.borrow().clone().map(Served::Origin))?;
        let origin_path = add.origin.display().to_string();
        let added = Question::AddOrigin(add);
        self.keep(Entry { name, added, origin: id, origin_path, cow: None, read_only, info })
    }

    fn add_snapshot(&mut self, add: AddSnapshot) -> Result<Answer, Failure> {
        let (origin, origin_limits, _) = self.claim_origin(&add.origin, add.common.force)?;
        let cow = OpenDisk::open(&add.cow, Access::ReadWrite, Claim::Exclusive).map_err(|error| error.to_string())?;
        if cow.id == origin {
            return Err(format!("{}: the origin cannot be its own COW", add.cow.display()));
        }
        let overwrite = check_content(&cow, add.persistent, add.common.force)?;
        let (cow_id, cow_limits) = (cow.id, cow.limits.clone());
        self.tickets += 1;
        let ticket = self.tickets;
        let opened = self.open_snapshot(&add, cow, overwrite, ticket)?;
        let discard = add.discard_zeroes_cow.then_some(opened.chunk);
        let limits = [&origin_limits, &cow_limits];
        let params = params(&limits, cow_limits.volatile_cache, opened.len, add.common.read_only, discard);
        let brought_up = self.create(&add.common, &params).and_then(|info| {
            let name = add.common.name.clone().unwrap_or_else(|| format!("snap{}", info.id));
            let serve = move |family: &Family| family.opened.borrow().get(&ticket).cloned().map(Served::Snapshot);
            self.bring_up(&info, &name, serve).map(|()| (info, name))
        });
        let forgotten = self.family.call(move |family| async move { drop(family.opened.borrow_mut().remove(&ticket)) });
        let (info, name) = brought_up?;
        forgotten.map_err(|error| error.to_string())?;
        let (origin_path, cow_path) = (add.origin.display().to_string(), add.cow.display().to_string());
        let read_only = add.common.read_only;
        let added = Question::AddSnapshot(add);
        self.keep(Entry { name, added, origin, origin_path, cow: Some((cow_id, cow_path)), read_only, info })
    }

    fn keep(&mut self, entry: Entry) -> Result<Answer, Failure> {
        let id = entry.info.id;
        log::info!("{}: /dev/ublkb{id} is live", entry.name);
        self.devices.insert(id, entry);
        self.save();
        Ok(Answer::Added { path: format!("/dev/ublkb{id}") })
    }

    /// Opens the origin for the family, once.
    fn claim_origin(&mut self, path: &Path, force: bool) -> Result<(DiskId, Limits, bool), Failure> {
        if let Some((id, limits, read_only)) = &self.origin {
            return Ok((*id, limits.clone(), *read_only));
        }
        let claim = if force { Claim::Shared } else { Claim::Exclusive };
        let disk = match OpenDisk::open(path, Access::ReadWrite, claim) {
            Err(error) if matches!(error.kind, OpenErrorKind::ReadOnly) => {
                OpenDisk::open(path, Access::ReadOnly, claim)
            }
            other => other,
        };
        let disk = disk.map_err(|error| error.to_string())?;
        let (id, limits) = (disk.id, disk.limits.clone());
        let read_only = disk.access == Access::ReadOnly;
        self.family
            .call(move |family| async move { drop(family.origin_or(|| Some(disk))) })
            .map_err(|error| error.to_string())?;
        self.origin = Some((id, limits.clone(), read_only));
        Ok((id, limits, read_only))
    }

    fn origin_size(&self) -> Result<Sectors, Failure> {
        let size = self
            .family
            .call(|family| async move { family.origin.borrow().as_ref().map(|origin| origin.disk().size()) });
        size.map_err(|error| error.to_string())?.ok_or_else(|| "the family has no origin".to_owned())
    }

    fn open_snapshot(&self, add: &AddSnapshot, cow: OpenDisk, overwrite: bool, ticket: u64) -> Result<Opened, Failure> {
        let on_full = if add.overflow { OnFull::Overflow } else { OnFull::Invalidate };
        let (discard_zeroes_cow, discard_passdown_origin) = (add.discard_zeroes_cow, add.discard_passdown_origin);
        let options = Options { on_full, discard_zeroes_cow, discard_passdown_origin };
        let chunk_size = match add.chunk_sectors {
            None => None,
            Some(sectors) => Some(ChunkSize::from_sectors(sectors).ok_or_else(|| bad_chunk_size(sectors))?),
        };
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

    /// Has the kernel add a device with what it can do of what is wanted.
    fn create(&mut self, common: &Common, params: &Params) -> Result<DeviceInfo, Failure> {
        let features = self.control.features().unwrap_or(0);
        let mut flags = u64::from(sys::UBLK_F_CMD_IOCTL_ENCODE);
        if common.recovery {
            flags |= u64::from(sys::UBLK_F_USER_RECOVERY) | u64::from(sys::UBLK_F_USER_RECOVERY_REISSUE);
        }
        let zero_copy = u64::from(sys::UBLK_F_SUPPORT_ZERO_COPY) | u64::from(sys::UBLK_F_AUTO_BUF_REG);
        if common.zero_copy && features & zero_copy == zero_copy && self.has_buffer_table()? {
            flags |= zero_copy;
        }
        // A snapshot's partitions are its origin's: nobody asked for them to appear a second time.
        flags |= features & u64::from(sys::UBLK_F_NO_AUTO_PART_SCAN);
        let wanted = AddDevice {
            id: common.id,
            queues: common.queues,
            depth: common.depth,
            max_io_bytes: MAX_IO_BYTES,
            flags,
            target_flags: 0,
        };
        let info = self.control.add(&wanted).map_err(|error| error.to_string())?;
        if let Err(error) = self.control.set_params(info.id, params) {
            self.delete(info.id);
            return Err(error.to_string());
        }
        Ok(info)
    }

    fn has_buffer_table(&self) -> Result<bool, Failure> {
        let reserve = |family: Rc<Family>| async move { family.ring.reserve_registered_buffers() };
        self.family.call(reserve).map_err(|error| error.to_string())
    }

    /// Serves a device's queues, makes its target usable and starts it; takes everything back if that fails.
    fn bring_up(
        &mut self,
        info: &DeviceInfo,
        name: &str,
        target: impl FnOnce(&Family) -> Option<Served> + Send + 'static,
    ) -> Result<(), Failure> {
        let result = self.serve(info, name, target).and_then(|()| {
            let pid = i32::try_from(std::process::id()).map_err(|error| error.to_string())?;
            self.control.start(info.id, pid).map_err(|error| error.to_string())
        });
        if result.is_err() {
            self.take_down(info.id);
        }
        result
    }

    fn serve(
        &self,
        info: &DeviceInfo,
        name: &str,
        target: impl FnOnce(&Family) -> Option<Served> + Send + 'static,
    ) -> Result<(), Failure> {
        let id = info.id;
        let path = format!("/dev/ublkc{id}");
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| format!("{path}: {error}"))?;
        let zero_copy = info.flags & u64::from(sys::UBLK_F_AUTO_BUF_REG) != 0;
        let (depth, max_io_bytes) = (info.depth, info.max_io_bytes);
        let queues: Vec<_> = (0..info.queues).map(|id| QueueOptions { id, depth, max_io_bytes, zero_copy }).collect();
        let name = name.to_owned();
        let serve = move |family: Rc<Family>| async move {
            let served = target(&family).ok_or("its target is gone")?;
            if let Served::Snapshot(snapshot) = &served {
                snapshot.activate(&family.executor).await.map_err(|error| error.to_string())?;
            }
            let result = family.serve(id, &name, file, &queues, served.clone());
            if let Served::Snapshot(snapshot) = &served {
                let origin = family.origin.borrow().clone();
                match (origin, &result) {
                    (Some(origin), Ok(())) => origin.join(snapshot.clone()).await,
                    _ => snapshot.close().await,
                }
            }
            result.map_err(|error| format!("cannot serve the queues: {error}"))
        };
        self.family.call(serve).map_err(|error| error.to_string())?
    }

    /// Stops a device, takes its target apart and deletes it.
    fn take_down(&mut self, id: u32) {
        if let Err(error) = self.control.stop(id) {
            log::warn!("{error}");
        }
        if let Err(error) = self.family.call(move |family| async move { family.remove(id).await }) {
            log::error!("{error}");
        }
        self.delete(id);
    }

    fn delete(&mut self, id: u32) {
        if let Err(error) = self.control.del(id) {
            log::warn!("{error}");
        }
    }

    fn del(&mut self, ids: &[u32], force: bool) -> Result<Answer, Failure> {
        if !force {
            for id in ids {
                not_in_use(*id)?;
            }
        }
        for id in ids {
            if let Some(entry) = self.devices.remove(id) {
                self.take_down(*id);
                log::info!("{}: deleted", entry.name);
            }
        }
        self.save();
        Ok(Answer::Deleted)
    }
}

/// A claim that is given up at once tells whether somebody else has one: a file system, another target, a swap area.
fn not_in_use(id: u32) -> Result<(), Failure> {
    let path = format!("/dev/ublkb{id}");
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&path) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let user = File::open(&path).and_then(|file| file.metadata()).ok();
            let user = user.and_then(|metadata| DiskId::of(&metadata)).and_then(crate::open::user_of);
            let by = user.map_or_else(|| "in use".to_owned(), |user| user);
            Err(format!("{path}: it is {by}; end that first, or use --force"))
        }
        _ => Ok(()),
    }
}

/// Refuses a COW that holds something else; says whether it may be overwritten.
fn check_content(cow: &OpenDisk, persistent: bool, force: bool) -> Result<bool, Failure> {
    if force {
        return Ok(true);
    }
    let size = cow.size_sectors * 512;
    let found = signature::find_in_file(&cow.file, size, cow.limits.logical_block_size)
        .map_err(|error| format!("{}: cannot be read: {error}", cow.path.display()))?;
    match found {
        None => Ok(false),
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

fn shift_of(bytes: u32) -> u8 {
    u8::try_from(bytes.max(512).next_power_of_two().trailing_zeros()).unwrap_or(12)
}

/// A device's limits, from those of the disks below it.
fn params(disks: &[&Limits], volatile_cache: bool, size: Sectors, read_only: bool, discard: Option<Sectors>) -> Params {
    let largest = |of: fn(&Limits) -> u32| disks.iter().map(|disk| of(disk)).max().unwrap_or(512);
    let logical = largest(|disk| disk.logical_block_size);
    let physical = largest(|disk| disk.physical_block_size).max(logical);
    let mut attributes = 0;
    if volatile_cache {
        attributes |= attrs::VOLATILE_CACHE | attrs::FUA;
    }
    if read_only {
        attributes |= attrs::READ_ONLY;
    }
    if disks.iter().any(|disk| disk.rotational) {
        attributes |= attrs::ROTATIONAL;
    }
    let discard = discard.map(|chunk| Discard {
        alignment: 0,
        granularity: u32::try_from(chunk.bytes()).unwrap_or(1 << 30),
        max_sectors: u32::try_from(chunk.0).unwrap_or(u32::MAX),
        max_write_zeroes_sectors: 0,
    });
    Params {
        attrs: attributes,
        logical_shift: shift_of(logical),
        physical_shift: shift_of(physical),
        io_min_shift: shift_of(physical),
        io_opt_shift: shift_of(largest(|disk| disk.io_opt).max(physical)),
        max_sectors: MAX_IO_BYTES / 512,
        dev_sectors: size.0,
        discard,
        // Zero copy hands users' pages to the disks, which must be able to take them.
        dma_alignment_mask: Some(largest(|disk| disk.dma_alignment)),
        ..Params::default()
    }
}
