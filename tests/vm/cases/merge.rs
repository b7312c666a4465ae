//! A snapshot is merged back into its origin: by the kernel and by ublk-dm in turn, under a device
//! that stays in use, and through the death of the server.
//!
//! What the device shows is the snapshot from the first moment on; other snapshots stay as they
//! are; at the end the origin's disk holds what the device shows, and the store is empty.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::alternate::{Engine, open};
use crate::disk::{Disk, MIB, slice};
use crate::load::{self, Plan, Rng, StopOnDrop};
use crate::model::View;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{Case, kernel, server, store};

pub fn cases() -> Vec<Case> {
    let case = |name, disks, run| Case { name, bound_s: 180, disks, run };
    vec![
        case("merge-alternate-cs8", &["n0", "n1"], |s| alternate(s, "n0", "n1", 8, 0)),
        case("merge-alternate-cs32-short", &["n0", "n1"], |s| alternate(s, "n0", "n1", 32, 17)),
        case("merge-alternate-cs8-4k", &["k0", "k1"], |s| alternate(s, "k0", "k1", 8, 0)),
        case("merge-live", &["n0", "n1", "n2"], live),
        case("merge-killed", &["n0", "n1"], killed),
    ]
}

const SIZE: u64 = 8 * MIB;

/// Serves the merge for a moment; `true` if it has come to its end.
fn merge_for_a_moment(engine: Engine, line: &str, view: &View, rng: &mut Rng) -> bool {
    let node = match engine {
        Engine::Kernel => kernel::create("kmerge", line),
        Engine::Ublk => run_args(&binary(), &["create", "umerge", "--table", line]).ok().line(),
    };
    let disk = Disk::open(&node);
    for _ in 0..rng.below(3) {
        let (at, count) = rng.range(view.sectors(), disk.block, 200);
        view.write(&disk, at, count);
        view.verify_range(&disk, at, count);
    }
    let status = match engine {
        Engine::Kernel => kernel::status("kmerge"),
        Engine::Ublk => server::status("umerge"),
    };
    drop(disk);
    match engine {
        Engine::Kernel => kernel::remove("kmerge"),
        Engine::Ublk => server::del("umerge"),
    }
    is_done(&status)
}

/// Whether a status line is that of an empty store.
pub fn is_done(status: &str) -> bool {
    let words: Vec<&str> = status.split(' ').collect();
    assert!(words.len() == 5 && words[2] == "snapshot-merge", "status {status:?}");
    words[3].split('/').next() == Some(words[4])
}

/// The kernel and ublk-dm take turns, stopped wherever they happen to be.
fn alternate(seed: u64, origin: &'static str, cow: &'static str, chunk: u64, short: u64) {
    let size = SIZE + short;
    let (origin, cow) = (slice("org", origin, 0, size), slice("cow", cow, 0, 2 * SIZE));
    let (raw, raw_cow) = (Disk::open(&origin), Disk::open(&cow));
    let org_view = View::new("orig", size);
    org_view.fill(&raw);
    store::poison(&raw_cow, chunk, 3);
    let view = org_view.snapshot("snap");
    let mut rng = Rng::new(seed);
    let maker = if seed % 2 == 0 { Engine::Ublk } else { Engine::Kernel };
    let served = open(maker, &origin, &cow, chunk);
    for _ in 0..300 {
        let (at, count) = rng.range(size, served.snapshot.block, 4 * chunk);
        view.write(&served.snapshot, at, count);
    }
    // The last chunk, which may be short; and something that is in the store for the origin's sake.
    view.write(&served.snapshot, size - served.snapshot.block, served.snapshot.block);
    org_view.write(&served.origin, 3 * chunk, 2 * chunk);
    served.close();
    let records = store::records(&raw_cow, chunk).len();
    assert!(records > 100, "{records} records");
    let line = format!("0 {size} snapshot-merge {origin} {cow} P {chunk}");
    let mut turns = 0;
    loop {
        let engine = if (seed + turns) % 2 == 0 { Engine::Kernel } else { Engine::Ublk };
        turns += 1;
        let done = merge_for_a_moment(engine, &line, &view, &mut rng);
        if engine == Engine::Ublk {
            server::forget_departed();
        }
        let left = store::records(&raw_cow, chunk).len();
        println!("turn {turns}: {left} of {records} records left");
        // As an ordinary snapshot it shows the same while no other program changes the origin.
        let judge = kernel::snapshot("judge", &origin, &cow, "P", chunk);
        view.verify(&Disk::open_read_only(&judge));
        kernel::remove("judge");
        assert!(turns < 500, "seed {seed}: it does not end");
        if done {
            assert!(left == 0, "done, and {left} records are left");
            break;
        }
    }
    view.verify(&raw);
    store::assert_header(&raw_cow, chunk, true);
}

