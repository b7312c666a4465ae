//! The system calls on an open disk that the standard library does not have.
//!
//! All of them are queries, but for [`lock`], which changes the open file's lock, and
//! [`set_read_only`]. `unsafe` are the calls that no safe crate has.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, StatxFlags, statx};

/// Size of a block device in bytes.
const BLKGETSIZE64: libc::Ioctl = libc::_IOR::<libc::size_t>(0x12, 114);
/// Whether a block device is read-only.
const BLKROGET: libc::Ioctl = libc::_IO(0x12, 94);
/// Makes a block device read-only, or writable.
const BLKROSET: libc::Ioctl = libc::_IO(0x12, 93);

/// Alignment, in bytes, that satisfies every device's memory and offset rules in a probe.
const PROBE_ALIGN: usize = 4096;

/// Queries a block device for a number with an ioctl that writes a `T`. Unlike a seek, these ioctls
/// take no lock that a hanging disk could hold.
fn ask<T: Default>(file: &File, request: libc::Ioctl) -> io::Result<T> {
    let mut answer = T::default();
    // SAFETY: the callers pair `request` with the type that it writes, `answer` has that type and
    // lives through the call, and the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut answer) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The size of a block device in bytes.
pub fn size_bytes(file: &File) -> io::Result<u64> {
    ask::<u64>(file, BLKGETSIZE64)
}

/// Whether a block device is set read-only.
pub fn is_read_only(file: &File) -> io::Result<bool> {
    Ok(ask::<libc::c_int>(file, BLKROGET)? != 0)
}

/// Makes a block device read-only, or writable, for all who open it from now on.
///
/// # Errors
/// The kernel refuses.
pub fn set_read_only(file: &File, read_only: bool) -> io::Result<()> {
    let value = libc::c_int::from(read_only);
    // SAFETY: the ioctl reads a `c_int`, which lives through the call, and the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKROSET, &raw const value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The logical block size of a block device in bytes.
pub fn logical_block_size(file: &File) -> io::Result<u32> {
    let size = rustix::fs::ioctl_blksszget(file)?;
    if size.is_power_of_two() && size >= 512 {
        return Ok(size);
    }
    Err(io::Error::other(format!("its logical block size of {size} bytes is not supported")))
}

/// Locks the whole file for this open file description, without waiting: against every other lock
/// (`write`) or against write locks only.
///
/// # Errors
/// EAGAIN or EACCES: another open file, perhaps of this process, has a conflicting lock.
pub fn lock(file: &File, write: bool) -> io::Result<()> {
    let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    let short = |number: libc::c_int| libc::c_short::try_from(number).map_err(io::Error::other);
    // The range starts at 0, and a length of 0 reaches to any future end; l_pid must be 0.
    let lock = libc::flock {
        l_type: short(kind)?,
        l_whence: short(libc::SEEK_SET)?,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: F_OFD_SETLK reads one `flock`, which `lock` is; the descriptor is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether another open file description, perhaps in this process, has a lock on the file. Takes no
/// lock.
pub fn is_locked(file: &File) -> io::Result<bool> {
    let short = |number: libc::c_int| libc::c_short::try_from(number).map_err(io::Error::other);
    let (kind, whence) = (short(libc::F_WRLCK)?, short(libc::SEEK_SET)?);
    let mut lock = libc::flock { l_type: kind, l_whence: whence, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: F_OFD_GETLK reads and writes one `flock`, which `lock` is; the descriptor is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(lock.l_type != short(libc::F_UNLCK)?)
    }
}

/// The alignment of memory and of offsets that `O_DIRECT` on this file needs, in bytes; zeros if it
/// is impossible; `None` if the kernel (before 6.1) or file system does not report it.
pub fn direct_alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    let answer = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let known = StatxFlags::from_bits_retain(answer.stx_mask).contains(StatxFlags::DIOALIGN);
    Ok(known.then_some((answer.stx_dio_mem_align, answer.stx_dio_offset_align)))
}

/// Reads `len` bytes at the start of the file into well-aligned memory, to see whether that works.
/// A shorter file results in a short read, which is not a failure.
pub fn direct_reads(file: &File, len: u32) -> bool {
    let Ok(len) = usize::try_from(len) else { return false };
    let mut memory = vec![0; len + PROBE_ALIGN];
    let start = memory.as_ptr().align_offset(PROBE_ALIGN);
    file.read_at(&mut memory[start..start + len], 0).is_ok()
}

/// Whether `O_DIRECT` I/O works on a file that was opened with it.
pub fn direct_works(file: &File) -> bool {
    match direct_alignment(file) {
        Ok(Some((memory, offset))) => memory.is_power_of_two() && offset.is_power_of_two(),
        // An I/O error does not mean that the flag is refused: reading will report it.
        _ => direct_reads(file, 512) || direct_reads(file, 4096),
    }
}

/// The modes of `fallocate` that a file supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoleSupport {
    /// FALLOC_FL_PUNCH_HOLE.
    pub punch: bool,
    /// FALLOC_FL_ZERO_RANGE.
    pub zero: bool,
}

/// The modes of `fallocate` by the kind of file system: a trial would change the file's times and
/// blocks.
pub fn hole_support(file: &File) -> io::Result<HoleSupport> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    // Magic numbers have 32 bits; the width and sign of the field depend on the machine.
    Ok(match kind as u64 & 0xffff_ffff {
        0x0000_ef53 | 0x5846_5342 | 0x9123_683e | 0xf2f5_2010 => {
            HoleSupport { punch: true, zero: true }
        }
        // tmpfs
        0x0102_1994 => HoleSupport { punch: true, zero: false },
        _ => HoleSupport { punch: false, zero: false },
    })
}
