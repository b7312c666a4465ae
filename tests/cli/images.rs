//! Images of COW devices and mirror logs, good and bad, made from the format's description alone.
//!
//! Nothing here uses the program's own code for the formats: the two must agree, which is what the tests find out.

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// A COW with an exception store, to be put together piece by piece.
#[derive(Clone)]
pub struct Store {
    bytes: Vec<u8>,
    chunk_bytes: usize,
    records: usize,
}

impl Store {
    /// An empty, valid store of that many chunks.
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

    /// Puts a record behind the last one.
    pub fn record(mut self, old: u64, new: u64) -> Store {
        self.records += 1;
        let last = self.records - 1;
        self.record_at(last, old, new)
    }

    /// Puts a record at a place of its own, counted over all areas; the others stay.
    pub fn record_at(mut self, number: usize, old: u64, new: u64) -> Store {
        let at = self.record_offset(number);
        self.bytes[at..at + 8].copy_from_slice(&old.to_le_bytes());
        self.bytes[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
        self
    }

    /// Fills the store as a server does: origin chunks `from`, `from + 1`, ... go to one data chunk after the other.
    pub fn filled(mut self, count: usize, from: u64) -> Store {
        for number in self.records..self.records + count {
            let new = self.data_chunk(number);
            self = self.record(from + number as u64, new);
        }
        self
    }

    /// The data chunk of the record with that number in a store without holes.
    pub fn data_chunk(&self, number: usize) -> u64 {
        (2 + number + number / self.records_per_area()) as u64
    }

    /// Where the record with that number is.
    pub fn record_offset(&self, number: usize) -> usize {
        let (area, index) = (number / self.records_per_area(), number % self.records_per_area());
        (1 + area * (self.records_per_area() + 1)) * self.chunk_bytes + index * 16
    }

    /// Records in an area.
    pub fn records_per_area(&self) -> usize {
        self.chunk_bytes / 16
    }

    /// Cuts the device off.
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

/// An image that must be refused, and why.
pub struct BadImage {
    /// What is wrong with it, for people.
    pub name: &'static str,
    /// The image.
    pub bytes: Vec<u8>,
    /// The origin's size, if it takes one to see the fault.
    pub origin_bytes: Option<u64>,
    /// The kind of violation that `check --json` names.
    pub kind: &'static str,
    /// A part of the reason in text.
    pub reason: &'static str,
    /// Where the violation is, if it is anywhere.
    pub offset_bytes: Option<u64>,
}

fn bad(name: &'static str, bytes: Vec<u8>, kind: &'static str, reason: &'static str, offset: Option<u64>) -> BadImage {
    BadImage { name, bytes, origin_bytes: None, kind, reason, offset_bytes: offset }
}

/// Every crafted bad image.
pub fn bad_images() -> Vec<BadImage> {
    let mut images = bad_headers();
    images.extend(bad_records());
    images.extend(bad_ends());
    images.extend(bad_logs());
    images
}

fn bad_headers() -> Vec<BadImage> {
    let store = || Store::new(8, 40).filled(3, 5);
    let version_and_size = store().header_word(2, 9).header_word(3, 7).bytes();
    let swapped: Vec<u8> = store().bytes().chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let mut ext = vec![0; 65536];
    ext[1024] = 1;
    ext[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xEF]);
    let mut file_system = vec![0; 65536];
    file_system[..4].copy_from_slice(b"XFSB");
    vec![
        bad("nothing at all", Vec::new(), "too_small", "0 bytes are too small for a header", Some(0)),
        bad("shorter than a header", store().truncated(15), "too_small", "15 bytes are too small", Some(0)),
        bad("zeroes", vec![0; 65536], "no_store", "no store: the first word is zero", Some(0)),
        bad("magic wiped", store().header_word(0, 0).bytes(), "no_store", "no store", Some(0)),
        bad("an ext file system", ext, "no_store", "signature of ext2 at byte 1080", Some(0)),
        bad("a file system", file_system, "foreign_magic", "0x42534658", Some(0)),
        bad("words of the other byte order", swapped, "foreign_magic", "0x536e4170", Some(0)),
        bad("version 0", store().header_word(2, 0).bytes(), "bad_version", "format version 0;", Some(8)),
        bad("version 2", store().header_word(2, 2).bytes(), "bad_version", "format version 2;", Some(8)),
        bad("chunk size 0", store().header_word(3, 0).bytes(), "bad_chunk_size", "size of 0 sectors", Some(12)),
        bad("chunk size 7", store().header_word(3, 7).bytes(), "bad_chunk_size", "size of 7 sectors", Some(12)),
        bad("2 GiB chunks", store().header_word(3, 0x40_0000).bytes(), "bad_chunk_size", "4194304 sectors", Some(12)),
        bad("chunk size of ones", store().header_word(3, u32::MAX).bytes(), "bad_chunk_size", "4294967295", Some(12)),
        bad("version and size", version_and_size, "bad_version", "format version 9;", Some(8)),
        bad("marked invalid", store().header_word(1, 0).bytes(), "marked_invalid", "marked invalid", Some(4)),
    ]
}

fn bad_records() -> Vec<BadImage> {
    // chunks of 4096 bytes: area 0 at chunk 1, area 1 at chunk 258; record 1 is at byte 4112
    let with = |old, new| Store::new(8, 300).record(5, 2).record(old, new).record(7, 4).bytes();
    let at = Some(4112);
    // chunks of 512 bytes: 32 records per area, areas at chunks 1, 34, 67
    let across = |old, new| Store::new(1, 80).filled(40, 0).record(old, new).bytes();
    let mut garbage = Store::new(1, 80).bytes();
    garbage[512..1024].fill(0xA5);
    let beyond_origin =
        bad("origin chunk beyond the origin", with(100, 3), "old_beyond_origin", "beyond the origin", at);
    vec![
        bad("data in area 0", with(6, 1), "new_is_metadata", "record 1 of area 0 (6 -> 1) points into metadata", at),
        bad("data in area 1", with(6, 258), "new_is_metadata", "(6 -> 258) points into metadata", at),
        bad("data right behind the end", with(6, 300), "new_beyond_cow", "(6 -> 300) points beyond the COW's end", at),
        bad("data far behind the end", with(6, 5000), "new_beyond_cow", "points beyond the COW's end", at),
        bad("data chunk 2^56", with(6, 1 << 56), "new_too_large", "points beyond the COW's end", at),
        bad("data chunk of ones", with(6, u64::MAX), "new_too_large", "points beyond the COW's end", at),
        bad("an origin longer than any", with(1 << 60, 3), "old_beyond_origin", "beyond the origin's end", at),
        bad("both halves absurd", with(u64::MAX, u64::MAX), "old_beyond_origin", "beyond the origin's end", at),
        BadImage { origin_bytes: Some(100 * 4096), ..beyond_origin },
        bad("an origin chunk twice", with(5, 3), "old_twice", "repeats an origin chunk, as record 0 of area 0", at),
        bad("a COW chunk twice", with(6, 2), "new_twice", "repeats a COW chunk, as record 0 of area 0", at),
        bad("a record twice", with(5, 2), "old_twice", "(5 -> 2) repeats an origin chunk", at),
        bad("twice in two areas", across(3, 43), "old_twice", "record 8 of area 1 (3 -> 43)", Some(34 * 512 + 128)),
        bad("old data in area 0", garbage, "old_beyond_origin", "beyond the origin's end", Some(512)),
    ]
}

fn bad_ends() -> Vec<BadImage> {
    let full = |chunks| Store::new(1, chunks).filled(32, 0).bytes();
    let cut_area = Store::new(8, 2).truncated(4096 + 512);
    let partial = Store::new(8, 40).record(5, 39).truncated(39 * 4096 + 2048);
    vec![
        bad("header only", Store::new(8, 1).bytes(), "area_beyond_end", "area 0 at byte 4096 does not fit", Some(4096)),
        bad("no room for data", Store::new(8, 2).bytes(), "too_small", "has 2 chunks; a store needs 3", None),
        bad("area 0 cut off", cut_area, "area_beyond_end", "area 0 at byte 4096 does not fit", Some(4096)),
        bad(
            "1 GiB chunks on 64 KiB",
            Store::new(8, 16).header_word(3, 1 << 21).bytes(),
            "too_small",
            "has 0 chunks",
            None,
        ),
        bad("full area at the end", full(34), "full_area_without_next", "area 0 is full, but area 1", Some(34 * 512)),
        bad(
            "cut in the middle",
            Store::new(8, 40).filled(20, 0).truncated(81920),
            "new_beyond_cow",
            "beyond",
            Some(4384),
        ),
        bad("data in the partial chunk", partial, "new_beyond_cow", "(5 -> 39) points beyond", Some(4096)),
    ]
}

fn bad_logs() -> Vec<BadImage> {
    let cut = log(2, 8, &[0xFF])[..1024].to_vec();
    vec![
        bad("log version 3", log(3, 8, &[0xFF]), "log_bad_version", "log has format version 3", Some(4)),
        bad("log version 0", log(0, 8, &[0xFF]), "log_bad_version", "log has format version 0", Some(4)),
        bad("log of 2^32 regions", log(2, 1 << 32, &[]), "log_too_many_regions", "4294967296 regions", Some(8)),
        bad("log larger than its device", log(2, 1 << 20, &[]), "log_truncated", "needs 132096 bytes", Some(4096)),
        bad("log without bits", cut, "log_truncated", "needs 1032 bytes", Some(1024)),
    ]
}

/// A good image and what is in it: records, next free chunk, holes, stale records.
pub struct GoodStore {
    /// What it shows, for people.
    pub name: &'static str,
    /// The image.
    pub bytes: Vec<u8>,
    /// Records in all areas.
    pub records: u64,
    /// The next chunk to be handed out.
    pub next_free: u64,
    /// Data chunks that are lost.
    pub holes: u64,
    /// Records behind the terminator.
    pub stale: u64,
    /// The status line the kernel prints for it.
    pub status: &'static str,
}

/// Stores that kernels were seen to open, with the numbers they showed.
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
