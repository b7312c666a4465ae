//! ext4, xfs and btrfs on a served origin: a snapshot of the mounted file system holds exactly the
//! tree of its moment, can be mounted (its journal replays into the COW), and fsck finds both
//! clean.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Case;
use crate::disk::node;
use crate::load::{Rng, StopOnDrop};
use crate::runner::scratch;
use crate::sh::sh;
use crate::tree::Tree;
use crate::{server, tree};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "fs-ext4-nvme",
            bound_s: 150,
            disks: &["n0", "n1"],
            run: |s| run(s, "ext4", "n0", "n1"),
        },
        Case {
            name: "fs-xfs-nvme",
            bound_s: 150,
            disks: &["n0", "n1"],
            run: |s| run(s, "xfs", "n0", "n1"),
        },
        Case {
            name: "fs-btrfs-nvme",
            bound_s: 150,
            disks: &["n0", "n1"],
            run: |s| run(s, "btrfs", "n0", "n1"),
        },
        Case {
            name: "fs-ext4-sata",
            bound_s: 150,
            disks: &["s0", "s1"],
            run: |s| run(s, "ext4", "s0", "s1"),
        },
        Case {
            name: "fs-xfs-sata",
            bound_s: 150,
            disks: &["s0", "s1"],
            run: |s| run(s, "xfs", "s0", "s1"),
        },
        Case {
            name: "fs-btrfs-sata",
            bound_s: 150,
            disks: &["s0", "s1"],
            run: |s| run(s, "btrfs", "s0", "s1"),
        },
    ]
}

const FILES: u64 = 60;
const MAX_BYTES: u64 = 300 << 10;

fn run(seed: u64, kind: &str, origin_disk: &str, cow_disk: &str) {
    let (origin, cow) = (node(origin_disk), node(cow_disk));
    let dir = scratch("origin");
    let top = server::add(&format!("origin --origin {origin} --name org"));
    let quiet = if kind == "ext4" { "-q -F" } else { "-q -f" };
    sh(&format!("mkfs.{kind} {quiet} {top}")).ok();
    sh(&format!("mount -t {kind} {top} {dir}")).ok();
    let mut rng = Rng::new(seed);
    tree::grow(&dir, &mut rng, FILES, MAX_BYTES);
    let then = tree::take(&dir);
    sh("sync").ok();
    let stop = AtomicBool::new(false);
    // Some files change all the time, even while the snapshot is taken; the tree excludes them.
    let snap = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let churn = scope.spawn(|| tree::churn(&dir, seed, &stop));
        thread::sleep(std::time::Duration::from_millis(500));
        let snap = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 16k --name snap"
        ));
        tree::change(&dir, &mut rng, FILES, MAX_BYTES);
        sh("sync").ok();
        stop.store(true, Ordering::Relaxed);
        let files =
            churn.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(files > 3, "only {files} files written beside the snapshot");
        snap
    });
    let now = tree::take(&dir);
    assert!(
        server::number("snap", "/snapshot/exceptions") > 0,
        "the origin's writes copied nothing"
    );
    // Two devices with one identity: btrfs must never see both.
    if kind == "btrfs" {
        sh(&format!("umount {dir}")).ok();
    }
    use_snapshot(seed, kind, &snap, &then, &mut rng);
    if kind == "btrfs" {
        sh(&format!("mount -t {kind} {top} {dir}")).ok();
    }
    tree::assert_same(&format!("{kind} on {top}, seed {seed}"), &now, &tree::take(&dir));
    sh(&format!("umount {dir}")).ok();
    check(kind, &top);
    let errors = (server::number("snap", "/stats/errors"), server::number("org", "/stats/errors"));
    assert!(errors == (0, 0), "list --json counts {errors:?} errors (snapshot, origin)");
    server::del("snap org");
    server::assert_nothing_left("del");
    // The origin without ublk-dm.
    check(kind, &origin);
}

/// The snapshot shows the tree as it was, is writable and keeps written data.
fn use_snapshot(seed: u64, kind: &str, snap: &str, then: &Tree, rng: &mut Rng) {
    let dir = scratch("snapshot");
    let option = if kind == "xfs" { "-o nouuid" } else { "" };
    let mount = || {
        if kind == "btrfs" {
            sh("btrfs device scan --forget").ok();
        }
        sh(&format!("mount -t {kind} {option} {snap} {dir}")).ok();
    };
    mount();
    tree::assert_same(&format!("{kind} on {snap}, seed {seed}"), then, &tree::take(&dir));
    tree::change(&dir, rng, FILES / 3, MAX_BYTES);
    let changed = tree::take(&dir);
    sh(&format!("umount {dir}")).ok();
    mount();
    let what = format!("{kind} written on {snap}, seed {seed}");
    tree::assert_same(&what, &changed, &tree::take(&dir));
    sh(&format!("umount {dir}")).ok();
    check(kind, snap);
    if kind == "btrfs" {
        sh("btrfs device scan --forget").ok();
    }
}

fn check(kind: &str, path: &str) {
    match kind {
        "ext4" => sh(&format!("e2fsck -fn {path}")).ok(),
        "xfs" => sh(&format!("xfs_repair -n {path}")).ok(),
        _ => sh(&format!("btrfs check --readonly {path}")).ok(),
    };
}
