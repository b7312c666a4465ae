//! The few requests to the kernel that have no safe function: device-mapper's, ublk's, discard, and
//! the end of a process.
//!
//! They could be made by running `dmsetup`, `blkdiscard` and `kill`, but starting a process takes
//! half a second under software emulation and the suite makes thousands of these requests. This is
//! the only file of the suite with unsafe code.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::us;

/// `struct dm_ioctl` is this long; `dm_target_spec` follows.
const HEAD: usize = 312;
const SPEC: usize = 40;
/// Room for any request or answer here: a few targets with their parameters.
const ROOM: usize = 16 << 10;

const READ_ONLY: u32 = 1;
const SUSPEND: u32 = 2;
const STATUS_TABLE: u32 = 16;
const SKIP_LOCKFS: u32 = 1 << 10;
const NOFLUSH: u32 = 1 << 11;

const DEV_CREATE: u32 = 3;
const DEV_REMOVE: u32 = 4;
const DEV_SUSPEND: u32 = 6; // without its flag: resume
const TABLE_LOAD: u32 = 9;
const TABLE_STATUS: u32 = 12;
const TARGET_MESSAGE: u32 = 14;

/// Sends one request about the device `name` with `targets` target specifications, or a message, in
/// `spec`; the answer comes back in the same bytes.
fn request(
    number: u32,
    name: &str,
    flags: u32,
    targets: usize,
    spec: &[u8],
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; ROOM];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, 4); // version 4.0.0
    put(12, 16 << 10);
    put(16, 312);
    put(20, u32::try_from(targets).map_err(io::Error::other)?);
    put(28, flags);
    bytes[48..48 + name.len()].copy_from_slice(name.as_bytes());
    bytes[HEAD..HEAD + spec.len()].copy_from_slice(spec);
    let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
    let code = (3 << 30) | (312 << 16) | (0xfd << 8) | u64::from(number);
    // SAFETY: the request is well-formed: `data_size` says the length of `bytes`, which lives
    // across the call, and the kernel writes no more than that.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), code, bytes.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes) }
}

/// The specifications of a table, one target a line: `START LENGTH TARGET ARGS`.
fn specs(table: &str) -> io::Result<(usize, Vec<u8>)> {
    let mut all = Vec::new();
    for line in table.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let mut spec = vec![0u8; SPEC];
        for (at, word) in [0, 8].into_iter().zip(&words) {
            spec[at..at + 8]
                .copy_from_slice(&word.parse::<u64>().map_err(io::Error::other)?.to_le_bytes());
        }
        spec[24..24 + words[2].len()].copy_from_slice(words[2].as_bytes());
        spec.extend(words.get(3).unwrap_or(&"").as_bytes());
        spec.resize((spec.len() + 1).next_multiple_of(8), 0);
        // The start of the next one, relative to this one, as the kernel expects it in requests.
        let next = u32::try_from(spec.len()).map_err(io::Error::other)?;
        spec[20..24].copy_from_slice(&next.to_le_bytes());
        all.extend(spec);
    }
    Ok((table.lines().count(), all))
}

/// Makes a device with a table; returns its node.
pub fn dm_create(name: &str, table: &str, read_only: bool) -> io::Result<String> {
    let (targets, specs) = specs(table)?;
    let made = request(DEV_CREATE, name, 0, 0, &[])?;
    let loaded = request(TABLE_LOAD, name, if read_only { READ_ONLY } else { 0 }, targets, &specs)
        .and_then(|_| request(DEV_SUSPEND, name, 0, 0, &[]));
    if let Err(e) = loaded {
        request(DEV_REMOVE, name, 0, 0, &[]).ok();
        return Err(e);
    }
    let dev = u64::from_le_bytes(made[40..48].try_into().expect("8 bytes"));
    let minor = (dev & 0xff) | ((dev >> 12) & 0x000f_ff00);
    let node = format!("/dev/dm-{minor}");
    until(5, || std::fs::exists(&node).unwrap_or(false));
    Ok(node)
}

/// Puts another table under a device in use: requests in flight end on the old one, the rest wait
/// for the new one.
pub fn dm_swap(name: &str, table: &str) -> io::Result<()> {
    dm_suspend(name, true)?;
    let loaded = dm_load(name, table);
    dm_resume(name)?;
    loaded
}

