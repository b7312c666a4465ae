//! Legs of different speed, and a leg on another machine.
//!
//! Reads are spread over the legs, and a slow leg gets fewer. A leg behind nvme-tcp (to an nvmet
//! target of this machine) is lost and returns: the mirror is degraded and then recovered, and
//! nothing hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Disk, completed, node, slice};
use crate::load::{self, Plan, Rng};
use crate::mirror::{self, Engine, Initial, Mirror, Shape, ours};
use crate::model::View;
use crate::remote::Remote;
use crate::sh::ublk_dm;
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "mirror-slow-leg", bound_s: 90, disks: &["n0", "n1"], run: slow_leg },
        Case { name: "mirror-hung-leg", bound_s: 60, disks: &["n0", "n1"], run: |_| hung_leg() },
        Case { name: "mirror-nvme-tcp", bound_s: 150, disks: &["n0", "n1", "n2"], run: nvme_tcp },
    ]
}

const REGION: u64 = 512;
const LEN: u64 = 32 * REGION;

fn reads(path: &str) -> u64 {
    completed(path, 0)
}

/// Random reads, eight deep; returns how many each leg got.
fn spread(view: &View, disk: &Disk, seed: u64, legs: [&str; 2]) -> [u64; 2] {
    let before = legs.map(reads);
    thread::scope(|scope| {
        for thread in 0..8u64 {
            scope.spawn(move || {
                let mut rng = Rng::new(seed ^ thread);
                for _ in 0..60 {
                    let at = rng.below(LEN / 8) * 8;
                    view.verify_shared(disk, at, 8);
                }
            });
        }
    });
    let after = legs.map(reads);
    [after[0] - before[0], after[1] - before[1]]
}

fn slow_leg(seed: u64) {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
    let shape = Shape::new(LEN, REGION, &[&legs[0].path, &legs[1].path]).initial(Initial::NoSync);
    let view = View::new("mirr", LEN);
    mirror::fill(&view, &shape);
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let disk = served.disk();
    let even = spread(&view, &disk, seed, [&legs[0].path, &legs[1].path]);
    assert!(
        even.iter().all(|reads| *reads > 100),
        "seed {seed}: of 480 reads the legs got {even:?}"
    );
    legs[0].set(Fault::Slow { read_ms: 60, write_ms: 0 });
    let uneven = spread(&view, &disk, !seed, [&legs[0].path, &legs[1].path]);
    println!("  reads: {even:?} evenly, {uneven:?} with a slow first leg");
    assert!(uneven[0] * 4 < uneven[1], "seed {seed}: a slow first leg got {uneven:?}");
    // Read data is right also with concurrent writes.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| load::verify(&view, &disk, seed, 3, &stop));
        let done =
            load::write(&view, &disk, seed, Plan::depth_32(150, 10), &AtomicBool::new(false));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        reader.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    legs[0].heal();
    view.verify(&disk);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(&shape, "after a slow leg");
}

/// A leg that does not answer at all. Writes wait, and so does a command that waits for them; but
/// `list` and `status` answer all the time, so that the cause can be found.
fn hung_leg() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = [slice("leg0", "n0", 0, LEN), slice("leg1", "n1", 0, LEN)];
    let shape = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]).initial(Initial::NoSync);
    let view = View::new("mirr", LEN);
    mirror::fill(&view, &shape);
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let disk = served.disk();
    kernel::suspend("leg1", true);
    let before = completed(&legs[0], 4);
    thread::scope(|scope| {
        let write = scope.spawn(|| view.write(&disk, 8, 64));
        server::wait_for(20, "the write to reach the other leg", || {
            completed(&legs[0], 4) > before
        });
        let waits = scope.spawn(|| drop(ublk_dm("suspend m").ok()));
        server::wait_for(20, "the device to be suspended", || {
            server::device("m")["state"] == "suspended"
        });
        assert!(
            server::status("m").contains("mirror 2") && server::table("m").contains("mirror core")
        );
        assert!(!waits.is_finished() && !write.is_finished(), "the leg was not hung");
        kernel::resume("leg1");
    });
    ublk_dm("resume m").ok();
    view.verify(&disk);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(&shape, "after a hung leg");
}

fn nvme_tcp(seed: u64) {
    let first = slice("leg0", "n0", 0, LEN);
    let far = Remote::new(0, &node("n1"));
    let second = kernel::create("leg1", &format!("0 {LEN} linear {} 0", far.path));
    let log = slice("log", "n2", 0, 64);
    let shape = Shape::new(LEN, REGION, &[&first, &second])
        .log(&log)
        .features(&["handle_errors", "keep_log"]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&first));
    let served = Mirror::open(ours(), "m", &shape);
    served.wait_in_sync();
    let (disk, stop) = (served.disk(), AtomicBool::new(false));
    let plan =
        Plan { writers: 6, max_sectors: 128, writes: 1_000_000, seconds: 100, may_break: false };
    thread::scope(|scope| {
        let _stop = load::StopOnDrop(&stop);
        let load = scope.spawn(|| load::write(&view, &disk, seed, plan, &stop));
        let reader = scope.spawn(|| load::verify(&view, &disk, seed, 2, &stop));
        thread::sleep(Duration::from_millis(700));
        far.withdraw();
        let begun = Instant::now();
        let status = served.wait_status(40, "a degraded mirror", |status| {
            ["AD", "AF"].contains(&&*status.letters)
        });
        println!("  lost after {} ms: {}", begun.elapsed().as_millis(), status.short());
        thread::sleep(Duration::from_millis(500));
        let before = completed(&served.path, 4);
        server::wait_for(20, "writes to go on while a leg is lost", || {
            completed(&served.path, 4) >= before + 20
        });
        far.offer();
        server::wait_for(40, "the disk to answer again", || far.answers());
        // It is the same disk, but it has missed writes: after `replace` it is recovered.
        match served.engine {
            Engine::Ublk => drop(ublk_dm(&format!("message m replace 1 {second}")).ok()),
            Engine::Kernel => {
                served.suspend(true);
                served.load(&shape);
                served.resume();
            }
        }
        served.wait_status(40, "a recovered mirror", |status| {
            status.letters == "AA" && status.in_sync == status.total
        });
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        reader.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&disk);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(&shape, &format!("nvme-tcp, seed {seed}"));
    kernel::remove("leg1");
}
