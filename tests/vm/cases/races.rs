//! Slow disks, so that requests overtake each other wherever they can: reads, writes and flushes
//! are each delayed separately (`dm-delay`) while all users work on the same few chunks, in
//! sectors, and snapshots are added and deleted.
//!
//! No read may return a wrong sector, no user stalls, and the server's memory does not grow.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Case;
use crate::disk::{Buf, Disk, MIB, node};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::{View, compare, resolve};
use crate::{kernel, server, sh};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "races-overtaken-read", bound_s: 60, disks, run: |_| overtaken_read() },
        Case {
            name: "races-slow-origin",
            bound_s: 120,
            disks,
            run: |s| rounds(s, [7, 1, 2], [1, 2, 3]),
        },
        Case {
            name: "races-slow-cow",
            bound_s: 120,
            disks,
            run: |s| rounds(s, [1, 3, 1], [2, 6, 9]),
        },
    ]
}

/// A few chunks of every size, the last one short.
const ORIGIN: u64 = MIB + 3;
const ROUNDS: u64 = 6;
/// Writes of the origin that every round must see; without a stall there are hundreds.
const WRITES_PER_ROUND: u64 = 40;
/// The growth of a server's memory that is allowed from the second round to the last, and its total
/// limit.
const GROWTH_KIB: u64 = 16 << 10;
const RSS_KIB: u64 = 200 << 10;

/// A disk whose reads, writes and flushes take these milliseconds.
fn slow(
    name: &str,
    disk: &str,
    start: u64,
    sectors: u64,
    [reads, writes, flushes]: [u64; 3],
) -> String {
    let real = node(disk);
    let part = |delay: u64| format!("{real} {start} {delay}");
    kernel::create(
        name,
        &format!("0 {sectors} delay {} {} {}", part(reads), part(writes), part(flushes)),
    )
}

/// A snapshot's read is on its way to the origin, which is slow, when the chunk has been copied and
/// the origin's write could go on. It must wait for the read; a server that lets it pass shows the
/// new data in the old snapshot.
fn overtaken_read() {
    read_beside_a_copy().unwrap_or_else(|why| panic!("{why}"));
    sh::use_mutant("ReadsIgnored");
    // The read may have come too late to be overtaken.
    assert!(
        (0..4).any(|_| read_beside_a_copy().is_err()),
        "ReadsIgnored goes unnoticed: the disk was not slow enough"
    );
}

/// Reads from the snapshot what is being copied for a write of the origin.
fn read_beside_a_copy() -> Result<(), String> {
    const READ_MS: u64 = 400;
    let origin = slow("org", "n0", 0, MIB, [READ_MS, 0, 0]);
    let cow = slow("cow", "n1", 0, MIB, [0, 0, 0]);
    Disk::open(&cow).zero(0, 64);
    let view = View::new("orig", MIB);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    let path =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    let (frozen, disk) = (view.open_window(), Disk::open(&path));
    let mut buf = Buf::new(8);
    thread::scope(|scope| {
        scope.spawn(|| view.write(&top, 16, 8));
        // The copy's read takes as long as this one; this one begins later and ends later.
        thread::sleep(Duration::from_millis(READ_MS / 2));
        disk.try_read(16, &mut buf).expect("a read");
    });
    let right = compare(&disk.path, 16, &frozen[16..24], &buf);
    drop((top, disk));
    server::del("s o");
    server::assert_nothing_left("del");
    // The next origin and COW are other disks, with the same names.
    server::forget_departed();
    ["cow", "org"].into_iter().for_each(kernel::remove);
    right
}

/// A snapshot that is read, and perhaps written, until it goes.
struct Guest {
    name: String,
    stop: Arc<AtomicBool>,
    work: Vec<JoinHandle<Result<u64, String>>>,
}

