//! The ublk driver of the simulated machine: devices, their numbers, which it reuses, and requests
//! that wait for a server.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use dm_targets::disk::PayloadId;
use dm_targets::request::Request;
use dm_targets::units::Sectors;

use crate::failure::{Failure, Kind, Reason};
use crate::protocol::DeviceOptions;
use crate::ublk::{DeviceInfo, DeviceState, Params};

const RECOVERY: u64 = libublk::sys::UBLK_F_USER_RECOVERY as u64;
const FAIL_IO: u64 = libublk::sys::UBLK_F_USER_RECOVERY_FAIL_IO as u64;

/// A request of a user that has not ended.
#[derive(Clone)]
pub struct Pending {
    pub request: Request,
    /// Its data.
    pub payload: PayloadId,
    /// Its result, when a server has carried it out.
    pub result: Rc<RefCell<Option<Result<(), String>>>>,
}

/// A device.
pub struct Device {
    pub info: DeviceInfo,
    pub params: Params,
    /// The process that serves the device, or is about to.
    pub owner: Option<u32>,
    /// A user has claimed it, as a mount does.
    pub in_use: bool,
    /// A user has it open without a claim.
    pub open: bool,
    /// Its node is read-only, whatever the device is.
    pub protected: bool,
    pub pending: Vec<Pending>,
    /// Requests that are sent to the next server before it starts the device: some kernels do that
    /// as soon as all queues are served.
    pub early: Vec<Pending>,
}

/// The requests that the kernel may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Add,
    Start,
    TakeOver,
    /// Starting a device that has been taken over.
    StartAgain,
    /// Deleting a device that is stopped.
    Delete,
    /// To say what a device is: refused where a test says so, not in lives.
    Info,
    /// Giving a device another length: refused where a test says so, not in lives.
    Resize,
}

impl Control {
    /// What it refuses in lives that are made up.
    pub const ALL: [Control; 4] =
        [Control::Add, Control::Start, Control::TakeOver, Control::StartAgain];
}

/// The driver.
#[derive(Default)]
pub struct Kernel {
    pub devices: BTreeMap<u32, Device>,
    cookies: u64,
    /// It cannot give a device another length, nor fail requests while there is no server.
    pub is_old: bool,
    /// The requests that it refuses next, each after a number of accepted ones.
    pub denied: Vec<(Control, u32)>,
    /// What users send to the next new device as soon as it is live.
    pub at_once: Vec<Pending>,
    /// What a user sends to a device during a command: before how many jobs of the server.
    pub beside: Option<(usize, u32, Pending)>,
}

impl Kernel {
    /// Adds a device under the first free number, as the kernel does.
    pub fn add(
        &mut self,
        wanted: Option<u32>,
        options: &DeviceOptions,
        params: &Params,
        owner: u32,
    ) -> Option<DeviceInfo> {
        let id = wanted.or_else(|| (0..).find(|id| !self.devices.contains_key(id)))?;
        if self.devices.contains_key(&id) {
            return None;
        }
        self.cookies += 1;
        let info = DeviceInfo {
            id,
            state: DeviceState::Dead,
            queues: 1,
            depth: 1,
            max_io_bytes: 1 << 19,
            flags: self.flags(options),
            target_flags: self.cookies,
            server_pid: None,
            owner_uid: 0,
            owner_gid: 0,
        };
        let (info, params) = (info, params.clone());
        let device = Device {
            info: info.clone(),
            params,
            owner: Some(owner),
            in_use: false,
            open: false,
            protected: false,
            pending: Vec::new(),
            early: Vec::new(),
        };
        self.devices.insert(id, device);
        Some(info)
    }

    /// An old kernel does not know what it is to do, and drops the flag.
    fn flags(&self, options: &DeviceOptions) -> u64 {
        let fails = if options.fails() && !self.is_old { FAIL_IO } else { 0 };
        if options.recovery { RECOVERY | fails } else { 0 }
    }

