//! Power cuts of the real server: loads recorded by `dm-log-writes`, cut at every flush, every FUA
//! write and every acknowledgement, with the writes in between kept, lost or torn
//! (`power::replay`).
//!
//! Origin and COWs are slices of one device, so that the record has one order. Every state is
//! judged from its bytes (`power::oracle`); some are written to a disk and opened by the kernel and
//! by ublk-dm, which continue to use them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::cases::powercut_reopen::{Reopened, reopen};
use crate::disk::{Disk, MIB, node};
use crate::load::Rng;
use crate::model::{Cell, View, stamped};
use crate::power::history::{History, Promise};
use crate::power::log::{self, Contents};
use crate::power::oracle::{Header, Layout, Snapshot, header, view};
use crate::power::replay::{Counts, Image, Record};
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    let disks = &[DISK, "n1", "n2"];
    vec![
        Case {
            name: "powercut-writes",
            bound_s: 180,
            disks,
            run: |seed| writes(seed, &[(8, 10 * MIB)]),
        },
        Case {
            name: "powercut-two-snapshots",
            bound_s: 300,
            disks,
            run: |seed| writes(seed, &[(32, 12 * MIB), (1, 10 * MIB)]),
        },
        Case { name: "powercut-full-cow", bound_s: 180, disks, run: full },
        Case { name: "powercut-twice", bound_s: 240, disks, run: twice },
    ]
}

const ORIGIN: u64 = 3 * MIB + 3;
/// The recorded disk. `dm-log-writes` lists a write with the first flush sent after its completion;
/// if a second flush, sent later, completed before the first one, the record would deny what that
/// second one made durable. So flushes are sent one after another (the `one` device below) to a
/// disk with a single queue, which completes them in that order.
const DISK: &str = "s0";
/// With fewer cuts or states than this, a load was too small to be meaningful.
const CUTS: u64 = 400;
const STATES: u64 = 1500;
/// States of a record that are written to a disk and opened by `check`, the kernel and ublk-dm.
const SAMPLES: usize = 6;

/// The start of a snapshot.
pub struct Start {
    pub chunk: u64,
    pub cow_sectors: u64,
    /// The content of an existing snapshot; `None`: its store is to be made.
    pub cells: Option<Vec<Cell>>,
    pub may_end: bool,
}

/// A load to be recorded.
pub struct Load<'a> {
    pub seed: u64,
    /// The origin's content.
    pub origin: Vec<Cell>,
    pub snapshots: Vec<Start>,
    /// Number of loads on the disk so far, including this one.
    pub round: u8,
    /// Requests of each writer.
    pub requests: u64,
    /// Devices that are written: 0 is the origin.
    pub written: &'a [usize],
    /// Requests crowd into one chunk after another, and flushes are slow: many requests wait for a
    /// record.
    pub crowded: bool,
}

/// A device under load.
struct Device<'a> {
    number: usize,
    disk: Disk,
    durable: Disk,
    history: &'a History,
    may_end: bool,
    /// Counts crowded requests; `None`: requests go anywhere.
    crowd: Option<AtomicU64>,
}

/// Requests to one chunk of a crowd, and the longest pause of a writer, which spreads them out.
const CROWD: u64 = 6;
const CROWD_PAUSE_MS: u64 = 12;
/// Sectors of a crowded chunk.
pub const CROWD_CHUNK: u64 = 64;

/// Fills the origin, and each COW with the remains of an older store; returns the origin's cells.
pub fn prepare(cows: &[(u64, u64)]) -> Vec<Cell> {
    let origin = View::new("bas0", ORIGIN);
    let disk = Disk::open(&node(DISK));
    origin
        .fill(&Disk::open(&kernel::create("fill", &format!("0 {ORIGIN} linear {} 0", disk.path))));
    kernel::remove("fill");
    let mut start = ORIGIN;
    for (chunk, sectors) in cows {
        let cow = kernel::create("fill", &format!("0 {sectors} linear {} {start}", disk.path));
        store::poison(&Disk::open(&cow), *chunk, 4);
        kernel::remove("fill");
        start += sectors;
    }
    disk.flush().expect("a disk");
    origin.open_window()
}