/// The origin's device stays while its table becomes that of a merge and plain again; another
/// snapshot is there all the time.
fn live(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let other = slice("other", "n2", 0, 2 * SIZE);
    let org_view = View::new("orig", SIZE);
    org_view.fill(&Disk::open(&origin));
    let top = server::add(&format!("origin --origin {origin} --name o"));
    let snap =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    let view = org_view.snapshot("snap");
    let kept =
        server::add(&format!("snapshot --origin {origin} --cow {other} --chunk-size 16k --name k"));
    let kept_view = org_view.snapshot("kept");
    let (top, kept) = (Disk::open(&top), Disk::open(&kept));
    {
        let snap = Disk::open(&snap);
        let mut rng = Rng::new(seed);
        for _ in 0..200 {
            let (at, count) = rng.range(SIZE, snap.block, 64);
            view.write(&snap, at, count);
            let (at, count) = rng.range(SIZE, top.block, 64);
            org_view.write(&top, at, count);
        }
    }
    let line = format!("0 {SIZE} snapshot-merge {origin} {cow} P 8");
    let load = |line: &str| run_args(&binary(), &["load", "o", "--table", line]).ok();
    load(&line);
    // Open, but not claimed: that does not keep the device.
    let opened = Disk::open_read_only(&snap);
    ublk_dm("suspend o").ok();
    ublk_dm("resume o").ok();
    assert!(server::list().iter().all(|device| device["name"] != "s"), "its device has ended");
    drop(opened);
    // From now on the device shows the snapshot, and is written.
    let (stop, plan) = (AtomicBool::new(false), Plan::depth_32(600, 60));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let (view, top, stop) = (&view, &top, &stop);
        let writers = scope.spawn(move || load::write(view, top, seed, plan, stop));
        server::wait_for(60, "the end of the merge", || is_done(&server::status("o")));
        writers.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&top);
    kept_view.verify(&kept);
    load(&format!("0 {SIZE} snapshot-origin {origin}"));
    ublk_dm("resume o").ok();
    assert_eq!(server::table("o").split(' ').nth(2), Some("snapshot-origin"));
    view.write(&top, 8, 100);
    view.verify(&top);
    kept_view.verify(&kept);
    drop((top, kept));
    server::del("o k");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&origin));
    let judge = kernel::snapshot("judge", &origin, &other, "P", 32);
    kept_view.verify(&Disk::open_read_only(&judge));
    kernel::remove("judge");
    assert_eq!(store::records(&Disk::open(&cow), 8).len(), 0);
}

/// The server dies in the middle of a merge, several times; its successor goes on with it.
fn killed(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let org_view = View::new("orig", SIZE);
    org_view.fill(&Disk::open(&origin));
    let view = org_view.snapshot("snap");
    let served = open(Engine::Ublk, &origin, &cow, 8);
    for chunk in (0..SIZE / 8).step_by(2) {
        view.write(&served.snapshot, chunk * 8, 8);
    }
    served.close();
    let line = format!("0 {SIZE} snapshot-merge {origin} {cow} P 8");
    let top = run_args(&binary(), &["create", "o", "--table", &line]).ok().line();
    let top = Disk::open(&top);
    let mut halves = 0;
    for round in 0..6u64 {
        let pid = server::number("o", "/server_pid");
        halves += u64::from(!is_done(&server::status("o")));
        sh(&format!("kill -9 {pid}")).ok();
        server::wait_gone(pid);
        ublk_dm("recover o").ok();
        view.write(&top, (seed ^ round) % 1000 * 8, 64);
        view.verify(&top);
    }
    println!("it was killed {halves} times in the middle of the merge");
    server::wait_for(60, "the end of the merge", || is_done(&server::status("o")));
    view.verify(&top);
    drop(top);
    server::del("o");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&origin));
}
