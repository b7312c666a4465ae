//! The ublk control plane: adding, starting, stopping, recovering and deleting devices.
//!
//! Every command is sent as one `UringCmd80` to `/dev/ublk-control`, over a ring of its own, and
//! blocks until it ends, so all of this belongs on a control thread, never on a queue thread. Rules
//! kept here:
//!
//! - Nothing is deleted or stopped by a `Drop`: a device outlives the object, and the process, that
//!   made it.
//! - Results say what the kernel granted, not what was requested: the kernel silently drops unknown
//!   flags and parameter types. The caller compares.
//! - Memory handed to a command lives until the command has ended (`ring`).
//! - An error names the command and the device, and says what to do.
//!
//! What a device is for, and when a command may be sent, is left to the caller.

use std::fs::{File, OpenOptions};
use std::io;
use std::process::{Command as Process, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libublk::sys;

use super::error::ControlError;
use super::info::{AddDevice, DEV_INFO_BYTES, DeviceInfo};
use super::params::Params;
use super::ring::{CommandRing, RingError};
use super::wire;
use super::wire::NO_DEVICE;

/// The driver's control device.
const CONTROL_PATH: &str = "/dev/ublk-control";
/// How long the device node of a freshly loaded driver may take to appear.
const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// Attempts at START_USER_RECOVERY while the kernel still cleans up after the dead server ...
const RECOVERY_TRIES: u32 = 300;
/// ... and the pause between two attempts: half a minute in all.
const RECOVERY_PAUSE: Duration = Duration::from_millis(100);

/// One command: its name in messages, its number, and the first kernel that knows it.
struct Command {
    name: &'static str,
    op: u32,
    since: &'static str,
}

/// Declares the table of commands.
macro_rules! commands {
    ($($name:ident = $op:ident since $since:literal;)*) => {
        $(const $name: Command = Command { name: stringify!($name), op: sys::$op, since: $since };)*
    };
}

commands! {
    GET_FEATURES = UBLK_U_CMD_GET_FEATURES since "6.5";
    ADD_DEV = UBLK_U_CMD_ADD_DEV since "6.4";
    SET_PARAMS = UBLK_U_CMD_SET_PARAMS since "6.4";
    GET_PARAMS = UBLK_U_CMD_GET_PARAMS since "6.4";
    START_DEV = UBLK_U_CMD_START_DEV since "6.4";
    STOP_DEV = UBLK_U_CMD_STOP_DEV since "6.4";
    TRY_STOP_DEV = UBLK_U_CMD_TRY_STOP_DEV since "7.0";
    DEL_DEV = UBLK_U_CMD_DEL_DEV since "6.4";
    GET_DEV_INFO = UBLK_U_CMD_GET_DEV_INFO since "6.4";
    START_USER_RECOVERY = UBLK_U_CMD_START_USER_RECOVERY since "6.4";
    UPDATE_SIZE = UBLK_U_CMD_UPDATE_SIZE since "6.16";
    END_USER_RECOVERY = UBLK_U_CMD_END_USER_RECOVERY since "6.4";
}

/// An open control device with its own ring. Cheap to open; not shared between threads.
#[derive(Debug)]
pub struct Control {
    ring: CommandRing,
    limit: Option<Duration>,
}

impl Control {
    /// Opens `/dev/ublk-control`, loading `ublk_drv` if it is absent.
    ///
    /// # Errors
    /// [`ControlError::DriverAbsent`], [`ControlError::Permission`],
    /// [`ControlError::IoUringDisabled`], or [`ControlError::System`] for anything else.
    pub fn open() -> Result<Control, ControlError> {
        let device = open_control_device()?;
        let ring = CommandRing::new(device).map_err(ControlError::of_ring_setup)?;
        Ok(Control { ring, limit: None })
    }

    /// Sets how long a command may take (`None`, the default: no limit). A command that takes
    /// longer is interrupted where the kernel allows it (START_DEV, DEL_DEV) and fails with
    /// [`ControlError::Timeout`]; one that cannot be interrupted (STOP_DEV) leaves this object
    /// unusable.
    pub fn set_time_limit(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// The driver's feature bits (`UBLK_F_*`), see [`feature_names`].
    ///
    /// # Errors
    /// [`ControlError::Unsupported`] before Linux 6.5.
    pub fn features(&mut self) -> Result<u64, ControlError> {
        let bytes = self.run(&GET_FEATURES, None, 0, vec![0; 8])?;
        Ok(wire::get_u64(&bytes, 0))
    }

    /// Adds a device and returns what the kernel granted: `flags` without those it does not know
    /// and with those it forces, queues clamped to the CPUs. `/dev/ublkcN` exists afterwards.
    ///
    /// # Errors
    /// EEXIST: the id is taken; EPERM: not privileged; EINVAL: depth or size out of range.
    pub fn add(&mut self, wanted: &AddDevice) -> Result<DeviceInfo, ControlError> {
        let granted = self.run(&ADD_DEV, wanted.id, 0, wanted.encode())?;
        DeviceInfo::decode(&granted)
            .ok_or_else(|| ControlError::unexpected(ADD_DEV.name, wanted.id))
    }

    /// Sets the device's limits; before START_DEV only. Parameter types that the kernel does not
    /// know are silently dropped: read them back with [`Control::get_params`]. After a refusal the
    /// device has no limits at all, not the earlier ones, and cannot be started.
    ///
    /// # Errors
    /// EINVAL: a limit the kernel refuses; EACCES: the device is live.
    pub fn set_params(&mut self, id: u32, params: &Params) -> Result<(), ControlError> {
        self.run(&SET_PARAMS, Some(id), 0, params.encode()).map(drop)
    }

    /// The limits the kernel holds for the device; `devt` has the disk's numbers once it is
    /// started.
    ///
    /// # Errors
    /// ENODEV: no such device.
    pub fn get_params(&mut self, id: u32) -> Result<Params, ControlError> {
        let bytes = self.run(&GET_PARAMS, Some(id), 0, Params::request())?;
        Ok(Params::decode(&bytes))
    }

    /// Gives a started device another length, in sectors; its users see it at once, and
    /// [`Control::get_params`] as well. The device must be known to be started: Linux 6.16 crashes
    /// if it has no disk.
    ///
    /// # Errors
    /// ENODEV: it is not started; [`ControlError::Unsupported`] before Linux 6.16.
    pub fn resize(&mut self, id: u32, sectors: u64) -> Result<(), ControlError> {
        self.run(&UPDATE_SIZE, Some(id), sectors, Vec::new()).map(drop)
    }

    /// Makes `/dev/ublkbN` appear. Blocks until every queue has fetched, and for the partition
    /// scan, which reads the disk: the queues must be serving already. `pid` is the server's
    /// process id.
    ///
    /// # Errors
    /// EEXIST: it is live; EINVAL: parameters missing or `pid` is not the opener of `/dev/ublkcN`.
    pub fn start(&mut self, id: u32, pid: i32) -> Result<(), ControlError> {
        self.run(&START_DEV, Some(id), pid_word(pid), Vec::new()).map(drop)
    }

    /// Removes `/dev/ublkbN`, open or not; requests that no server answers fail.
    ///
    /// # Errors
    /// ENODEV: no such device.
    pub fn stop(&mut self, id: u32) -> Result<(), ControlError> {
        self.run(&STOP_DEV, Some(id), 0, Vec::new()).map(drop)
    }

    /// Like [`Control::stop`], but only if the disk is not open.
    ///
    /// # Errors
    /// EBUSY: it is open; [`ControlError::Unsupported`] before Linux 7.0.
    pub fn try_stop(&mut self, id: u32) -> Result<(), ControlError> {
        self.run(&TRY_STOP_DEV, Some(id), 0, Vec::new()).map(drop)
    }

    /// Deletes the device, stopping it if necessary, and waits until no process holds `/dev/ublkcN`
    /// open (a ring's registered files count as holders). If the time limit ends that wait, the
    /// device is gone nevertheless, and its id is free once the last holder is gone.
    ///
    /// # Errors
    /// ENODEV: no such device.
    pub fn del(&mut self, id: u32) -> Result<(), ControlError> {
        self.run(&DEL_DEV, Some(id), 0, Vec::new()).map(drop)
    }

    /// What the kernel knows of the device.
    ///
    /// # Errors
    /// ENODEV: no such device; [`ControlError::Unexpected`]: a state this program does not know.
    pub fn info(&mut self, id: u32) -> Result<DeviceInfo, ControlError> {
        let bytes = self.run(&GET_DEV_INFO, Some(id), 0, vec![0; DEV_INFO_BYTES])?;
        DeviceInfo::decode(&bytes)
            .ok_or_else(|| ControlError::unexpected(GET_DEV_INFO.name, Some(id)))
    }

    /// Claims a device whose server is gone. Retries for half a minute while the kernel returns
    /// EBUSY: it may still be cleaning up after the dead server. Call [`Control::info`] first if
    /// the server may be alive.
    ///
    /// # Errors
    /// EBUSY: the old server still holds it; EINVAL: added without recovery, or its server is not
    /// gone.
    pub fn start_recovery(&mut self, id: u32) -> Result<(), ControlError> {
        for _ in 1..RECOVERY_TRIES {
            match self.run(&START_USER_RECOVERY, Some(id), 0, Vec::new()) {
                Err(error) if error.errno() == Some(libc::EBUSY) => thread::sleep(RECOVERY_PAUSE),
                outcome => return outcome.map(drop),
            }
        }
        self.run(&START_USER_RECOVERY, Some(id), 0, Vec::new()).map(drop)
    }

    /// Makes a claimed device live again under the process `pid`. Blocks until every queue has
    /// fetched.
    ///
    /// # Errors
    /// EBUSY: recovery was not started; EINVAL: `pid` is not the opener of `/dev/ublkcN`.
    pub fn end_recovery(&mut self, id: u32, pid: i32) -> Result<(), ControlError> {
        self.run(&END_USER_RECOVERY, Some(id), pid_word(pid), Vec::new()).map(drop)
    }

    /// Sends one command and waits for its end. `buffer` is its input and output memory and is
    /// returned.
    fn run(
        &mut self,
        command: &Command,
        id: Option<u32>,
        data: u64,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, ControlError> {
        let dev_id = id.unwrap_or(NO_DEVICE);
        let device = id.map_or_else(|| "no device".to_owned(), |id| format!("device {id}"));
        log::trace!("ublk control: {} {device} data {data}", command.name);
        match self.ring.run(command.op, dev_id, data, buffer, self.limit) {
            Ok((result, buffer)) if result >= 0 => Ok(buffer),
            Ok((result, _)) => {
                Err(ControlError::of_command(command.name, command.since, id, -result))
            }
            Err(RingError::Timeout(limit)) => {
                Err(ControlError::Timeout { command: command.name, device: id, limit })
            }
            Err(RingError::Io(source)) => Err(ControlError::System {
                what: format!("send the ublk command {}", command.name),
                hint: "run the command again; the ring of this control connection is lost",
                source,
            }),
        }
    }
}

/// A process id as the command's data word.
fn pid_word(pid: i32) -> u64 {
    // A pid is never negative; the kernel reads the word back as a signed 32-bit number.
    u64::from(pid.unsigned_abs())
}

/// Opens the control device, loading the driver once if the node is absent.
fn open_control_device() -> Result<File, ControlError> {
    let open = || OpenOptions::new().read(true).write(true).open(CONTROL_PATH);
    let absent = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO))
    };
    let mut outcome = open();
    let mut reason = String::new();
    if outcome.as_ref().is_err_and(absent) {
        match load_driver() {
            Ok(()) => {
                let end = Instant::now() + NODE_PATIENCE;
                outcome = open();
                while outcome.as_ref().is_err_and(absent) && Instant::now() < end {
                    thread::sleep(Duration::from_millis(20));
                    outcome = open();
                }
                reason.push_str("the driver is loaded, but its device node is not in /dev");
            }
            Err(why) => reason = why,
        }
    }
    outcome.map_err(|error| match error.kind() {
        _ if absent(&error) => ControlError::DriverAbsent { reason },
        io::ErrorKind::PermissionDenied => ControlError::Permission { source: error },
        _ => ControlError::System {
            what: format!("open {CONTROL_PATH}"),
            hint: "see the kernel log",
            source: error,
        },
    })
}

/// Loads `ublk_drv` with the kernel's own module loader; the error is the loader's last line of
/// output.
fn load_driver() -> Result<(), String> {
    let configured = std::fs::read_to_string("/proc/sys/kernel/modprobe").unwrap_or_default();
    let loader = match configured.trim() {
        "" => "/sbin/modprobe",
        path => path,
    };
    log::info!("{CONTROL_PATH} is absent: running {loader} ublk_drv");
    let output = Process::new(loader)
        .arg("ublk_drv")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| format!("{loader}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    match text.lines().last() {
        Some(line) => Err(line.trim().to_owned()),
        None => Err(format!("{loader} ublk_drv: {}", output.status)),
    }
}
