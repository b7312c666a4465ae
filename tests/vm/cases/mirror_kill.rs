//! The server of a mirror is killed in mid-write and in mid-recovery, with its log in memory and on
//! a disk, and the device is either recovered or deleted: no acknowledged write is lost, and a
//! region that is not known to be in sync reads the same each time until it is recovered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::Disk;
use crate::load::{self, Plan, StopOnDrop};
use crate::log::{self, Image};
use crate::mirror::{self, Engine, Initial, Mirror, Shape, ours};
use crate::model::{View, resolve};
use crate::sh::{sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case {
            name: "mirror-kill-recovered-core",
            bound_s: 120,
            disks,
            run: |seed| recovered(seed, false),
        },
        Case {
            name: "mirror-kill-recovered-disk",
            bound_s: 120,
            disks,
            run: |seed| recovered(seed, true),
        },
        Case { name: "mirror-kill-added-again", bound_s: 120, disks, run: again },
        Case { name: "mirror-kill-same-bytes", bound_s: 120, disks, run: |_| same_bytes() },
        Case { name: "mirror-kill-degraded", bound_s: 90, disks, run: |_| degraded() },
        Case { name: "mirror-kill-dead-leg", bound_s: 90, disks, run: |_| dead_leg() },
        Case { name: "mirror-kill-new-leg", bound_s: 90, disks, run: |_| new_leg() },
        Case { name: "mirror-kill-source", bound_s: 90, disks, run: |_| source() },
        Case { name: "mirror-kill-sigterm", bound_s: 90, disks, run: sigterm },
    ]
}

const REGION: u64 = 256;
const REGIONS: u64 = 96;
const LEN: u64 = REGIONS * REGION;

struct Stage {
    legs: [Faulty; 2],
    log: Faulty,
    view: View,
}

impl Stage {
    /// Full of stamps on the first leg; the second has never been written.
    fn new() -> Stage {
        let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
        let view = View::new("mirr", LEN);
        view.fill(&Disk::open(&legs[0].path));
        Stage { legs, log: Faulty::new("log", "n2", 0, log::sectors(REGIONS)), view }
    }

    fn shape(&self, disk_log: bool) -> Shape {
        let shape = Shape::new(LEN, REGION, &[&self.legs[0].path, &self.legs[1].path]);
        if disk_log { shape.log(&self.log.path) } else { shape }
    }
}

fn kill_9() {
    let pid = server::number("m", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
}

/// Killed three times under load, first in the middle of the recovery; the writers notice only a
/// delay.
fn recovered(seed: u64, disk_log: bool) {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    let shape = stage.shape(disk_log);
    // The first recovery is slow enough to be interrupted.
    stage.legs[1].set(Fault::Slow { read_ms: 0, write_ms: 150 });
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let (disk, stop) = (served.disk(), AtomicBool::new(false));
    let plan = Plan { writers: 16, max_sectors: 512, ..Plan::depth_32(100_000, 60) };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let load = scope.spawn(|| load::write(&stage.view, &disk, seed, plan, &stop));
        let reader = scope.spawn(|| load::verify(&stage.view, &disk, seed, 2, &stop));
        for round in 0..3 {
            thread::sleep(Duration::from_millis(700));
            kill_9();
            stage.legs[1].heal();
            server::wait_for(20, "state quiesced", || server::device("m")["state"] == "quiesced");
            ublk_dm("recover m").ok();
            println!("  round {round}: recovered with {}", served.status().short());
        }
        thread::sleep(Duration::from_millis(700));
        stop.store(true, Ordering::Relaxed);
        let writes =
            load.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        reader.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(writes > 30, "only {writes} writes");
    });
    served.wait_in_sync();
    stage.view.verify(&disk);
    drop(disk);
    served.close();
    server::assert_nothing_left("del after recovery");
    mirror::assert_legs_equal(&shape, &format!("killed and recovered, seed {seed}"));
    if disk_log {
        assert!(
            log::dirty(&stage.log.path, REGIONS).is_empty(),
            "seed {seed}: a dirty log after del"
        );
        let judge = Mirror::open(Engine::Kernel, "judge", &shape);
        assert!(
            judge.status().short() == "96/96 AA A",
            "the kernel says {}",
            judge.status().short()
        );
        stage.view.verify(&judge.disk());
        judge.close();
    }
}