/// Runs a load over a logged device and reads its record.
pub fn record(load: Load) -> (Record, Layout) {
    let total = ORIGIN + load.snapshots.iter().map(|s| s.cow_sectors).sum::<u64>();
    let raw = Disk::open(&node(DISK));
    let mut contents = Contents::default();
    let first = log::add_range(&raw, 0, total, &mut contents);
    let start: Image = (first..).take(crate::disk::us(total)).collect();
    Disk::open(&node("n1")).zero(0, 8);
    let logged = kernel::create("lw", &format!("0 {total} log-writes {} {}", raw.path, node("n1")));
    let one = slow_flushes(&logged, total, load.crowded);
    let origin = kernel::create("org", &format!("0 {ORIGIN} linear {one} 0"));
    assert!(
        kernel::queue(&origin, "write_cache") == "write back",
        "{origin} has no volatile cache: cuts prove nothing"
    );
    let tag = |kind: &str| format!("{kind}{}", load.round);
    let mut layout =
        Layout { origin: History::new(&tag("org"), load.origin), snapshots: Vec::new() };
    let top = server::add(&format!("origin --origin {origin} --name o"));
    kernel::message("lw", "mark c,0");
    let mut nodes = vec![top];
    let mut at = ORIGIN;
    let last = load.snapshots.len();
    for (n, snapshot) in (1..).zip(load.snapshots) {
        let cow = kernel::create(
            &format!("cow{n}"),
            &format!("0 {} linear {one} {at}", snapshot.cow_sectors),
        );
        if snapshot.cells.is_some() {
            kernel::message("lw", &format!("mark c,{n}"));
        }
        let options =
            format!("--chunk-size {} --on-full invalidate --name s{n}", snapshot.chunk * 512);
        nodes.push(server::add(&format!("snapshot --origin {origin} --cow {cow} {options}")));
        kernel::message("lw", &format!("mark c,{n}"));
        let cells = snapshot.cells.unwrap_or_else(|| layout.origin.view().open_window());
        let (chunk, sectors, may_end) = (snapshot.chunk, snapshot.cow_sectors, snapshot.may_end);
        let history = History::new(&tag(&format!("s{n}_")[..3]), cells);
        layout.snapshots.push(Snapshot { start: at, sectors, chunk, history, may_end });
        at += sectors;
        let written: Vec<usize> =
            load.written.iter().copied().filter(|number| *number <= n).collect();
        // With all devices there is twice as much to do.
        let requests = load.requests * if n == last { 2 } else { 1 };
        write(&layout, &nodes, &written, load.seed ^ n as u64, requests, load.crowded);
    }
    verify_live(&layout, &nodes);
    server::del("--all");
    server::assert_nothing_left("del --all");
    server::forget_departed(); // The next run has other disks, with the same names.
    let cows = (1..=last).map(|n| format!("cow{n}"));
    cows.chain(["org", "one", "lw"].map(String::from)).for_each(|name| kernel::remove(&name));
    let events = log::read(&Disk::open(&node("n1")), &mut contents);
    let record = Record { contents, start, events };
    assert_replays(&record, &raw);
    (record, layout)
}

/// A device on the logged one: reads and writes at once, flushes one by one.
fn slow_flushes(logged: &str, total: u64, crowded: bool) -> String {
    let flush_ms = if crowded { 8 } else { 1 };
    let line = format!("0 {total} delay {logged} 0 0 {logged} 0 0 {logged} 0 {flush_ms}");
    kernel::create("one", &line)
}

/// The record must lead to the content of the disk; otherwise its judgement is void.
fn assert_replays(record: &Record, raw: &Disk) {
    let mut real = Contents::default();
    let first = log::add_range(raw, 0, record.start.len() as u64, &mut real);
    for (sector, (atom, found)) in record.end().iter().zip(first..).enumerate() {
        let same = record.contents.bytes(*atom) == real.bytes(found);
        assert!(
            same,
            "the record of writes does not lead to what sector {sector} of the disk holds"
        );
    }
}

