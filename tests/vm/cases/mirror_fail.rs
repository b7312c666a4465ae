//! The outcome of a mirror's requests when disks fail: each row of the kernel's table, with each
//! set of features, run on the kernel's dm-mirror and on `ublk-dm`, and the results compared.
//!
//! A run: two legs in sync, a fault, a request, then more requests; the state is read; the mirror
//! is suspended, the disk repaired, a new table loaded. In the end every acknowledged write is
//! there, and the legs are equal over the whole device.

mod table;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk};
use crate::log::{self, Image};
use crate::mirror::{self, Did, Engine, Initial, Mirror, Request, Shape};
use crate::model::{Ticket, View};
use crate::server;

use table::{FLUSH, FLUSH_SUSPEND, LOG, READ, WRITE, WRITE_DISK_LOG};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "mirror-fail-write", bound_s: 120, disks, run: |s| rows(s, WRITE) },
        Case {
            name: "mirror-fail-write-disk-log",
            bound_s: 120,
            disks,
            run: |s| rows(s, WRITE_DISK_LOG),
        },
        Case { name: "mirror-fail-read", bound_s: 120, disks, run: |s| rows(s, READ) },
        Case { name: "mirror-fail-flush", bound_s: 120, disks, run: |s| rows(s, FLUSH) },
        Case { name: "mirror-fail-log", bound_s: 120, disks, run: |s| rows(s, LOG) },
        Case {
            name: "mirror-fail-flush-suspend",
            bound_s: 120,
            disks,
            run: |s| rows(s, FLUSH_SUSPEND),
        },
    ]
}

const REGION: u64 = 1024;
const REGIONS: u64 = 8;
const LEN: u64 = REGION * REGIONS;
/// The faulty range.
const BAD: Fault = Fault::Bad { sector: 3 * REGION, sectors: REGION };

/// The ranges of the first request and of later writes: sector and number of sectors.
const FIRST: (u64, u64) = (3 * REGION + 8, 64);
const LATER: [(u64, u64); 2] = [(3 * REGION + 100, 16), (5 * REGION + 100, 16)];

/// The kind of the first request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ask {
    Write,
    Read,
    /// A flush.
    Sync,
}

/// One row of the table: it is run with each set of features.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Leg 0, leg 1, log.
    faults: [Fault; 3],
    disk_log: bool,
    ask: Ask,
    /// Suspended with a flush, so that held writes fail.
    flush_suspend: bool,
    /// The known result of the kernel, by features: none, `handle_errors`, and `keep_log` as well.
    known: [&'static str; 3],
    /// The result of `ublk-dm` if it differs on purpose; all its requests then succeed.
    own: Option<&'static str>,
}

impl Row {
    /// How long a request may take before it counts as held: long if it should not be held, because
    /// the machine may be slow.
    fn patience_ms(&self, features: &[&str]) -> u64 {
        if self.known[features.len()].starts_with("Held") { 1000 } else { 10_000 }
    }
}

const FEATURES: [&[&str]; 3] = [&[], &["handle_errors"], &["handle_errors", "keep_log"]];

/// The observations of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    /// How the first request ended, and the status then.
    first: String,
    /// Further writes: to the same region, to another one.
    later: [Did; 2],
    /// Each region read: `r`ight, `E`rror, `W`rong bytes, `.` not tried.
    reads: String,
    /// Which bits of the log were 0 when the mirror was suspended.
    dirty: Vec<u64>,
    /// How a held write ended after the suspend or the resume.
    held: Option<Did>,
}

struct Stage {
    legs: [Faulty; 2],
    log: Faulty,
    view: View,
}

impl Stage {
    /// Disks full of stamps, equal; a log that says so.
    fn new() -> Stage {
        let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
        let stage = Stage {
            legs,
            log: Faulty::new("log", "n2", 0, log::sectors(REGIONS)),
            view: View::new("mirr", LEN),
        };
        mirror::fill(&stage.view, &stage.shape(false, &[]));
        stage
    }

