//! Snapshots are added and deleted while their origin is mounted and written; the origin's user
//! never sees an error, and devices in use are not deleted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Case;
use crate::disk::{Disk, MIB, node, slice};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::{View, resolve};
use crate::runner::scratch;
use crate::sh::{sh, ublk_dm};
use crate::{server, tree};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "joins-mounted-origin",
            bound_s: 150,
            disks: &["n0", "n1", "n2"],
            run: mounted,
        },
        Case { name: "joins-come-and-go", bound_s: 150, disks: &["n0", "n1"], run: come_and_go },
        Case {
            name: "joins-both-orders",
            bound_s: 90,
            disks: &["n0", "n1"],
            run: |_| both_orders(),
        },
        Case {
            name: "joins-del-mounted",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| del_mounted(),
        },
        Case {
            name: "joins-del-all-mounted",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| del_all_mounted(),
        },
    ]
}

fn mounted(seed: u64) {
    let (origin, dir) = (node("n0"), scratch("origin"));
    let top = server::add(&format!("origin --origin {origin} --name org"));
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    sh(&format!("mount -o errors=remount-ro {top} {dir}")).ok();
    let pid = server::number("org", "/server_pid");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let churn = scope.spawn(|| tree::churn(&dir, seed, &stop));
        for (n, chunk) in (0u64..).zip(["4k", "64k", "16k", "512k"]) {
            let cow = slice(
                &format!("cow{n}"),
                if n % 2 == 0 { "n1" } else { "n2" },
                n * 100 * MIB,
                64 * MIB,
            );
            let snap = server::add(&format!(
                "snapshot --origin {origin} --cow {cow} --chunk-size {chunk} --name s{n}"
            ));
            assert!(
                server::number(&format!("s{n}"), "/server_pid") == pid,
                "s{n} is not in its origin's process"
            );
            thread::sleep(std::time::Duration::from_millis(500));
            if n > 0 {
                server::del(&format!("s{}", n - 1));
            }
            assert!(n != 1 || server::list().len() == 2, "s0 should be gone: {:?}", server::list());
            let valid = server::device(&format!("s{n}"))["snapshot"]["valid"].clone();
            assert!(valid == true, "{snap} is not valid");
        }
        stop.store(true, Ordering::Relaxed);
        let files =
            churn.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(files > 10, "only {files} files written");
    });
    assert!(
        server::number("org", "/stats/errors") == 0,
        "the origin counts errors: {}",
        server::device("org")
    );
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    // The snapshot of a running file system: its journal makes it clean again.
    let snap = server::device("s3")["block_device"].as_str().expect("a path").to_string();
    sh(&format!("mount {snap} {dir}")).ok();
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {snap}")).ok();
    server::del("--all");
    server::assert_nothing_left("del --all");
}

/// Stamped load on the raw origin; a snapshot with smaller chunks joins later, the first leaves.
fn come_and_go(seed: u64) {
    let size = 12 * MIB;
    let origin = slice("org", "n0", 0, size);
    let view = View::new("orig", size);
    view.fill(&Disk::open(&origin));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name org")));
    let stop = AtomicBool::new(false);
    let plan = Plan { max_sectors: 256, ..Plan::depth_32(100_000, 60) };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writer = scope.spawn(|| load::write(&view, &top, seed, plan, &stop));
        for (n, chunk) in (0u64..).zip(["256k", "4k", "32k", "256k", "4k", "32k"]) {
            let cow = slice(&format!("cow{n}"), "n1", n * 64 * MIB, 24 * MIB);
            let base = view.open_window();
            let path = server::add(&format!(
                "snapshot --origin {origin} --cow {cow} --chunk-size {chunk} --name s{n}"
            ));
            let maybe = view.close_window();
            let disk = Disk::open(&path);
            let frozen = View::with_cells("none", resolve(&disk, base, &maybe));
            thread::sleep(std::time::Duration::from_millis(300));
            frozen.verify(&disk);
            drop(disk);
            // Two at a time; the last one is also deleted under load.
            if n > 0 {
                server::del(&format!("s{}", n - 1));
            }
        }
        server::del("s5");
        stop.store(true, Ordering::Relaxed);
        let writes =
            writer.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(writes > 50, "only {writes} writes");
    });
    view.verify(&top);
    drop(top);
    assert!(
        server::number("org", "/stats/errors") == 0,
        "the origin counts errors: {}",
        server::device("org")
    );
    server::del("org");
    // The load has an end: on a slow machine the last ones are deleted after it, and are not lost.
    assert!(server::forget_lost() > 0, "snapshots that the origin has outlived are lost");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&origin));
}