/// Killed under load and deleted; then added again by `ublk-dm`, and once more opened by the
/// kernel.
fn again(seed: u64) {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    let shape = stage.shape(true).features(&["handle_errors"]);
    let mut view = stage.view.snapshot("mir0");
    for round in 0..2u64 {
        let served = Mirror::open(Engine::Ublk, "m", &shape);
        let (disk, stop) = (served.disk(), AtomicBool::new(false));
        let plan = Plan { may_break: true, ..Plan::depth_32(100_000, 40) };
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            let load = scope.spawn(|| load::write(&view, &disk, seed ^ round, plan, &stop));
            thread::sleep(Duration::from_millis(1000));
            kill_9();
            server::wait_for(20, "state quiesced", || server::device("m")["state"] == "quiesced");
            ublk_dm("del m --force").ok();
            let writes =
                load.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            assert!(writes > 20, "only {writes} writes before the kill");
        });
        drop(disk);
        served.forget();
        server::assert_nothing_left("kill -9 and del --force");
        // The legs differ at most where the log says dirty.
        let dirty = log::dirty(&stage.log.path, REGIONS);
        let differing = mirror::differing(&shape);
        let silent: Vec<_> = differing.iter().filter(|region| !dirty.contains(region)).collect();
        assert!(
            silent.is_empty(),
            "seed {seed}: the legs differ in {silent:?}, which the log calls clean"
        );
        let engine = if round == 0 { Engine::Ublk } else { Engine::Kernel };
        let served = Mirror::open(engine, "m", &shape);
        let maybe = view.take_unacknowledged();
        let disk = served.disk();
        let cells = resolve(&disk, view.open_window(), &maybe);
        view = View::with_cells(["mir1", "mir2"][usize::from(round == 1)], cells);
        served.wait_in_sync();
        view.verify(&disk);
        drop(disk);
        served.close();
        mirror::assert_legs_equal(&shape, &format!("{engine:?} after kill -9, seed {seed}"));
    }
}

/// Regions out of sync whose legs differ in every sector: each read gives the same bytes, whichever
/// leg is faster.
fn same_bytes() {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    let dirty = [1u64, 2, 40, 95];
    for engine in [Engine::Ublk] {
        let shape = stage.shape(true);
        mirror::copy(&stage.legs[0].path, 0, &stage.legs[1].path, 0, LEN);
        let mut image = Image::new(REGIONS, true);
        for region in dirty {
            image.bits[crate::disk::us(region / 8)] &= !(1 << (region % 8));
            Disk::open(&stage.legs[1].path).zero(region * REGION, REGION);
        }
        image.put(&Disk::open(&stage.log.path), log::sectors(REGIONS));
        // No region can be recovered, and the right leg is the slower one to read.
        stage.legs[1].set(Fault::Slow { read_ms: 0, write_ms: 30_000 });
        stage.legs[0].set(Fault::Slow { read_ms: 60, write_ms: 0 });
        let served = Mirror::open(engine, "m", &shape);
        let disk = served.disk();
        thread::scope(|scope| {
            for thread in 0..4 {
                let (disk, view) = (&disk, &stage.view);
                scope.spawn(move || {
                    for round in 0..6 {
                        let region = dirty[(thread + round) % dirty.len()];
                        view.verify_shared(disk, region * REGION, 64);
                    }
                });
            }
        });
        if engine == Engine::Ublk {
            // A new server has no more information than the old one.
            kill_9();
            // The process ends when the writes of its recovery have ended, which takes 30 s.
            server::wait_for(50, "state quiesced", || server::device("m")["state"] == "quiesced");
            ublk_dm("recover m").ok();
            for region in dirty {
                stage.view.verify_range(&disk, region * REGION, REGION);
            }
        }
        drop(disk);
        stage.legs.iter().for_each(Faulty::heal);
        served.wait_in_sync();
        served.close();
        mirror::assert_legs_equal(&shape, &format!("{engine:?} after the recovery"));
    }
}

/// Killed while a leg is lost: the next server must know that the leg is stale, wherever the log
/// is, and also if all legs were declared equal at the beginning.
fn degraded() {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    for (disk_log, initial) in [
        (false, Initial::FromLog),
        (true, Initial::FromLog),
        (false, Initial::NoSync),
        (true, Initial::NoSync),
    ] {
        Image::new(REGIONS, false).put(&Disk::open(&stage.log.path), log::sectors(REGIONS));
        mirror::copy(&stage.legs[0].path, 0, &stage.legs[1].path, 0, LEN);
        let shape = stage.shape(disk_log).features(&["handle_errors", "keep_log"]).initial(initial);
        let served = Mirror::open(Engine::Ublk, "m", &shape);
        served.wait_in_sync();
        stage.legs[0].set(Fault::Gone);
        let disk = served.disk();
        stage.view.write(&disk, 7 * REGION, 100);
        stage.view.write(&disk, 70 * REGION, 100);
        // The leg is back, but two writes are missing on it.
        take_over(|| stage.legs.iter().for_each(Faulty::heal));
        for region in [7, 70] {
            stage.view.verify_range(&disk, region * REGION, REGION);
        }
        served.wait_in_sync();
        stage.view.verify(&disk);
        drop(disk);
        served.close();
        mirror::assert_legs_equal(
            &shape,
            &format!("recovered while degraded, disk log: {disk_log}, {initial:?}"),
        );
    }
}

