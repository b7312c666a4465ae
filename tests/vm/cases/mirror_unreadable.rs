//! A source with sectors that cannot be read, and disks that fail discards: regions that are not
//! known to be the same on all legs do not count as in sync, no data is invented, and a failed
//! discard does not count against a leg.

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, SECTOR, slice};
use crate::log::{self, Image};
use crate::mirror::{self, Engine, Initial, Mirror, Shape, ours};
use crate::model::{View, compare};
use crate::server;
use crate::sh::{sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "mirror-unreadable-sectors", bound_s: 120, disks, run: |_| sectors() },
        Case { name: "mirror-unreadable-other-leg", bound_s: 60, disks, run: |_| other_leg() },
        Case {
            name: "mirror-discard-without-zeroes",
            bound_s: 60,
            disks,
            run: |_| without_zeroes(),
        },
        Case { name: "mirror-fail-discard", bound_s: 120, disks, run: |_| discards() },
    ]
}

const REGION: u64 = 512;
const REGIONS: u64 = 8;
const LEN: u64 = REGION * REGIONS;
/// Sectors of the source that cannot be read, in the middle of a region.
const HOLE: (u64, u64) = (3 * REGION + 100, 3);
const FEATURES: [&[&str]; 3] = [&[], &["handle_errors"], &["handle_errors", "keep_log"]];
/// The content of a leg before it is recovered.
const OLD: u8 = 0xD1;

/// Where the source cannot be read, the other leg keeps its content, the region is out of sync for
/// as long as that is so, also for the next server, and everything else is recovered.
fn sectors() {
    if ours() == Engine::Kernel {
        return;
    }
    let first = Faulty::new("leg0", "n0", 0, LEN);
    let (second, dirty) =
        (slice("leg1", "n1", 0, LEN), slice("log", "n2", 0, log::sectors(REGIONS)));
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&first.path));
    for features in [FEATURES[0], FEATURES[2]] {
        let what = format!("with {features:?}");
        let shape = Shape::new(LEN, REGION, &[&first.path, &second]).log(&dirty).features(features);
        Image::new(REGIONS, false).put(&Disk::open(&dirty), log::sectors(REGIONS));
        let mut old = Buf::new(LEN);
        old.fill(OLD);
        Disk::open(&second).write(0, &old);
        first.set(Fault::Unreadable { sector: HOLE.0, sectors: HOLE.1 });
        let served = Mirror::open(Engine::Ublk, "m", &shape);
        served.wait_status(20, "7/8 SA A", |status| status.short() == "7/8 SA A");
        assert_nothing_made_up(&view, &served.path, false, &what);
        assert_nothing_made_up(&view, &second, true, &what);
        // After `recover` the source still cannot be read.
        ublk_dm("message m recover").ok();
        let out = ublk_dm("wait m --in-sync").refused();
        assert!(out.stderr.contains("1 of 8 regions"), "{what}: {}", out.stderr);
        served.close();
        let left = log::dirty(&dirty, REGIONS);
        assert!(left == [HOLE.0 / REGION], "{what}: the log calls {left:?} dirty");
        let served = Mirror::open(Engine::Ublk, "m", &shape);
        served.wait_status(20, "7/8 SA A", |status| status.short() == "7/8 SA A");
        assert_nothing_made_up(&view, &second, true, &what);
        first.heal();
        ublk_dm("message m recover").ok();
        served.wait_status(20, "8/8 AA A", |status| status.short() == "8/8 AA A");
        view.verify(&served.disk());
        served.close();
        mirror::assert_legs_equal(&shape, &what);
    }
}

/// Every sector can be read and is right, but for the region that is out of sync. There the mirror
/// returns the source's data or an error, and a leg may also hold its old data; where the source
/// cannot be read nothing else is allowed.
fn assert_nothing_made_up(view: &View, path: &str, leg: bool, what: &str) {
    let disk = Disk::open_read_only(path);
    let lost = HOLE.0 / REGION * REGION;
    view.verify_range(&disk, 0, lost);
    view.verify_range(&disk, lost + REGION, LEN - lost - REGION);
    for sector in lost..lost + REGION {
        let mut buf = Buf::new(1);
        if disk.try_read(sector, &mut buf).is_err() {
            continue;
        }
        let right = compare(path, sector, &view.cells(sector, 1), &buf);
        let hole = (HOLE.0..HOLE.0 + HOLE.1).contains(&sector);
        let kept = leg && buf.iter().all(|byte| *byte == OLD);
        assert!(
            kept || right.is_ok() && !hole,
            "{what}: {path}, sector {sector}: {right:?}, first byte {}",
            buf[0]
        );
    }
}

