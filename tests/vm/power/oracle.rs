//! Whether a disk that lost power still holds the promised content.
//!
//! The rules, for an origin and its snapshots on one disk: every sector of the origin holds the
//! last flushed content or content sent later. A COW whose device was never acknowledged has no
//! header, or an empty store. Otherwise its header is right and its records are those of a store
//! without holes; the snapshot shows through them, sector by sector, the last flushed content or
//! content sent to the snapshot later: never data that was sent only to the origin. Where a COW
//! could run full the header may say invalid instead.

use crate::disk::us;
use crate::store;

use super::history::{History, Promise};
use super::log::{Contents, Seen};
use super::replay::Image;

/// A snapshot of a layout.
pub struct Snapshot {
    /// The start of its COW on the disk.
    pub start: u64,
    /// The COW's length.
    pub sectors: u64,
    pub chunk: u64,
    pub history: History,
    /// It may become invalid.
    pub may_end: bool,
}

/// An origin at the start of a disk, and the COWs of its snapshots behind it. Devices are numbered
/// in this order.
pub struct Layout {
    pub origin: History,
    pub snapshots: Vec<Snapshot>,
}

/// The promises of a log's marks so far, device by device.
pub struct Promises(Vec<Promise>);

impl Promises {
    pub fn new(layout: &Layout) -> Promises {
        Promises(vec![Promise::default(); 1 + layout.snapshots.len()])
    }

    pub fn all(&self) -> &[Promise] {
        &self.0
    }

    /// Takes a mark in; a mark that is not the load's is ignored.
    pub fn hear(&mut self, mark: &str) {
        let words: Vec<&str> = mark.split(',').collect();
        let number = |n: usize| words.get(n).and_then(|word| word.parse::<u64>().ok());
        let Some(promise) = number(1).and_then(|device| self.0.get_mut(us(device))) else { return };
        match (words[0], number(2)) {
            ("a", Some(count)) => promise.acknowledged = promise.acknowledged.max(count),
            ("f", Some(count)) => promise.flushed = promise.flushed.max(count),
            ("c", None) => promise.created = true,
            _ => {}
        }
    }
}

impl Layout {
    pub fn origin_sectors(&self) -> u64 {
        self.origin.view().sectors()
    }

    /// Whether a sector's content was certainly sent to it by then. A chunk that was copied bears
    /// the stamp of an older write, so in a COW only the snapshot's own writes tell.
    pub fn sent_before(&self, sector: u64, seen: Seen, promises: &[Promise]) -> bool {
        if sector < self.origin_sectors() {
            return seen.sector == sector
                && self.origin.sent_before(sector, seen.cell, promises[0].acknowledged);
        }
        let of = |s: &Snapshot| (s.start..s.start + s.sectors).contains(&sector);
        let found = self.snapshots.iter().zip(&promises[1..]).find(|(snapshot, _)| of(snapshot));
        let own = |cell: u64| cell.to_be_bytes()[0] == b's';
        found.is_some_and(|(snapshot, promise)| {
            own(seen.cell)
                && snapshot.history.sent_before(seen.sector, seen.cell, promise.acknowledged)
        })
    }

    /// Judges a state.
    pub fn judge(
        &self,
        contents: &Contents,
        image: &Image,
        promises: &[Promise],
    ) -> Result<(), String> {
        let origin = image[..us(self.origin_sectors())].iter().map(|atom| contents.seen(*atom));
        if let Some((sector, seen)) = self.origin.first_wrong(promises[0], origin) {
            return Err(wrong("origin", &self.origin, sector, promises[0], seen));
        }
        for (n, (snapshot, promise)) in self.snapshots.iter().zip(&promises[1..]).enumerate() {
            let of = |why: String| format!("snapshot {n}: {why}");
            match header(contents, image, snapshot).map_err(of)? {
                Header::Absent if promise.created => {
                    return Err(of("it was acknowledged and has no header".into()));
                }
                Header::Absent => {}
                Header::Invalid if !snapshot.may_end => {
                    return Err(of("it says that it is invalid".into()));
                }
                Header::Invalid => {}
                Header::Valid => {
                    self.judge_view(contents, image, snapshot, *promise).map_err(of)?
                }
            }
        }
        Ok(())
    }

