//! Mirrors whose disks fail while they are resynchronized, or fail for a while and return: during
//! recovery, under load, when regions are about to be cleared in the log, and when the log cannot
//! be read.
//!
//! Where `ublk-dm` is meant to do better than the kernel, the case requires that: regions that
//! could not be copied do not count as in sync, and a leg that failed stays recorded as long as the
//! log exists.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk};
use crate::load::{self, Plan};
use crate::log::{self, Image};
use crate::mirror::{self, Did, Engine, Mirror, Request, Shape, ours};
use crate::model::View;
use crate::sh::{sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "mirror-fail-recovery", bound_s: 120, disks, run: |_| recovery() },
        Case { name: "mirror-fail-all-legs", bound_s: 120, disks, run: |_| all_legs() },
        Case { name: "mirror-fail-leg-flush", bound_s: 90, disks, run: |_| leg_flush() },
        Case { name: "mirror-fail-log-at-start", bound_s: 90, disks, run: |_| log_at_start() },
        Case { name: "mirror-fail-outage", bound_s: 120, disks, run: outage },
        Case { name: "mirror-fail-stale-leg", bound_s: 120, disks, run: |_| stale_leg() },
    ]
}

const REGION: u64 = 1024;
const REGIONS: u64 = 8;
const LEN: u64 = REGION * REGIONS;
const HANDLE: &[&str] = &["handle_errors"];
const KEEP: &[&str] = &["handle_errors", "keep_log"];

struct Stage {
    legs: [Faulty; 2],
    log: Faulty,
    view: View,
}

impl Stage {
    fn new() -> Stage {
        let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
        let stage = Stage {
            legs,
            log: Faulty::new("log", "n2", 0, log::sectors(REGIONS)),
            view: View::new("mirr", LEN),
        };
        stage.view.fill(&Disk::open(&stage.legs[0].path));
        stage
    }

    fn core(&self, features: &'static [&'static str]) -> Shape {
        Shape::new(LEN, REGION, &[&self.legs[0].path, &self.legs[1].path]).features(features)
    }

    fn disk(&self, features: &'static [&'static str]) -> Shape {
        self.core(features).log(&self.log.path)
    }

    /// Equal legs, and a log without dirty regions.
    fn in_sync(&self) {
        mirror::copy(&self.legs[0].path, 0, &self.legs[1].path, 0, LEN);
        Image::new(REGIONS, true).put(&Disk::open(&self.log.path), log::sectors(REGIONS));
    }
}

/// All data is there and on both legs, after `mirror` is removed.
fn assert_whole(mirror: Mirror, view: &View, shape: &Shape, when: &str) {
    let disk = mirror.disk();
    for region in 0..REGIONS {
        view.try_verify(&disk, region * REGION, REGION)
            .unwrap_or_else(|why| panic!("{when}: {why}"));
    }
    drop(disk);
    mirror.close();
    mirror::assert_legs_equal(shape, when);
}

/// One region of one leg fails during the first recovery.
fn recovery() {
    let stage = Stage::new();
    let (sector, sectors) = (3 * REGION, REGION);
    let write_error = [Fault::None, Fault::Bad { sector, sectors }];
    let read_error = [Fault::Unreadable { sector, sectors }, Fault::None];
    for (faults, features, kernels, own) in [
        (write_error, HANDLE, "7/8 AS c", "7/8 AS c"),
        (read_error, HANDLE, "7/8 SA c", "7/8 SA c"),
        (write_error, KEEP, "7/8 AS c", "7/8 AS c"),
        // The kernel then makes the other leg its default, which has no data.
        (read_error, KEEP, "", "7/8 SA c"),
        // The kernel counts both as in sync, the second with zeroes on the other leg.
        (write_error, &[], "8/8 AA c", "7/8 AS c"),
        (read_error, &[], "8/8 AA c", "7/8 SA c"),
    ] {
        for engine in [Engine::Kernel, ours()] {
            let expect = if engine == Engine::Kernel { kernels } else { own };
            if expect.is_empty() {
                continue;
            }
            let what = format!("{engine:?} with {faults:?}, {features:?}");
            Disk::open(&stage.legs[1].path).zero(0, LEN);
            stage.legs.iter().zip(faults).for_each(|(leg, fault)| leg.set(fault));
            let shape = stage.core(features);
            let served = Mirror::open(engine, "m", &shape);
            served.wait_status(20, expect, |status| status.short() == expect);
            let disk = served.disk();
            for region in 0..REGIONS {
                let right = stage.view.try_verify(&disk, region * REGION, REGION).is_ok();
                // With an unreadable source the region cannot be read; its content must not be
                // invented either.
                let source = faults == read_error && region == 3;
                let read = disk.try_read(region * REGION, &mut Buf::new(REGION)).is_ok();
                let zeroes = engine == Engine::Kernel && features.is_empty();
                assert!(
                    right || (source && (!read || zeroes)),
                    "{what}: region {region} reads wrong"
                );
            }
            drop(disk);
            stage.legs.iter().for_each(Faulty::heal);
            served.suspend(false);
            served.resume();
            if engine == Engine::Kernel && features.is_empty() {
                served.close(); // it believes to be done
                continue;
            }
            let status = served.wait_status(30, "8/8 AA c", |status| status.short() == "8/8 AA c");
            assert!(status.in_sync == REGIONS, "{what}: {}", status.short());
            assert_whole(served, &stage.view, &shape, &what);
        }
    }
}

