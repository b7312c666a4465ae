//! A device's life in the kernel: what it is added with, started, stopped and deleted.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use dm_targets::units::Sectors;
use libublk::sys;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::failure::{Failure, Reason};
use crate::protocol::DeviceOptions;
use crate::storage::{DiskId, Limits};
use crate::ublk::{AddDevice, Control, ControlError, DeviceInfo, Discard, Params, attrs};

/// What the path of every disk begins with.
pub const BLOCK_PATH: &str = "/dev/ublkb";
/// Largest request the kernel hands over in one piece: a slice of the copy engine.
const MAX_IO_BYTES: u32 = 1 << 19;
/// How long starting a device may take. It waits for nothing but this server, which is there; a
/// device that cannot be started is better reported than waited for.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often a device that somebody has open is asked to stop: udev looks at a disk for a moment
/// after each unmount ...
const STOP_TRIES: u32 = 20;
/// ... and the pause between: two seconds in all.
const STOP_PAUSE: Duration = Duration::from_millis(100);

/// How long a deleted device is waited for until whoever has it open closes it.
const DELETE_LIMIT: Duration = Duration::from_secs(3);

/// Why disks that would make a device like `below` cannot come below one that is there already:
/// what users may send it was settled when it was added. Only with zero copy do disks get their
/// memory. A length of 0 is that of a leg by itself, which is measured where it joins.
pub fn unfit(device: &Params, below: &Params, zero_copy: bool) -> Option<String> {
    if below.dev_sectors > 0 && below.dev_sectors != device.dev_sectors {
        return Some(format!(
            "it makes a device of {} sectors: its length cannot change",
            below.dev_sectors
        ));
    }
    if below.logical_shift > device.logical_shift {
        let (block, of_device) = (1_u64 << below.logical_shift, 1_u64 << device.logical_shift);
        return Some(format!(
            "blocks of {block} bytes are too large for a device with blocks of {of_device}"
        ));
    }
    let mask = |params: &Params| params.dma_alignment_mask.unwrap_or(511); // the block layer's own
    (zero_copy && mask(below) > mask(device)).then(|| {
        let (needed, given) = (mask(below) + 1, mask(device) + 1);
        format!(
            "it needs memory aligned to {needed} bytes, and the device's users align to {given}"
        )
    })
}

/// A number that the kernel keeps with a device, so that another one with its number is never taken
/// for it. It is never 0, which devices of other programs have.
fn new_cookie() -> Result<u64, Reason> {
    let mut bytes = [0; 8];
    while bytes == [0; 8] {
        getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|error| format!("no random number: {error}"))?;
    }
    Ok(u64::from_le_bytes(bytes))
}

/// What the kernel knows of a device of ours; `None`: it is gone, and what has its number now is
/// another one's.
pub fn ours(control: &mut Control, id: u32, cookie: u64) -> Result<Option<DeviceInfo>, Reason> {
    match control.info(id) {
        Ok(info) => Ok(Some(info).filter(|info| is_ours(info, cookie))),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error.to_string().into()),
    }
}

/// Whether the kernel's device of a number is the one that was given this cookie.
pub fn is_ours(info: &DeviceInfo, cookie: u64) -> bool {
    cookie != 0 && info.target_flags == cookie
}

/// Has the kernel add a device with what it can do of what is wanted.
pub fn add(
    control: &mut Control,
    id: Option<u32>,
    options: &DeviceOptions,
    params: &Params,
    zero_copy: bool,
) -> Result<DeviceInfo, Reason> {
    let features = control.features().unwrap_or(0);
    let mut flags = u64::from(sys::UBLK_F_CMD_IOCTL_ENCODE);
    if options.recovery {
        flags |=
            u64::from(sys::UBLK_F_USER_RECOVERY) | u64::from(sys::UBLK_F_USER_RECOVERY_REISSUE);
    }
    let wanted = u64::from(sys::UBLK_F_SUPPORT_ZERO_COPY) | u64::from(sys::UBLK_F_AUTO_BUF_REG);
    if zero_copy && options.zero_copy && features & wanted == wanted {
        flags |= wanted;
    }
    // A snapshot's partitions are its origin's: nobody asked for them to appear a second time.
    flags |= features & u64::from(sys::UBLK_F_NO_AUTO_PART_SCAN);
    let (queues, depth) = (options.queues, options.depth);
    let wanted = AddDevice {
        id,
        queues,
        depth,
        max_io_bytes: MAX_IO_BYTES,
        flags,
        target_flags: new_cookie()?,
    };
    let info = control.add(&wanted).map_err(|error| not_added(id, &error))?;
    if let Err(error) = control.set_params(info.id, params) {
        if let Err(error) = delete(control, info.id) {
            log::warn!("{error}");
        }
        return Err(error.to_string().into());
    }
    Ok(info)
}

