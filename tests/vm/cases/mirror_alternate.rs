//! The kernel and `ublk-dm` take turns on the legs and the disk log of one mirror.
//!
//! At every hand-over one side opens the mirror that the other left, after a clean end or with
//! dirty regions as after a power cut. Then the second leg holds other bytes in every region: in
//! dirty regions they must be gone after the recovery, in clean regions they must still be there,
//! because regions in sync are not copied.

use std::thread;
use std::time::Duration;

use dm_targets::mirror::leg_flags::LegFlags;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk};
use crate::load::{self, Plan, Rng};
use crate::log::{self, Image};
use crate::mirror::{self, Did, Engine, Initial, Mirror, Request, Shape, ours};
use crate::model::{Ticket, View, resolve};
use crate::server;
use crate::sh::{sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "mirror-alternate", bound_s: 120, disks, run: |seed| turns(seed, 0) },
        Case { name: "mirror-alternate-short", bound_s: 120, disks, run: |seed| turns(seed, 72) },
        Case { name: "mirror-alternate-logs", bound_s: 120, disks, run: |_| logs() },
    ]
}

const REGION: u64 = 256;
const REGIONS: u64 = 66;

struct Stage {
    leg0: String,
    leg1: Faulty,
    shape: Shape,
    view: View,
}

impl Stage {
    fn new(regions: u64, short: u64) -> Stage {
        let len = regions * REGION - short;
        let leg0 = crate::disk::slice("leg0", "n0", 0, len);
        let leg1 = Faulty::new("leg1", "n1", 0, len);
        let log = crate::disk::slice("log", "n2", 0, log::sectors(regions));
        let shape = Shape::new(len, REGION, &[&leg0, &leg1.path]).log(&log);
        let view = View::new("mirr", len);
        mirror::fill(&view, &shape);
        Stage { leg0, leg1, shape, view }
    }

    fn log(&self) -> &str {
        self.shape.log.as_deref().expect("a log")
    }
}

fn turns(seed: u64, short: u64) {
    let stage = Stage::new(REGIONS, short);
    Image::lvm(0).put(&Disk::open(stage.log()), log::sectors(REGIONS));
    let mut rng = Rng::new(seed);
    let order = if seed % 2 == 0 { [ours(), Engine::Kernel] } else { [Engine::Kernel, ours()] };
    let mut dirty: Vec<u64> = (0..REGIONS).collect();
    // Three rounds of two turns, which end dirty and clean alternately; the seventh turn only
    // checks.
    for turn in 0..7u64 {
        let engine = order[usize::from(turn % 2 == 1)];
        let what = format!("turn {turn} of {engine:?}, seed {seed}");
        poison(&stage, &dirty);
        let served = Mirror::open(engine, "m", &stage.shape);
        served.wait_in_sync();
        assert_recovered(&stage, &dirty, &what);
        stage.view.verify(&served.disk());
        if turn < 6 {
            write(&stage, &served, seed ^ turn);
        }
        dirty = if turn % 4 < 2 {
            stop_dirty(&stage, served, &mut rng, &what)
        } else {
            stop_clean(&stage, served)
        };
    }
}

/// The sector of a region where the second leg is made to differ.
fn mark(region: u64) -> u64 {
    region * REGION + region * 37 % (REGION - 72)
}

/// Other bytes in each region of the second leg: one sector if the log says that the region is
/// clean, much if not.
fn poison(stage: &Stage, dirty: &[u64]) {
    let leg = Disk::open(&stage.leg1.path);
    for region in 0..stage.shape.regions() {
        let len = if dirty.contains(&region) { 64 } else { 1 };
        let mut buf = Buf::new(len);
        buf.fill(0xEE);
        leg.write(mark(region), &buf);
    }
}

/// Clean regions still hold the other bytes, and are then repaired; all other regions are equal to
/// the first leg.
fn assert_recovered(stage: &Stage, dirty: &[u64], what: &str) {
    let (first, second) = (Disk::open_read_only(&stage.leg0), Disk::open(&stage.leg1.path));
    for region in (0..stage.shape.regions()).filter(|region| !dirty.contains(region)) {
        let there = second.read(mark(region), 1);
        assert!(
            there.iter().all(|b| *b == 0xEE),
            "{what}: region {region} was in sync but was copied; dirty: {dirty:?}"
        );
        second.write(mark(region), &first.read(mark(region), 1));
    }
    mirror::assert_legs_equal(&stage.shape, what);
}

fn write(stage: &Stage, served: &Mirror, seed: u64) {
    let plan = Plan { writers: 8, max_sectors: 512, writes: 60, seconds: 20, may_break: false };
    let stop = std::sync::atomic::AtomicBool::new(false);
    load::write(&stage.view, &served.disk(), seed, plan, &stop)
        .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
}

fn stop_clean(stage: &Stage, served: Mirror) -> Vec<u64> {
    let engine = served.engine;
    served.close();
    let dirty = log::dirty(stage.log(), REGIONS);
    assert!(dirty.is_empty(), "{engine:?} left regions {dirty:?} dirty after a clean end");
    mirror::assert_legs_equal(&stage.shape, "after a clean end");
    dirty
}