/// No leg can be flushed, then no leg can be written in a region: the request fails immediately,
/// whatever the features. Earlier acknowledged writes are there, and when the legs are back they
/// are made equal, by the same server or the next.
fn all_legs() {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    for (features, again) in [(&[][..], false), (HANDLE, true), (KEEP, false)] {
        let what = format!("{features:?}, added again: {again}");
        stage.in_sync();
        let shape = stage.disk(features);
        let mut served = Mirror::open(Engine::Ublk, "m", &shape);
        stage.view.write(&served.disk(), 5 * REGION, 64);
        stage.legs.iter().for_each(|leg| leg.set(Fault::Flushes));
        let flush = Request::start(&served.path, |disk| disk.flush());
        assert!(flush.did(10_000) == Did::Eio, "{what}: a flush that no leg took");
        stage
            .legs
            .iter()
            .for_each(|leg| leg.set(Fault::Bad { sector: 3 * REGION, sectors: REGION }));
        let ticket = stage.view.begin(3 * REGION + 8, 64).expect("no other writer");
        let did = Request::write(&served.path, ticket).did(10_000);
        assert!(did == Did::Eio, "{what}: a write that no leg took: {did:?}");
        stage.view.cancel(ticket);
        let status = served.status();
        // The letters depend on which flush fails first: the user's, or the one before regions are
        // cleared.
        let failed = status.letters.chars().all(|letter| letter != 'A') && status.log == "A";
        assert!(failed, "{what}: status is {}", status.short());
        assert!(
            log::dirty(&stage.log.path, REGIONS).contains(&3),
            "{what}: region 3 is clean in the log"
        );
        stage.view.verify_range(&served.disk(), 5 * REGION, 64);
        if again {
            served.close();
            stage.legs.iter().for_each(Faulty::heal);
            served = Mirror::open(Engine::Ublk, "m", &shape);
        } else {
            stage.legs.iter().for_each(Faulty::heal);
            ublk_dm("message m recover").ok();
        }
        served.wait_status(20, "8/8 AA A", |status| status.short() == "8/8 AA A");
        served
            .disk()
            .flush()
            .unwrap_or_else(|e| panic!("{what}: flush of legs that are back: {e}"));
        assert_whole(served, &stage.view, &shape, &what);
        let dirty = log::dirty(&stage.log.path, REGIONS);
        assert!(dirty.is_empty(), "{what}: the log calls {dirty:?} dirty");
    }
}

/// Leg 1 cannot be flushed when regions are to be cleared: then none is ever cleared.
fn leg_flush() {
    let stage = Stage::new();
    for engine in [Engine::Kernel, ours()] {
        stage.in_sync();
        let shape = stage.disk(HANDLE);
        let served = Mirror::open(engine, "m", &shape);
        stage.legs[1].set(Fault::Flushes);
        let disk = served.disk();
        // A write that comes after the leg has failed is held: these are in one go.
        for n in 0..2 {
            stage.view.write(&disk, n * 2 * REGION, 8);
        }
        // The kernel looks at clean regions only when the next write comes.
        for n in 0..18 {
            thread::sleep(Duration::from_millis(150));
            if engine == Engine::Ublk || served.status().letters == "AF" {
                break;
            }
            stage.view.write(&disk, n % 2 * 2 * REGION, 8);
        }
        if engine == Engine::Ublk {
            served.wait_status(20, "a failed leg", |status| status.letters == "AF");
        }
        let status = served.status();
        // A region that may have lost data is out of sync for ublk-dm; the kernel only keeps it
        // dirty.
        let right = status.letters == "AF"
            && status.log == "A"
            && (engine == Engine::Ublk || status.in_sync == REGIONS);
        assert!(right, "{engine:?}: status is {} after a leg could not be flushed", status.short());
        drop(disk);
        served.suspend(false);
        let dirty = log::dirty(&stage.log.path, REGIONS);
        assert!(
            dirty.contains(&0) && dirty.contains(&2),
            "{engine:?}: only {dirty:?} are dirty, leg 1 has lost 0 and 2"
        );
        stage.legs[1].heal();
        served.load(&shape);
        served.resume();
        served.wait_status(20, "8/8 AA A", |status| status.short() == "8/8 AA A");
        assert_whole(served, &stage.view, &shape, &format!("{engine:?} after a failed flush"));
    }
}

