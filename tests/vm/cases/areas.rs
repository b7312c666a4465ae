//! Stores of more than three areas with chunks too large to fill the store completely.
//!
//! With 1 MiB chunks three areas map 192 GiB. So the metadata is forged on a sparse disk, some data
//! chunks are stamped, and the kernel and ublk-dm take turns from there: the data that they read,
//! report and append must agree. One million exceptions are tested in the same way with 4 KiB
//! chunks.

use crate::Case;
use crate::cases::alternate::{Engine, Served, open};
use crate::disk::{Disk, MIB, slice};
use crate::load::Rng;
use crate::model::Ticket;
use crate::model::{Cell, compare, stamped};
use crate::store;

/// A forged store.
struct Forged {
    chunk: u64,
    count: u64,
    /// Chunks of the origin, with a prime that scatters records over them.
    chunks: u64,
}

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "areas-cs128",
            bound_s: 120,
            disks: &["big0"],
            run: |s| run(s, Forged { chunk: 128, count: 3 * 4096 + 77, chunks: 20011 }),
        },
        Case {
            name: "areas-cs2048",
            bound_s: 120,
            disks: &["big0"],
            run: |s| run(s, Forged { chunk: 2048, count: 3 * 65536 + 77, chunks: 200_003 }),
        },
        Case {
            name: "areas-full-last-area-cs32",
            bound_s: 120,
            disks: &["big0"],
            run: |s| run(s, Forged { chunk: 32, count: 4 * 1024, chunks: 9001 }),
        },
        Case {
            name: "areas-million-exceptions",
            bound_s: 240,
            disks: &["big0"],
            run: |s| run(s, Forged { chunk: 8, count: 1_000_000, chunks: 1_299_709 }),
        },
    ]
}

impl Forged {
    /// The origin chunk of record `index`; `chunks` is prime, so no two are equal.
    fn old(&self, index: u64) -> u64 {
        index * 7919 % self.chunks
    }
}

/// One chunk's stamp at a place of a device.
fn stamp_at(disk: &Disk, place: u64, chunk: u64, content: Ticket) {
    let sample = Ticket { sectors: chunk.min(16), ..content };
    disk.write(place, &stamped(sample));
}

fn run(seed: u64, forged: Forged) {
    let chunk = forged.chunk;
    let areas = forged.count / store::per_area(chunk) + 3;
    // Five sectors of a last chunk that is short.
    let origin = slice("org", "big0", 0, forged.chunks * chunk + 5);
    // From 2 TiB on; in whole MiB, room for two more areas.
    let cow_sectors = (store::area_chunk(chunk, areas) * chunk).next_multiple_of(MIB);
    let cow = slice("cow", "big0", 2 << 31, cow_sectors);
    let (raw_origin, raw_cow) = (Disk::open(&origin), Disk::open(&cow));
    store::forge(&raw_cow, chunk, forged.count, |i| forged.old(i));
    let mut rng = Rng::new(seed);
    let mut samples = Vec::new();
    for n in 0..60 {
        let index = if n < 30 { rng.below(forged.count) } else { forged.count - 1 - rng.below(40) };
        let content = Ticket { sector: forged.old(index) * chunk, sectors: 0, cell: tag(1, index) };
        stamp_at(&raw_cow, store::data_chunk(chunk, index) * chunk, chunk, content);
        samples.push(content);
    }
    // Chunks without a record are read through to the origin.
    for _ in 0..30 {
        let index = forged.count + 1000 + rng.below(forged.chunks - forged.count - 1000);
        let content = Ticket { sector: forged.old(index) * chunk, sectors: 0, cell: tag(2, index) };
        stamp_at(&raw_origin, content.sector, chunk, content);
        samples.push(content);
    }
    let mut last = None;
    let mut fresh = forged.count;
    for turn in 0..6 {
        let engine = [Engine::Kernel, Engine::Ublk][turn % 2];
        let served = open(engine, &origin, &cow, chunk);
        let status = served.status();
        if let Some(last) = &last {
            assert!(
                *last == status,
                "turn {turn}, seed {seed}: status was {last:?}, the other one says {status:?}"
            );
        }
        verify(&served, &samples, chunk, seed);
        for _ in 0..5 {
            samples.push(append(&served, &forged, fresh));
            fresh += 1;
        }
        verify(&served, &samples, chunk, seed);
        last = Some(served.status());
        served.close();
        store::assert_header(&raw_cow, chunk, true);
    }
    assert_records(seed, &raw_cow, &forged, fresh);
}

/// The store has the forged records and those of both drivers, in order.
fn assert_records(seed: u64, raw_cow: &Disk, forged: &Forged, fresh: u64) {
    let chunk = forged.chunk;
    let records = store::records(raw_cow, chunk);
    assert!(
        records.len() as u64 == fresh,
        "seed {seed}: {} records, expected {fresh}",
        records.len()
    );
    for (index, record) in (0u64..).zip(&records) {
        let expected = (forged.old(index), store::data_chunk(chunk, index));
        assert!(
            *record == expected,
            "seed {seed}: record {index} is {record:?}, should be {expected:?}"
        );
    }
}

fn tag(kind: u64, index: u64) -> Cell {
    // "cow?" and "org?" in ASCII, then the index.
    let name = u64::from(u32::from_be_bytes(if kind == 1 { *b"cow?" } else { *b"org?" }));
    name << 32 | index
}

/// Writes a chunk that has no record yet, whole on the snapshot.
fn append(served: &Served, forged: &Forged, index: u64) -> Ticket {
    let content = Ticket {
        sector: forged.old(index) * forged.chunk,
        sectors: forged.chunk,
        cell: tag(1, index),
    };
    served.snapshot.write(content.sector, &stamped(content));
    content
}

fn verify(served: &Served, samples: &[Ticket], chunk: u64, seed: u64) {
    for sample in samples {
        let len = chunk.min(16);
        let found = served.snapshot.read(sample.sector, len);
        let expected = vec![sample.cell; crate::disk::us(len)];
        compare(&served.snapshot.path, sample.sector, &expected, &found)
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}