fn verify_live(layout: &Layout, nodes: &[String]) {
    layout.origin.view().verify(&Disk::open(&nodes[0]));
    for (snapshot, node) in
        layout.snapshots.iter().zip(&nodes[1..]).filter(|(snapshot, _)| !snapshot.may_end)
    {
        snapshot.history.view().verify(&Disk::open(node));
    }
}

/// First one request after another, then many at once, on all devices; ends with a flush of the
/// origin.
fn write(
    layout: &Layout,
    nodes: &[String],
    written: &[usize],
    seed: u64,
    requests: u64,
    crowded: bool,
) {
    let history = |n: usize| if n == 0 { &layout.origin } else { &layout.snapshots[n - 1].history };
    let device = |n: usize| Device {
        number: n,
        disk: Disk::open(&nodes[n]),
        durable: Disk::open_durable(&nodes[n]),
        history: history(n),
        may_end: n > 0 && layout.snapshots[n - 1].may_end,
        crowd: crowded.then(AtomicU64::default),
    };
    let devices: Vec<Device> = written.iter().map(|n| device(*n)).collect();
    for device in &devices {
        requests_of_one(device, seed, requests);
    }
    thread::scope(|scope| {
        for device in &devices {
            for writer in 1..=4_u64 {
                scope.spawn(move || requests_of_one(device, seed ^ (writer << 32), requests));
            }
        }
    });
    flush(&device(0)).expect("the origin takes a flush");
}

fn requests_of_one(device: &Device, seed: u64, requests: u64) {
    let mut rng = Rng::new(seed ^ ((device.number as u64) << 56));
    for _ in 0..requests {
        let kind = rng.below(12);
        let done = if kind == 0 { flush(device) } else { write_one(device, &mut rng, kind == 1) };
        match done {
            Ok(()) => {}
            Err(_) if device.may_end => return,
            Err(e) => panic!("seed {seed}: {}: {e}", device.disk.path),
        }
    }
}

fn flush(device: &Device) -> std::io::Result<()> {
    let covered = device.history.acknowledged();
    device.disk.flush()?;
    kernel::message("lw", &format!("mark f,{},{covered}", device.number));
    Ok(())
}

fn write_one(device: &Device, rng: &mut Rng, durable: bool) -> std::io::Result<()> {
    let (sector, sectors) = match &device.crowd {
        None => rng.range(device.disk.sectors, 1, 40),
        Some(count) => {
            thread::sleep(Duration::from_millis(rng.below(CROWD_PAUSE_MS)));
            let n = count.fetch_add(1, Ordering::Relaxed);
            (n / CROWD % (ORIGIN / CROWD_CHUNK) * CROWD_CHUNK + n % CROWD * 8, 3)
        }
    };
    let Some(ticket) = device.history.begin(sector, sectors, durable) else { return Ok(()) };
    let disk = if durable { &device.durable } else { &device.disk };
    disk.try_write(sector, &stamped(ticket))?;
    let acknowledged = device.history.end(ticket);
    kernel::message("lw", &format!("mark a,{},{acknowledged}", device.number));
    Ok(())
}

/// One state of a cut, kept for opening.
pub struct Sample {
    pub position: usize,
    pub image: Image,
}

/// Judges every state of every cut; panics at the first broken promise. Keeps `samples` of them,
/// evenly spread.
pub fn judge(record: &Record, layout: &Layout, seed: u64, samples: usize) -> (Counts, Vec<Sample>) {
    let (counts, kept) =
        try_judge(record, layout, seed, samples).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    let Counts { cuts, states, .. } = counts;
    println!("  cuts={cuts} states={states} of {} events, all as promised", record.events.len());
    assert!(cuts >= CUTS, "only {cuts} cuts, at least {CUTS} are wanted");
    assert!(states >= STATES, "only {states} states, at least {STATES} are wanted");
    (counts, kept)
}

