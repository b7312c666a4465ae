//! Memory from the kernel: anonymous and file mappings.
//!
//! Rule kept here: I6 as far as mappings go. A mapping with an owner is unmapped when the owner is
//! dropped, and the owner states why nothing uses the memory any more by then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Zeroed memory from the kernel, page aligned, backed only as touched, with no owner to unmap it.
pub fn map_anonymous(len_bytes: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that
    // exists.
    checked(unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, protection, flags, -1, 0) })
}

/// A mapping that ends with its owner, which guarantees that nothing uses the memory by then.
pub struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
}

impl Mapping {
    /// Anonymous memory.
    pub fn anonymous(len_bytes: usize) -> io::Result<Mapping> {
        Ok(Mapping { base: map_anonymous(len_bytes)?, len_bytes })
    }

    /// Maps part of a file from an offset on, for reading.
    pub fn of_file(
        file: BorrowedFd<'_>,
        offset: libc::off_t,
        len_bytes: usize,
    ) -> io::Result<Mapping> {
        Mapping::shared(file, offset, len_bytes, libc::PROT_READ)
    }

    fn shared(
        file: BorrowedFd<'_>,
        offset: libc::off_t,
        len_bytes: usize,
        access: libc::c_int,
    ) -> io::Result<Mapping> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping of a file at an address of the kernel's choice touches nothing that
        // exists.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len_bytes, access, flags, fd, offset) };
        Ok(Mapping { base: checked(address)?, len_bytes })
    }

    /// The start address of the mapping.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `mmap` with this length, and its owner has ensured that
        // nothing uses it.
        if unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes) } != 0 {
            log::warn!("munmap: {}", io::Error::last_os_error());
        }
    }
}

fn checked(address: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// A file as an array of words that outlive the process: a stored word is in the file whenever the
/// process dies.
pub struct SharedWords {
    mapping: Mapping,
    len: usize,
}

impl SharedWords {
    /// Maps the first `len` words of a file that has as many.
    pub fn of_file(file: BorrowedFd<'_>, len: usize) -> io::Result<SharedWords> {
        let mapping =
            Mapping::shared(file, 0, len * size_of::<u64>(), libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(SharedWords { mapping, len })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.len, "there are {} words and none has number {at}", self.len);
        // SAFETY: the mapping holds `len` words from a page's start, so they are aligned, and it
        // lives as long as `self`. Only the atomic operations of this reference access the words.
        unsafe { AtomicU64::from_ptr(self.mapping.base.cast::<u64>().add(at).as_ptr()) }
    }

    /// Reads a word.
    pub fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    /// Stores a word. Stores happen in the order of the calls, also for a later reader of the file.
    pub fn set(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }
}

// SAFETY: the mapping belongs to its owner alone, whichever thread that is on; nothing in it is
// bound to a thread.
unsafe impl Send for Mapping {}