/// A third leg is added to two that are in sync, and gets data that is unreadable on the first leg
/// from the second.
fn other_leg() {
    if ours() == Engine::Kernel {
        return;
    }
    let first = Faulty::new("leg0", "n0", 0, LEN);
    let (second, third) = (slice("leg1", "n1", 0, LEN), slice("leg2", "n2", 0, LEN));
    let shape = Shape::new(LEN, REGION, &[&first.path, &second]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&first.path));
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    served.wait_in_sync();
    first.set(Fault::Unreadable { sector: HOLE.0, sectors: HOLE.1 });
    ublk_dm(&format!("message m add-leg {third}")).ok();
    served.wait_status(20, "8/8 AAA c", |status| status.short() == "8/8 AAA c");
    let errors = server::number("m", "/mirror/legs/0/sync_errors");
    assert!(errors > 0, "the first leg could be read");
    view.verify(&served.disk());
    view.verify(&Disk::open(&third));
    first.heal();
    served.close();
    mirror::assert_legs_equal(
        &Shape::new(LEN, REGION, &[&first.path, &second, &third]),
        "after a leg has joined",
    );
}

/// A discard that fails on the first leg and is done on the other: the user gets the same result as
/// with the kernel, it does not count against a leg, and nothing is held. Where the kernel leaves
/// legs that differ `ublk-dm` recovers.
fn discards() {
    let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
    let view = View::new("mirr", LEN);
    for features in FEATURES {
        let shape = Shape::new(LEN, REGION, &[&legs[0].path, &legs[1].path]).features(features);
        let shape = shape.initial(Initial::NoSync);
        let said = [Engine::Kernel, ours()].map(|engine| {
            mirror::fill(&view, &shape);
            one_discard(engine, &shape, &view, &legs)
        });
        assert!(said[0] == said[1], "{features:?}: exit codes of the kernel and ublk-dm: {said:?}");
    }
}

/// Runs one discard of two regions; returns its exit code.
fn one_discard(engine: Engine, shape: &Shape, view: &View, legs: &[Faulty; 2]) -> i32 {
    const CUT: (u64, u64) = (3 * REGION, 2 * REGION);
    let what =
        format!("{engine:?} with {:?}, a discard that fails on the first leg", shape.features);
    let served = Mirror::open(engine, "m", shape);
    let events = || if engine == Engine::Ublk { server::number("m", "/events") } else { 0 };
    let before = events();
    legs[0].set(Fault::Writes);
    let (at, len) = (CUT.0 * SECTOR, CUT.1 * SECTOR);
    let out = sh(&format!(
        "timeout -k 2 30 blkdiscard --force --offset {at} --length {len} {}",
        served.path
    ));
    assert!(out.code != 124, "{what}: it is held");
    legs[0].heal();
    if engine == Engine::Ublk {
        // Closing the device flushes it, which failed on that leg as well: its writes since the
        // last successful flush are out of sync until it is repaired.
        ublk_dm("message m recover").ok();
    }
    served.wait_status(20, "8/8 AA c", |status| status.short() == "8/8 AA c");
    match engine {
        // The discard was carried out on one leg, and not on the failing one.
        Engine::Kernel => {
            let differing = mirror::differing(shape);
            assert!(differing == [3, 4], "{what}: the legs differ in regions {differing:?}");
        }
        Engine::Ublk => {
            let errors =
                [0, 1].map(|leg| server::number("m", &format!("/mirror/legs/{leg}/write_errors")));
            assert!(errors == [0, 0], "{what}: the legs have {errors:?} errors of writes");
            assert!(events() > before, "{what}: nothing was recovered");
            mirror::assert_legs_equal(shape, &what);
        }
    }
    let disk = served.disk();
    view.verify_range(&disk, 0, CUT.0);
    view.verify_range(&disk, CUT.0 + CUT.1, LEN - CUT.0 - CUT.1);
    view.write(&disk, CUT.0, CUT.1);
    disk.flush().unwrap_or_else(|e| panic!("{what}: flush: {e}"));
    view.verify(&disk);
    drop(disk);
    let status = served.status().short();
    assert!(status == "8/8 AA c", "{what}: status is {status} at the end");
    served.close();
    mirror::assert_legs_equal(shape, &what);
    out.code
}

/// A leg that supports discards but has no command to write zeroes, like many SATA disks: it is
/// discarded like the other, and the legs stay in sync.
fn without_zeroes() {
    if ours() == Engine::Kernel {
        return;
    }
    let (first, second) = (slice("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN));
    second.set(Fault::Slow { read_ms: 0, write_ms: 0 });
    let offers = |attribute| crate::kernel::queue(&second.path, attribute) != "0";
    assert!(
        offers("discard_max_bytes") && !offers("write_zeroes_max_bytes"),
        "this disk is no use here"
    );
    let shape = Shape::new(LEN, REGION, &[&first, &second.path]).initial(Initial::NoSync);
    let view = View::new("mirr", LEN);
    mirror::fill(&view, &shape);
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let before = server::number("m", "/events");
    let (at, len) = (3 * REGION * SECTOR, 2 * REGION * SECTOR);
    sh(&format!("blkdiscard --force --offset {at} --length {len} {}", served.path)).ok();
    let (status, events) = (served.status().short(), server::number("m", "/events") - before);
    assert!(
        status == "8/8 AA c" && events == 0,
        "status is {status}, {events} events after a discard"
    );
    served.close();
}