impl Guest {
    /// Takes a snapshot of an origin under load and starts users on it.
    fn new(seed: u64, n: u64, view: &View, origin: &str, cow: &str) -> Guest {
        let name = format!("s{n}");
        let chunk = ["4k", "64k", "512", "16k"][crate::disk::us(n % 4)];
        let base = view.open_window();
        let path = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size {chunk} --name {name}"
        ));
        let maybe = view.close_window();
        let disk = Arc::new(Disk::open(&path));
        let own = Arc::new(View::with_cells("snap", resolve(&disk, base, &maybe)));
        let stop = Arc::new(AtomicBool::new(false));
        let work = |job: fn(&View, &Disk, u64, &AtomicBool) -> Result<u64, String>| {
            let (own, disk, stop) = (own.clone(), disk.clone(), stop.clone());
            thread::spawn(move || job(&own, &disk, seed ^ n, &stop))
        };
        let mut all = vec![work(|view, disk, seed, stop| load::verify(view, disk, seed, 4, stop))];
        if n % 2 == 0 {
            let plan = Plan {
                writers: 4,
                max_sectors: 12,
                writes: u64::MAX,
                seconds: 100,
                may_break: false,
            };
            all.push(thread::spawn({
                let (own, disk, stop) = (own.clone(), disk.clone(), stop.clone());
                move || load::write(&own, &disk, !seed ^ n, plan, &stop)
            }));
        }
        Guest { name, stop, work: all }
    }

    fn leave(self, seed: u64) {
        self.stop.store(true, Ordering::Relaxed);
        for work in self.work {
            let done = work
                .join()
                .expect("no panic")
                .unwrap_or_else(|why| panic!("seed {seed}: {}: {why}", self.name));
            assert!(done > 0, "{}: nothing was done in a whole round", self.name);
        }
        let device = server::device(&self.name);
        assert!(
            device["snapshot"]["valid"] == true && device["stats"]["errors"] == 0,
            "seed {seed}: {device}"
        );
        server::del(&self.name);
    }
}

/// The resident memory of a process.
fn rss_kib(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn rounds(seed: u64, origin_ms: [u64; 3], cow_ms: [u64; 3]) {
    let origin = slow("org", "n0", 0, ORIGIN, origin_ms);
    let view = View::new("orig", ORIGIN);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    let pid = server::number("o", "/server_pid");
    let stop = AtomicBool::new(false);
    let plan =
        Plan { writers: 10, max_sectors: 24, writes: u64::MAX, seconds: 100, may_break: false };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writer = scope.spawn(|| load::write(&view, &top, seed, plan, &stop));
        let (mut guests, mut early, mut writes) = (Vec::new(), 0, 0);
        for n in 0..ROUNDS {
            let start = Instant::now();
            let cow = slow(&format!("cow{n}"), "n1", n * 8 * MIB, 8 * MIB, cow_ms);
            guests.push(Guest::new(seed, n, &view, &origin, &cow));
            thread::sleep(Duration::from_millis(400));
            if guests.len() > 2 {
                guests.remove(0).leave(seed);
            }
            let now = server::number("o", "/stats/writes");
            assert!(
                now >= writes + WRITES_PER_ROUND,
                "round {n}: {} writes in {:?}",
                now - writes,
                start.elapsed()
            );
            writes = now;
            if n == 1 {
                early = rss_kib(pid);
            }
        }
        guests.into_iter().for_each(|guest| guest.leave(seed));
        let late = rss_kib(pid);
        println!("  {writes} origin writes; the server has {early} KiB, then {late} KiB");
        assert!(
            late < early + GROWTH_KIB && late < RSS_KIB,
            "the server grew from {early} to {late} KiB"
        );
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&top);
    assert!(
        server::number("o", "/stats/errors") == 0,
        "the origin counts errors: {}",
        server::device("o")
    );
    drop(top);
    server::del("o");
    assert!(server::forget_lost() > 0, "snapshots that the origin has outlived are lost");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&origin));
}
