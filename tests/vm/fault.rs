//! Disks that fail at will: a device-mapper device over a part of a test disk whose table is swapped under load.
//!
//! The device is one tail longer than asked for. Nobody reads or writes the tail; a flush goes to every target of a
//! table, so a tail that fails writes is a disk whose flushes fail and whose writes do not.

use std::thread;

use crate::disk::node;
use crate::kernel;

/// Sectors of the tail: one block of the largest block size here.
const TAIL: u64 = 8;

/// What is wrong with a disk.
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
    name: String,
    under: String,
    start: u64,
    sectors: u64,
    /// Its node.
    pub path: String,
}

impl Faulty {
    /// A sound device of `sectors` sectors (and the tail) at `start` of one of the machine's test disks.
    pub fn new(name: &str, disk: &str, start: u64, sectors: u64) -> Faulty {
        let under = node(disk);
        let path = kernel::create(name, &table(&under, start, sectors, Fault::None));
        Faulty { name: name.to_string(), under, start, sectors, path }
    }

    /// From now on this is wrong with it, and nothing else. Requests that wait in a slow disk end first.
    pub fn set(&self, fault: Fault) {
        kernel::suspend(&self.name, true);
        kernel::load(&self.name, &table(&self.under, self.start, self.sectors, fault));
        kernel::resume(&self.name);
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

fn table(under: &str, start: u64, sectors: u64, fault: Fault) -> String {
    let all = sectors + TAIL;
    let linear = |at: u64, len: u64| format!("{at} {len} linear {under} {}\n", start + at);
    let flakey = |at: u64, len: u64, how: &str| format!("{at} {len} flakey {under} {} 0 1000 1 {how}\n", start + at);
    let around = |sector: u64, len: u64, middle: &str| {
        let before = if sector > 0 { linear(0, sector) } else { String::new() };
        before + middle + &linear(sector + len, all - sector - len)
    };
    match fault {
        Fault::None => linear(0, all),
        Fault::Bad { sector, sectors } => around(sector, sectors, &format!("{sector} {sectors} error\n")),
        Fault::Unreadable { sector, sectors } => around(sector, sectors, &flakey(sector, sectors, "error_reads")),
        Fault::Flushes => linear(0, sectors) + &flakey(sectors, TAIL, "error_writes"),
        Fault::Writes => flakey(0, all, "error_writes"),
        Fault::Reads => flakey(0, all, "error_reads"),
        Fault::Gone => format!("0 {all} error\n"),
        Fault::Slow { read_ms, write_ms } => {
            format!("0 {all} delay {under} {start} {read_ms} {under} {start} {write_ms}\n")
        }
    }
}