/// Sends a message to the first target of a device.
pub fn dm_message(name: &str, text: &str) -> io::Result<()> {
    let mut message = 0u64.to_le_bytes().to_vec(); // for the target at this sector
    message.extend(text.as_bytes());
    message.push(0);
    request(TARGET_MESSAGE, name, 0, 0, &message).map(|_| ())
}

/// Gives a device a table that its next resume puts in place.
pub fn dm_load(name: &str, table: &str) -> io::Result<()> {
    let (targets, specs) = specs(table)?;
    request(TABLE_LOAD, name, 0, targets, &specs).map(|_| ())
}

/// Suspends a device without freezing its file system; with `noflush` its target need not end its
/// held requests.
pub fn dm_suspend(name: &str, noflush: bool) -> io::Result<()> {
    let flags = SUSPEND | SKIP_LOCKFS | if noflush { NOFLUSH } else { 0 };
    request(DEV_SUSPEND, name, flags, 0, &[]).map(|_| ())
}

/// Resumes a device, with the table that was loaded if there is one.
pub fn dm_resume(name: &str) -> io::Result<()> {
    request(DEV_SUSPEND, name, 0, 0, &[]).map(|_| ())
}

/// Removes a device; a device that was just closed may still be busy for a moment.
pub fn dm_remove(name: &str) -> io::Result<()> {
    let mut result = Ok(Vec::new());
    until(5, || {
        result = request(DEV_REMOVE, name, 0, 0, &[]);
        !matches!(&result, Err(e) if e.raw_os_error() == Some(libc::EBUSY))
    });
    result.map(|_| ())
}

/// The status or the table lines, as `dmsetup status` and `dmsetup table` print them.
pub fn dm_line(name: &str, table: bool) -> io::Result<String> {
    let bytes = request(TABLE_STATUS, name, if table { STATUS_TABLE } else { 0 }, 0, &[])?;
    let start = us(u64::from(u32::from_le_bytes(bytes[16..20].try_into().expect("4 bytes"))));
    let text = |from: usize| {
        let end = bytes[from..].iter().position(|b| *b == 0).map_or(bytes.len(), |n| from + n);
        String::from_utf8_lossy(&bytes[from..end]).into_owned()
    };
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let (mut at, mut lines) = (start, Vec::new());
    for _ in 0..word(20) {
        let words = (number(at), number(at + 8), text(at + 24), text(at + SPEC));
        let line = format!("{} {} {} {}", words.0, words.1, words.2, words.3);
        lines.push(line.trim_end().to_string());
        // Where the next line is, from the first one on.
        at = start + us(u64::from(word(at + 20)));
    }
    Ok(lines.join("\n"))
}

/// Discards a whole device.
pub fn discard(disk: &File, bytes: u64) -> io::Result<()> {
    const BLKDISCARD: u64 = 0x1277;
    let range = [0u64, bytes];
    // SAFETY: BLKDISCARD reads two 64-bit numbers, which outlive the call.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn until(seconds: u64, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Kills a process immediately.
pub fn kill(pid: u64) {
    signal(pid, libc::SIGKILL);
}

/// Sends a signal to a process.
pub fn signal(pid: u64, number: i32) {
    let process = i32::try_from(pid).expect("a process id");
    // SAFETY: sends a signal; no memory is involved.
    let result = unsafe { libc::kill(process, number) };
    assert!(result == 0, "process {pid}: {}", io::Error::last_os_error());
}

/// Has the kernel stop a ublk device, as another program would.
pub fn ublk_stop(id: u32) -> io::Result<()> {
    ublk(libublk::sys::UBLK_U_CMD_STOP_DEV, id)
}

/// Has the kernel delete a ublk device, without waiting for processes that have it open.
pub fn ublk_delete(id: u32) -> io::Result<()> {
    ublk(libublk::sys::UBLK_U_CMD_DEL_DEV_ASYNC, id)
}

fn ublk(op: u32, id: u32) -> io::Result<()> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/ublk-control")?;
    let mut ring = io_uring::IoUring::<io_uring::squeue::Entry128>::builder().build(4)?;
    let mut command = [0; 80];
    command[..4].copy_from_slice(&id.to_le_bytes());
    command[4..6].copy_from_slice(&u16::MAX.to_le_bytes());
    let file = io_uring::types::Fd(control.as_raw_fd());
    let entry = io_uring::opcode::UringCmd80::new(file, op).cmd(command).build();
    // SAFETY: the entry holds its command, which names no memory; the file is open until the
    // command has ended.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(-libc::EIO, |done| done.result());
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
