//! A device's life cycle in the kernel: adding, starting, stopping and deleting it.

mod limits;

use std::fs::{self, OpenOptions};
use std::io;
use std::num::NonZeroU16;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::Duration;

use libublk::sys;
use rustix::rand::{GetRandomFlags, getrandom};

use self::limits::MAX_IO_BYTES;
pub use self::limits::{as_disk, as_own_disk, check_fits, discard_of_chunks, params};
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{DeviceOptions, OnServerDeath};
use crate::storage::DiskId;
use crate::sys::disk as node;
use crate::ublk::{AddDevice, Control, ControlError, DeviceInfo, DeviceState, Params};

/// Prefix of every disk's path.
pub const BLOCK_PATH: &str = "/dev/ublkb";
/// Prefix of the path of every device's node for its server.
pub const CHAR_PATH: &str = "/dev/ublkc";
/// Where the kernel lists the character devices of ublk.
const CHAR_DEVICES: &str = "/sys/class/ublk-char";
/// Bits of a cookie below the mark of its run directory.
const MARK_SHIFT: u32 = 48;
/// How long starting a device may take. It waits only for this server, which is running; a device
/// that cannot be started is better reported than waited for.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Attempts to stop a device that is open: udev opens a disk for a moment after each unmount ...
const STOP_TRIES: u32 = 20;
/// ... and the pause between two attempts: two seconds in all.
const STOP_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait until a deleted device is closed by the processes that have it open.
const DELETE_LIMIT: Duration = Duration::from_secs(3);

/// A number that the kernel keeps with a device, so that another device with the same id is never
/// taken for it: 48 random bits below the mark of its run directory. It is never 0, which devices
/// of other programs have.
fn new_cookie(mark: NonZeroU16) -> Result<u64, Reason> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| {
        Failure::from(io::Error::from(error)).context("cannot get a random number")
    })?;
    Ok(u64::from(mark.get()) << MARK_SHIFT | u64::from_le_bytes(bytes) >> (64 - MARK_SHIFT))
}

/// Whether a device was added for the run directory with this mark. One in 65536 of the devices of
/// 0.2.0 and earlier versions is mistaken for such a device.
pub fn has_mark(info: &DeviceInfo, mark: NonZeroU16) -> bool {
    info.target_flags >> MARK_SHIFT == u64::from(mark.get())
}