/// The first leg dies with the server, among writes: the other one has them.
fn dead_leg() {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    for disk_log in [false, true] {
        let served = Mirror::open(Engine::Ublk, "m", &stage.shape(disk_log));
        served.wait_in_sync();
        let disk = served.disk();
        (0..REGIONS).for_each(|region| stage.view.write(&disk, region * REGION, 8));
        take_over(|| stage.legs[0].set(Fault::Gone));
        stage.view.verify(&disk);
        drop(disk);
        stage.legs[0].heal();
        served.close();
        mirror::copy(&stage.legs[1].path, 0, &stage.legs[0].path, 0, LEN);
        server::forget_ended_legs();
    }
}

/// Kills the server, changes the disks and has another server take over. A killed process ends when
/// its writes have ended, and writes on a slow disk wait until the disk is repaired.
fn take_over(change: impl FnOnce()) {
    kill_9();
    change();
    server::wait_for(20, "state quiesced", || server::device("m")["state"] == "quiesced");
    ublk_dm("recover m").ok();
}

/// Killed while a leg that was just added is being written: it holds old bytes and must not be
/// read.
fn new_leg() {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    let new = Faulty::new("new", "n2", 65_536, LEN);
    for disk_log in [false, true] {
        Image::new(REGIONS, true).put(&Disk::open(&stage.log.path), log::sectors(REGIONS));
        mirror::copy(&stage.legs[0].path, 0, &stage.legs[1].path, 0, LEN);
        // The first leg left the mirror of the round before; it is written anew, with its log.
        server::forget_ended_legs();
        let initial = if disk_log { Initial::FromLog } else { Initial::NoSync };
        let shape = stage.shape(disk_log).initial(initial);
        let served = Mirror::open(Engine::Ublk, "m", &shape);
        served.wait_in_sync();
        let disk = served.disk();
        // Another disk takes the first leg's place, with nothing on it; it cannot be written fast.
        Disk::open(&new.path).zero(0, LEN);
        new.set(Fault::Slow { read_ms: 0, write_ms: 20_000 });
        ublk_dm(&format!("message m replace 0 {}", new.path)).ok();
        stage.view.verify(&disk);
        take_over(|| new.heal());
        stage.view.verify(&disk);
        served.wait_in_sync();
        stage.view.verify(&disk);
        drop(disk);
        served.close();
        let shape = Shape::new(LEN, REGION, &[&new.path, &stage.legs[1].path]);
        mirror::assert_legs_equal(
            &shape,
            &format!("killed while a leg was new, disk log: {disk_log}"),
        );
    }
}

/// The second leg is the source of the recovery: also for a server that takes over in the middle of
/// the recovery.
fn source() {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    for log in ["core", &stage.log.path] {
        mirror::copy(&stage.legs[0].path, 0, &stage.legs[1].path, 0, LEN);
        Disk::open(&stage.legs[0].path).zero(0, LEN);
        Disk::open(&stage.log.path).zero(0, log::sectors(REGIONS));
        // A killed process ends when its writes have ended: this exceeds every wait for that end.
        stage.legs[0].set(Fault::Slow { read_ms: 0, write_ms: 4_000 });
        let [first, second] = [&stage.legs[0].path, &stage.legs[1].path];
        let line = format!(
            "mirror --leg {first} --leg {second} --log {log} --source {second} --region-size \
             {REGION}s"
        );
        let path = server::add(&format!("{line} --name m"));
        let disk = Disk::open(&path);
        stage.view.verify_range(&disk, 0, LEN);
        take_over(|| stage.legs.iter().for_each(Faulty::heal));
        stage.view.verify_range(&disk, 0, LEN);
        drop(disk);
        ublk_dm("wait m --in-sync").ok();
        server::del("m");
        mirror::assert_legs_equal(
            &stage.shape(false),
            &format!("recovered from the second leg, log {log}"),
        );
        stage.view.verify_range(&Disk::open(first), 0, LEN);
    }
}

/// SIGTERM is a clean end: nothing is dirty, nothing is recovered afterwards.
fn sigterm(seed: u64) {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    let shape = stage.shape(true);
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let disk = served.disk();
    load::write(&stage.view, &disk, seed, Plan::depth_32(60, 20), &AtomicBool::new(false))
        .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    served.wait_in_sync();
    drop(disk);
    let pid = server::number("m", "/server_pid");
    sh(&format!("kill -TERM {pid}")).ok();
    server::wait_gone(pid);
    served.forget();
    server::assert_nothing_left("SIGTERM");
    assert!(
        log::dirty(&stage.log.path, REGIONS).is_empty(),
        "seed {seed}: a dirty log after SIGTERM"
    );
    mirror::assert_legs_equal(&shape, &format!("after SIGTERM, seed {seed}"));
    let judge = kernel::create("judge", &shape.table());
    stage.view.verify(&Disk::open(&judge));
    kernel::remove("judge");
}