/// The log cannot be read, or not be written, when the mirror starts: nothing is known, everything
/// is recovered.
fn log_at_start() {
    let stage = Stage::new();
    for fault in [Fault::Reads, Fault::Writes, Fault::Gone] {
        let mut judge = None;
        for engine in [Engine::Kernel, ours()] {
            stage.in_sync();
            if fault != Fault::Writes {
                // The content of the log is not trusted.
                Disk::open(&stage.legs[1].path).zero(5 * REGION, 16);
            }
            stage.log.set(fault);
            let shape = stage.disk(&[]);
            if engine == Engine::Ublk && fault != Fault::Writes {
                // An unreadable log may hold anything.
                ublk_dm(&format!("add {}", shape.flags())).refused();
            }
            let served = Mirror::add_forced(engine, "m", &shape);
            // A device added with flags is as long as its legs, so the numbers of regions differ.
            let status = served.wait_in_sync().short();
            let status =
                status.split_once(' ').map_or(status.clone(), |(_, letters)| letters.to_owned());
            assert!(
                judge.get_or_insert(status.clone()) == &status,
                "{fault:?}: {engine:?} says {status}, not {judge:?}"
            );
            stage.view.write(&served.disk(), 6 * REGION, 64);
            assert_whole(
                served,
                &stage.view,
                &shape,
                &format!("{engine:?} with a log that has {fault:?}"),
            );
            stage.log.heal();
        }
    }
}

/// A leg fails for a while under load, and returns.
fn outage(seed: u64) {
    let stage = Stage::new();
    for features in [&[], HANDLE, KEEP] {
        for engine in [Engine::Kernel, ours()] {
            stage.in_sync();
            let shape = stage.disk(features);
            let served = Mirror::open(engine, "m", &shape);
            let (disk, stop) = (served.disk(), AtomicBool::new(false));
            let plan = Plan {
                writers: 8,
                max_sectors: 256,
                writes: 100_000,
                seconds: 2,
                may_break: false,
            };
            let writes = thread::scope(|scope| {
                let load = scope.spawn(|| load::write(&stage.view, &disk, seed, plan, &stop));
                thread::sleep(Duration::from_millis(400));
                stage.legs[1].set(Fault::Gone);
                thread::sleep(Duration::from_millis(400));
                stage.legs[1].heal();
                if features == HANDLE {
                    // Writes are held until there is another table; the load continues with that
                    // table.
                    served.suspend(true);
                    served.load(&shape);
                    served.resume();
                }
                load.join()
                    .expect("no panic")
                    .unwrap_or_else(|why| panic!("seed {seed}, {engine:?}, {features:?}: {why}"))
            });
            assert!(writes > 50, "{engine:?} with {features:?}: only {writes} writes");
            drop(disk);
            if features != HANDLE {
                let status = served.status();
                assert!(
                    status.letters == "AD" && status.in_sync < REGIONS,
                    "{engine:?}: {}",
                    status.short()
                );
                served.suspend(false);
                served.resume();
            }
            served.wait_status(30, "8/8 AA A", |status| status.short() == "8/8 AA A");
            assert_whole(
                served,
                &stage.view,
                &shape,
                &format!("{engine:?} with {features:?} after an outage, seed {seed}"),
            );
        }
    }
}

/// Leg 0 has missed an acknowledged write. Whatever happens then, it must not be the source of a
/// recovery: `ublk-dm` records that in the log. (The kernel would recover from it.)
fn stale_leg() {
    if ours() == Engine::Kernel {
        return;
    }
    let stage = Stage::new();
    let raw_log = Disk::open(&stage.log.path);
    for end in ["del", "kill", "turned"] {
        stage.in_sync();
        let mut shape = stage.disk(KEEP);
        let served = Mirror::open(Engine::Ublk, "m", &shape);
        stage.legs[0].set(Fault::Bad { sector: 3 * REGION, sectors: REGION });
        stage.view.write(&served.disk(), 3 * REGION, 64);
        let status = served.status().short();
        assert!(status == "7/8 DA A", "status is {status} after leg 0 has missed a write");
        if end == "kill" {
            let pid = server::number("m", "/server_pid");
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
            ublk_dm("del m --force").ok();
            served.forget();
        } else {
            served.close();
        }
        server::assert_nothing_left(end);
        assert!(
            log::dirty(&stage.log.path, REGIONS).contains(&3),
            "{end}: region 3 should be dirty in the log"
        );
        stage.legs[0].heal();
        if end == "turned" {
            // As an administrator who knows the kernel would do it: the good leg first.
            shape.legs.reverse();
        }
        let served = Mirror::open(Engine::Ublk, "m", &shape);
        stage.view.verify_range(&served.disk(), 3 * REGION, REGION);
        served.wait_status(20, "8/8 AA A", |status| status.short() == "8/8 AA A");
        assert_whole(served, &stage.view, &shape, &format!("after {end} with a stale leg"));
        // Then it is as up to date as the other leg, and the kernel accepts the log as it is.
        assert!(
            raw_log.read(0, 8)[..4] == log::MAGIC.to_le_bytes(),
            "{end}: the log has lost its magic"
        );
        let judge = kernel::create("judge", &shape.table());
        assert!(
            kernel::status("judge").contains(" 8/8 1 AA "),
            "{end}: the kernel says {}",
            kernel::status("judge")
        );
        stage.view.verify_range(&Disk::open(&judge), 0, LEN);
        kernel::remove("judge");
    }
}
