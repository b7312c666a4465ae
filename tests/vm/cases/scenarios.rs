//! What LVM does with tables, by one script for device-mapper and for ublk-dm: volumes that are
//! written all the time get a snapshot, become mirrors, move to another disk and lose a leg. Each
//! step is a table that LVM loads, in its order; both pass, and show the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::disk::{Disk, MIB, digest, node};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::{View, resolve};
use crate::server;
use crate::tool::{Tool, both};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    let case = |name, run| Case { name, bound_s: 180, disks, run };
    vec![
        case("scenario-snapshot", |seed| both(seed, snapshot)),
        case("scenario-mirror", |seed| both(seed, mirror)),
        case("scenario-move", |seed| both(seed, moved)),
        case("scenario-snapshot-of-mirror", |seed| both(seed, snapshot_of_mirror)),
        case("scenario-first-of-mirror", |seed| both(seed, first_snapshot_of_mirror)),
    ]
}

/// Sectors of a volume.
pub(super) const LEN: u64 = 16 * MIB;
/// Sectors of a COW.
const COW: u64 = 24 * MIB;
/// Where a disk's first extent begins.
pub(super) const FIRST: u64 = 2048;
/// The load on a volume, until it is stopped.
const LOAD: Plan =
    Plan { writers: 8, max_sectors: 256, writes: u64::MAX, seconds: 100, may_break: false };
/// How long a volume is written between two steps.
pub(super) const WHILE: Duration = Duration::from_millis(400);

/// Writes to a volume all the time while a script runs, and verifies it in the end.
pub(super) fn under_load(path: &str, seed: u64, script: impl FnOnce(&View)) -> View {
    let view = View::new("vol ", LEN);
    let disk = Disk::open(path);
    view.fill(&disk);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writes = scope.spawn(|| load::write(&view, &disk, seed, LOAD, &stop));
        thread::sleep(WHILE);
        script(&view);
        thread::sleep(WHILE);
        stop.store(true, Ordering::Relaxed);
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&disk);
    view
}

pub(super) fn linear(disk: &str, at: u64) -> String {
    format!("0 {LEN} linear {disk} {at}")
}

/// A snapshot of a written volume, and its end: `lvcreate --snapshot`, `lvremove`. Everything is on
/// one disk.
fn snapshot(tool: Tool, seed: u64) {
    let disk = node("n0");
    let volume = tool.create("vg-v", &linear(&disk, FIRST));
    under_load(&volume, seed, |view| {
        let snap = take_snapshot(tool, view, &linear(&disk, FIRST));
        end_snapshot(tool, snap, &linear(&disk, FIRST));
    });
    tool.remove("vg-v");
}

/// A snapshot and what it shows.
struct Taken {
    disk: Disk,
    view: View,
}

/// Takes a snapshot of `vg-v`, whose table it moves to a device below.
fn take_snapshot(tool: Tool, view: &View, table: &str) -> Taken {
    let cow = tool.create("vg-s-cow", &format!("0 {COW} linear {} {}", node("n0"), FIRST + LEN));
    let real = tool.create("vg-v-real", table);
    take(tool, view, &real, &cow, || {
        tool.load("vg-v", &format!("0 {LEN} snapshot-origin {real}"));
    })
}

/// Takes a snapshot of a device below `vg-v` while that is suspended.
fn take(tool: Tool, view: &View, real: &str, cow: &str, load: impl FnOnce()) -> Taken {
    Disk::open(cow).zero(0, 8);
    let base = view.open_window();
    tool.suspend("vg-v");
    load();
    let path = tool.create("vg-s", &format!("0 {LEN} snapshot {real} {cow} P 8"));
    tool.resume("vg-v");
    let maybe = view.close_window();
    let disk = Disk::open(&path);
    let view = View::with_cells("snap", resolve(&disk, base, &maybe));
    thread::sleep(WHILE);
    view.verify(&disk);
    // How much of the COW is used, of how much.
    let status = tool.status("vg-s");
    assert!(status.starts_with(&format!("0 {LEN} snapshot ")), "{status}");
    assert!(status.contains(&format!("/{COW} ")), "{status}");
    Taken { disk, view }
}

/// A deleted snapshot's store is known as lost with the origin's next write.
pub(super) fn forget(tool: Tool) {
    if tool == Tool::Ours {
        server::forget_lost();
        server::forget_departed();
    }
}

/// Ends it: the snapshot goes, `vg-v` gets its table back, and the device below goes.
fn end_snapshot(tool: Tool, taken: Taken, table: &str) {
    taken.view.verify(&taken.disk);
    drop(taken);
    tool.remove("vg-s");
    tool.remove("vg-s-cow");
    tool.swap("vg-v", table);
    tool.remove("vg-v-real");
    thread::sleep(WHILE);
    forget(tool);
}

