//! The simulated machine as a process sees it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::device::Device;
use dm_targets::disk::Host;
use dm_targets::exec::Executor;
use dm_targets::group::Group;
use dm_targets::snapshot::format::StoreId;
use dm_targets::snapshot::journal::Journal;
use dm_targets::units::Sectors;

use super::journals::RecordsOfCow;
use super::kernel::{Control, Kernel, Pending, gone};
use super::open::{Hold, SimOpen, id_of};
use super::process::{pass_to, spawn_pass};
use super::records::Directory;
use super::site::{Other, Site};
use super::thread::{SimHandle, SimThread};
use crate::failure::Reason;
use crate::protocol::{DeviceOptions, DeviceRef, KnownDisk, Part, Place};
use crate::server::admin::held::Held;
use crate::server::admin::machine::{Machine, Removed, Waited};
use crate::storage::{Access, Claim, DiskId, Ground, OpenError, OpenErrorKind};
use crate::ublk::device::BLOCK_PATH;
use crate::ublk::{DeviceInfo, DeviceState, Params};

/// The machine as a process sees it.
pub struct SimMachine {
    pub(super) site: Rc<Site>,
    pid: u32,
    directory: Directory,
    pub(super) executor: Executor,
    pub(super) thread: Rc<SimThread>,
    /// The cookies of the devices that the process serves.
    served: RefCell<BTreeMap<u32, u64>>,
}

impl SimMachine {
    pub fn start(site: &Rc<Site>, key: &str, pid: u32) -> Result<SimMachine, Reason> {
        let executor = Executor::new();
        let host: Rc<dyn Host> = site.host.clone();
        let copy = copy::Client::new(&executor, &host, None).ok_or("no memory")?;
        let group = Group::new(executor.clone(), host, copy);
        let thread = Rc::new(SimThread { group, site: site.clone() });
        Ok(SimMachine {
            site: site.clone(),
            pid,
            directory: site.directory(key),
            executor,
            thread,
            served: RefCell::default(),
        })
    }

    /// Before the kernel stops a device, it waits for the requests that the device's server has.
    fn wait_for_requests(&self, id: u32) -> Result<(), Reason> {
        let given: Vec<Pending> = match self.site.kernel.borrow().devices.get(&id) {
            Some(device) if device.waits() => Vec::new(),
            Some(device) if device.owner == Some(self.pid) => device.pending.clone(),
            Some(_) => Vec::new(),
            None => return Err(gone(id)),
        };
        self.handle().wait(|| given.iter().all(|pending| pending.result.borrow().is_some()))
    }

    /// Takes a step of the kernel.
    pub(super) fn act<T>(
        &self,
        act: impl FnOnce(&mut Kernel) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        if !self.site.step() {
            return Err("the machine has ended".into());
        }
        act(&mut self.site.kernel.borrow_mut())
    }
}

impl Drop for SimMachine {
    /// Tasks hold their executor.
    fn drop(&mut self) {
        self.executor.clear();
    }
}

impl Machine for SimMachine {
    type Open = SimOpen;
    type Thread = SimThread;
    type Handle = SimHandle;
    type Records = Directory;
    type Journal = RecordsOfCow;

    fn beside(&self) -> Result<SimMachine, Reason> {
        let pid = u32::try_from(self.site.next_number()).unwrap();
        let machine = SimMachine::start(&self.site, &self.directory.key, pid)?;
        self.site.beside.borrow_mut().push(machine.executor.clone());
        Ok(machine)
    }

    fn end(&mut self) -> Result<(), Reason> {
        self.executor.clear();
        self.site.process_ended(self.pid);
        Ok(())
    }

    fn records(&self) -> &Directory {
        &self.directory
    }

    fn handle(&self) -> SimHandle {
        let SimMachine { site, executor, thread, .. } = self;
        SimHandle { site: site.clone(), executor: executor.clone(), thread: thread.clone() }
    }

