//! The kernel and ublk-dm take turns as writers of one origin and one COW.
//!
//! At every hand-over one side opens the store that the other left: status and table lines must be
//! those of the last writer, both views (origin and snapshot) must equal the model, and the header
//! chunk must be the canonical one, byte for byte. With chunks of 8 sectors the store is really
//! filled over more than three areas; `areas` tests larger chunks.

use std::sync::atomic::AtomicBool;
use std::thread;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::load::{self, Plan, Rng};
use crate::model::View;
use crate::{kernel, server, store};

/// A setup: a chunk size, an origin and the disks.
struct Setup {
    chunk: u64,
    origin: &'static str,
    cow: &'static str,
    origin_sectors: u64,
    cow_sectors: u64,
    /// Writes of each turn on the snapshot and on the origin.
    writes: u64,
    max_sectors: u64,
    /// Whole chunks the first turn writes, to fill areas fast.
    fill_chunks: u64,
}

/// The server of the devices.
#[derive(Clone, Copy, PartialEq)]
pub enum Engine {
    Kernel,
    Ublk,
}

/// A case of the usual bound.
fn case(name: &'static str, disks: &'static [&'static str], run: fn(u64)) -> Case {
    Case { name, bound_s: 180, disks, run }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("alternate-cs8", &["n0", "n1"], |s| run(s, cs8("n0", "n1", 0))),
        case("alternate-cs8-short", &["n0", "n1"], |s| run(s, cs8("n0", "n1", 3))),
        case("alternate-cs8-4k", &["k0", "k1"], |s| run(s, cs8("k0", "k1", 0))),
        case("alternate-cs32-short", &["n0", "n1"], |s| run(s, large("n0", "n1", 32, 17))),
        case("alternate-cs32-4k-short", &["k0", "k1"], |s| run(s, large("k0", "k1", 32, 8))),
        case("alternate-cs128", &["n0", "n1"], |s| run(s, large("n0", "n1", 128, 0))),
        case("alternate-cs128-short", &["s0", "s1"], |s| run(s, large("s0", "s1", 128, 1))),
        case("alternate-cs128-4k-short", &["k0", "k1"], |s| run(s, large("k0", "k1", 128, 8))),
        case("alternate-cs2048-short", &["n0", "n1"], |s| run(s, large("n0", "n1", 2048, 1000))),
        case("alternate-cs2048-4k", &["k0", "k1"], |s| run(s, large("k0", "k1", 2048, 0))),
    ]
}

/// 4 KiB chunks: 256 records in an area; 800 exceptions reach the fourth. On 4096-byte blocks
/// a 4 KiB chunk is never short.
fn cs8(origin: &'static str, cow: &'static str, short: u64) -> Setup {
    let (origin_sectors, cow_sectors) = (4 * MIB + short, 8 * MIB);
    Setup {
        chunk: 8,
        origin,
        cow,
        origin_sectors,
        cow_sectors,
        writes: 40,
        max_sectors: 64,
        fill_chunks: 800,
    }
}

/// Three areas would take 48 MiB with 16 KiB chunks, 768 MiB with 64 KiB, 192 GiB with 1 MiB.
fn large(origin: &'static str, cow: &'static str, chunk: u64, short: u64) -> Setup {
    let (origin_sectors, cow_sectors) = (10 * MIB + short, 16 * MIB);
    Setup {
        chunk,
        origin,
        cow,
        origin_sectors,
        cow_sectors,
        writes: 40,
        max_sectors: (2 * chunk).min(2048),
        fill_chunks: 2,
    }
}

/// The devices of one turn; `close` removes them.
pub struct Served {
    pub engine: Engine,
    pub origin: Disk,
    pub snapshot: Disk,
}

pub fn open(engine: Engine, origin: &str, cow: &str, chunk: u64) -> Served {
    let (snapshot, top) = match engine {
        Engine::Kernel => {
            let snapshot = kernel::snapshot("ksnap", origin, cow, "PO", chunk);
            (snapshot, kernel::origin("korg", origin))
        }
        Engine::Ublk => {
            let bytes = chunk * 512;
            let top = server::add(&format!("origin --origin {origin} --name uorg"));
            let line = format!(
                "snapshot --origin {origin} --cow {cow} --chunk-size {bytes} --on-full overflow \
                 --name usnap"
            );
            (server::add(&line), top)
        }
    };
    Served { engine, origin: Disk::open(&top), snapshot: Disk::open(&snapshot) }
}

impl Served {
    pub fn status(&self) -> String {
        match self.engine {
            Engine::Kernel => kernel::status("ksnap"),
            Engine::Ublk => server::status("usnap"),
        }
    }

