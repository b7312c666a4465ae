//! Disks in one condition at a time, below mirrors: sound, broken in part or as a whole, slow. The
//! faults of `faults`, in the words of the mirror's table of failures.
//!
//! The device is longer than requested by a tail that is never read or written: a fault of writes
//! there makes flushes fail and nothing else.

use std::thread;

use crate::faults::{self, Fails};

/// Sectors of the tail: one block of the largest block size here.
const TAIL: u64 = 8;

/// The fault of a disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// A range can be neither read nor written; flushes work.
    Bad { sector: u64, sectors: u64 },
    /// A range cannot be read; writes to it and flushes work.
    Unreadable { sector: u64, sectors: u64 },
    /// Flushes fail.
    Flushes,
    /// Writes and flushes fail, reads work.
    Writes,
    /// Reads fail, writes and flushes work.
    Reads,
    /// Nothing works.
    Gone,
    /// Everything works, after this time.
    Slow { read_ms: u64, write_ms: u64 },
}

/// A disk that can fail.
pub struct Faulty {
    disk: faults::Faulty,
    sectors: u64,
    /// Its node.
    pub path: String,
}

impl Faulty {
    /// A sound device of `sectors` sectors (and the tail) at `start` of one of the machine's test
    /// disks.
    pub fn new(name: &'static str, disk: &str, start: u64, sectors: u64) -> Faulty {
        let disk = faults::Faulty::new(name, disk, start, sectors + TAIL);
        let path = disk.node.clone();
        Faulty { disk, sectors, path }
    }

    /// From now on the disk has this fault, and no other. Requests that wait in a slow disk end
    /// first.
    pub fn set(&self, fault: Fault) {
        let all = self.sectors + TAIL;
        let one = match fault {
            Fault::None => return self.disk.set(&[]),
            Fault::Bad { sector, sectors } => (Fails::All, sector, sectors),
            Fault::Unreadable { sector, sectors } => (Fails::Reads, sector, sectors),
            Fault::Flushes => (Fails::WritesAndFlushes, self.sectors, TAIL),
            Fault::Writes => (Fails::WritesAndFlushes, 0, all),
            Fault::Reads => (Fails::Reads, 0, all),
            Fault::Gone => (Fails::All, 0, all),
            Fault::Slow { read_ms, write_ms } => {
                (Fails::NothingButSlow { read_ms, write_ms }, 0, all)
            }
        };
        self.disk.set(&[one]);
    }

    pub fn heal(&self) {
        self.set(Fault::None);
    }
}

impl Drop for Faulty {
    /// A failed case must not leave requests in a slow disk behind.
    fn drop(&mut self) {
        if thread::panicking() {
            self.heal();
        }
    }
}
