//! A snapshot is merged back under a mounted ext4: what was changed since is undone, files are
//! written meanwhile, and the server dies in the middle. fsck finds the file system clean.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::merge::is_done;
use crate::Case;
use crate::disk::node;
use crate::load::{Rng, StopOnDrop};
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{server, tree};

pub fn cases() -> Vec<Case> {
    vec![Case { name: "merge-ext4", bound_s: 240, disks: &["n0", "n1"], run: ext4 }]
}

const FILES: u64 = 60;
const MAX_BYTES: u64 = 300 << 10;
/// A file that is overwritten as a whole, so that the merge takes a while.
const LARGE_MIB: u64 = 64;

fn ext4(seed: u64) {
    let (origin, cow) = (node("n0"), node("n1"));
    let dir = scratch("origin");
    let top = server::add(&format!("origin --origin {origin} --name o"));
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    sh(&format!("mount {top} {dir}")).ok();
    let large = |from: &str| {
        sh(&format!(
            "dd if={from} of={dir}/large bs=1M count={LARGE_MIB} conv=notrunc status=none"
        ))
        .ok();
    };
    let mut rng = Rng::new(seed);
    tree::grow(&dir, &mut rng, FILES, MAX_BYTES);
    large("/dev/zero");
    let then = tree::take(&dir);
    sh("sync").ok();
    server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    tree::change(&dir, &mut rng, FILES, MAX_BYTES);
    large("/dev/urandom");
    sh("sync").ok();
    sh(&format!("umount {dir}")).ok();
    let size: u64 = sh(&format!("blockdev --getsz {origin}")).ok().line().parse().expect("a size");
    let load = |line: String| run_args(&binary(), &["load", "o", "--table", &line]).ok();
    load(format!("0 {size} snapshot-merge {origin} {cow} P 8"));
    ublk_dm("resume o").ok();
    assert!(server::list().iter().all(|device| device["name"] != "s"), "its device has ended");
    sh(&format!("mount {top} {dir}")).ok();
    let stop = AtomicBool::new(false);
    let mut halves = 0;
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let churn = scope.spawn(|| tree::churn(&dir, seed, &stop));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(100));
            let pid = server::number("o", "/server_pid");
            halves += u64::from(!is_done(&server::status("o")));
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
            ublk_dm("recover o").ok();
        }
        server::wait_for(120, "the end of the merge", || is_done(&server::status("o")));
        stop.store(true, Ordering::Relaxed);
        let files =
            churn.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(files > 3, "only {files} files were written during the merge");
    });
    println!("it was killed {halves} times in the middle of the merge");
    tree::assert_same(&format!("{top}, seed {seed}"), &then, &tree::take(&dir));
    load(format!("0 {size} snapshot-origin {origin}"));
    ublk_dm("resume o").ok();
    sh("sync").ok();
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("caches");
    tree::assert_same(&format!("plain {top}, seed {seed}"), &then, &tree::take(&dir));
    assert_sound(&origin, &top, &dir);
}

/// The file system is sound, on the device and then, without it, on the origin.
fn assert_sound(origin: &str, top: &str, dir: &str) {
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    assert!(server::number("o", "/stats/errors") == 0, "list --json counts errors");
    server::del("o");
    server::assert_nothing_left("del");
    sh(&format!("e2fsck -fn {origin}")).ok();
}
