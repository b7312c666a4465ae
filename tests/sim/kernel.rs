//! The exception store as the kernel reads it, in a second, naive implementation: bytes in,
//! snapshot view out. It shares nothing with the code under test.

use dm_targets::sim::image::{Image, SectorData};
use dm_targets::units::{Sector, Sectors};

/// The content of a COW device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// No magic word: no store yet.
    Empty,
    /// A snapshot that is marked invalid.
    Invalid,
    /// A usable store.
    Valid(Store),
}

/// A usable store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Sectors in a chunk.
    pub chunk: u64,
    /// Old and new chunk of every record, in the order of the areas.
    pub records: Vec<(u64, u64)>,
    /// There are bytes after the terminator of the last area. The kernel ignores them now and
    /// writes them back later.
    pub stale_tail: bool,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    word[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(word)
}

/// Loads a store; an error is content that the kernel refuses, or a meaningless record.
pub fn load(cow: &Image, origin_sectors: u64) -> Result<Loaded, String> {
    let header = cow.read(Sector(0), Sectors(1));
    match number(&header, 0, 4) {
        0 => return Ok(Loaded::Empty),
        0x7041_6E53 => {}
        other => return Err(format!("magic word {other:#x}")),
    }
    let chunk = number(&header, 12, 4);
    if !chunk.is_power_of_two() || chunk > 1 << 21 {
        return Err(format!("chunk size {chunk}"));
    }
    if number(&header, 8, 4) != 1 {
        return Err(format!("version {}", number(&header, 8, 4)));
    }
    if number(&header, 4, 4) == 0 {
        return Ok(Loaded::Invalid);
    }
    let (records, stale_tail) = load_areas(cow, chunk)?;
    let (per_area, chunks) = (chunk * 32, cow.size().0 / chunk);
    for (index, (old, new)) in records.iter().enumerate() {
        let place = format!("record {index} ({old} -> {new})");
        if *old >= origin_sectors.div_ceil(chunk) {
            return Err(format!("{place}: beyond the origin"));
        }
        if *new >= chunks {
            return Err(format!("{place}: beyond the COW"));
        }
        if new % (per_area + 1) == 1 || *new == 0 {
            return Err(format!("{place}: points into metadata"));
        }
        if records[..index].iter().any(|(o, n)| o == old || n == new) {
            return Err(format!("{place}: repeats an earlier record"));
        }
    }
    Ok(Loaded::Valid(Store { chunk, records, stale_tail }))
}

fn load_areas(cow: &Image, chunk: u64) -> Result<(Vec<(u64, u64)>, bool), String> {
    let per_area = chunk * 32;
    let mut records = Vec::new();
    for area in 0.. {
        let at = (1 + area * (per_area + 1)) * chunk;
        if at + chunk > cow.size().0 {
            return Err(format!("area {area} lies beyond the COW's end"));
        }
        let bytes = cow.read(Sector(at), Sectors(chunk));
        for (index, slot) in bytes.chunks(16).enumerate() {
            let (old, new) = (number(slot, 0, 8), number(slot, 8, 8));
            if new == 0 {
                return Ok((records, bytes[index * 16..].iter().any(|byte| *byte != 0)));
            }
            records.push((old, new));
        }
    }
    Ok((records, false))
}

impl Store {
    /// Whether the records use consecutive data chunks, as in stores that were always committed in
    /// order.
    pub fn is_dense(&self) -> bool {
        let per_area = self.chunk * 32;
        let mut data_chunks = (2..).filter(|chunk| chunk % (per_area + 1) != 1);
        self.records.iter().all(|(_, new)| data_chunks.next() == Some(*new))
    }
}

/// The content of a snapshot with that store. An empty COW shows the origin; an invalid store shows
/// nothing.
pub fn view(loaded: &Loaded, cow: &Image, origin: &Image) -> Option<Vec<SectorData>> {
    let mut view = origin.sectors.clone();
    match loaded {
        Loaded::Empty => {}
        Loaded::Invalid => return None,
        Loaded::Valid(store) => {
            let len = usize::try_from(store.chunk).unwrap();
            for (old, new) in &store.records {
                let (old, new) =
                    (usize::try_from(*old).unwrap() * len, usize::try_from(*new).unwrap() * len);
                let count = len.min(view.len() - old);
                view[old..old + count].clone_from_slice(&cow.sectors[new..new + count]);
            }
        }
    }
    Some(view)
}

/// How many exceptions a COW can hold: the existing ones, and the data chunks after the last used
/// one; one less if filling an area would need a next area for which the COW has no room (exception
/// store, rule 5.3).
pub fn capacity(cow_sectors: u64, chunk: u64, records: &[(u64, u64)]) -> u64 {
    let (per_area, chunks) = (chunk * 32, cow_sectors / chunk);
    let first_free = records.iter().map(|(_, new)| new + 1).max().unwrap_or(2);
    let free = (first_free..chunks).filter(|chunk| chunk % (per_area + 1) != 1).count() as u64;
    let total = records.len() as u64 + free;
    let area_after = 1 + (total / per_area) * (per_area + 1);
    if free > 0 && total % per_area == 0 && area_after >= chunks { total - 1 } else { total }
}