    fn judge_view(
        &self,
        contents: &Contents,
        image: &Image,
        of: &Snapshot,
        promise: Promise,
    ) -> Result<(), String> {
        let view = view(contents, image, of, self.origin_sectors())?;
        let found = of.history.first_wrong(promise, view.into_iter());
        found.map_or(Ok(()), |(sector, seen)| {
            Err(wrong("its view", &of.history, sector, promise, seen))
        })
    }
}

fn wrong(what: &str, history: &History, sector: u64, promise: Promise, seen: Seen) -> String {
    let expected = history.expected(sector, promise);
    let found = if seen.cell == super::log::NO_STAMP {
        "no stamp".to_string()
    } else {
        format!("{} for sector {}", crate::model::name(seen.cell), seen.sector)
    };
    format!("{what}: sector {sector} should hold {expected}; holds {found}")
}

/// The content of a header.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    Absent,
    Valid,
    Invalid,
}

/// Reads a COW's header, which must be absent or right.
pub fn header(contents: &Contents, image: &Image, of: &Snapshot) -> Result<Header, String> {
    let bytes = contents.bytes(image[us(of.start)]);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    if word(0) == 0 {
        return Ok(Header::Absent);
    }
    let chunk = u32::try_from(of.chunk).expect("small");
    for (valid, header) in [(0, Header::Invalid), (1, Header::Valid)] {
        if bytes[..16] == store::header(store::MAGIC, valid, 1, chunk)
            && store::is_identity(&bytes[16..])
        {
            return Ok(header);
        }
    }
    Err(format!("its header begins with {:02x?}", &bytes[..16]))
}

/// The records of a store: in the order of allocation, ended by zeroes, with an area after every
/// full one.
pub fn records(contents: &Contents, image: &Image, of: &Snapshot) -> Result<Vec<u64>, String> {
    let (mut old_chunks, chunk) = (Vec::new(), of.chunk);
    for area in 0.. {
        let start = store::area_chunk(chunk, area) * chunk;
        if start + chunk > of.sectors {
            return Err(format!("area {} is full and has no successor", area - 1));
        }
        let mut ended = false;
        for sector in start..start + chunk {
            for bytes in contents.bytes(image[us(of.start + sector)]).chunks_exact(16) {
                let word =
                    |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
                let (old, new, index) = (word(0), word(8), old_chunks.len() as u64);
                if ended && (old, new) != (0, 0) {
                    return Err(format!(
                        "area {area}: {old} -> {new} stands behind the terminator"
                    ));
                }
                ended |= new == 0;
                if !ended && new != store::data_chunk(chunk, index) {
                    return Err(format!(
                        "record {index} is {old} -> {new}, which was not its turn"
                    ));
                }
                if !ended {
                    old_chunks.push(old);
                }
            }
        }
        if ended {
            break;
        }
    }
    Ok(old_chunks)
}

/// The content of a snapshot.
pub fn view(
    contents: &Contents,
    image: &Image,
    of: &Snapshot,
    sectors: u64,
) -> Result<Vec<Seen>, String> {
    let mut view: Vec<Seen> =
        image[..us(sectors)].iter().map(|atom| contents.seen(*atom)).collect();
    let mut copied = vec![false; us(sectors.div_ceil(of.chunk))];
    for (index, old) in (0..).zip(records(contents, image, of)?) {
        match copied.get_mut(us(old)) {
            Some(copied) if !*copied => *copied = true,
            Some(_) => return Err(format!("chunk {old} has two records")),
            None => return Err(format!("record {index} is for chunk {old}, behind the end")),
        }
        let (from, at) = (of.start + store::data_chunk(of.chunk, index) * of.chunk, old * of.chunk);
        for n in 0..of.chunk.min(sectors - at) {
            view[us(at + n)] = contents.seen(image[us(from + n)]);
        }
    }
    Ok(view)
}
