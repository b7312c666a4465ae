//! More scenarios of device-mapper's test suite, in our words, by one script for device-mapper and
//! for ublk-dm: what a snapshot costs with chunks and requests of many sizes, snapshots that follow
//! one another while their origin is written, the largest chunk, and a merge with chunks of several
//! sizes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::merge::is_done;
use super::scenarios::{WHILE, forget};
use super::suite::{Stack, copy_of};
use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::load::{self, Plan, Rng, StopOnDrop};
use crate::model::{View, resolve};
use crate::tool::{Tool, both};
use crate::{kernel, server, store};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    let case = |name, run| Case { name, bound_s: 180, disks, run };
    vec![
        case("scenario-sharing", |_| sharing()),
        case("scenario-rolling", |seed| both(seed, rolling)),
        case("scenario-largest-chunk", |seed| both(seed, largest_chunk)),
        case("scenario-merge", |seed| both(seed, merged)),
    ]
}

/// Sectors of the chunks.
const CHUNKS: [u64; 3] = [8, 32, 128];
/// Kinds of stores, and sectors of the requests.
const KINDS: [(&str, u64); 3] = [("P", 64), ("P", 1024), ("N", 256)];
/// Sectors of an origin.
const SMALL: u64 = MIB;

/// Origins are written from start to end, with snapshots of all sizes of chunks: both programs need
/// the same room for it, and none for what is written a second time.
fn sharing() {
    let [kernel, ours] = [Tool::Kernel, Tool::Ours]
        .map(|tool| KINDS.map(|(kind, request)| shared(tool, kind, request)));
    assert!(kernel == ours, "the kernel: {kernel:?}, ublk-dm: {ours:?}");
    server::assert_nothing_left("the script");
}

/// One origin; returns the snapshots' status lines.
fn shared(tool: Tool, kind: &str, request: u64) -> Vec<String> {
    let mut stack = Stack::new(tool, SMALL);
    let origin = Disk::open(&stack.origin);
    let view = View::new("orig", SMALL);
    view.fill(&origin);
    let before = copy_of(&view);
    let snaps = CHUNKS.map(|chunk| {
        let cow = stack.cow(SMALL + MIB);
        stack.add(&stack.line(&cow, kind, chunk))
    });
    let write = || {
        (0..SMALL / request).for_each(|n| view.write(&origin, n * request, request));
    };
    let lines = |stack: &Stack| stack.snapshots.iter().map(|name| tool.status(name)).collect();
    write();
    let broken: Vec<String> = lines(&stack);
    write();
    assert!(broken == lines(&stack), "{tool:?}: {broken:?}, then {:?}", lines(&stack));
    view.verify(&origin);
    snaps.iter().for_each(|snap| before.verify(&Disk::open_read_only(snap)));
    drop(origin);
    stack.end();
    broken
}

/// How many snapshots follow one another.
const ROLLS: usize = 4;
/// The load on their origin.
const ROLLED: Plan =
    Plan { writers: 4, max_sectors: 64, writes: u64::MAX, seconds: 100, may_break: false };

/// A snapshot is taken while the previous one is still there, and then that one goes, again and
/// again, under writes.
fn rolling(tool: Tool, seed: u64) {
    let mut stack = Stack::new(tool, SMALL);
    let (origin, view) = (Disk::open(&stack.origin), View::new("orig", SMALL));
    view.fill(&origin);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writes = scope.spawn(|| load::write(&view, &origin, seed, ROLLED, &stop));
        let mut last: Option<(Disk, View)> = None;
        for roll in 0..=ROLLS {
            let taken = (roll < ROLLS).then(|| moment(&mut stack, &view));
            if let Some((disk, shown)) = std::mem::replace(&mut last, taken) {
                shown.verify(&disk);
                drop(disk);
                tool.remove(&format!("suite-snap{}", roll - 1));
            }
            thread::sleep(WHILE);
        }
        stop.store(true, Ordering::Relaxed);
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&origin);
    drop(origin);
    let cows = std::mem::take(&mut stack.snapshots).len();
    (0..cows).for_each(|number| kernel::remove(&format!("suite-cow{number}")));
    stack.end();
}

