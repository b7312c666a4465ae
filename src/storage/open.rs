//! Opening the disks below a target: block devices and regular files.
//!
//! Rules kept here:
//!
//! - A disk that a target will write is claimed, so that neither a mount nor a second server can
//!   use it: `O_EXCL` for a block device, a lock on the open file for a regular file. Both end with
//!   the descriptor. One that is to be shared is not ([`Claim::Beside`]), and neither is it taken
//!   from a user who has claimed all of it.
//! - Opening changes nothing: no byte, no size, no allocation. Whether a file supports hole
//!   punching is known from its file system, not tried.
//! - I/O bypasses the page cache (`O_DIRECT`); a file whose file system refuses that is opened
//!   without it, and marked ([`OpenDisk::buffered`]).
//! - A file, or a device that does not report its cache, is assumed to have a volatile one: flushes
//!   are never dropped.
//!
//! The content of a disk is left to `signature`; I/O to the ring.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::DiskId;
use super::beside::refuse_other_claim;
use super::busy::{other_user_of, user_of};
use super::error::{OpenError, OpenErrorKind};
use super::identity::{disk_name, number_in_boot};
use super::limits::{self, Limits};
use super::opening::Opening;
use super::place::place;
use crate::protocol::Place;
use crate::sys::disk as sys;

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// How a disk will be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// It is read.
    ReadOnly,
    /// It is read and written.
    ReadWrite,
}

/// Whether a disk may have other users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// No other process may claim the disk. For a regular file that is only read, this excludes
    /// writers, not readers.
    Exclusive,
    /// The disk may have other users: no claim is made, and other claims are ignored.
    Shared,
    /// No claim is made, and the only other users are device-mapper's devices, which may use other
    /// parts of the disk, and those that make no claim either.
    Beside,
}

/// An open disk. Dropping it releases the claim once no duplicate of the descriptor is left.
#[derive(Debug)]
pub struct OpenDisk {
    /// The descriptor, close-on-exec.
    pub file: File,
    /// The path as given.
    pub path: PathBuf,
    /// Its identity.
    pub id: DiskId,
    /// The access it was opened for.
    pub access: Access,
    /// I/O goes through the page cache, because the file system refuses `O_DIRECT`.
    pub buffered: bool,
    /// Size, in sectors of 512 bytes, rounded down to the logical block.
    pub size_sectors: u64,
    /// Block sizes, cache, discard.
    pub limits: Limits,
    /// How it is recognized. Determined when it is opened, since that may wait for a file system
    /// that hangs, and opening has a limit.
    pub known: Known,
}

/// How an open disk is recognized.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its lasting name; empty if it has none.
    pub name: String,
    /// A number that no other disk has had at its place in this boot; zero if there is none.
    pub number: u64,
    /// Where its bytes are.
    pub place: Place,
}

impl Known {
    fn of(path: &Path, id: DiskId, metadata: &Metadata) -> Known {
        let (name, number) = (disk_name(path, id), number_in_boot(id, metadata));
        Known { name, number, place: place(id, metadata) }
    }
}

/// A block device that is not opened: its identity, and how it is recognized.
pub fn node(path: &str) -> Option<(DiskId, Known)> {
    let (path, metadata) = (Path::new(path), std::fs::metadata(path).ok()?);
    let id = DiskId::of(&metadata).filter(|id| matches!(id, DiskId::Block { .. }))?;
    Some((id, Known::of(path, id, &metadata)))
}

impl OpenDisk {
    /// Opens a block device or a regular file.
    ///
    /// # Errors
    /// [`OpenErrorKind`] has the list. The disk is then unchanged and unclaimed.
    pub fn open(
        path: impl AsRef<Path>,
        access: Access,
        claim: Claim,
    ) -> Result<OpenDisk, OpenError> {
        let path = path.as_ref();
        let _opening = Opening::of(path);
        let fail = |kind| OpenError { path: path.to_owned(), kind };
        // Checked first: opening a pipe would block, and opening some character devices has side
        // effects.
        let metadata =
            std::fs::metadata(path).map_err(|error| fail(OpenErrorKind::of_io(error)))?;
        let id = identify(&metadata).map_err(fail)?;
        let (file, buffered) = open_file(path, id, access, claim).map_err(fail)?;
        let opened = file.metadata().map_err(|error| fail(OpenErrorKind::of_io(error)))?;
        if DiskId::of(&opened) != Some(id) {
            return Err(fail(OpenErrorKind::Replaced));
        }
        let (limits, size_sectors) = examine(&file, id, &opened, buffered).map_err(fail)?;
        if limits.read_only && access == Access::ReadWrite {
            return Err(fail(OpenErrorKind::ReadOnly));
        }
        let known = Known::of(path, id, &opened);
        let path = path.to_owned();
        Ok(OpenDisk { file, path, id, access, buffered, size_sectors, limits, known })
    }
}

/// How long a disk may seem in use after its user was killed: the kernel closes the files of a
/// process only when it has canceled its requests and freed its memory; 0.2 s were seen.
const CLOSING_LIMIT: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 1000 });
/// The pause between two attempts.
const CLOSING_PAUSE: Duration = Duration::from_millis(20);

