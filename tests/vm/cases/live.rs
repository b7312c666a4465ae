//! Three snapshots of one live origin, each with its own chunk size, taken under random writes
//! 32 deep with readers that verify all the while.
//!
//! A write under way when a snapshot is taken may be in it or not, sector by sector; the snapshot's
//! content immediately afterwards counts, and must stay exactly the same to the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::{View, resolve};
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "live-three-snapshots",
            bound_s: 240,
            disks: &["n0", "n1", "n2", "n3"],
            run: three,
        },
        Case { name: "live-writable-snapshots", bound_s: 180, disks: &["n0", "n1"], run: writable },
        Case { name: "live-one-chunk", bound_s: 120, disks: &["n0", "n1"], run: one_chunk },
    ]
}

const SIZE: u64 = 16 * MIB + 5; // short last chunks for all three
const SHAPES: [(&str, u64); 3] = [("n1", 8), ("n2", 32), ("n3", 128)];

fn three(seed: u64) {
    let origin = slice("org", "n0", 0, SIZE);
    let cows: Vec<String> = SHAPES
        .iter()
        .map(|(disk, chunk)| slice(&format!("cow{chunk}"), disk, 0, 24 * MIB))
        .collect();
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name org")));
    let stop = AtomicBool::new(false);
    let plan = Plan::depth_32(100_000, 100);
    let views = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writer = scope.spawn(|| load::write(&view, &top, seed, plan, &stop));
        let mut views: Vec<&'static View> = Vec::new();
        let mut readers = Vec::new();
        for (n, (_, chunk)) in SHAPES.iter().enumerate() {
            pause(600);
            let base = view.open_window();
            let line = format!(
                "snapshot --origin {origin} --cow {} --chunk-size {} --name s{n}",
                cows[n],
                chunk * 512
            );
            let path = server::add(&line);
            let maybe = view.close_window();
            let disk = Disk::open(&path);
            // Leaked on purpose: readers of all three share them until the process ends.
            let frozen: &'static View =
                Box::leak(Box::new(View::with_cells("none", resolve(&disk, base, &maybe))));
            views.push(frozen);
            let stop = &stop;
            readers
                .push(scope.spawn(move || load::verify(frozen, &disk, seed ^ n as u64, 3, stop)));
        }
        pause(5000);
        stop.store(true, Ordering::Relaxed);
        let writes =
            writer.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(writes > 100, "only {writes} writes: too slow to mean anything");
        for reader in readers {
            reader.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
        views
    });
    view.verify(&top);
    drop(top);
    finish(seed, &origin, &cows, &view, &views);
}

/// Exact to the end, each chunk copied once, and the kernel agrees on all three.
fn finish(seed: u64, origin: &str, cows: &[String], view: &View, views: &[&View]) {
    let mut statuses = Vec::new();
    for (n, frozen) in views.iter().enumerate() {
        let name = format!("s{n}");
        let path = server::device(&name)["block_device"].as_str().expect("a path").to_string();
        frozen.verify(&Disk::open(&path));
        let (copies, exceptions) =
            (server::number(&name, "/stats/copies"), server::number(&name, "/snapshot/exceptions"));
        assert!(
            copies == exceptions,
            "seed {seed}: {name} has {exceptions} exceptions but made {copies} copies"
        );
        let records = store::records(&Disk::open(&cows[n]), SHAPES[n].1).len() as u64;
        assert!(
            records == exceptions,
            "seed {seed}: {name} has {records} records on disk, says {exceptions}"
        );
        statuses.push(server::status(&name));
    }
    server::del("s0 s1 s2 org");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(origin));
    for (n, frozen) in views.iter().enumerate() {
        let judge = kernel::snapshot("judge", origin, &cows[n], "P", SHAPES[n].1);
        assert!(
            kernel::status("judge") == statuses[n],
            "seed {seed}: s{n} said {:?}, the kernel {:?}",
            statuses[n],
            kernel::status("judge")
        );
        frozen.verify(&Disk::open(&judge));
        kernel::remove("judge");
    }
}

fn pause(milliseconds: u64) {
    thread::sleep(std::time::Duration::from_millis(milliseconds));
}