/// Why the kernel has not added a device.
fn not_added(id: Option<u32>, error: &ControlError) -> Reason {
    match (id, error.errno()) {
        (Some(id), Some(libc::EEXIST)) => format!(
            "--id {id}: there is a device /dev/ublkb{id} already; leave --id out for the first \
                 free one"
        )
        .into(),
        (Some(id), Some(libc::EINVAL | libc::ENOSPC)) => format!(
            "--id {id}: this kernel has no device of that number; leave --id out for the first \
                 free one"
        )
        .into(),
        _ => error.to_string().into(),
    }
}

/// Why a device is not to be touched that has another one's number.
pub fn replaced(id: u32) -> Reason {
    format!("/dev/ublkb{id}: it is another program's device now; the one that was there is gone")
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

/// Makes a device live whose queues are being served, for the first time or again.
pub fn start(control: &mut Control, id: u32, again: bool) -> Result<(), Reason> {
    let pid = i32::try_from(std::process::id()).map_err(|error| error.to_string())?;
    control.set_time_limit(Some(START_LIMIT));
    let started = if again { control.end_recovery(id, pid) } else { control.start(id, pid) };
    control.set_time_limit(None);
    started.map_err(|error| error.to_string())?;
    // A device that comes back has kept both. Besides, setting them waits for its requests, which
    // may be held back.
    if !again {
        leave_order_to_disks(id);
    }
    Ok(())
}

/// Requests of a stacked device are put in order and held back by the disks below, where it is
/// known what that costs. The kernel gives a device with one queue a scheduler and write-back
/// throttling of its own: work done twice, on every request. An administrator can set both again.
fn leave_order_to_disks(id: u32) {
    for (attribute, value) in [("scheduler", "none"), ("wbt_lat_usec", "0")] {
        let path = format!("/sys/block/ublkb{id}/queue/{attribute}");
        if let Err(error) = std::fs::write(&path, value) {
            log::debug!("{path}: {error}");
        }
    }
}

/// Stops a device that nobody has open; any other stays as it is. `false`: this kernel (before 7.0)
/// cannot ask, and the device has not been stopped.
pub fn try_stop(control: &mut Control, id: u32) -> Result<bool, Reason> {
    not_in_use(id)?;
    for left in (0..STOP_TRIES).rev() {
        match control.try_stop(id) {
            Ok(()) => return Ok(true),
            Err(error) if error.errno() == Some(libc::EBUSY) && left > 0 => {
                std::thread::sleep(STOP_PAUSE)
            }
            Err(error) if error.errno() == Some(libc::EBUSY) => return Err(in_use(id, "open")),
            // Kernels before 7.0 are not asked; who has it open can be seen all the same.
            Err(ControlError::Unsupported { .. }) => match seen_user(id)? {
                None => break,
                Some(_) if left > 0 => std::thread::sleep(STOP_PAUSE),
                Some(by) => return Err(in_use(id, &by)),
            },
            // There is no disk that could be in use.
            Err(error) if error.errno() == Some(libc::ENODEV) => break,
            Err(error) => return Err(error.to_string().into()),
        }
    }
    Ok(false)
}

/// Who uses a device, where nothing but looking tells. What cannot be looked at may be in use.
fn seen_user(id: u32) -> Result<Option<String>, Reason> {
    let unknown = |what: &str, error: io::Error| {
        format!(
            "{BLOCK_PATH}{id}: whether it is in use cannot be known: {what}: {error}; use --force \
             if it is not"
        )
    };
    match std::fs::metadata(format!("{BLOCK_PATH}{id}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unknown("its node", error).into()),
        Ok(_) => {}
    }
    for place in ["/proc/self/mountinfo", "/proc/self/fd"] {
        std::fs::metadata(place).map_err(|error| unknown(place, error))?;
    }
    Ok(user_of(id))
}

/// Who uses a device that is in use, for a message: it decides nothing.
fn user_of(id: u32) -> Option<String> {
    let metadata = std::fs::metadata(format!("{BLOCK_PATH}{id}")).ok()?;
    DiskId::of(&metadata).and_then(crate::storage::user_of)
}

/// Stops a device, whoever uses it. The kernel waits until the requests that its server has been
/// given have ended.
pub fn stop(control: &mut Control, id: u32) -> Result<(), Reason> {
    control.stop(id).map_err(Failure::from)
}

/// Deletes a stopped device. One that somebody still has open is gone for everybody else at once,
/// and its id is free when the last one closes it; nobody waits for that here.
pub fn delete(control: &mut Control, id: u32) -> Result<(), Reason> {
    control.set_time_limit(Some(DELETE_LIMIT));
    let deleted = control.del(id);
    control.set_time_limit(None);
    match deleted {
        Err(ControlError::Timeout { .. }) => {
            log::info!("/dev/ublkb{id}: somebody still has it open")
        }
        deleted => return deleted.map_err(Failure::from),
    }
    Ok(())
}

/// The disk's device number, as the kernel holds it.
pub fn number(control: &mut Control, id: u32) -> Option<(u32, u32)> {
    control.get_params(id).ok().and_then(|params| params.devt).map(|devt| devt.disk)
}

/// Whether requests' pages are used where they are.
pub fn is_zero_copy(info: &DeviceInfo) -> bool {
    info.flags & u64::from(sys::UBLK_F_AUTO_BUF_REG) != 0
}

/// Whether the device waits for another server when its own dies.
pub fn is_recoverable(info: &DeviceInfo) -> bool {
    info.flags & u64::from(sys::UBLK_F_USER_RECOVERY) != 0
}

fn in_use(id: u32, by: &str) -> Reason {
    format!("/dev/ublkb{id}: it is {by}; end that first, or use --force").into()
}

/// A claim that is given up at once tells whether somebody else has one: a file system, another
/// target, a swap area.
pub fn not_in_use(id: u32) -> Result<(), Reason> {
    let path = format!("{BLOCK_PATH}{id}");
    let claimed =
        OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path);
    not_claimed(id, claimed.map(drop))
}

/// What an attempt to claim a device says of its use. Only a disk that is not there has no user;
/// any other error tells nothing, and a device of which nothing is known may be in use.
fn not_claimed(id: u32, claimed: io::Result<()>) -> Result<(), Reason> {
    let Err(error) = claimed else { return Ok(()) };
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Ok(()),
        Some(libc::EBUSY) => Err(in_use(id, &user_of(id).unwrap_or_else(|| "in use".to_owned()))),
        _ => Err(format!(
            "{BLOCK_PATH}{id}: whether it is in use cannot be known: {error}; use --force if it is \
             not"
        )
        .into()),
    }
}

fn shift_of(bytes: u32) -> u8 {
    u8::try_from(bytes.max(512).next_power_of_two().trailing_zeros()).unwrap_or(12)
}

/// Discards in whole units of a chunk, as a snapshot takes them.
pub fn discard_of_chunks(chunk: Sectors) -> Discard {
    Discard {
        alignment: 0,
        granularity: u32::try_from(chunk.bytes()).unwrap_or(1 << 30),
        max_sectors: u32::try_from(chunk.0).unwrap_or(u32::MAX),
        max_write_zeroes_sectors: 0,
    }
}

/// A device's limits, from those of the disks below it.
pub fn params(
    disks: &[&Limits],
    volatile_cache: bool,
    size: Sectors,
    read_only: bool,
    discard: Option<Discard>,
) -> Params {
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

#[cfg(test)]
mod tests;