    fn shape(&self, disk_log: bool, features: &'static [&'static str]) -> Shape {
        let shape =
            Shape::new(LEN, REGION, &[&self.legs[0].path, &self.legs[1].path]).features(features);
        if disk_log { shape.log(&self.log.path) } else { shape }
    }

    /// Legs and log as before the fault. The remains of a failed write are overwritten.
    fn reset(&self) {
        server::forget_ended_legs();
        let leg = Disk::open(&self.legs[0].path);
        for (sector, sectors) in [FIRST, LATER[0], LATER[1]] {
            self.view.write(&leg, sector, sectors);
        }
        mirror::copy(&self.legs[0].path, 0, &self.legs[1].path, 0, LEN);
        Image::new(REGIONS, true).put(&Disk::open(&self.log.path), log::sectors(REGIONS));
    }

    fn fault(&self, faults: [Fault; 3]) {
        for (disk, fault) in [&self.legs[0], &self.legs[1], &self.log].into_iter().zip(faults) {
            if fault != Fault::None {
                disk.set(fault);
            }
        }
    }

    fn heal(&self) {
        [&self.legs[0], &self.legs[1], &self.log].into_iter().for_each(Faulty::heal);
    }
}

/// Runs each row on both and compares.
fn rows(seed: u64, rows: &[Row]) {
    let stage = Stage::new();
    for row in rows {
        for (features, known) in FEATURES.into_iter().zip(row.known) {
            if known.is_empty() {
                continue;
            }
            let judge = play(Engine::Kernel, &stage, row, features);
            println!("  {row:?} {features:?}: the kernel: {judge:?}");
            assert!(
                judge.first.starts_with(known),
                "the kernel should say {known:?} to {row:?} with {features:?}"
            );
            let ours = play(mirror::ours(), &stage, row, features);
            println!("    ublk-dm: {ours:?}");
            if let (Engine::Ublk, Some(own)) = (mirror::ours(), row.own) {
                assert!(
                    ours.first == own && ours.later == [Did::Success, Did::Success],
                    "{row:?}: {ours:?}, not {own}"
                );
                continue;
            }
            compare(&judge, &ours, &format!("{row:?} with {features:?}, seed {seed}"));
        }
    }
}

/// Equal except for improvements: data that the kernel can read must be readable, and no data may
/// be wrong.
fn compare(judge: &Seen, ours: &Seen, what: &str) {
    assert!(judge.first == ours.first, "{what}: the kernel says {judge:?}, ublk-dm {ours:?}");
    for (theirs, own) in judge.later.iter().zip(&ours.later) {
        let better = *theirs == Did::Eio && *own == Did::Success;
        assert!(
            own == theirs || better,
            "{what}: later writes: the kernel says {judge:?}, ublk-dm {ours:?}"
        );
    }
    assert!(
        judge.held == ours.held,
        "{what}: the held write: the kernel says {judge:?}, ublk-dm {ours:?}"
    );
    assert!(
        judge.dirty == ours.dirty,
        "{what}: the log's dirty regions: the kernel says {judge:?}, ublk-dm {ours:?}"
    );
    for (theirs, own) in judge.reads.chars().zip(ours.reads.chars()) {
        assert!(
            own == theirs || own == 'r',
            "{what}: reads: the kernel says {judge:?}, ublk-dm {ours:?}"
        );
    }
}

fn play(engine: Engine, stage: &Stage, row: &Row, features: &'static [&'static str]) -> Seen {
    stage.reset();
    let mut shape = stage.shape(row.disk_log, features);
    if !row.disk_log {
        shape = shape.initial(Initial::NoSync);
    }
    let served = Mirror::open(engine, "m", &shape);
    stage.fault(row.faults);
    let view = &stage.view;
    let ticket = view.begin(FIRST.0, FIRST.1).expect("no other writer");
    let request = ask(&served, row.ask, ticket);
    let patience_ms = row.patience_ms(features);
    let did = request_did(&served, &request, patience_ms);
    let first = format!("{did:?} {}", served.status().short());
    let holding = did == Did::Held;
    if !holding || row.ask != Ask::Write {
        end_write(view, ticket, row.ask == Ask::Write && did == Did::Success);
    }
    let mut seen = Seen {
        first,
        later: [Did::Held, Did::Held],
        reads: String::new(),
        dirty: Vec::new(),
        held: None,
    };
    if !holding {
        seen.later = LATER.map(|range| write_one(&served, view, range, patience_ms));
    }
    seen.reads = (0..REGIONS).map(|region| read_one(&served, view, region)).collect();
    served.suspend(holding && !row.flush_suspend);
    if row.disk_log && row.faults[2] == Fault::None {
        seen.dirty = log::dirty(&stage.log.path, REGIONS);
    }
    if holding && row.flush_suspend {
        seen.held = Some(request.did(10_000));
        end_held_write(row.ask, view, ticket, seen.held.as_ref());
    }
    stage.heal();
    let next = if row.faults[0] == Fault::None {
        stage.shape(row.disk_log, features)
    } else {
        turned(stage, row, features)
    };
    served.load(&next);
    served.resume();
    if holding && !row.flush_suspend {
        seen.held = Some(request.did(10_000));
        end_held_write(row.ask, view, ticket, seen.held.as_ref());
    }
    finish(served, view, &next, row, &seen);
    seen
}

