//! The processes of the simulated machine.

use std::rc::Rc;

use dm_targets::device::Device;
use dm_targets::disk::Host;
use dm_targets::exec::Executor;

use super::carry_out::carry_out;
use super::kernel::Pending;
use super::machine::SimMachine;
use super::site::Site;
use super::thread::SimThread;
use crate::data::DeviceStats;
use crate::protocol::{DeviceReport, DeviceState};
use crate::server::admin::Administrator;
use crate::server::admin::devices;
use crate::server::{facts, report};

/// A process that serves a family.
pub struct Process {
    pub pid: u32,
    pub admin: Administrator<SimMachine>,
    pub executor: Executor,
    directory: devices::Directory,
    thread: Rc<SimThread>,
    site: Rc<Site>,
}

impl Process {
    pub fn start(site: &Rc<Site>, key: &str) -> Option<Process> {
        let pid = u32::try_from(site.next_number()).unwrap();
        let machine = SimMachine::start(site, key, pid).ok()?;
        let (executor, thread) = (machine.executor.clone(), machine.thread.clone());
        let directory = devices::Directory::default();
        let admin = Administrator::new(machine, directory.clone());
        Some(Process { pid, admin, executor, directory, thread, site: site.clone() })
    }

    /// What `list` shows of a device.
    pub fn report(&self, id: u32) -> DeviceReport {
        let device = self.thread.group.device(id).unwrap();
        let now_ms = self.site.host.now_ms();
        let facts = facts::of_device(id, &device, DeviceStats::default(), now_ms);
        report::devices(&self.directory.devices(), vec![facts]).remove(0)
    }

    /// The numbers of the devices that `list` shows as waiting for this process, which has found
    /// them in a state file.
    pub fn expected(&mut self, devices: Vec<DeviceState>) -> Vec<u32> {
        self.admin.publish_coming(Some(devices));
        self.directory.all().coming.iter().map(|device| device.id).collect()
    }

    /// Sends a request to a device; the result appears in `pending`.
    pub fn pass(&self, id: u32, pending: &Pending) {
        spawn_pass(&self.executor, &self.thread, id, pending);
    }

    /// The process ends at its current step.
    pub fn kill(self) {
        let Process { pid, admin, executor, thread, site, .. } = self;
        executor.clear();
        drop((admin, thread));
        site.process_ended(pid);
    }
}

/// Sends a request to a device.
pub(super) fn spawn_pass(executor: &Executor, thread: &Rc<SimThread>, id: u32, pending: &Pending) {
    let Some(device) = thread.group.device(id) else { return };
    pass_to(executor, &thread.site, &device, pending);
}

/// The same to a device that the group may not have yet.
pub(super) fn pass_to(
    executor: &Executor,
    site: &Rc<Site>,
    device: &Rc<Device>,
    pending: &Pending,
) {
    let (request, result) = (pending.request.clone(), pending.result.clone());
    let (site, device) = (site.clone(), device.clone());
    executor.spawn(async move {
        let outcome = carry_out(&site.host, &*device, &request).await;
        let outcome = outcome.map_err(|error| error.to_string());
        // Actions of a process after its end have no effect.
        if !site.is_dead() {
            *result.borrow_mut() = Some(outcome);
        }
    });
}