impl OpenDisk {
    /// The same for a command that has no server to wait for: a disk in use is tried again for a
    /// moment, because its user may have just been killed.
    ///
    /// # Errors
    /// Those of [`OpenDisk::open`].
    pub fn open_unless_in_use(
        path: impl AsRef<Path>,
        access: Access,
        claim: Claim,
    ) -> Result<OpenDisk, OpenError> {
        let end = Instant::now() + CLOSING_LIMIT;
        loop {
            match OpenDisk::open(&path, access, claim) {
                Err(OpenError { kind: OpenErrorKind::Busy { .. }, .. }) if Instant::now() < end => {
                    std::thread::sleep(CLOSING_PAUSE);
                }
                opened => return opened,
            }
        }
    }
}

/// `bytes` in sectors, without a partial logical block at the end.
fn whole_sectors(bytes: u64, logical_block_size: u32) -> u64 {
    let block = u64::from(logical_block_size);
    bytes / block * (block / SECTOR)
}

impl DiskId {
    /// The disk that a path leads to, with the errors of [`OpenDisk::open`].
    ///
    /// # Errors
    /// There is nothing at the path, or something that is not a disk.
    pub fn of_path(path: &Path) -> Result<DiskId, OpenError> {
        let fail = |kind| OpenError { path: path.to_owned(), kind };
        let metadata =
            std::fs::metadata(path).map_err(|error| fail(OpenErrorKind::of_io(error)))?;
        identify(&metadata).map_err(fail)
    }
}

/// The identity of a disk, or why a file cannot be a disk.
fn identify(metadata: &Metadata) -> Result<DiskId, OpenErrorKind> {
    let kind = metadata.file_type();
    DiskId::of(metadata).ok_or(OpenErrorKind::WrongKind {
        what: if kind.is_dir() {
            "a directory"
        } else if kind.is_char_device() {
            "a character device"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a socket"
        },
    })
}

/// Opens and claims a disk; also returns whether its I/O is buffered.
fn open_file(
    path: &Path,
    id: DiskId,
    access: Access,
    claim: Claim,
) -> Result<(File, bool), OpenErrorKind> {
    let is_file = matches!(id, DiskId::File { .. });
    let exclusive = if claim == Claim::Exclusive && !is_file { libc::O_EXCL } else { 0 };
    let open = |direct: i32| {
        // The standard library adds O_CLOEXEC.
        OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .custom_flags(direct | exclusive)
            .open(path)
    };
    let outcome = match open(libc::O_DIRECT) {
        Err(error) if is_file && error.raw_os_error() == Some(libc::EINVAL) => {
            open(0).map(|file| (file, true))
        }
        // Some file systems accept the flag but refuse the I/O.
        Ok(file) if is_file && !sys::direct_works(&file) => open(0).map(|file| (file, true)),
        outcome => outcome.map(|file| (file, false)),
    };
    let (file, buffered) = outcome.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::ETXTBSY) => OpenErrorKind::Busy { by: user_of(id) },
        // The kernel also returns EACCES for a read-only device.
        Some(libc::EACCES) if access == Access::ReadWrite && limits::is_set_read_only(id) => {
            OpenErrorKind::ReadOnly
        }
        _ => OpenErrorKind::of_io(error),
    })?;
    if claim == Claim::Beside {
        refuse_other_claim(&file, id)?;
    }
    if is_file && claim == Claim::Exclusive {
        sys::lock(&file, access == Access::ReadWrite).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => OpenErrorKind::Busy { by: other_user_of(id) },
                _ => OpenErrorKind::of_io(error),
            }
        })?;
    }
    Ok((file, buffered))
}

/// The limits of an open disk and its size in sectors.
fn examine(
    file: &File,
    id: DiskId,
    metadata: &Metadata,
    buffered: bool,
) -> Result<(Limits, u64), OpenErrorKind> {
    let (limits, bytes) = match id {
        DiskId::Block { major, minor } => {
            let bytes = sys::size_bytes(file).map_err(OpenErrorKind::of_io)?;
            (Limits::of_block_device(file, major, minor).map_err(OpenErrorKind::of_io)?, bytes)
        }
        DiskId::File { .. } => {
            let limits = Limits::of_file(file, metadata, buffered).map_err(OpenErrorKind::of_io)?;
            (limits, metadata.len())
        }
    };
    match whole_sectors(bytes, limits.logical_block_size) {
        0 if bytes == 0 => Err(OpenErrorKind::Empty),
        0 => Err(OpenErrorKind::TooSmall { bytes, block: limits.logical_block_size }),
        sectors if sectors * SECTOR != bytes => {
            Err(OpenErrorKind::Ragged { bytes, block: limits.logical_block_size })
        }
        sectors => Ok((limits, sectors)),
    }
}

#[cfg(test)]
mod tests;

/// The size of an open disk now, in sectors, rounded down to its logical block.
///
/// # Errors
/// Those of the ioctl or of `fstat`.
pub fn size_now(file: &File, id: DiskId, block_bytes: u32) -> io::Result<u64> {
    let bytes = match id {
        DiskId::Block { .. } => sys::size_bytes(file)?,
        DiskId::File { .. } => file.metadata()?.len(),
    };
    Ok(whole_sectors(bytes, block_bytes))
}