/// Origin and two of its snapshots are all written at once; none sees the others' writes.
fn writable(seed: u64) {
    let size = 12 * MIB;
    let origin = slice("org", "n0", 0, size);
    let view = View::new("orig", size);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name org")));
    let mut snaps = Vec::new();
    for (n, chunk) in [8u64, 64].into_iter().enumerate() {
        let cow = slice(&format!("cow{n}"), "n1", n as u64 * 64 * MIB, 24 * MIB);
        let path = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size {} --name s{n}",
            chunk * 512
        ));
        snaps.push((view.snapshot(["sn_a", "sn_b"][n]), Disk::open(&path), cow, chunk));
    }
    let stop = AtomicBool::new(false);
    let plan = Plan { writers: 12, max_sectors: 512, writes: 400, seconds: 40, may_break: false };
    thread::scope(|scope| {
        let mut loads = vec![scope.spawn(|| load::write(&view, &top, seed, plan, &stop))];
        for (n, (view, disk, ..)) in snaps.iter().enumerate() {
            let stop = &stop;
            loads.push(
                scope.spawn(move || load::write(view, disk, seed + 1 + n as u64, plan, stop)),
            );
        }
        let readers: Vec<_> = snaps
            .iter()
            .map(|(view, disk, ..)| scope.spawn(|| load::verify(view, disk, seed, 2, &stop)))
            .collect();
        let done: Vec<_> = loads.into_iter().map(|l| l.join().expect("no panic")).collect();
        stop.store(true, Ordering::Relaxed);
        for result in
            done.into_iter().chain(readers.into_iter().map(|r| r.join().expect("no panic")))
        {
            result.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
    });
    drop(top);
    let cows: Vec<_> = snaps
        .into_iter()
        .map(|(snap, disk, cow, chunk)| {
            snap.verify(&disk);
            (snap, cow, chunk)
        })
        .collect();
    server::del("--all");
    server::assert_nothing_left("del --all");
    view.verify(&Disk::open(&origin));
    for (snap, cow, chunk) in &cows {
        judge(snap, &origin, cow, *chunk, seed);
    }
}

/// The kernel opens a COW, reads the snapshot's content, and no chunk has two records.
fn judge(snap: &View, origin: &str, cow: &str, chunk: u64, seed: u64) {
    let judge = kernel::snapshot("judge", origin, cow, "P", chunk);
    snap.verify(&Disk::open(&judge));
    kernel::remove("judge");
    let records = store::records(&Disk::open(cow), chunk);
    let mut old: Vec<_> = records.iter().map(|r| r.0).collect();
    old.sort_unstable();
    old.dedup();
    assert!(old.len() == records.len(), "seed {seed}: an origin chunk has two records in {cow}");
}

/// Everything at once on a few chunks: held writes, contention, tracked reads.
fn one_chunk(seed: u64) {
    let size = 4 * 256; // four chunks of 128 KiB
    let origin = slice("org", "n0", 0, size);
    for round in 0..4u64 {
        let cow = slice("cow", "n1", round * 8 * MIB, 2 * MIB);
        let view = View::new("orig", size);
        view.fill(&Disk::open(&origin));
        let top = Disk::open(&server::add(&format!("origin --origin {origin} --name org")));
        let path = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 128k --name s"
        ));
        let (disk, snap) = (Disk::open(&path), view.snapshot("snap"));
        let stop = AtomicBool::new(false);
        let plan =
            Plan { writers: 16, max_sectors: 256, writes: 300, seconds: 10, may_break: false };
        thread::scope(|scope| {
            let on_origin = scope.spawn(|| load::write(&view, &top, seed ^ round, plan, &stop));
            let on_snapshot = scope.spawn(|| load::write(&snap, &disk, !seed ^ round, plan, &stop));
            let reader = scope.spawn(|| load::verify(&snap, &disk, seed, 4, &stop));
            let done = [on_origin.join().expect("no panic"), on_snapshot.join().expect("no panic")];
            stop.store(true, Ordering::Relaxed);
            for result in done.into_iter().chain([reader.join().expect("no panic")]) {
                result.unwrap_or_else(|why| panic!("seed {seed}, round {round}: {why}"));
            }
        });
        snap.verify(&disk);
        view.verify(&top);
        drop((disk, top));
        server::del("s org");
        server::assert_nothing_left("del");
        let records = store::records(&Disk::open(&cow), 256).len();
        assert!(records <= 4, "seed {seed}, round {round}: {records} records for four chunks");
        // Its snapshot departed with it: the next round writes the origin anew.
        server::forget_departed();
        kernel::remove("cow");
    }
}