/// Ends with writes under way to some regions; returns those that the log says are dirty.
fn stop_dirty(stage: &Stage, served: Mirror, rng: &mut Rng, what: &str) -> Vec<u64> {
    server::wait_for(20, "all regions to be clean", || {
        log::dirty(stage.log(), REGIONS).is_empty() || stir(stage, &served)
    });
    stage.leg1.set(Fault::Slow { read_ms: 0, write_ms: 30_000 });
    let mut regions: Vec<u64> = (0..5).map(|_| rng.below(REGIONS - 1)).collect();
    regions.sort_unstable();
    regions.dedup();
    let requests: Vec<_> = regions
        .iter()
        .map(|region| {
            let ticket = stage.view.begin(region * REGION + 16, 32).expect("no other writer");
            (Request::write(&served.path, ticket), ticket)
        })
        .collect();
    server::wait_for(20, "marks in the log", || log::dirty(stage.log(), REGIONS) == regions);
    thread::sleep(Duration::from_millis(50));
    for (request, _) in &requests {
        assert!(
            request.did(0) == Did::Held,
            "{what}: a write was acknowledged that is not on both legs"
        );
    }
    cut_off(stage, served, requests, what);
    log::dirty(stage.log(), REGIONS)
}

/// Ends a mirror as a loss of power, or of the process, would, with these writes under way.
fn cut_off(stage: &Stage, served: Mirror, requests: Vec<(Request, Ticket)>, what: &str) {
    match served.engine {
        Engine::Kernel => {
            // The moment of the power cut: the log as it is now will be put back.
            let saved = log::save(stage.log(), REGIONS);
            stage.leg1.heal();
            for (request, ticket) in requests {
                assert!(
                    request.did(20_000) == Did::Success,
                    "{what}: a slow write has not ended well"
                );
                stage.view.end(ticket);
            }
            served.close();
            Disk::open(stage.log()).write(0, &saved);
        }
        Engine::Ublk => {
            let pid = server::number("m", "/server_pid");
            sh(&format!("kill -9 {pid}")).ok();
            stage.leg1.heal();
            server::wait_gone(pid);
            ublk_dm("del m --force").ok();
            served.forget();
            for (request, _) in &requests {
                assert!(
                    request.did(20_000) != Did::Held,
                    "{what}: a write hangs after del --force"
                );
            }
            server::assert_nothing_left("kill -9 and del --force");
            // Writes that were never acknowledged may be on the first leg or not: its content
            // counts.
            let maybe = stage.view.take_unacknowledged();
            let cells = resolve(&Disk::open(&stage.leg0), stage.view.open_window(), &maybe);
            stage.view.close_window();
            stage.view.put(cells);
        }
    }
}

/// The kernel cleans a region when the next write comes along.
fn stir(stage: &Stage, served: &Mirror) -> bool {
    if served.engine == Engine::Kernel {
        served.suspend(false); // its log is flushed at every suspend
        served.resume();
    }
    log::dirty(stage.log(), REGIONS).is_empty()
}

/// Logs of all kinds of origin: after the start and after the end the log has the same bytes,
/// whichever side served.
fn logs() {
    const FEW: u64 = 20;
    let stage = Stage::new(FEW, 0);
    let clean = Image::new(FEW, true);
    let some = Image { bits: vec![0b1010_0111, 0xF0, 0x05, 0, 0, 0, 0, 0], ..clean.clone() };
    let padded = Image { bits: vec![0xFF; 8], rest: 0xAA, ..clean.clone() };
    let images = [
        ("nothing", Image { magic: 0, version: 0, nr_regions: 0, ..Image::new(FEW, false) }),
        ("a clean log", clean.clone()),
        ("some dirty regions", some.clone()),
        ("bits behind the last region", padded.clone()),
        ("fewer regions, grown", Image { nr_regions: 11, ..padded.clone() }),
        ("more regions, shrunk", Image { nr_regions: 60, ..some.clone() }),
        ("LVM's zeroes", Image::lvm(0)),
        ("LVM's ones", Image::lvm(0xFF)),
        ("2^32 regions", Image { nr_regions: 1 << 32, ..padded.clone() }),
        ("version 1", Image { version: 1, ..some.clone() }),
        ("bytes in the header", Image { filler: 0x5A, ..some.clone() }),
    ];
    for (name, image) in &images {
        one_log(&stage, FEW, name, image, Initial::FromLog);
    }
    one_log(&stage, FEW, "some dirty regions, sync", &some, Initial::Sync);
    one_log(&stage, FEW, "some dirty regions, nosync", &some, Initial::NoSync);
    one_log(&stage, FEW, "grown, nosync", &Image { nr_regions: 11, ..some }, Initial::NoSync);
}

fn one_log(stage: &Stage, regions: u64, name: &str, image: &Image, initial: Initial) {
    let shape = Shape { initial, ..stage.shape.clone() };
    let mut judge = None;
    for engine in [Engine::Kernel, ours()] {
        image.put(&Disk::open(stage.log()), log::sectors(regions));
        // Nothing can be recovered yet.
        stage.leg1.set(Fault::Slow { read_ms: 0, write_ms: 30_000 });
        let served = Mirror::open(engine, "m", &shape);
        let begun = (served.status().short(), log::canonical(stage.log(), regions));
        stage.leg1.heal();
        served.wait_in_sync();
        served.close();
        let seen = (begun, log::canonical(stage.log(), regions));
        let judge = judge.get_or_insert_with(|| seen.clone());
        assert!(*judge == seen, "{name}: {engine:?} made {seen:02x?}, the kernel {judge:02x?}");
        let filler = &log::save(stage.log(), regions)[16..1024];
        // Ours names its legs and the size of its regions in the first of these bytes, and that it
        // was the last to use the flags of stale legs.
        let names = if engine == Engine::Kernel { 0 } else { LegFlags::MARK_END - 16 };
        let kept = filler[names..].iter().all(|byte| *byte == image.filler);
        assert!(kept, "{name}: {engine:?} changed bytes of the header without a meaning");
    }
}
