//! The real machine of a server: ublk's control plane, disks, the run directory, and a data thread.

mod disk;
mod files;
mod numbers;
mod own;
mod patience;
mod thread;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;

use dm_targets::snapshot::format::StoreId;
use dm_targets::units::Sectors;

use super::admin::Incomplete;
use super::admin::held::Held;
use super::admin::machine::{Machine, Removed, Waited};
use super::claims;
use super::cow_journal;
use super::upgrade::is_broken;
use super::users;
use crate::data::{DataThread, Handle, Owner, QueueOptions};
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceOptions, DeviceRef, DeviceState, KnownDisk, Part};
use crate::rundir::journal::{self, FileJournal};
use crate::rundir::{RunDir, family_key};
use crate::storage::ends_when_closed;
use crate::storage::silent;
use crate::storage::{
    Access, Claim, DiskId, Ground, OpenDisk, OpenError, OpenErrorKind, Standing, Through, circle,
    new_store_id, node,
};
use crate::ublk::{Control, DeviceInfo, Params, announce, apart, device};
use files::Files;
use numbers::numbers;
use own::{LiveDisk, OwnDisk};
use patience::Patience;

/// A family's part of the machine.
pub struct Live {
    control: Control,
    thread: Owner,
    files: Files,
    patience: Patience,
}

impl Live {
    /// Opens the control device and starts a data thread, which calls `lost` with the id of a
    /// device that the kernel has stopped, and `ended` when a job that waited for disks has ended.
    ///
    /// # Errors
    /// Either of them fails.
    pub fn start(
        key: &str,
        rundir: &RunDir,
        lost: impl Fn(u32) + Send + 'static,
        ended: impl Fn() + Send + Sync + 'static,
    ) -> Result<Live, Reason> {
        let control = Control::open().map_err(Failure::from)?;
        let thread = Owner::start(lost)
            .map_err(|error| Failure::from(error).context("cannot start the data thread"))?;
        let files = Files { rundir: rundir.clone(), key: key.to_owned() };
        Ok(Live { control, thread, files, patience: Patience::new(ended) })
    }

    /// Removes the family's socket and keeps the files that a later server needs.
    pub fn remove_socket(&self) {
        self.files.rundir.remove_socket(&self.files.key);
    }

    /// Removes all of the family's files.
    pub fn remove_files(&self) {
        self.files.rundir.remove(&self.files.key);
    }

    /// The disks below the devices of other families. Unreadable state files are ignored.
    fn through(&self) -> Through {
        let Files { rundir, key } = &self.files;
        let states = rundir.states_beside(Some(key)).unwrap_or_default().into_iter();
        states.flat_map(|state| state.devices).map(|device| (device.id, numbers(&device))).collect()
    }
}

impl Machine for Live {
    type Open = LiveDisk;
    type Thread = DataThread;
    type Handle = Handle;
    type Records = Files;
    type Journal = FileJournal;

    fn beside(&self) -> Result<Live, Reason> {
        let ended = self.patience.ended();
        Live::start(&self.files.key, &self.files.rundir, |_| {}, move || ended())
    }

    fn end(&mut self) -> Result<(), Reason> {
        self.thread.stop().map_err(Failure::from)
    }

    fn records(&self) -> &Files {
        &self.files
    }

    fn handle(&self) -> Handle {
        self.thread.handle()
    }

