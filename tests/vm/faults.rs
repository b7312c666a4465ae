//! A disk whose sectors can be made to fail while it is in use: slices of a real one, some of them
//! under `dm-flakey`.
//!
//! device-mapper sends a flush to every part of a table, and `dm-flakey` fails it like a write. So
//! a part that fails writes and is never written makes flushes fail and nothing else; for the same
//! reason every other fault of writes is one of `dm-error`'s, which gets no flushes, if reads of
//! the same sectors do not matter.

use crate::disk::node;
use crate::kernel;

/// The operations that fail in a range of sectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fails {
    /// Reads.
    Reads,
    /// Writes, and with them every flush of the disk.
    WritesAndFlushes,
    /// Reads and writes.
    All,
    /// Nothing, but it takes this long (flushes as long as writes).
    NothingButSlow { read_ms: u64, write_ms: u64 },
}

/// One fault: the failing operations, the first sector and the number of sectors.
pub type Fault = (Fails, u64, u64);

/// A disk that can be broken and repaired.
pub struct Faulty {
    name: &'static str,
    real: String,
    /// Where it begins on the real disk.
    start: u64,
    sectors: u64,
    pub node: String,
}

impl Faulty {
    /// Cuts a disk without faults out of one of the machine's.
    pub fn new(name: &'static str, disk: &str, start: u64, sectors: u64) -> Faulty {
        let mut made = Faulty { name, real: node(disk), start, sectors, node: String::new() };
        made.node = kernel::create(name, &made.table(&[]));
        made
    }

    /// From now on exactly these ranges fail. Ranges are in ascending order and do not touch.
    pub fn set(&self, faults: &[Fault]) {
        kernel::swap(self.name, &self.table(faults));
    }

    fn table(&self, faults: &[Fault]) -> String {
        let (mut lines, mut at) = (Vec::new(), 0);
        let linear =
            |at: u64, len: u64| format!("{at} {len} linear {} {}", self.real, self.start + at);
        for (fails, start, len) in faults {
            if *start > at {
                lines.push(linear(at, start - at));
            }
            let flakey = |feature| {
                format!(
                    "{start} {len} flakey {} {} 0 180 1 {feature}",
                    self.real,
                    self.start + start
                )
            };
            lines.push(match fails {
                Fails::Reads => flakey("error_reads"),
                Fails::WritesAndFlushes => flakey("error_writes"),
                Fails::All => format!("{start} {len} error"),
                Fails::NothingButSlow { read_ms, write_ms } => {
                    let (real, at) = (&self.real, self.start + start);
                    format!("{start} {len} delay {real} {at} {read_ms} {real} {at} {write_ms}")
                }
            });
            at = start + len;
        }
        if at < self.sectors {
            lines.push(linear(at, self.sectors - at));
        }
        lines.join("\n")
    }
}
