//! The written data: every sector of every write has unique content, so that read data shows its
//! source.

use std::cell::RefCell;
use std::collections::HashMap;

use dm_targets::sim::image::{SectorData, bytes_of};

const MAGIC: &[u8; 8] = b"pattern.";
/// The origin's initial content.
pub const ORIGIN: u32 = 0;
/// The first number for writes before a workload.
pub const PREPARED: u32 = 1;
/// A discard, which leaves zeroes where it has an effect.
pub const DISCARD: u32 = 2;
/// The first number for writes of a workload.
pub const FIRST_WRITE: u32 = 100;

thread_local! {
    static MADE: RefCell<HashMap<(u32, u64), SectorData>> = RefCell::default();
}

/// The content that write `id` puts into a sector.
pub fn sector(id: u32, sector: u64) -> SectorData {
    if id == DISCARD {
        return SectorData::zero();
    }
    MADE.with_borrow_mut(|made| {
        let make = || {
            let mut bytes = Vec::with_capacity(512);
            while bytes.len() < 512 {
                bytes.extend_from_slice(MAGIC);
                bytes.extend_from_slice(&u64::from(id).to_le_bytes());
                bytes.extend_from_slice(&sector.to_le_bytes());
                bytes.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            }
            SectorData::new(&bytes)
        };
        made.entry((id, sector)).or_insert_with(make).clone()
    })
}

/// The payload of write `id` over a range.
pub fn payload(id: u32, first: u64, count: u64) -> Vec<u8> {
    bytes_of(&(first..first + count).map(|at| sector(id, at)).collect::<Vec<_>>())
}

/// Describes a sector's content.
pub fn describe(data: &SectorData) -> String {
    let bytes = data.bytes();
    if bytes.iter().all(|byte| *byte == 0) {
        return "zeroes".into();
    }
    if &bytes[..8] != MAGIC {
        return format!("{data:?}");
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (id, at) = (word(8), word(16));
    let whole = u32::try_from(id).is_ok_and(|id| sector(id, at) == *data);
    let id = match u32::try_from(id) {
        Ok(ORIGIN) => "the first origin's".into(),
        Ok(PREPARED) => "the preparation's".into(),
        _ => format!("write {id}'s"),
    };
    format!("{id} sector {at}{}", if whole { "" } else { ", damaged" })
}
