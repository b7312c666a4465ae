//! The error matrix under load: a disk fails at one step of preserving a chunk while the origin is
//! being written.
//!
//! Whatever fails, the origin's writers see nothing, the snapshot becomes `Invalid` and never shows
//! a wrong sector, another snapshot of the same origin stays exact, the log names disk and sector,
//! the COW is marked where the mark can be written, and the device can be deleted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::Case;
use crate::disk::{Buf, Disk, MIB, slice};
use crate::faults::{Fails, Fault, Faulty};
use crate::load::{self, Plan, Rng, StopOnDrop};
use crate::model::View;
use crate::sh::ublk_dm;
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "error-cow-data", bound_s: 120, disks, run: |s| row(s, &ROWS[0]) },
        Case { name: "error-area", bound_s: 120, disks, run: |s| row(s, &ROWS[1]) },
        Case { name: "error-next-area", bound_s: 120, disks, run: |s| row(s, &ROWS[2]) },
        Case { name: "error-cow-flush", bound_s: 120, disks, run: |s| row(s, &ROWS[3]) },
        Case { name: "error-mark", bound_s: 120, disks, run: |s| row(s, &ROWS[4]) },
        Case { name: "error-cow-gone", bound_s: 120, disks, run: |s| row(s, &ROWS[5]) },
        Case { name: "error-origin-read", bound_s: 120, disks, run: |s| row(s, &ROWS[6]) },
        Case { name: "error-transient-data", bound_s: 120, disks, run: |s| row(s, &ROWS[7]) },
        Case {
            name: "error-transient-origin-read",
            bound_s: 120,
            disks,
            run: |s| row(s, &ROWS[8]),
        },
    ]
}

pub const CHUNK: u64 = 8;
pub const ORIGIN: u64 = 8 * MIB;
/// With a few sectors at the end that are no chunk and are never written: there flushes fail.
pub const COW: u64 = 12 * MIB + 4;
pub const FLUSHES: Fault = (Fails::WritesAndFlushes, 12 * MIB, 4);
/// A range of the origin that becomes unreadable; the other snapshot has copied it before.
pub const UNREADABLE: (u64, u64) = (512 * CHUNK, 40 * CHUNK);

/// A fault and its visible effects.
struct Row {
    store: &'static str,
    cow: &'static [Fault],
    origin: &'static [Fault],
    /// Number of exceptions when it begins to fail.
    after: u64,
    /// The mark can be written.
    marked: bool,
    /// Words of the line in the log.
    says: &'static str,
}

/// The first areas: 256 records each, and as many chunks behind them.
const AREAS: [Fault; 4] = [
    (Fails::All, CHUNK, CHUNK),
    (Fails::All, 258 * CHUNK, CHUNK),
    (Fails::All, 515 * CHUNK, CHUNK),
    (Fails::All, 772 * CHUNK, CHUNK),
];

const ROWS: [Row; 9] = [
    // COW data, from some chunk on.
    Row { cow: &[(Fails::All, 60 * CHUNK, 9 * MIB)], says: "copying a chunk failed", ..ROW },
    // The current area, whichever that is by the time the disk begins to fail.
    Row { cow: &AREAS, after: 20, says: "writing its exceptions failed", ..ROW },
    // The next area, when the first one fills.
    Row { cow: &[(Fails::All, 258 * CHUNK, CHUNK)], says: "writing its exceptions failed", ..ROW },
    // Flushes alone; the mark is a FUA write and needs none.
    Row { cow: &[FLUSHES], after: 20, says: "writing its exceptions failed", ..ROW },
    // Data, and then the header.
    Row {
        cow: &[(Fails::All, 0, CHUNK), (Fails::All, 60 * CHUNK, 9 * MIB)],
        marked: false,
        says: "copying a chunk failed",
        ..ROW
    },
    // The whole COW.
    Row { cow: &[(Fails::All, 0, COW)], after: 20, marked: false, says: "failed", ..ROW },
    // The origin cannot be read where it is about to be overwritten.
    Row {
        origin: &[(Fails::Reads, UNREADABLE.0, UNREADABLE.1)],
        says: "copying a chunk failed",
        ..ROW
    },
    Row {
        store: "transient",
        cow: &[(Fails::All, 60 * CHUNK, 9 * MIB)],
        says: "copying a chunk failed",
        ..ROW
    },
    Row {
        store: "transient",
        origin: &[(Fails::Reads, UNREADABLE.0, UNREADABLE.1)],
        says: "copying a chunk failed",
        ..ROW
    },
];

const ROW: Row =
    Row { store: "persistent", cow: &[], origin: &[], after: 0, marked: true, says: "" };

/// An origin with two snapshots, one of which is affected by the fault.
pub struct Scene {
    pub origin: Faulty,
    pub cow: Faulty,
    pub view: View,
    pub top: Disk,
    good: (View, Disk, String),
}

impl Scene {
    pub fn new() -> Scene {
        let (origin, cow) = (Faulty::new("org", "n0", 0, ORIGIN), Faulty::new("bad", "n1", 0, COW));
        let view = View::new("orig", ORIGIN);
        view.fill(&Disk::open(&origin.node));
        let top = Disk::open(&server::add(&format!("origin --origin {} --name o", origin.node)));
        let roomy = slice("good", "n2", 0, 16 * MIB);
        let good = server::add(&format!(
            "snapshot --origin {} --cow {roomy} --chunk-size 16k --name g",
            origin.node
        ));
        let good = (view.snapshot("none"), Disk::open(&good), roomy);
        view.write(&top, UNREADABLE.0, UNREADABLE.1);
        Scene { origin, cow, view, top, good }
    }