/// The table after leg 0 failed: its missing data is copied from leg 1.
fn turned(stage: &Stage, row: &Row, features: &'static [&'static str]) -> Shape {
    let mut shape = stage.shape(row.disk_log, features);
    if row.faults[1] == Fault::None {
        shape.legs.reverse();
    }
    shape
}

fn ask(served: &Mirror, ask: Ask, ticket: Ticket) -> Request {
    match ask {
        Ask::Write => Request::write(&served.path, ticket),
        Ask::Read => Request::read(&served.path, ticket.sector, ticket.sectors),
        Ask::Sync => Request::start(&served.path, |disk| disk.flush()),
    }
}

/// A request counts as held when it has not ended in time, the mirror has detected the fault, and a
/// while has passed.
fn request_did(served: &Mirror, request: &Request, patience_ms: u64) -> Did {
    match request.did(patience_ms) {
        Did::Held => {
            served.wait_status(10, "a failure", |s| {
                s.letters.chars().any(|c| c != 'A') || !["c", "A"].contains(&&*s.log)
            });
            request.did(700)
        }
        ended => ended,
    }
}

/// Takes a request that has ended into the model.
fn end_write(view: &View, ticket: Ticket, written: bool) {
    if written { view.end(ticket) } else { view.cancel(ticket) }
}

fn end_held_write(ask: Ask, view: &View, ticket: Ticket, did: Option<&Did>) {
    if ask == Ask::Write {
        end_write(view, ticket, did == Some(&Did::Success));
    }
}

/// A write of a few sectors.
fn write_one(served: &Mirror, view: &View, (sector, sectors): (u64, u64), patience_ms: u64) -> Did {
    let ticket = view.begin(sector, sectors).expect("no other writer");
    let request = Request::write(&served.path, ticket);
    let did = request_did(served, &request, patience_ms);
    end_write(view, ticket, did == Did::Success);
    did
}

fn read_one(served: &Mirror, view: &View, region: u64) -> char {
    let disk = Disk::open_read_only(&served.path);
    match view.try_verify(&disk, region * REGION, REGION) {
        Ok(true) => 'r',
        Ok(false) => '.',
        // An error of the mirror's, or other bytes than expected?
        Err(_) if disk.try_read(region * REGION, &mut Buf::new(REGION)).is_err() => 'E',
        Err(_) => 'W',
    }
}

/// Waits for the recovery; afterwards no fault is left, and all data is on every leg.
fn finish(served: Mirror, view: &View, shape: &Shape, row: &Row, seen: &Seen) {
    let status = served.wait_in_sync();
    let good = if row.disk_log { "8/8 AA A" } else { "8/8 AA c" };
    assert!(
        status.short() == good,
        "{:?}, {row:?}: status is {} after the repair",
        served.engine,
        status.short()
    );
    let what = format!("{:?}, {row:?} after the repair", served.engine);
    let disk = served.disk();
    let wrong: Vec<u64> = (0..REGIONS)
        .filter(|region| view.try_verify(&disk, region * REGION, REGION).is_err())
        .collect();
    let failed = |region: &u64| match region {
        3 => {
            seen.first.starts_with("Eio")
                || seen.later[0] == Did::Eio
                || seen.held == Some(Did::Eio)
        }
        5 => seen.later[1] == Did::Eio,
        _ => false,
    };
    // A write that ended with an error may be there or not.
    assert!(wrong.iter().all(failed), "{what}: regions {wrong:?} are wrong after {seen:?}");
    drop(disk);
    served.close();
    mirror::assert_legs_equal(shape, &what);
    if row.disk_log {
        assert!(
            log::dirty(&shape.log.clone().expect("a log"), REGIONS).is_empty(),
            "{what}: the log has dirty regions"
        );
    }
}
