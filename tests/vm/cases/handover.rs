//! A snapshot's table in the place of the same one, while origin and snapshot are written: the live
//! store is handed over, to a COW that has grown and to another meaning of a full COW.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Case;
use crate::disk::{Disk, MIB, node, slice};
use crate::model::View;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "handover-grown-cow", bound_s: 180, disks: &["n0", "n1"], run: |_| grown() },
        Case { name: "handover-refused", bound_s: 90, disks: &["n0", "n1"], run: |_| refused() },
    ]
}

const LEN: u64 = 8 * MIB;
const CHUNK: u64 = 8;

fn load(line: &str) {
    run_args(&binary(), &["load", "s", "--table", line]).ok();
}

/// The allocated and all sectors of the COW.
fn used() -> (u64, u64) {
    let status = server::status("s");
    let words = status.split(' ').find_map(|word| word.split_once('/'));
    let numbers = words.and_then(|(used, all)| Some((used.parse().ok()?, all.parse().ok()?)));
    numbers.unwrap_or_else(|| panic!("{status}"))
}

/// Writes the first MiB, which the small COW has room for, again and again. Returns how many writes
/// there were.
fn write_first_mib(view: &View, disk: &Disk, stop: &AtomicBool) -> u64 {
    const STEP: u64 = 32;
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        view.write(disk, done * STEP % MIB, STEP);
        done += 1;
    }
    done
}

fn grown() {
    const SMALL: u64 = 2 * MIB;
    let (origin, cow) = (slice("origin", "n0", 0, LEN), kernel::create("cow", &cow_of(SMALL)));
    let line = |kind: &str| format!("0 {LEN} snapshot {origin} {cow} {kind} {CHUNK}");
    let (old, new) = (View::new("olds", LEN), View::new("news", LEN));
    let written = run_args(&binary(), &["create", "o", "--table", &of_origin(&origin)]).ok().line();
    let written = Disk::open(&written);
    old.fill(&written);
    let top = run_args(&binary(), &["create", "s", "--table", &line("P")]).ok().line();
    let snapshot = Disk::open(&top);
    assert!(used().1 == SMALL, "{}", server::status("s"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writes = scope.spawn(|| write_first_mib(&new, &written, &stop));
        for kind in ["P", "PO", "P"] {
            load(&line(kind));
            ublk_dm("resume s").ok();
            assert!(server::table("s").contains(&format!(" {kind} ")), "{}", server::table("s"));
            old.verify(&snapshot);
        }
        stop.store(true, Ordering::Relaxed);
        let done = writes.join().expect("no panic");
        assert!(done > 20, "only {done} writes");
    });
    kernel::swap("cow", &cow_of(2 * SMALL));
    load(&line("PO"));
    ublk_dm("suspend s").ok();
    let pid = server::number("s", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("recover --all").ok();
    ublk_dm("resume s").ok();
    assert!(used().1 == 2 * SMALL, "{}", server::status("s"));
    new.write(&written, MIB, 2 * MIB);
    old.verify(&snapshot);
    // The snapshot's own writes fill the COW: it stays readable, as its table says by now.
    let (mine, mut at) = (View::new("mine", LEN), 4 * MIB);
    while !server::status("s").contains("Overflow") {
        assert!(at < LEN, "{}", server::status("s"));
        drop(mine.try_write(&snapshot, at, CHUNK));
        at += CHUNK;
    }
    assert!(!server::status("s").contains("Invalid"), "{}", server::status("s"));
    snapshot.read(0, 64);
    drop((snapshot, written));
    server::del("o s");
    server::assert_nothing_left("handover-grown-cow");
    kernel::remove("cow");
    kernel::remove("origin");
}

fn of_origin(origin: &str) -> String {
    format!("0 {LEN} snapshot-origin {origin}")
}

/// A COW of this length.
fn cow_of(len: u64) -> String {
    format!("0 {len} linear {} 0", node("n1"))
}

/// A table with another COW or another kind of store leaves the old one running.
fn refused() {
    let origin = slice("origin", "n0", 0, LEN);
    let [one, two] = [("one", 0), ("two", LEN)].map(|(name, at)| slice(name, "n1", at, LEN));
    let line = |cow: &str, kind: &str| format!("0 {LEN} snapshot {origin} {cow} {kind} {CHUNK}");
    let top = run_args(&binary(), &["create", "s", "--table", &line(&one, "P")]).ok().line();
    let (view, disk) = (View::new("mine", MIB), Disk::open(&top));
    view.fill(&disk);
    run_args(&binary(), &["load", "s", "--table", &line(&one, "N")]).refused();
    for cow in [&two, "/dev/nonsense"] {
        load(&line(cow, "P"));
        let out = ublk_dm("resume s").refused();
        let stays = "the old table is still in place, and the device continues to run";
        assert!(out.stderr.contains(cow) && out.stderr.contains(stays), "{}", out.stderr);
        view.write(&disk, 5, 30);
    }
    load(&line(&one, "P"));
    ublk_dm("resume s").ok();
    view.verify_range(&disk, 0, MIB);
    drop(disk);
    server::del("s");
    let judge = Disk::open(&kernel::create("judge", &line(&one, "P")));
    view.verify_range(&judge, 0, MIB);
    drop(judge);
    ["judge", "one", "two", "origin"].into_iter().for_each(kernel::remove);
}