/// Makes the devices below a mirror on two disks, with a log beside the first leg.
fn legs(tool: Tool) -> [String; 3] {
    let log = format!("0 {MIB} linear {} {}", node("n0"), FIRST + LEN + COW);
    let log = tool.create("vg-m_mlog", &log);
    Disk::open(&log).zero(0, 8);
    let [one, two] = ["n0", "n1"].map(|disk| linear(&node(disk), FIRST));
    [tool.create("vg-m_mimage_0", &one), tool.create("vg-m_mimage_1", &two), log]
}

fn remove_legs(tool: Tool) {
    ["vg-m_mimage_0", "vg-m_mimage_1", "vg-m_mlog"].iter().for_each(|name| tool.remove(name));
}

fn mirror_line([one, two, log]: &[String; 3]) -> String {
    format!("0 {LEN} mirror disk 2 {log} 1024 2 {one} 0 {two} 0 1 handle_errors")
}

/// A volume becomes a mirror with a log on a disk, and a plain one again on its second leg:
/// `lvconvert --type mirror`, `lvconvert -m0`.
fn mirror(tool: Tool, seed: u64) {
    let disks = [node("n0"), node("n1")];
    let volume = tool.create("vg-v", &linear(&disks[0], FIRST));
    under_load(&volume, seed, |_| {
        tool.suspend("vg-v");
        let below = legs(tool);
        tool.load("vg-v", &mirror_line(&below));
        tool.resume("vg-v");
        tool.wait_in_sync("vg-v");
        let status = tool.status("vg-v");
        assert!(status.ends_with(" A"), "the log's health: {status}");
        assert!(status.contains(" 1 AA 3 disk "), "{status}");
        tool.swap("vg-v", &linear(&disks[1], FIRST));
        remove_legs(tool);
    });
    tool.remove("vg-v");
}

/// A volume moves to another disk: `pvmove`, with a mirror of its extents below it.
fn moved(tool: Tool, seed: u64) {
    let disks = [node("n0"), node("n1")];
    let volume = tool.create("vg-v", &linear(&disks[0], FIRST));
    under_load(&volume, seed, |_| {
        let [from, to] = &disks;
        let line = format!("0 {LEN} mirror core 1 1024 2 {from} {FIRST} {to} {FIRST}");
        tool.suspend("vg-v");
        let mirror = tool.create("vg-pvmove0", &line);
        tool.load("vg-v", &linear(&mirror, 0));
        tool.resume("vg-v");
        tool.wait_in_sync("vg-pvmove0");
        tool.swap("vg-v", &linear(to, FIRST));
        tool.remove("vg-pvmove0");
    });
    tool.remove("vg-v");
}

/// A snapshot of a mirror of two disks, which is below an origin's device from the beginning.
fn snapshot_of_mirror(tool: Tool, seed: u64) {
    let below = legs(tool);
    let real = tool.create("vg-v-real", &mirror_line(&below));
    tool.wait_in_sync("vg-v-real");
    let cow = tool.create("vg-s-cow", &format!("0 {COW} linear {} {}", node("n0"), FIRST + LEN));
    let volume = tool.create("vg-v", &format!("0 {LEN} snapshot-origin {real}"));
    under_load(&volume, seed, |view| {
        let taken = take(tool, view, &real, &cow, || ());
        taken.view.verify(&taken.disk);
        drop(taken);
        tool.remove("vg-s");
        forget(tool);
    });
    ["vg-v", "vg-v-real", "vg-s-cow"].iter().for_each(|name| tool.remove(name));
    remove_legs(tool);
}

/// The first snapshot of a mirror in use, and its end: the mirror moves to a device below, of which
/// its own device is made then, and back.
fn first_snapshot_of_mirror(tool: Tool, seed: u64) {
    let below = legs(tool);
    let volume = tool.create("vg-v", &mirror_line(&below));
    tool.wait_in_sync("vg-v");
    let cow = tool.create("vg-s-cow", &format!("0 {COW} linear {} {}", node("n0"), FIRST + LEN));
    under_load(&volume, seed, |view| {
        tool.suspend("vg-v");
        let real = tool.create("vg-v-real", &mirror_line(&below));
        tool.load("vg-v", &format!("0 {LEN} snapshot-origin {real}"));
        tool.resume("vg-v");
        let taken = take(tool, view, &real, &cow, || ());
        taken.view.verify(&taken.disk);
        drop(taken);
        let status = tool.status("vg-v-real");
        assert!(status.contains(" AA "), "{status}");
        tool.remove("vg-s");
        tool.remove("vg-s-cow");
        // The last snapshot has gone, and the mirror is that of the volume again.
        tool.load("vg-v", &mirror_line(&below));
        ["vg-v", "vg-v-real"].iter().for_each(|name| tool.suspend(name));
        tool.resume("vg-v");
        tool.remove("vg-v-real");
        let status = tool.status("vg-v");
        assert!(status.contains(" AA "), "{status}");
        forget(tool);
    });
    tool.wait_in_sync("vg-v");
    tool.remove("vg-v");
    remove_legs(tool);
    let [one, two] = ["n0", "n1"].map(|disk| Disk::open_read_only(&node(disk)));
    assert!(digest(&one, FIRST, LEN) == digest(&two, FIRST, LEN), "{tool:?}: the legs differ");
}