    fn call_while_answered<T, F>(
        &self,
        job: impl FnOnce(Rc<DataThread>) -> F + Send + 'static,
    ) -> Result<Waited<T>, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.patience.call(&self.thread, job)
    }

    fn waker(&self) -> Box<dyn Fn() + Send> {
        let ended = self.patience.ended();
        Box::new(move || ended())
    }

    fn info(&mut self, id: u32) -> Result<Option<DeviceInfo>, Reason> {
        device::info(&mut self.control, id)
    }

    fn add(
        &mut self,
        id: Option<u32>,
        options: &DeviceOptions,
        params: &Params,
        zero_copy: bool,
    ) -> Result<DeviceInfo, Reason> {
        let mark = self.files.rundir.mark();
        device::add(&mut self.control, id, options, params, zero_copy, mark)
    }

    fn serve(
        &self,
        info: &DeviceInfo,
        name: &str,
        target: &Held<Handle>,
        again: bool,
    ) -> Result<Waited<Result<(), Reason>>, Reason> {
        let id = info.id;
        let path = format!("/dev/ublkc{id}");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| Failure::from(error).context(&path))?;
        let zero_copy = device::is_zero_copy(info);
        let (depth, max_io_bytes) = (info.depth, info.max_io_bytes);
        let queues: Vec<_> = (0..info.queues)
            .map(|id| QueueOptions { id, depth, max_io_bytes, zero_copy })
            .collect();
        let name = name.to_owned();
        self.call_while_answered(target.job(move |thread, opened| async move {
            Ok(thread.serve(id, &name, file, (&queues, again), opened).await?)
        }))
    }

    fn start(&mut self, id: u32, again: bool) -> Result<(), Reason> {
        if again && is_broken("dies") {
            std::process::abort();
        }
        device::start(&mut self.control, id, again)?;
        if again {
            // It answers again: what was not read meanwhile can be read now.
            announce(id);
        }
        Ok(())
    }

    fn announce(&self, id: u32) {
        announce(id);
    }

    fn stop(&mut self, id: u32) -> Result<(), Reason> {
        device::stop(&mut self.control, id)
    }

    fn try_stop(&mut self, id: u32) -> Result<bool, Reason> {
        let stopped = device::try_stop(&mut self.control, id);
        stopped.map_err(|why| users::using_device(&self.files.rundir, id, why))
    }

    fn delete(&mut self, id: u32) -> Result<(), Reason> {
        device::delete(&mut self.control, id)
    }

    fn delete_orphan(&mut self, id: u32, cookie: u64) -> Result<(), Reason> {
        apart::delete_apart(id, cookie)
    }

    fn start_recovery(&mut self, id: u32) -> Result<(), Reason> {
        self.control.start_recovery(id).map_err(Failure::from)
    }

    fn not_in_use(&self, id: u32) -> Result<(), Reason> {
        device::not_in_use(id).map_err(|why| users::using_device(&self.files.rundir, id, why))
    }

    fn not_open(&self, id: u32) -> Result<(), Reason> {
        device::not_open(id).map_err(|why| users::using_device(&self.files.rundir, id, why))
    }

    fn params(&mut self, id: u32) -> Result<Params, Reason> {
        self.control.get_params(id).map_err(Failure::from)
    }

    fn resize(&mut self, id: u32, len: Sectors) -> Result<(), Reason> {
        self.control.resize(id, len.0).map_err(Failure::from)
    }

    fn number(&mut self, id: u32) -> Option<(u32, u32)> {
        device::number(&mut self.control, id)
    }

    /// The kernel's table of registered buffers is large but limited: devices that do not fit are
    /// served by copying.
    fn can_zero_copy(&self, options: &DeviceOptions) -> Result<bool, Reason> {
        let (queues, depth) = (options.queues, options.depth);
        self.call(move |thread| async move { thread.ring.has_room_for_buffers(queues, depth) })
    }

    fn has_ended(&self, id: u32) -> bool {
        let ended = self.call(move |thread| async move {
            // One that is served no longer is being taken apart.
            thread.served(id).is_none_or(|served| served.has_ended())
        });
        ended.unwrap_or(false)
    }

    fn remove(&self, id: u32, outlived: bool) -> Result<Waited<Removed>, Reason> {
        self.call_while_answered(move |thread| async move {
            let merge = thread.group.merge(id);
            let closed = thread.remove(id, outlived).await.map_err(Reason::from);
            Removed { closed, is_left: merge.and_then(|merge| merge.is_left()) }
        })
    }

    fn node(&self, id: u32) -> Option<(DiskId, KnownDisk)> {
        let (disk, known) = node(&format!("{}{id}", device::BLOCK_PATH))?;
        Some((disk, claims::known_as(known)))
    }

    fn disk_at(&self, path: &str) -> Option<DiskId> {
        DiskId::of(&std::fs::metadata(path).ok()?)
    }

    fn open(&self, path: &str, access: Access, claim: Claim) -> Result<LiveDisk, OpenError> {
        let (wanted, disk) = (path.to_owned(), Path::new(path));
        let opened = silent::within_limit(disk, move || OpenDisk::open(wanted, access, claim));
        let opened = opened.unwrap_or_else(|why| {
            Err(OpenError { path: disk.to_owned(), kind: OpenErrorKind::Io(why.into()) })
        });
        let opened = opened.map(LiveDisk::Kernel);
        opened.map_err(|error| users::with_device(&self.files.rundir, error))
    }

    fn open_own(&self, device: DeviceRef, path: &str) -> Result<LiveDisk, OpenError> {
        let fail = |kind| OpenError { path: path.into(), kind };
        let io = |why: Reason| fail(OpenErrorKind::Io(why.into()));
        let id = device.id;
        let (disk, known) = self.node(id).ok_or_else(|| fail(OpenErrorKind::Missing))?;
        let params = Control::open().and_then(|mut control| control.get_params(id));
        let limits = device::as_own_disk(&params.map_err(|why| io(why.into()))?);
        let size = self.call(move |thread| async move {
            thread.group.device(id).and_then(|device| device.target().size())
        });
        let size = size.map_err(io)?.ok_or_else(|| fail(OpenErrorKind::Missing))?;
        let (path, handle) = (path.to_owned(), self.thread.handle());
        Ok(LiveDisk::Own(OwnDisk { device, path, id: disk, size, limits, known, handle }))
    }

    fn protect(&self, device: DeviceRef, read_only: bool) -> Result<(), Reason> {
        device::protect(device.id, read_only)
    }

    fn silent(&self, disks: &BTreeSet<String>) -> BTreeSet<String> {
        silent::silent(disks)
    }

    fn claimed(
        &self,
        id: DiskId,
        disk: &KnownDisk,
        parts: Option<&[Part]>,
    ) -> Option<OpenErrorKind> {
        claims::claimed(&self.files.rundir, Some(&self.files.key), id, disk, parts)
    }

    fn ends_when_closed(&self, disk: DiskId) -> bool {
        ends_when_closed(disk)
    }

    fn new_store_id(&self) -> Result<StoreId, Reason> {
        new_store_id().map_err(Failure::from)
    }

    fn circle(&self, words: &[&str], own: &BTreeSet<u32>) -> Option<(usize, Ground)> {
        // A missing disk is reported when it is opened.
        let (mut places, mut disks) = (Vec::new(), Vec::new());
        for (at, word) in words.iter().enumerate() {
            if let Some(id) = self.disk_at(word) {
                places.push(at);
                disks.push(Standing { path: Path::new(word), id });
            }
        }
        let (at, ground) = circle(&disks, own, &self.through())?;
        Some((
            places[at],
            if let Ground::Disk(other) = ground { Ground::Disk(places[other]) } else { ground },
        ))
    }

    fn journal(&self, cow: &LiveDisk, new: StoreId) -> Result<Option<FileJournal>, Reason> {
        match cow {
            LiveDisk::Kernel(cow) => cow_journal::open(&self.files.rundir, cow, new),
            LiveDisk::Own(_) => Ok(None),
        }
    }

    fn discard_journal(&self, cow: &str) -> Result<(), Reason> {
        cow_journal::discard(&self.files.rundir, cow)
    }

    fn is_journal_left(&self, cow: &str) -> Result<bool, Reason> {
        let directory = self.files.rundir.path();
        let in_directory = |why: Failure| why.context(directory.display());
        if let Some(id) = self.disk_at(cow) {
            let removed = journal::remove_empty(directory, &family_key(id));
            removed.map_err(|error| in_directory(error.into()))?;
        }
        if journal::left_in_directory(directory).map_err(in_directory)?.is_empty() {
            return Ok(false);
        }
        if !self.silent(&[cow.to_owned()].into()).is_empty() {
            return Err(silent::no_answer(cow));
        }
        cow_journal::is_left(&self.files.rundir, cow)
    }
}

/// Completes the COW of a dead server's deleted device.
///
/// # Errors
/// As [`super::admin::complete`].
pub fn complete(rundir: &RunDir, key: &str, device: &DeviceState) -> Result<(), Incomplete> {
    let live = Live::start(key, rundir, |_| {}, || {})
        .map_err(|why| Incomplete { why, owed: device.lost })?;
    super::admin::complete(live, device)
}

/// Records that a deleted snapshot's COW must not be used again, if a remaining device may change
/// its origin.
///
/// # Errors
/// As [`super::admin::record_left_behind`].
pub fn record_left_behind(
    rundir: &RunDir,
    key: &str,
    deleted: &DeviceState,
    staying: &[DeviceState],
) -> Result<(), Reason> {
    let mut machine = Live::start(key, rundir, |_| {}, || {})?;
    let recorded = super::admin::record_left_behind(&machine, deleted, staying);
    machine.end().and(recorded)
}
