//! The record of a load that `dm-log-writes` leaves on its log device.
//!
//! Facts, from the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst` and from
//! records of known loads: sector 0 holds a little-endian header (magic, version, number of
//! entries, sector size), every entry is one sector (place, length, flags, length of a mark's text)
//! followed by its data. The order is that of durability: a write is listed when a flush that was
//! sent after its completion has completed, just before that flush; a FUA write when it completes;
//! a mark at once.
//!
//! So if an entry is in the list, everything before it is on the medium, with one exception: a
//! plain write may be listed after a later FUA write to the same sector. [`super::replay`]
//! distinguishes them by their stamps.

use crate::disk::{Disk, MIB, SECTOR, us};
use crate::model::{Cell, stamp_of};

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// Stands for the content of one sector: an index into [`Contents`].
pub type Atom = u32;

/// The stamp of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its writer; 0 for zeroes, [`NO_STAMP`] for anything else.
    pub cell: Cell,
    /// The sector of a device that it was written for.
    pub sector: u64,
}

/// The cell of a sector that is neither stamped nor zero.
pub const NO_STAMP: Cell = u64::MAX;

/// All contents that sectors had during a load.
#[derive(Default)]
pub struct Contents {
    bytes: Vec<u8>,
    seen: Vec<Seen>,
}

impl Contents {
    /// Adds whole sectors; their atoms follow one another from the one returned.
    pub fn add(&mut self, bytes: &[u8]) -> Atom {
        let first = u32::try_from(self.seen.len()).expect("a record of less than 2 TiB");
        for sector in bytes.chunks_exact(us(SECTOR)) {
            self.seen.push(match stamp_of(sector) {
                Some((cell, sector)) => Seen { cell, sector },
                None => Seen { cell: NO_STAMP, sector: 0 },
            });
        }
        self.bytes.extend_from_slice(bytes);
        first
    }

    pub fn seen(&self, atom: Atom) -> Seen {
        self.seen[atom as usize]
    }

    pub fn bytes(&self, atom: Atom) -> &[u8] {
        let at = atom as usize * us(SECTOR);
        &self.bytes[at..at + us(SECTOR)]
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `sectors` from `sector` on became those that begin with `first`.
    Write { sector: u64, sectors: u64, first: Atom, fua: bool },
    /// Everything listed before is durable.
    Flush,
    /// A message of the load.
    Mark(String),
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Reads a record; its data goes to `contents`.
pub fn read(disk: &Disk, contents: &mut Contents) -> Vec<Event> {
    let head = disk.read(0, 1);
    assert!(
        word(&head, 0) == MAGIC && word(&head, 8) == 1,
        "{} holds no record of writes: {:02x?}",
        disk.path,
        &head[..16]
    );
    let size = u32::from_le_bytes(head[24..28].try_into().expect("4 bytes"));
    assert!(u64::from(size) == SECTOR, "{}: sectors of {size} bytes", disk.path);
    let (mut events, mut at) = (Vec::new(), 1);
    for _ in 0..word(&head, 16) {
        let entry = disk.read(at, 1);
        let (sector, sectors, flags, text) =
            (word(&entry, 0), word(&entry, 8), word(&entry, 16), word(&entry, 24));
        at += 1;
        if flags & MARK != 0 {
            let text = &entry[32..32 + us(text.min(SECTOR - 32))];
            events.push(Event::Mark(
                String::from_utf8_lossy(text).trim_end_matches('\0').to_string(),
            ));
            continue;
        }
        assert!(flags & DISCARD == 0, "{}: a discard, which no user sent", disk.path);
        if flags & FLUSH != 0 {
            events.push(Event::Flush);
        }
        if sectors > 0 {
            let first = add_range(disk, at, sectors, contents);
            events.push(Event::Write { sector, sectors, first, fua: flags & FUA != 0 });
            at += sectors;
        }
    }
    events
}

/// Adds what a range of a disk holds.
pub fn add_range(disk: &Disk, sector: u64, sectors: u64, contents: &mut Contents) -> Atom {
    let (first, mut at) = (contents.add(&[]), sector);
    while at < sector + sectors {
        let step = MIB.min(sector + sectors - at);
        contents.add(&disk.read(at, step));
        at += step;
    }
    first
}
