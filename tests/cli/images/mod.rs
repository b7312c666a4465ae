//! Images of COW devices and mirror logs, good and bad, made from the format's description alone.
//!
//! Nothing here uses the program's own code for the formats: the tests check that both agree.

mod bad;

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// A COW with an exception store, built piece by piece.
#[derive(Clone)]
pub struct Store {
    bytes: Vec<u8>,
    chunk_bytes: usize,
    records: usize,
}

impl Store {
    /// An empty, valid store of `chunks` chunks.
    pub fn new(chunk_sectors: u32, chunks: usize) -> Store {
        let chunk_bytes = chunk_sectors as usize * SECTOR;
        let mut store = Store { bytes: vec![0; chunk_bytes * chunks], chunk_bytes, records: 0 };
        for (index, word) in [0x7041_6E53, 1, 1, chunk_sectors].into_iter().enumerate() {
            store = store.header_word(index, word);
        }
        store
    }

    /// Overwrites a word of the header: 0 magic, 1 valid, 2 version, 3 chunk size.
    pub fn header_word(mut self, index: usize, word: u32) -> Store {
        self.bytes[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
        self
    }

    /// Appends a record.
    pub fn record(mut self, old: u64, new: u64) -> Store {
        self.records += 1;
        let last = self.records - 1;
        self.record_at(last, old, new)
    }

    /// Puts a record at an index, counted over all areas; the other records stay.
    pub fn record_at(mut self, number: usize, old: u64, new: u64) -> Store {
        let at = self.record_offset(number);
        self.bytes[at..at + 8].copy_from_slice(&old.to_le_bytes());
        self.bytes[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
        self
    }

    /// Fills the store as a server does: origin chunks `from`, `from + 1`, ... go to one data chunk
    /// after the other.
    pub fn filled(mut self, count: usize, from: u64) -> Store {
        for number in self.records..self.records + count {
            let new = self.data_chunk(number);
            self = self.record(from + number as u64, new);
        }
        self
    }

    /// The data chunk of record `index` in a store without holes.
    pub fn data_chunk(&self, number: usize) -> u64 {
        (2 + number + number / self.records_per_area()) as u64
    }

    /// The position of record `index`.
    pub fn record_offset(&self, number: usize) -> usize {
        let (area, index) = (number / self.records_per_area(), number % self.records_per_area());
        (1 + area * (self.records_per_area() + 1)) * self.chunk_bytes + index * 16
    }

    /// Records in an area.
    pub fn records_per_area(&self) -> usize {
        self.chunk_bytes / 16
    }

    /// Truncates the device.
    pub fn truncated(mut self, bytes: usize) -> Vec<u8> {
        self.bytes.truncate(bytes);
        self.bytes
    }

    /// The image.
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A mirror's log with a header and the bits of 64 regions per word, on a device of 4 KiB.
pub fn log(version: u32, regions: u64, bits: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(&0x4D69_5272_u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&version.to_le_bytes());
    bytes[8..16].copy_from_slice(&regions.to_le_bytes());
    for (index, word) in bits.iter().enumerate() {
        bytes[1024 + index * 8..1024 + index * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// An image that must be refused, with the reason.
pub struct BadImage {
    /// The fault, for people.
    pub name: &'static str,
    /// The image.
    pub bytes: Vec<u8>,
    /// The origin's size, if the fault shows only with an origin.
    pub origin_bytes: Option<u64>,
    /// The kind of violation that `check --json` names.
    pub kind: &'static str,
    /// A part of the reason in text.
    pub reason: &'static str,
    /// The place of the violation, if it has one.
    pub offset_bytes: Option<u64>,
}

/// Every crafted bad image.
pub fn bad_images() -> Vec<BadImage> {
    let mut images = bad::bad_headers();
    images.extend(bad::bad_records());
    images.extend(bad::bad_ends());
    images.extend(bad::bad_logs());
    images
}

/// A good image and its content: records, next free chunk, holes, stale records.
pub struct GoodStore {
    /// What the image tests, for people.
    pub name: &'static str,
    /// The image.
    pub bytes: Vec<u8>,
    /// Records in all areas.
    pub records: u64,
    /// The next chunk to be allocated.
    pub next_free: u64,
    /// Data chunks that no record uses.
    pub holes: u64,
    /// Records behind the terminator.
    pub stale: u64,
    /// The status line the kernel prints for it.
    pub status: &'static str,
}

/// Stores that kernels have opened, with the numbers that they showed.
pub fn good_stores() -> Vec<GoodStore> {
    let good = |name, store: Store, records, next_free, holes, stale, status| {
        let bytes = store.bytes();
        GoodStore { name, bytes, records, next_free, holes, stale, status }
    };
    let observed = Store::new(8, 4096).record(5, 2).record(9, 3);
    let holes = Store::new(8, 400).record(1, 2).record(2, 257);
    let many_holes = (0..200).fold(Store::new(8, 400), |store, old| store.record(old, old + 2));
    let many_holes = many_holes.record(201, 260).record(202, 257);
    let torn = Store::new(8, 400).record(10, 2).record_at(2, 12, 4);
    vec![
        good("empty", Store::new(8, 4096), 0, 2, 0, 0, "16/32768 16"),
        good("empty, larger chunks", Store::new(16, 2048), 0, 2, 0, 0, "32/32768 32"),
        good("two records", observed.clone(), 2, 4, 0, 0, "32/32768 16"),
        good("valid is not only 1", observed.header_word(1, 2), 2, 4, 0, 0, "32/32768 16"),
        good("one full area", Store::new(8, 4096).filled(256, 0), 256, 259, 0, 0, "2072/32768 24"),
        good("two areas", Store::new(8, 4096).filled(300, 0), 300, 303, 0, 0, "2424/32768 24"),
        good("highest chunk before an area", holes, 2, 259, 254, 0, "2072/3200 16"),
        good("records out of order", many_holes, 202, 261, 56, 0, "2088/3200 16"),
        good("torn area write", torn, 1, 3, 0, 1, "24/3200 16"),
        good("last slot unused", Store::new(1, 34).filled(31, 0), 31, 33, 0, 0, "33/34 2"),
    ]
}