pub fn try_judge(
    record: &Record,
    layout: &Layout,
    seed: u64,
    samples: usize,
) -> Result<(Counts, Vec<Sample>), String> {
    let step = record.events.len() / (samples + 1) + 1;
    let (mut kept, mut next) = (Vec::<Sample>::new(), step);
    let counts = record.every_cut(layout, seed, |position, image, promises: &[Promise]| {
        if position >= next {
            next += step;
            kept.push(Sample { position, image: image.clone() });
        }
        let at = |why: String| {
            let events =
                &record.events[position.saturating_sub(3)..(position + 2).min(record.events.len())];
            format!("cut after event {position}: {why}; events around: {events:?}")
        };
        layout.judge(&record.contents, image, promises).map_err(at)
    })?;
    Ok((counts, kept))
}

fn starts(cows: &[(u64, u64)], may_end: bool) -> Vec<Start> {
    cows.iter()
        .map(|(chunk, cow_sectors)| Start {
            chunk: *chunk,
            cow_sectors: *cow_sectors,
            cells: None,
            may_end,
        })
        .collect()
}

/// Random writes to the origin and all its snapshots, which are made one after another on COWs full
/// of old metadata.
fn writes(seed: u64, cows: &[(u64, u64)]) {
    let origin = prepare(cows);
    let all: Vec<usize> = (0..=cows.len()).collect();
    let requests = 40 / cows.len() as u64;
    let load = Load {
        seed,
        origin,
        snapshots: starts(cows, false),
        round: 1,
        requests,
        written: &all,
        crowded: false,
    };
    let (record, layout) = record(load);
    let last = layout.snapshots.last().expect("one");
    let exceptions = crate::power::oracle::records(&record.contents, &record.end(), last)
        .expect("a store")
        .len();
    println!("  {exceptions} exceptions in the last store");
    assert!(exceptions > 256, "only {exceptions} exceptions: no area was filled");
    let (_, samples) = judge(&record, &layout, seed, SAMPLES);
    samples.iter().for_each(|sample| reopen(seed, &record, &layout, sample));
}

/// The COW runs full under origin writes: before the mark the snapshot is valid, after it invalid.
fn full(seed: u64) {
    let cows = [(8, 300 * 8)];
    let load = Load {
        seed,
        origin: prepare(&cows),
        snapshots: starts(&cows, true),
        round: 1,
        requests: 60,
        written: &[0, 1],
        crowded: false,
    };
    let (record, layout) = record(load);
    let end = header(&record.contents, &record.end(), &layout.snapshots[0]).expect("a header");
    assert!(end == Header::Invalid, "the COW should have run full, its header is {end:?}");
    let (_, samples) = judge(&record, &layout, seed, SAMPLES);
    samples.iter().for_each(|sample| reopen(seed, &record, &layout, sample));
}

/// Cut, opened again, written, cut again.
fn twice(seed: u64) {
    let cows = [(8, 10 * MIB)];
    let load = |origin, cells, round| Load {
        seed: seed ^ u64::from(round),
        origin,
        snapshots: vec![Start { chunk: 8, cow_sectors: cows[0].1, cells, may_end: false }],
        round,
        requests: 20,
        written: &[0, 1],
        crowded: false,
    };
    let (first, layout) = record(load(prepare(&cows), None, 1));
    let (_, samples) = judge(&first, &layout, seed, 2);
    for (sample, round) in samples.iter().zip(2_u8..) {
        let of = &layout.snapshots[0];
        if header(&first.contents, &sample.image, of) != Ok(Header::Valid) {
            continue;
        }
        let Reopened { origin, cells } = Reopened::of(&first, &layout, sample);
        let snapshot = cells.into_iter().next().flatten().expect("a valid one");
        assert!(view(&first.contents, &sample.image, of, ORIGIN).is_ok(), "judged before");
        crate::cases::powercut_reopen::put(&first, sample, DISK);
        let (second, layout) = record(load(origin, Some(snapshot), round));
        let (_, samples) = judge(&second, &layout, seed, 1);
        samples.iter().for_each(|sample| reopen(seed, &second, &layout, sample));
    }
}