    /// Status and table lines of the snapshot, table line of the origin.
    fn lines(&self) -> [String; 3] {
        match self.engine {
            Engine::Kernel => {
                [kernel::status("ksnap"), kernel::table("ksnap"), kernel::table("korg")]
            }
            Engine::Ublk => {
                [server::status("usnap"), server::table("usnap"), server::table("uorg")]
            }
        }
    }

    pub fn close(self) {
        drop((self.origin, self.snapshot));
        match self.engine {
            Engine::Kernel => ["korg", "ksnap"].into_iter().for_each(kernel::remove),
            Engine::Ublk => {
                server::del("usnap uorg");
                server::assert_nothing_left("del");
            }
        }
    }
}

fn run(seed: u64, setup: Setup) {
    let origin = slice("org", setup.origin, 0, setup.origin_sectors);
    let cow = slice("cow", setup.cow, 0, setup.cow_sectors);
    let raw_cow = Disk::open(&cow);
    let org_view = View::new("orig", setup.origin_sectors);
    org_view.fill(&Disk::open(&origin));
    store::poison(&raw_cow, setup.chunk, 5);
    let snap_view = org_view.snapshot("snap");
    // Either side may make the store.
    let order =
        if seed % 2 == 0 { [Engine::Ublk, Engine::Kernel] } else { [Engine::Kernel, Engine::Ublk] };
    let mut last = None;
    // Three rounds; the seventh turn only checks the state that the sixth left.
    for turn in 0..7u64 {
        let served = open(order[usize::from(turn % 2 == 1)], &origin, &cow, setup.chunk);
        let lines = served.lines();
        let told = last.as_ref().is_none_or(|last| *last == lines);
        assert!(
            told,
            "turn {turn}, seed {seed}: the last writer said {last:?}, after the hand-over it is \
             {lines:?}"
        );
        snap_view.verify(&served.snapshot);
        org_view.verify(&served.origin);
        store::assert_header(&raw_cow, setup.chunk, true);
        if turn == 0 {
            fill(&served, &snap_view, setup.fill_chunks, setup.chunk);
        }
        if turn < 6 {
            write_both(&served, &snap_view, &org_view, seed ^ turn, &setup);
        }
        last = Some(served.lines());
        served.close();
        assert_records(&raw_cow, &setup, turn, seed);
    }
    let areas =
        store::records(&raw_cow, setup.chunk).len() as u64 / store::per_area(setup.chunk) + 1;
    assert!(
        areas > 3 || setup.chunk > 8,
        "the case is meant to reach a fourth area, it reached {areas}"
    );
}

/// Whole chunks in a scattered order, so that records are not merely ascending.
fn fill(served: &Served, snap_view: &View, chunks: u64, chunk: u64) {
    let all = snap_view.sectors() / chunk;
    for index in 0..chunks {
        // 7919 is a prime and no divisor of any number of chunks used here.
        snap_view.write(&served.snapshot, index * 7919 % all * chunk, chunk);
    }
}

/// Both devices at once, eight deep each, and critical places.
fn write_both(served: &Served, snap_view: &View, org_view: &View, seed: u64, setup: &Setup) {
    let plan = Plan {
        writers: 8,
        max_sectors: setup.max_sectors,
        writes: setup.writes,
        seconds: 30,
        may_break: false,
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let snap = scope.spawn(|| load::write(snap_view, &served.snapshot, seed, plan, &stop));
        let org = scope.spawn(|| load::write(org_view, &served.origin, !seed, plan, &stop));
        for thread in [snap, org] {
            let result = thread.join().expect("no panic in a load");
            result.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
    });
    let (all, block, chunk) = (setup.origin_sectors, served.snapshot.block, setup.chunk);
    let mut rng = Rng::new(seed);
    for (view, disk) in [(snap_view, &served.snapshot), (org_view, &served.origin)] {
        // The very end, a whole chunk, and across a boundary between chunks.
        view.write(disk, all - block, block);
        let at = rng.below(all / chunk) * chunk;
        view.write(disk, at, chunk);
        view.write(disk, chunk - block, 2 * block);
    }
}

/// No origin chunk twice, no hole, nothing but data chunks.
fn assert_records(cow: &Disk, setup: &Setup, turn: u64, seed: u64) {
    let records = store::records(cow, setup.chunk);
    let mut old: Vec<u64> = records.iter().map(|r| r.0).collect();
    old.sort_unstable();
    let count = old.len();
    old.dedup();
    assert!(old.len() == count, "turn {turn}, seed {seed}: an origin chunk has two records");
    for (index, record) in (0u64..).zip(&records) {
        let new = store::data_chunk(setup.chunk, index);
        assert!(
            record.1 == new,
            "turn {turn}, seed {seed}: record {index} is {record:?}, its COW chunk should be {new}"
        );
    }
}