    fn call_while_answered<T, F>(
        &self,
        job: impl FnOnce(Rc<SimThread>) -> F + Send + 'static,
    ) -> Result<Waited<T>, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.write_beside();
        let result = self.handle().begin(job);
        let waited = self.handle().wait(|| result.borrow().is_some());
        if let Some(result) = result.borrow_mut().take() {
            return waited.map(|()| Waited::Done(result));
        }
        let hangs = self.site.disks.iter().find(|slot| slot.hangs.get());
        let held = self.thread.group.oldest_carried().into_iter().next().map(|(name, _)| name);
        match (waited, hangs.map(|slot| slot.path.clone()).or(held)) {
            (Err(_), Some(disk)) if !self.site.is_dead() => {
                Ok(Waited::Silent(disk, Box::new(move || result.borrow_mut().take())))
            }
            (Err(why), _) => Err(why),
            (Ok(()), _) => Err("the thread has died".into()),
        }
    }

    fn waker(&self) -> Box<dyn Fn() + Send> {
        Box::new(|| {})
    }

    fn info(&mut self, id: u32) -> Result<Option<DeviceInfo>, Reason> {
        let mut kernel = self.site.kernel.borrow_mut();
        kernel.deny(Control::Info, id)?;
        Ok(kernel.devices.get(&id).map(|device| device.info.clone()))
    }

    fn add(
        &mut self,
        id: Option<u32>,
        options: &DeviceOptions,
        params: &Params,
        _zero_copy: bool,
    ) -> Result<DeviceInfo, Reason> {
        self.act(|kernel| {
            kernel.deny(Control::Add, id.unwrap_or_default())?;
            kernel.add(id, options, params, self.pid).ok_or_else(|| "taken".into())
        })
    }

    fn serve(
        &self,
        info: &DeviceInfo,
        _name: &str,
        target: &Held<SimHandle>,
        again: bool,
    ) -> Result<Waited<Result<(), Reason>>, Reason> {
        let id = info.id;
        self.served.borrow_mut().insert(id, info.target_flags);
        let served = self.call_while_answered(target.job(move |thread, opened| async move {
            let (executor, site) = (thread.group.executor.clone(), thread.site.clone());
            let early = site.kernel.borrow_mut().early(id);
            let serve = |device: Rc<Device>| {
                if again {
                    device.hold_until_started();
                }
                early.iter().for_each(|one| pass_to(&executor, &site, &device, one));
                Ok(())
            };
            Ok(thread.group.add(id, opened, serve).await?)
        }))?;
        if let Waited::Done(Err(_)) = &served {
            self.site.kernel.borrow_mut().handed_back(id);
        }
        Ok(served)
    }

    fn start(&mut self, id: u32, again: bool) -> Result<(), Reason> {
        let pid = self.pid;
        let waiting = self.act(|kernel| kernel.start(id, again, pid))?;
        // The waiting requests are sent again.
        waiting.iter().for_each(|pending| spawn_pass(&self.executor, &self.thread, id, pending));
        // The data thread runs ahead of the thread that waits here.
        drop(self.site.run(&self.executor, || {
            waiting.iter().all(|pending| pending.result.borrow().is_some())
        }));
        if self.site.is_dead() { Err("the machine has ended".into()) } else { Ok(()) }
    }

    fn stop(&mut self, id: u32) -> Result<(), Reason> {
        self.wait_for_requests(id)?;
        self.act(|kernel| {
            let device = kernel.devices.get_mut(&id).ok_or_else(|| gone(id))?;
            device.info.state = DeviceState::Dead;
            device.fail();
            Ok(())
        })
    }

    fn try_stop(&mut self, id: u32) -> Result<bool, Reason> {
        self.not_in_use(id)?;
        self.stop(id).map(|()| true)
    }

    fn delete(&mut self, id: u32) -> Result<(), Reason> {
        self.act(|kernel| {
            kernel.deny(Control::Delete, id)?;
            let mut device = kernel.devices.remove(&id).ok_or_else(|| gone(id))?;
            device.fail();
            Ok(())
        })
    }

    fn delete_orphan(&mut self, id: u32, _cookie: u64) -> Result<(), Reason> {
        self.stop(id)?;
        self.delete(id)
    }

    fn start_recovery(&mut self, id: u32) -> Result<(), Reason> {
        let pid = self.pid;
        self.act(|kernel| {
            kernel.deny(Control::TakeOver, id)?;
            let device = kernel.devices.get_mut(&id).ok_or_else(|| gone(id))?;
            if !device.waits() || device.owner.is_some() {
                return Err(format!("/dev/ublkb{id}: busy").into());
            }
            device.owner = Some(pid);
            Ok(())
        })
    }

    fn not_in_use(&self, id: u32) -> Result<(), Reason> {
        let kernel = self.site.kernel.borrow();
        match kernel.devices.get(&id) {
            Some(device) if device.in_use && device.info.state != DeviceState::Dead => {
                Err(format!("/dev/ublkb{id}: it is in use").into())
            }
            _ => Ok(()),
        }
    }

    fn not_open(&self, id: u32) -> Result<(), Reason> {
        self.not_in_use(id)?;
        match self.site.kernel.borrow().devices.get(&id) {
            Some(device) if device.open => Err(format!("/dev/ublkb{id}: it is open").into()),
            _ => Ok(()),
        }
    }

    fn params(&mut self, id: u32) -> Result<Params, Reason> {
        let kernel = self.site.kernel.borrow();
        kernel.devices.get(&id).map(|device| device.params.clone()).ok_or_else(|| gone(id))
    }

    fn resize(&mut self, id: u32, len: Sectors) -> Result<(), Reason> {
        self.act(|kernel| kernel.resize(id, len))
    }

    fn number(&mut self, id: u32) -> Option<(u32, u32)> {
        Some((259, id))
    }

    fn can_zero_copy(&self, _options: &DeviceOptions) -> Result<bool, Reason> {
        Ok(true)
    }

    fn has_ended(&self, id: u32) -> bool {
        let (kernel, served) = (self.site.kernel.borrow(), self.served.borrow());
        let ours = kernel
            .devices
            .get(&id)
            .filter(|device| served.get(&id) == Some(&device.info.target_flags));
        ours.is_none_or(|device| device.info.state == DeviceState::Dead)
    }

    fn remove(&self, id: u32, outlived: bool) -> Result<Waited<Removed>, Reason> {
        self.call_while_answered(move |thread| async move {
            if let Some(device) = thread.group.device(id) {
                device.events().end();
            }
            let merge = thread.group.merge(id);
            let closed = thread.group.remove(id, outlived).await.map_err(Reason::from);
            Removed { closed, is_left: merge.and_then(|merge| merge.is_left()) }
        })
    }

    fn node(&self, id: u32) -> Option<(DiskId, KnownDisk)> {
        let kernel = self.site.kernel.borrow();
        let number = kernel.devices.get(&id)?.info.target_flags;
        let place = Place { on: format!("block 259:{id} {number}"), start: 0, end: u64::MAX };
        let known = KnownDisk { number, place, ..KnownDisk::default() };
        Some((DiskId::Block { major: 259, minor: id }, known))
    }

    fn disk_at(&self, path: &str) -> Option<DiskId> {
        let own = path.strip_prefix(BLOCK_PATH).and_then(|id| id.parse().ok());
        own.map_or_else(
            || self.site.slot(path).map(id_of),
            |minor| Some(DiskId::Block { major: 259, minor }),
        )
    }

    fn open(&self, path: &str, access: Access, claim: Claim) -> Result<SimOpen, OpenError> {
        let fail = |kind| OpenError { path: path.into(), kind };
        let slot = self.site.slot(path).ok_or_else(|| fail(OpenErrorKind::Missing))?;
        let found = &self.site.disks[slot];
        if found.hangs.get() && !self.site.impatient.get() && !self.site.gives_up.get() {
            // An opener waits until the disk answers.
            found.hangs.set(false);
        }
        if found.hangs.get() {
            let what = format!("{path} hangs, and is opened");
            self.site.fault.borrow_mut().get_or_insert(what);
            return Err(fail(OpenErrorKind::Missing));
        }
        let other = found.other.get();
        let claimed = found.claim.get().is_some();
        let held = match claim {
            Claim::Exclusive if other.is_none() => found.claim.claim(self.pid),
            Claim::Shared => Some(Hold(None)),
            Claim::Beside if !claimed && other != Some(Other::Mounted) => Some(Hold(None)),
            Claim::Exclusive | Claim::Beside => None,
        };
        let hold = held.ok_or_else(|| fail(OpenErrorKind::Busy { by: None }))?;
        Ok(SimOpen::of(found, slot, self.site.place(slot), access, hold))
    }

    fn open_own(&self, device: DeviceRef, path: &str) -> Result<SimOpen, OpenError> {
        self.own_disk(device, path)
    }

    fn protect(&self, device: DeviceRef, read_only: bool) -> Result<(), Reason> {
        self.set_protected(device, read_only)
    }

    fn silent(&self, disks: &BTreeSet<String>) -> BTreeSet<String> {
        if !self.site.impatient.get() && !self.site.gives_up.get() {
            // Waits for the disks until they answer.
            return BTreeSet::new();
        }
        let hangs = |disk: &&String| {
            self.site.slot(disk).is_some_and(|slot| self.site.disks[slot].hangs.get())
        };
        disks.iter().filter(hangs).cloned().collect()
    }

    fn claimed(
        &self,
        id: DiskId,
        disk: &KnownDisk,
        parts: Option<&[Part]>,
    ) -> Option<OpenErrorKind> {
        self.site.claimed(&self.directory, (id, disk), parts)
    }

    fn ends_when_closed(&self, disk: DiskId) -> bool {
        self.site.disks.iter().enumerate().any(|(slot, one)| one.ends.get() && id_of(slot) == disk)
    }

    fn new_store_id(&self) -> Result<StoreId, Reason> {
        Ok(StoreId(u128::from(self.site.next_number()).to_be_bytes()))
    }

    fn circle(&self, _words: &[&str], _own: &BTreeSet<u32>) -> Option<(usize, Ground)> {
        None
    }

    fn journal(&self, cow: &SimOpen, _new: StoreId) -> Result<Option<RecordsOfCow>, Reason> {
        let journal = RecordsOfCow { shared: self.site.shared.clone(), cow: cow.path.clone() };
        if !journal.is_left() && self.directory.lock().full {
            return Ok(None);
        }
        Ok(Some(journal))
    }

    fn discard_journal(&self, cow: &str) -> Result<(), Reason> {
        RecordsOfCow { shared: self.site.shared.clone(), cow: cow.to_owned() }.clear();
        Ok(())
    }

    fn is_journal_left(&self, cow: &str) -> Result<bool, Reason> {
        Ok(RecordsOfCow { shared: self.site.shared.clone(), cow: cow.to_owned() }.is_left())
    }
}