/// The numbers of all ublk devices, of all programs.
///
/// # Errors
/// The kernel's list cannot be read; without the driver it is empty.
pub fn numbers() -> io::Result<Vec<u32>> {
    let entries = match std::fs::read_dir(CHAR_DEVICES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("ublkc"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What the kernel knows of a device number; `None`: there is no such device.
pub fn info(control: &mut Control, id: u32) -> Result<Option<DeviceInfo>, Reason> {
    match control.info(id) {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the kernel knows of a device of ours; `None`: it is gone, and any device that has its id
/// now is another one.
pub fn ours(control: &mut Control, id: u32, cookie: u64) -> Result<Option<DeviceInfo>, Reason> {
    Ok(info(control, id)?.filter(|info| is_ours(info, cookie)))
}

/// Refuses a device, as [`ours`] returns it, that does not wait for a server.
pub fn must_wait(id: u32, ours: Option<DeviceInfo>) -> Result<DeviceInfo, Reason> {
    let info = ours.ok_or_else(|| replaced(id))?;
    match info.state {
        DeviceState::Quiesced | DeviceState::FailIo => Ok(info),
        DeviceState::Live => Err(format!("/dev/ublkb{id}: it already has a server").into()),
        DeviceState::Dead => Err(no_longer_waits(id, &info)),
    }
}

/// Whether the kernel's device is the one that was added with this cookie.
pub fn is_ours(info: &DeviceInfo, cookie: u64) -> bool {
    cookie != 0 && info.target_flags == cookie
}

/// Adds a device with the requested features that the kernel supports.
pub fn add(
    control: &mut Control,
    id: Option<u32>,
    options: &DeviceOptions,
    params: &Params,
    zero_copy: bool,
    mark: NonZeroU16,
) -> Result<DeviceInfo, Reason> {
    let features = control.features().unwrap_or(0);
    let mut flags = u64::from(sys::UBLK_F_CMD_IOCTL_ENCODE);
    flags |= recovery_flags(options);
    let wanted = u64::from(sys::UBLK_F_SUPPORT_ZERO_COPY) | u64::from(sys::UBLK_F_AUTO_BUF_REG);
    if zero_copy && options.zero_copy && features & wanted == wanted {
        flags |= wanted;
    }
    // A snapshot's partitions are its origin's: they should not appear a second time.
    flags |= features & u64::from(sys::UBLK_F_NO_AUTO_PART_SCAN);
    let (queues, depth) = (options.queues, options.depth);
    let wanted = AddDevice {
        id,
        queues,
        depth,
        max_io_bytes: MAX_IO_BYTES,
        flags,
        target_flags: new_cookie(mark)?,
    };
    let info = control.add(&wanted).map_err(|error| not_added(id, error))?;
    if let Err(error) = control.set_params(info.id, params) {
        if let Err(error) = delete(control, info.id) {
            log::warn!("{error}");
        }
        return Err(error.into());
    }
    Ok(info)
}

/// What the kernel is to do with a device and its requests when the server dies. A request that the
/// server had is sent again or fails: the driver refuses both flags together.
fn recovery_flags(options: &DeviceOptions) -> u64 {
    let requests = match options.on_server_death {
        OnServerDeath::Wait => sys::UBLK_F_USER_RECOVERY_REISSUE,
        OnServerDeath::Fail => sys::UBLK_F_USER_RECOVERY_FAIL_IO,
    };
    if options.recovery { u64::from(sys::UBLK_F_USER_RECOVERY | requests) } else { 0 }
}

/// Why the kernel has not added a device.
fn not_added(id: Option<u32>, error: ControlError) -> Reason {
    match (id, error.errno()) {
        (Some(id), Some(libc::EEXIST)) => format!(
            "--id {id}: /dev/ublkb{id} already exists; omit --id to get the first free number"
        )
        .into(),
        (Some(id), Some(libc::EINVAL | libc::ENOSPC)) => format!(
            "--id {id}: this kernel does not allow that number; omit --id to get the first free \
             number"
        )
        .into(),
        _ => error.into(),
    }
}

/// Why a device that has taken another one's id must not be touched.
pub fn replaced(id: u32) -> Reason {
    format!(
        "/dev/ublkb{id}: the number now belongs to another program's device; the original one is \
         gone"
    )
    .into()
}

/// Why a device without a disk cannot be taken over.
pub fn no_longer_waits(id: u32, info: &DeviceInfo) -> Reason {
    let why = if is_recoverable(info) {
        "it was stopped"
    } else {
        "it was added with --no-recovery, and ended with its server"
    };
    format!("/dev/ublkb{id}: {why}; `ublk-dm del --force` removes what is left of it").into()
}

/// Why a device whose server has died is not deleted without force.
pub fn orphaned(id: u32) -> Reason {
    format!(
        "/dev/ublkb{id}: its server has died; `ublk-dm recover /dev/ublkb{id}` takes the device \
         over, --force deletes it and fails its waiting I/O"
    )
    .into()
}

/// Makes a device live, for the first time or again. Its queues must already be served.
pub fn start(control: &mut Control, id: u32, again: bool) -> Result<(), Reason> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    if !again {
        refuse_file_at(&format!("{BLOCK_PATH}{id}"))?;
    }
    control.set_time_limit(Some(START_LIMIT));
    let started = if again { control.end_recovery(id, pid) } else { control.start(id, pid) };
    control.set_time_limit(None);
    started?;
    // A recovered device has kept both attributes. Besides, setting them waits for its requests,
    // which may be held back.
    if !again {
        leave_order_to_disks(id);
    }
    Ok(())
}

/// Refuses the path of a new device's node that leads to something else, such as a file that `dd`
/// has made there: the kernel would make no node, and users would write to that file.
fn refuse_file_at(path: &str) -> Result<(), Reason> {
    let is_node = |found: &fs::Metadata| found.file_type().is_block_device();
    match fs::symlink_metadata(path) {
        Ok(found) if !is_node(&found) => {
            let what = "something that is no block device is at the path of the new device";
            Err(format!("{path}: {what}: remove it, or name another number with --id").into())
        }
        _ => Ok(()),
    }
}

/// Requests of a stacked device are scheduled and throttled by the disks below, where the cost is
/// known. The kernel gives a device with one queue a scheduler and write-back throttling of its
/// own: the same work twice for every request. An administrator can set both again.
fn leave_order_to_disks(id: u32) {
    for (attribute, value) in [("scheduler", "none"), ("wbt_lat_usec", "0")] {
        let path = format!("/sys/block/ublkb{id}/queue/{attribute}");
        if let Err(error) = std::fs::write(&path, value) {
            log::debug!("{path}: {error}");
        }
    }
}

/// Stops a device that is not open; any other device is unchanged. `false`: this kernel (before
/// 7.0) lacks the command, and the device has not been stopped.
pub fn try_stop(control: &mut Control, id: u32) -> Result<bool, Reason> {
    not_in_use(id)?;
    for left in (0..STOP_TRIES).rev() {
        match control.try_stop(id) {
            Ok(()) => return Ok(true),
            Err(error) if error.errno() == Some(libc::EBUSY) && left > 0 => {
                std::thread::sleep(STOP_PAUSE)
            }
            Err(error) if error.errno() == Some(libc::EBUSY) => return Err(in_use(id, "open")),
            // Kernels before 7.0 lack the command; the users of the device can still be found.
            Err(ControlError::Unsupported { .. }) => match seen_user(id)? {
                None => break,
                Some(_) if left > 0 => std::thread::sleep(STOP_PAUSE),
                Some(by) => return Err(in_use(id, &by)),
            },
            // There is no disk that could be in use.
            Err(error) if error.errno() == Some(libc::ENODEV) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// The user of a device, found by a search.
///
/// # Errors
/// The device cannot be examined, and so may be in use.
pub fn seen_user(id: u32) -> Result<Option<String>, Reason> {
    let unknown =
        |what: &str, error: io::Error| unknown_use(id, Failure::from(error).context(what));
    match std::fs::metadata(format!("{BLOCK_PATH}{id}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unknown("its node", error)),
        Ok(_) => {}
    }
    for place in ["/proc/self/mountinfo", "/proc/self/fd"] {
        std::fs::metadata(place).map_err(|error| unknown(place, error))?;
    }
    Ok(user_of(id))
}

/// The user of a device that is in use, described for a message.
fn user_of(id: u32) -> Option<String> {
    let metadata = std::fs::metadata(format!("{BLOCK_PATH}{id}")).ok()?;
    DiskId::of(&metadata).and_then(crate::storage::user_of)
}

/// Stops a device, even if it is in use. The kernel waits until the requests that it has passed to
/// the device's server have ended.
pub fn stop(control: &mut Control, id: u32) -> Result<(), Reason> {
    control.stop(id).map_err(Failure::from)
}

/// Deletes a stopped device. A device that a process still has open is gone for all others
/// immediately, and its id is free after the last close, which is waited for no longer than
/// `DELETE_LIMIT`.
pub fn delete(control: &mut Control, id: u32) -> Result<(), Reason> {
    control.set_time_limit(Some(DELETE_LIMIT));
    let deleted = control.del(id);
    control.set_time_limit(None);
    match deleted {
        Err(ControlError::Timeout { .. }) => {
            log::info!("/dev/ublkb{id}: a process still has it open")
        }
        deleted => return deleted.map_err(Failure::from),
    }
    Ok(())
}

/// The disk's device number, as the kernel holds it.
pub fn number(control: &mut Control, id: u32) -> Option<(u32, u32)> {
    control.get_params(id).ok().and_then(|params| params.devt).map(|devt| devt.disk)
}

/// Whether requests' pages are used in place.
pub fn is_zero_copy(info: &DeviceInfo) -> bool {
    info.flags & u64::from(sys::UBLK_F_AUTO_BUF_REG) != 0
}

/// Whether the device stays when its server dies, for another one.
pub fn is_recoverable(info: &DeviceInfo) -> bool {
    info.flags & u64::from(sys::UBLK_F_USER_RECOVERY) != 0
}

/// What the kernel does with the device's requests while it has no server; `None`: it ends with its
/// server.
pub fn on_server_death(info: &DeviceInfo) -> Option<OnServerDeath> {
    let fails = info.flags & u64::from(sys::UBLK_F_USER_RECOVERY_FAIL_IO) != 0;
    is_recoverable(info).then_some(if fails { OnServerDeath::Fail } else { OnServerDeath::Wait })
}

fn in_use(id: u32, by: &str) -> Reason {
    Failure::new(Kind::InUse, format!("/dev/ublkb{id}: it is {by}"))
        .ending("; end that use first, or use --force")
}

/// Fails if the device is in use: a claim that is released immediately shows whether another user
/// has one: a file system, another target, a swap area.
pub fn not_in_use(id: u32) -> Result<(), Reason> {
    let path = format!("{BLOCK_PATH}{id}");
    let claimed =
        OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path);
    not_claimed(id, claimed.map(drop))
}

/// Makes a device's node read-only for all who open it from now on, or writable. The node is opened
/// only if it is not like that.
///
/// # Errors
/// The kernel refuses.
pub fn protect(id: u32, read_only: bool) -> Result<(), Reason> {
    let path = format!("{BLOCK_PATH}{id}");
    let is = fs::read_to_string(format!("/sys/block/ublkb{id}/ro"));
    if is.is_ok_and(|text| (text.trim() == "1") == read_only) {
        return Ok(());
    }
    let set = || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(&path)?;
        node::set_read_only(&file, read_only)
    };
    let what = if read_only { "read-only" } else { "writable" };
    set().map_err(|error| Failure::from(error).context(format!("{path}: cannot be made {what}")))
}

/// Fails if the device is in use, or a process has it open that is not just looking at it.
pub fn not_open(id: u32) -> Result<(), Reason> {
    for left in (0..STOP_TRIES).rev() {
        not_in_use(id)?;
        match seen_user(id)? {
            None => break,
            Some(_) if left > 0 => std::thread::sleep(STOP_PAUSE),
            Some(by) => return Err(in_use(id, &by)),
        }
    }
    Ok(())
}

/// Whether a device is unused, by the result of an attempt to claim it. Of the errors, only an
/// absent disk means that there is no user; after any other, the device may be in use.
fn not_claimed(id: u32, claimed: io::Result<()>) -> Result<(), Reason> {
    let Err(error) = claimed else { return Ok(()) };
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Ok(()),
        Some(libc::EBUSY) => Err(in_use(id, &user_of(id).unwrap_or_else(|| "in use".to_owned()))),
        _ => Err(unknown_use(id, error.into())),
    }
}

fn unknown_use(id: u32, why: Failure) -> Reason {
    why.context(format!("{BLOCK_PATH}{id}: cannot determine whether it is in use"))
        .ending("; use --force if it is not")
}

#[cfg(test)]
mod tests;