    /// The command that adds the affected snapshot.
    pub fn line(&self, store: &str) -> String {
        let (origin, cow) = (&self.origin.node, &self.cow.node);
        format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --store {store} --name v")
    }

    pub fn add(&self, store: &str) -> (View, Disk) {
        let path = server::add(&self.line(store));
        (self.view.snapshot("snap"), Disk::open(&path))
    }

    /// All other devices are unaffected; then all are deleted. Returns the disks that remain: the
    /// origin's and the COW.
    pub fn finish(self) -> (String, String) {
        self.origin.set(&[]);
        self.cow.set(&[]);
        let (frozen, good, cow) = self.good;
        frozen.verify(&good);
        self.view.verify(&self.top);
        assert!(
            server::status("g").contains('/'),
            "the other snapshot is {:?}",
            server::status("g")
        );
        assert!(
            server::number("g", "/stats/errors") == 0,
            "the other snapshot counts errors: {}",
            server::device("g")
        );
        drop((good, self.top));
        server::del("--all");
        server::assert_nothing_left("del --all");
        self.view.verify(&Disk::open(&self.origin.node));
        let judge = kernel::snapshot("judge", &self.origin.node, &cow, "P", 32);
        frozen.verify(&Disk::open(&judge));
        kernel::remove("judge");
        (self.origin.node, self.cow.node)
    }
}

/// A line of the servers' logs with all these words. Lines are written by a thread of their own, a
/// moment later.
pub fn assert_logged(words: &[&str]) {
    let found = || server::log().lines().any(|line| words.iter().all(|word| line.contains(word)));
    server::wait_for(5, &format!("a line of the log with {words:?} in {}", server::log()), found);
}

/// Reads until `stop`: read data must be right. Counts the successful reads.
fn watch(
    view: &View,
    disk: &Disk,
    seed: u64,
    right: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let (sector, sectors) = rng.range(disk.sectors, 1, 64);
        match view.try_verify(disk, sector, sectors) {
            Ok(_) => drop(right.fetch_add(1, Ordering::Relaxed)),
            Err(why) if why.contains(": read of ") => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

fn row(seed: u64, row: &Row) {
    let scene = Scene::new();
    let (frozen, victim) = scene.add(row.store);
    let (stop, reads) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    let plan =
        Plan { writers: 8, max_sectors: 64, writes: u64::MAX, seconds: 60, may_break: false };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let readers: Vec<_> = (0..)
            .zip(&reads)
            .map(|(n, reads)| (n, reads, &frozen, &victim, &stop))
            .map(|(n, reads, frozen, victim, stop)| {
                scope.spawn(move || watch(frozen, victim, seed ^ n, reads, stop))
            })
            .collect();
        // Reads of an invalid snapshot fail.
        server::wait_for(20, "the first reads", || {
            reads.iter().all(|reads| reads.load(Ordering::Relaxed) > 0)
        });
        let writer = scope.spawn(|| load::write(&scene.view, &scene.top, seed, plan, &stop));
        if row.after > 0 {
            server::wait_for(20, "exceptions", || {
                server::number("v", "/snapshot/exceptions") >= row.after
            });
        }
        scene.cow.set(row.cow);
        scene.origin.set(row.origin);
        server::wait_for(30, "the snapshot to be invalid", || {
            server::status("v").ends_with(" Invalid")
        });
        let writes = server::number("o", "/stats/writes");
        server::wait_for(20, "the origin to go on", || {
            server::number("o", "/stats/writes") > writes + 50
        });
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        for reader in readers {
            reader.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
    });
    assert!(
        server::number("o", "/stats/errors") == 0,
        "the origin counts errors: {}",
        server::device("o")
    );
    assert!(victim.try_read(0, &mut Buf::new(8)).is_err(), "an invalid snapshot reads");
    assert!(victim.try_write(0, &Buf::new(8)).is_err(), "an invalid snapshot takes writes");
    let disk = if row.origin.is_empty() { &scene.cow.node } else { &scene.origin.node };
    assert_logged(&["v:", "invalidated", row.says, disk, "at sector"]);
    drop(victim);
    finish(scene, row);
}

/// Deletes the snapshot, and checks that the loss is recorded in the run directory or on the COW.
fn finish(scene: Scene, row: &Row) {
    if row.store == "persistent" && !row.marked {
        assert_logged(&["v:", "could not mark", &scene.cow.node]);
    }
    server::del("v");
    scene.cow.set(&[]);
    scene.origin.set(&[]);
    let lost = row.store == "persistent" && !row.marked;
    if lost {
        let said = ublk_dm(&format!("add {}", scene.line(row.store))).refused();
        assert!(said.code == 1 && said.stderr.contains("could not be marked"), "{}", said.stderr);
    }
    assert!(
        server::forget_lost() == usize::from(lost),
        "what is lost and not marked is recorded, and nothing else"
    );
    let (origin, cow) = scene.finish();
    judge_mark(&origin, &cow, row);
}

/// The COW's state afterwards, according to ublk-dm and to the kernel.
fn judge_mark(origin: &str, cow: &str, row: &Row) {
    if row.store != "persistent" {
        return;
    }
    store::assert_header(&Disk::open(cow), CHUNK, !row.marked);
    if row.marked {
        kernel::snapshot("judge", origin, cow, "P", CHUNK);
        let status = kernel::status("judge");
        kernel::remove("judge");
        assert!(status.ends_with(" Invalid"), "the kernel says {status:?}");
    }
}
