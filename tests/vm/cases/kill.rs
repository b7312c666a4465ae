//! The end of a server: SIGTERM deletes the devices cleanly; kill -9 loses no acknowledged write,
//! and the kernel opens the stores that are left.
//!
//! (A killed process loses no cached write of the disks: durability across a loss of power is
//! tested on the simulated disks in `tests/sim`.)

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::{View, resolve};
use crate::sh::{sh, ublk_dm};
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "kill-sigterm", bound_s: 90, disks: &["n0", "n1"], run: |_| sigterm() },
        Case {
            name: "kill-9-recoverable",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |s| kill_9(s, ""),
        },
        Case { name: "kill-9-recovered", bound_s: 120, disks: &["n0", "n1"], run: recovered },
        Case {
            name: "kill-9-no-recovery",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |s| kill_9(s, "--no-recovery"),
        },
    ]
}

const SIZE: u64 = 12 * MIB;

fn sigterm() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let top = server::add(&format!("origin --origin {origin} --name o"));
    let snap =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    let (top, disk, frozen) = (Disk::open(&top), Disk::open(&snap), view.snapshot("snap"));
    for at in (0..SIZE - 64).step_by(4001) {
        view.write(&top, at, 20);
        frozen.write(&disk, at + 7, 30);
    }
    let (pid, status) = (server::number("s", "/server_pid"), server::status("s"));
    drop((top, disk));
    sh(&format!("kill -TERM {pid}")).ok();
    server::wait_gone(pid);
    server::assert_nothing_left("SIGTERM");
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 8);
    assert!(
        kernel::status("judge") == status,
        "the kernel says {:?}, ublk-dm said {status:?}",
        kernel::status("judge")
    );
    frozen.verify(&Disk::open(&judge));
    view.verify(&Disk::open(&origin));
    kernel::remove("judge");
}

/// Killed under load on origin and snapshot; unacknowledged writes may be present or not.
fn kill_9(seed: u64, option: &str) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let mut view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let mut snap_view = view.snapshot("snap");
    for round in 0..2u64 {
        let top = server::add(&format!("origin --origin {origin} --name o {option}"));
        let snap = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 16k --name s {option}"
        ));
        let (top, disk) = (Disk::open(&top), Disk::open(&snap));
        let pid = server::number("s", "/server_pid");
        let (stop, plan) =
            (AtomicBool::new(false), Plan { may_break: true, ..Plan::depth_32(100_000, 40) });
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            // Each load closes its device in the end: only then does the kernel release a deleted
            // device.
            let (view, snap_view, stop) = (&view, &snap_view, &stop);
            let one = scope.spawn(move || load::write(view, &top, seed ^ round, plan, stop));
            let two = scope.spawn(move || load::write(snap_view, &disk, !seed ^ round, plan, stop));
            server::wait_for(30, "writes on both", || {
                server::list().iter().all(|device| device["stats"]["writes"].as_u64() > Some(40))
            });
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
            // With recovery the writers now wait for a new server; --force ends that.
            if option.is_empty() {
                server::wait_for(20, "state quiesced", || {
                    server::device("s")["state"] == "quiesced"
                });
                ublk_dm("del s o --force").ok();
            }
            for load in [one, two] {
                load.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            }
        });
        if !option.is_empty() {
            ublk_dm("del --all --force").ok();
        }
        server::assert_nothing_left("kill -9 and del --force");
        let judge = kernel::snapshot("judge", &origin, &cow, "P", 32);
        let resolved = resolve_both(&view, &snap_view, &Disk::open(&origin), &Disk::open(&judge));
        (view, snap_view) = (
            View::with_cells(["ori1", "ori2"][usize::from(round == 1)], resolved.0),
            View::with_cells(["snp1", "snp2"][usize::from(round == 1)], resolved.1),
        );
        kernel::remove("judge");
        store::assert_header(&Disk::open(&cow), 32, true);
    }
    // And ublk-dm itself continues with the store.
    let snap = server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let disk = Disk::open(&snap);
    snap_view.verify(&disk);
    snap_view.write(&disk, 1, 100);
    snap_view.verify(&disk);
    drop(disk);
    server::del("s");
    server::assert_nothing_left("del");
}

/// Killed under load and recovered, twice: the writers notice only a delay.
fn recovered(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 3 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let snap_view = view.snapshot("snap");
    let top = server::add(&format!("origin --origin {origin} --name o"));
    let snap =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 16k --name s"));
    let (top, disk) = (Disk::open(&top), Disk::open(&snap));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let one =
            scope.spawn(|| load::write(&view, &top, seed, Plan::depth_32(100_000, 60), &stop));
        let two = scope
            .spawn(|| load::write(&snap_view, &disk, !seed, Plan::depth_32(100_000, 60), &stop));
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(1500));
            let pid = server::number("s", "/server_pid");
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
            for name in ["s", "o"] {
                server::wait_for(20, "state quiesced", || {
                    server::device(name)["state"] == "quiesced"
                });
            }
            ublk_dm("recover --all").ok();
            assert!(server::number("o", "/server_pid") != pid, "a new server");
        }
        thread::sleep(Duration::from_millis(1500));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for load in [one, two] {
            let writes =
                load.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            assert!(writes > 20, "only {writes} writes");
        }
    });
    view.verify(&top);
    snap_view.verify(&disk);
    let status = server::status("s");
    drop((top, disk));
    server::del("s o");
    server::assert_nothing_left("del after recovery");
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 32);
    assert!(
        kernel::status("judge") == status,
        "the kernel says {:?}, not {status:?}",
        kernel::status("judge")
    );
    snap_view.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// The content of origin and snapshot: every acknowledged write, and perhaps some others.
fn resolve_both(view: &View, snap: &View, origin: &Disk, judge: &Disk) -> (Vec<u64>, Vec<u64>) {
    let of = |view: &View, disk: &Disk| {
        let maybe = view.take_unacknowledged();
        resolve(disk, view.open_window(), &maybe)
    };
    (of(view, origin), of(snap, judge))
}