/// `add origin` before and after its snapshots; either way they are one family.
fn both_orders() {
    let size = 8 * MIB;
    for (n, origin_first) in [true, false].into_iter().enumerate() {
        let origin = slice(&format!("org{n}"), "n0", n as u64 * 64 * MIB, size);
        let cow = slice(&format!("cow{n}"), "n1", n as u64 * 64 * MIB, size * 2);
        let view = View::new("orig", size);
        view.fill(&Disk::open(&origin));
        let add_origin = || server::add(&format!("origin --origin {origin} --name o"));
        let add_snapshot = || {
            server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"))
        };
        let (top, snap) = if origin_first {
            let top = add_origin();
            (top, add_snapshot())
        } else {
            let snap = add_snapshot();
            (add_origin(), snap)
        };
        let (before, after) =
            (server::number("o", "/server_pid"), server::number("s", "/server_pid"));
        assert!(
            before == after,
            "origin and snapshot have different servers, {before} and {after}"
        );
        let (top, snap) = (Disk::open(&top), Disk::open(&snap));
        let frozen = view.snapshot("snap");
        for at in (0..size - 16).step_by(999) {
            view.write(&top, at, 9);
        }
        frozen.write(&snap, 50, 3);
        frozen.verify(&snap);
        view.verify(&top);
        drop((top, snap));
        // Leaving in the order of joining.
        if origin_first {
            server::del("s");
            server::del("o");
        } else {
            server::del("o s");
        }
        server::assert_nothing_left("del");
        view.verify(&Disk::open(&origin));
    }
}

fn del_mounted() {
    let (origin, cow, dir) = (node("n0"), node("n1"), scratch("mounted"));
    let snap = server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    sh(&format!("mkfs.ext4 -q -F {snap}")).ok();
    sh(&format!("mount {snap} {dir}")).ok();
    let refused = ublk_dm("del s").refused();
    assert!(
        refused.code == 1,
        "del of a mounted device should exit with 1, did with {}",
        refused.code
    );
    let refused = ublk_dm("del --all").refused();
    assert!(
        refused.code == 1,
        "del --all with a mounted device should exit with 1, did with {}",
        refused.code
    );
    std::fs::write(format!("{dir}/file"), "still here").expect("the device still works");
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {snap}")).ok();
    server::del("s");
    server::assert_nothing_left("del");
}

/// An origin that is in use stays, and so do its snapshots: without the origin's server they would
/// be wrong.
fn del_all_mounted() {
    let (origin, cow, dir) = (node("n0"), node("n1"), scratch("mounted"));
    sh(&format!("mkfs.ext4 -q -F {origin}")).ok();
    let top = server::add(&format!("origin --origin {origin} --name o"));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    sh(&format!("mount {top} {dir}")).ok();
    for line in ["del --all", "del s o"] {
        let refused = ublk_dm(line);
        let said = &refused.stderr;
        assert!(
            refused.code == 1 && said.contains("mounted") && said.contains("s: not deleted"),
            "{line}: {said}"
        );
        std::fs::write(format!("{dir}/file"), line).expect("the origin works");
        assert!(server::device("s")["snapshot"]["valid"] == true, "{line} has cost the snapshot");
    }
    sh(&format!("umount {dir}")).ok();
    server::del("--all");
    server::assert_nothing_left("del --all");
}