    /// Makes a device live for its process, and returns the requests that wait for it. `again`: the
    /// device is taken over.
    pub fn start(&mut self, id: u32, again: bool, pid: u32) -> Result<Vec<Pending>, Reason> {
        let control = if again { Control::StartAgain } else { Control::Start };
        let is_wanted = |device: &Device| match again {
            true => device.waits(),
            false => device.info.state == DeviceState::Dead,
        };
        let is_to_start = |device: &&mut Device| is_wanted(device) && device.owner == Some(pid);
        if self.devices.get_mut(&id).filter(is_to_start).is_none() {
            return Err(format!("/dev/ublkb{id}: cannot be started").into());
        }
        self.deny(control, id)?;
        let Some(device) = self.devices.get_mut(&id) else { return Ok(Vec::new()) };
        device.info.state = DeviceState::Live;
        if !again {
            device.pending.append(&mut self.at_once);
        }
        // A request that has ended is not sent again, whether its user has looked or not.
        device.pending.retain(|pending| pending.result.borrow().is_none());
        Ok(device.pending.clone())
    }

    /// The requests that are sent to a device before it is started.
    pub fn early(&mut self, id: u32) -> Vec<Pending> {
        self.devices
            .get_mut(&id)
            .map(|device| std::mem::take(&mut device.early))
            .unwrap_or_default()
    }

    /// Gives a device another length.
    pub fn resize(&mut self, id: u32, len: Sectors) -> Result<(), Reason> {
        if self.is_old {
            return Err(Failure::new(Kind::Unsupported, "UPDATE_SIZE: it needs Linux 6.16"));
        }
        self.deny(Control::Resize, id)?;
        let device =
            self.devices.get_mut(&id).filter(|device| device.info.state != DeviceState::Dead);
        device.ok_or("no such device")?.params.dev_sectors = len.0;
        Ok(())
    }

    /// The process that has taken a device over closes it again.
    pub fn handed_back(&mut self, id: u32) {
        let device = self.devices.get_mut(&id);
        if let Some(device) = device.filter(|one| one.waits()) {
            device.owner = None;
        }
    }

    /// Refuses a request that it is to refuse, once.
    pub fn deny(&mut self, control: Control, id: u32) -> Result<(), Reason> {
        let Some(at) = self.denied.iter().position(|(denied, _)| *denied == control) else {
            return Ok(());
        };
        if self.denied[at].1 > 0 {
            self.denied[at].1 -= 1;
            return Ok(());
        }
        self.denied.remove(at);
        Err(format!("/dev/ublkb{id}: {control:?}: Interrupted system call (os error 4)").into())
    }

    /// A process ends: its devices wait for another process, or fail their waiting requests.
    pub fn process_ended(&mut self, pid: u32) {
        for device in self.devices.values_mut().filter(|device| device.owner == Some(pid)) {
            device.owner = None;
            let has = |flag: u64| device.info.flags & flag != 0;
            match device.info.state {
                DeviceState::Live if has(FAIL_IO) => {
                    device.info.state = DeviceState::FailIo;
                    device.fail();
                }
                DeviceState::Live if has(RECOVERY) => device.info.state = DeviceState::Quiesced,
                DeviceState::Live => {
                    device.info.state = DeviceState::Dead;
                    device.fail();
                }
                _ => {}
            }
        }
    }
}

impl Device {
    /// It has no server, and another one can take it over.
    pub fn waits(&self) -> bool {
        matches!(self.info.state, DeviceState::Quiesced | DeviceState::FailIo)
    }

    /// Ends the waiting requests with an error.
    pub fn fail(&mut self) {
        for pending in self.pending.drain(..) {
            pending.result.borrow_mut().get_or_insert(Err("the device is gone".to_owned()));
        }
    }
}

pub(super) fn gone(id: u32) -> Reason {
    format!("/dev/ublkb{id}: no such device").into()
}
