//! Disks under test: aligned direct I/O, cutting small devices out of them, wiping.
//!
//! Everything bypasses the page cache (`O_DIRECT`): the oracle and the server use the same disks in
//! turn, and a stale cached page would look like an error. Positions and lengths are in 512-byte
//! sectors. Buffers are aligned by hand inside a longer vector.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::{ioctl, kernel};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Sectors of one MiB.
pub const MIB: u64 = 2048;

/// Sectors of a page of memory.
const PAGE_SECTORS: u64 = 8;

/// A length or index in memory.
pub fn us(n: u64) -> usize {
    usize::try_from(n).expect("64-bit machine")
}

/// Memory that direct I/O accepts.
pub struct Buf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buf {
    /// Zeroed memory for `sectors` sectors.
    pub fn new(sectors: u64) -> Buf {
        const ALIGN: usize = 4096;
        let len = us(sectors * SECTOR);
        let bytes = vec![0; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Buf { bytes, start, len }
    }

    /// The same, at an offset in its first page.
    pub fn in_page(sectors: u64, offset_bytes: usize) -> Buf {
        let whole = Buf::new(sectors + PAGE_SECTORS);
        assert!(offset_bytes < 4096, "an offset in a page");
        Buf { start: whole.start + offset_bytes, len: us(sectors * SECTOR), bytes: whole.bytes }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// An open block device or regular file.
pub struct Disk {
    file: File,
    pub path: String,
    /// Size in sectors.
    pub sectors: u64,
    /// Logical block size in sectors: the smallest unit of I/O.
    pub block: u64,
}

impl Disk {
    pub fn open(path: &str) -> Disk {
        Disk::try_open(path, true).unwrap_or_else(|e| panic!("cannot open {path}: {e}"))
    }

    pub fn open_read_only(path: &str) -> Disk {
        Disk::try_open(path, false).unwrap_or_else(|e| panic!("cannot open {path} read-only: {e}"))
    }

    /// A disk whose writes are durable when they return (they are sent with FUA).
    pub fn open_durable(path: &str) -> Disk {
        Disk::open_with(path, true, libc::O_DSYNC)
            .unwrap_or_else(|e| panic!("cannot open {path}: {e}"))
    }

    pub fn try_open(path: &str, write: bool) -> io::Result<Disk> {
        Disk::open_with(path, write, 0)
    }

    fn open_with(path: &str, write: bool, flags: i32) -> io::Result<Disk> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_DIRECT | flags)
            .open(path)?;
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR;
        let block = block_bytes(path) / SECTOR;
        Ok(Disk { file, path: path.to_string(), sectors, block })
    }

    pub fn try_read(&self, sector: u64, buf: &mut Buf) -> io::Result<()> {
        self.file.read_exact_at(buf, sector * SECTOR)
    }

    pub fn try_write(&self, sector: u64, buf: &Buf) -> io::Result<()> {
        self.file.write_all_at(buf, sector * SECTOR)
    }

    pub fn read(&self, sector: u64, sectors: u64) -> Buf {
        let mut buf = Buf::new(sectors);
        self.try_read(sector, &mut buf).unwrap_or_else(|e| {
            panic!("{}: read of {sectors} sectors at {sector}: {e}", self.path)
        });
        buf
    }

    pub fn write(&self, sector: u64, buf: &Buf) {
        self.try_write(sector, buf).unwrap_or_else(|e| {
            panic!("{}: write of {} bytes at sector {sector}: {e}", self.path, buf.len())
        });
    }

    /// Writes bytes that need not fill whole sectors; the rest of the last block is zero.
    pub fn write_bytes(&self, sector: u64, bytes: &[u8]) {
        let unit = us(self.block * SECTOR);
        let mut buf = Buf::new((bytes.len().div_ceil(unit) * unit) as u64 / SECTOR);
        buf[..bytes.len()].copy_from_slice(bytes);
        self.write(sector, &buf);
    }

    pub fn zero(&self, sector: u64, sectors: u64) {
        let mut at = sector;
        while at < sector + sectors {
            let step = MIB.min(sector + sectors - at);
            self.write(at, &Buf::new(step));
            at += step;
        }
    }

    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn block_bytes(path: &str) -> u64 {
    let real = fs::canonicalize(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let name = real.file_name().and_then(|n| n.to_str()).unwrap_or("").to_string();
    match fs::read_to_string(format!("/sys/class/block/{name}/queue/logical_block_size")) {
        Ok(text) => {
            text.trim().parse().unwrap_or_else(|e| panic!("{path}: block size {text:?}: {e}"))
        }
        Err(_) => SECTOR, // a regular file
    }
}

/// The node of one of the machine's test disks, `n0` to `n5`, `k0`, `k1`, `s0`, `s1`, `big0`.
pub fn node(disk: &str) -> String {
    let link = format!("/run/disks/{disk}");
    let real =
        fs::canonicalize(&link).unwrap_or_else(|e| panic!("{link}: {e} (ci/vm makes these links)"));
    real.to_str().expect("ASCII path").to_string()
}

/// Cuts a device of `sectors` out of `disk` at `start`; returns its node.
pub fn slice(name: &str, disk: &str, start: u64, sectors: u64) -> String {
    kernel::create(name, &format!("0 {sectors} linear {} {start}", node(disk)))
}

/// Requests of one kind that a disk has completed: the first field (0) counts reads, the fifth (4)
/// writes.
pub fn completed(path: &str, field: usize) -> u64 {
    let name = fs::canonicalize(path).expect("a device");
    let stat = format!(
        "/sys/class/block/{}/stat",
        name.file_name().and_then(|n| n.to_str()).expect("ASCII")
    );
    let text = fs::read_to_string(&stat).unwrap_or_else(|e| panic!("{stat}: {e}"));
    let word = text.split_whitespace().nth(field);
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{stat}: {text:?}"))
}

/// Whether a disk is unclaimed.
pub fn is_free(path: &str) -> bool {
    claim(path).is_ok()
}

/// Claims a disk until the file is closed, as a mount does.
pub fn claim(path: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path)
}

/// Makes a disk as good as new: discarded, and certainly zero at its start and end.
pub fn wipe(disk: &str) {
    let open = Disk::open(&node(disk));
    ioctl::discard(&open.file, open.sectors * SECTOR)
        .unwrap_or_else(|e| panic!("{disk}: discard: {e}"));
    open.zero(0, 2 * MIB);
    open.zero(open.sectors / 8 * 8 - MIB, MIB);
}

/// A digest of the bytes of a range (FNV-1a over 64-bit words).
pub fn digest(disk: &Disk, sector: u64, sectors: u64) -> u64 {
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325u64, sector);
    while at < sector + sectors {
        let step = MIB.min(sector + sectors - at);
        for word in disk.read(at, step).chunks_exact(8) {
            hash = (hash ^ u64::from_le_bytes(word.try_into().expect("8 bytes")))
                .wrapping_mul(0x0100_0000_01b3);
        }
        at += step;
    }
    hash
}

/// Digest of the first and last MiB, where every relevant write would go.
pub fn digest_ends(path: &str) -> (u64, u64) {
    let disk = Disk::open_read_only(path);
    let part = MIB.min(disk.sectors);
    (digest(&disk, 0, part), digest(&disk, disk.sectors - part, part))
}
