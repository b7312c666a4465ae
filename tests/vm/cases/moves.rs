//! Data that move to another disk under a mounted file system: a mirror in the place of a range,
//! and the range on its new leg in the place of the mirror, as `pvmove` does it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::disk::{self, Disk, MIB, node};
use crate::faults::{Fails, Faulty};
use crate::load::{Rng, StopOnDrop};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{kernel, server, tree};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "moves-live", bound_s: 300, disks: &["n0", "n1"], run: live },
        Case { name: "moves-refused", bound_s: 180, disks: &["n0", "n1"], run: |_| refused() },
    ]
}

fn load(name: &str, line: &str) {
    run_args(&binary(), &["load", name, "--table", line]).ok();
}

fn linear(len: u64, disk: &str) -> String {
    format!("0 {len} linear {disk} 2048")
}

fn mirror(len: u64, legs: [&str; 2]) -> String {
    format!("0 {len} mirror core 1 1024 2 {} 2048 {} 2048", legs[0], legs[1])
}

/// A mounted ext4 moves to another disk and back while files are written, with a kill during each
/// recovery and after each end of a mirror.
fn live(seed: u64) {
    const SIZE: u64 = 64 * MIB;
    let (one, two) = (node("n0"), node("n1"));
    let dir = scratch("moves-live");
    let line = linear(SIZE, &one);
    let top = run_args(&binary(), &["create", "l", "--table", &line]).ok().line();
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    sh(&format!("mount {top} {dir}")).ok();
    tree::grow(&dir, &mut Rng::new(seed), 40, 200 << 10);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let churn = scope.spawn(|| tree::churn(&dir, seed, &stop));
        for (from, to, suspended) in [(&one, &two, false), (&two, &one, true)] {
            thread::sleep(Duration::from_millis(300));
            // The disk with the data need not be the first leg.
            let legs = if suspended { [to, from] } else { [from, to] };
            load("l", &mirror(SIZE, [legs[0], legs[1]]));
            if suspended {
                ublk_dm("suspend l").ok();
            }
            ublk_dm("resume l").ok();
            assert!(!disk::is_free(from) && !disk::is_free(to), "a leg is not claimed");
            killed();
            ublk_dm("wait l --in-sync").ok();
            load("l", &linear(SIZE, to));
            ublk_dm("resume l").ok();
            assert!(disk::is_free(from), "{from}: its claim");
            assert!(!disk::is_free(to), "{to} is not claimed");
            assert!(server::table("l").contains("linear"), "{}", server::table("l"));
            killed();
        }
        stop.store(true, Ordering::Relaxed);
        churn.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    server::del("l");
    server::assert_nothing_left("moves-live");
    let judge = kernel::create("judge", &linear(SIZE, &one));
    sh(&format!("e2fsck -fn {judge}")).ok();
    kernel::remove("judge");
    // What was left behind is known to be stale.
    let line = mirror(SIZE, [&two, &one]);
    let out = run_args(&binary(), &["create", "m", "--table", &line]).refused();
    assert!(out.stderr.contains("it is not up to date"), "{}", out.stderr);
    server::forget_ended_legs();
}

fn killed() {
    let pid = server::number("l", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("recover l").ok();
}

/// A mirror is not left for a leg that is not in sync, or that has missed a write: the device runs
/// on with the mirror.
fn refused() {
    const LEN: u64 = 8 * MIB;
    let one = node("n0");
    let weak = Faulty::new("weak", "n1", 0, LEN + 4096);
    weak.set(&[(Fails::NothingButSlow { read_ms: 0, write_ms: 400 }, 2048, LEN)]);
    let line = linear(LEN, &one);
    let top = run_args(&binary(), &["create", "l", "--table", &line]).ok().line();
    let (view, disk) = (View::new("move", LEN), Disk::open(&top));
    view.fill(&disk);
    load("l", &mirror(LEN, [&one, &weak.node]));
    ublk_dm("resume l").ok();
    let refuse = |why: &str| {
        load("l", &linear(LEN, &weak.node));
        let out = ublk_dm("resume l").refused();
        let stays = "the old table is still in place, and the device continues to run";
        let parts = ["leg 1 of the mirror is not known to be right", why, &one, stays];
        assert!(parts.iter().all(|part| out.stderr.contains(part)), "{}", out.stderr);
        assert!(server::table("l").contains("mirror"), "{}", server::table("l"));
    };
    refuse("it is not in sync");
    view.write(&disk, 3, 7);
    weak.set(&[]);
    ublk_dm("wait l --in-sync").ok();
    weak.set(&[(Fails::All, 4096, 64)]);
    view.write(&disk, 2048, 64);
    refuse("it has missed writes");
    weak.set(&[]);
    // It is left for the other one, which has all writes.
    load("l", &linear(LEN, &one));
    ublk_dm("resume l").ok();
    view.write(&disk, 100, 30);
    view.verify(&disk);
    drop(disk);
    server::del("l");
    server::assert_nothing_left("moves-refused");
    let judge = Disk::open(&kernel::create("judge", &linear(LEN, &one)));
    view.verify(&judge);
    drop(judge);
    kernel::remove("judge");
    kernel::remove("weak");
    server::forget_ended_legs();
}