/// A snapshot of an origin that is written, and what it shows.
fn moment(stack: &mut Stack, view: &View) -> (Disk, View) {
    let cow = stack.cow(2 * SMALL);
    let line = stack.line(&cow, "P", 8);
    let base = view.open_window();
    let disk = Disk::open(&stack.add(&line));
    let maybe = view.close_window();
    let shown = View::with_cells("snap", resolve(&disk, base, &maybe));
    (disk, shown)
}

/// Sectors of the largest chunk.
const LARGEST: u64 = 1 << 21;

/// The largest chunk there is: a GiB. (Of a persistent store, the kernel would keep three of them
/// in memory.)
fn largest_chunk(tool: Tool, _seed: u64) {
    let origin = slice("org", "big0", 0, LARGEST);
    let cow = slice("cow", "big0", LARGEST, 4 * LARGEST);
    let view = View::new("orig", MIB);
    (0..MIB).step_by(256).for_each(|at| view.write(&Disk::open(&origin), at, 256));
    let line = format!("0 {LARGEST} snapshot {origin} {cow} N {LARGEST}");
    let snap = tool.create("largest", &line);
    view.verify_range(&Disk::open_read_only(&snap), 0, MIB);
    let status = tool.status("largest");
    assert!(status == format!("0 {LARGEST} snapshot 0/{} 0", 4 * LARGEST), "{status}");
    tool.remove("largest");
    ["org", "cow"].into_iter().for_each(kernel::remove);
    if tool == Tool::Ours {
        server::forget_departed();
    }
}

/// The load on an origin into which a snapshot is merged.
const LOAD: Plan = Plan { writers: 4, max_sectors: 64, writes: 150, seconds: 60, may_break: false };

/// A snapshot is merged into its origin, whose device is written meanwhile and shows the snapshot
/// from the first moment on: `lvconvert --merge`.
fn merged(tool: Tool, seed: u64) {
    for chunk in [8, 64] {
        let mut stack = Stack::new(tool, SMALL);
        let (of_origin, origin) = (View::new("orig", SMALL), stack.origin.clone());
        of_origin.fill(&Disk::open(&origin));
        let cow = stack.cow(2 * SMALL);
        let line = stack.line(&cow, "P", chunk);
        let view = copy_of(&of_origin);
        let snap = Disk::open(&stack.add(&line));
        let mut rng = Rng::new(seed);
        for _ in 0..60 {
            let (at, count) = rng.range(SMALL, snap.block, 64);
            view.write(&snap, at, count);
            let (at, count) = rng.range(SMALL, snap.block, 64);
            of_origin.write(&Disk::open(&origin), at, count);
        }
        drop(snap);
        tool.suspend("suite-origin");
        tool.remove("suite-snap0");
        stack.snapshots.clear();
        let merge = line.replace(" snapshot ", " snapshot-merge ");
        tool.load("suite-origin", &merge);
        tool.resume("suite-origin");
        written_while_merged(tool, &view, &origin, seed);
        tool.swap("suite-origin", &format!("0 {SMALL} snapshot-origin {}", stack.disk));
        view.verify(&Disk::open(&origin));
        assert!(store::records(&Disk::open(&cow), chunk).is_empty(), "records are left");
        let disk = stack.disk.clone();
        tool.remove("suite-origin");
        view.verify(&Disk::open_read_only(&disk));
        ["suite-disk", "suite-cow0"].into_iter().for_each(kernel::remove);
        forget(tool);
    }
}

fn written_while_merged(tool: Tool, view: &View, path: &str, seed: u64) {
    let (disk, stop) = (Disk::open(path), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writes = scope.spawn(|| load::write(view, &disk, seed, LOAD, &stop));
        server::wait_for(60, "the end of the merge", || is_done(&tool.status("suite-origin")));
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&disk);
}
