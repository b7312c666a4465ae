//! The scenarios of device-mapper's own test suite for snapshots, in our words, by one script for
//! device-mapper and for ublk-dm: creation, odd and huge chunks, the independence of origin and
//! snapshot, many snapshots, load on all of them at once, and file systems that change on both.

use std::sync::atomic::AtomicBool;
use std::thread;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::load::{self, Plan, Rng};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::sh;
use crate::tool::{Tool, both};
use crate::{kernel, server, tree};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    let case = |name, run| Case { name, bound_s: 180, disks, run };
    vec![
        case("suite-creation", |seed| both(seed, creation)),
        case("suite-chunks", |seed| both(seed, chunks)),
        case("suite-independent", |seed| both(seed, independent)),
        case("suite-many", |seed| both(seed, many)),
        case("suite-parallel", |seed| both(seed, parallel)),
        case("suite-ext4", |seed| both(seed, |tool, seed| file_system(tool, seed, "ext4"))),
        case("suite-xfs", |seed| both(seed, |tool, seed| file_system(tool, seed, "xfs"))),
    ]
}

/// Sectors of an origin, but for file systems and huge chunks.
const LEN: u64 = 8 * MIB;
/// The kinds of stores: persistent and transient.
const KINDS: [&str; 2] = ["P", "N"];
/// Sectors of a chunk, but where another size is the point.
const CHUNK: u64 = 8;

/// An origin's device and its disk, and where the next COW begins.
pub(super) struct Stack {
    tool: Tool,
    pub(super) disk: String,
    pub(super) origin: String,
    len: u64,
    pub(super) snapshots: Vec<String>,
    cows: u64,
}

impl Stack {
    pub(super) fn new(tool: Tool, len: u64) -> Stack {
        let disk = slice("suite-disk", "n0", 0, len);
        let origin = tool.create("suite-origin", &format!("0 {len} snapshot-origin {disk}"));
        Stack { tool, disk, origin, len, snapshots: Vec::new(), cows: 0 }
    }

    /// The COW of the next snapshot, which holds no store yet.
    pub(super) fn cow(&mut self, sectors: u64) -> String {
        let cow = slice(&self.cow_name(), "n1", self.cows, sectors);
        self.cows += sectors;
        Disk::open(&cow).zero(0, 8);
        cow
    }

    fn cow_name(&self) -> String {
        format!("suite-cow{}", self.snapshots.len())
    }

    /// Makes a device of a snapshot. The kernel's origin learns of it when it is resumed.
    pub(super) fn add(&mut self, line: &str) -> String {
        let name = format!("suite-snap{}", self.snapshots.len());
        self.tool.suspend("suite-origin");
        let path = self.tool.create(&name, line);
        self.tool.resume("suite-origin");
        self.snapshots.push(name);
        path
    }

    /// A snapshot whose COW has room for everything.
    fn snapshot(&mut self, kind: &str) -> String {
        self.small_snapshot(kind, self.len + self.len / 16 + MIB)
    }

    fn small_snapshot(&mut self, kind: &str, cow_sectors: u64) -> String {
        let cow = self.cow(cow_sectors);
        self.add(&self.line(&cow, kind, CHUNK))
    }

    pub(super) fn line(&self, cow: &str, kind: &str, chunk: u64) -> String {
        format!("0 {} snapshot {} {cow} {kind} {chunk}", self.len, self.disk)
    }

    /// Everything goes, the snapshots first.
    pub(super) fn end(self) {
        for (number, name) in self.snapshots.iter().enumerate() {
            self.tool.remove(name);
            kernel::remove(&format!("suite-cow{number}"));
        }
        self.tool.remove("suite-origin");
        kernel::remove("suite-disk");
        if self.tool == Tool::Ours {
            server::forget_lost();
            server::forget_departed();
        }
    }
}

/// How many snapshots are made and left alone.
const UNUSED: u64 = 12;

/// One snapshot with a small COW, and many; both kinds.
fn creation(tool: Tool, _seed: u64) {
    for kind in KINDS {
        for count in [1, UNUSED] {
            let mut stack = Stack::new(tool, LEN);
            for _ in 0..count {
                stack.small_snapshot(kind, MIB / 2);
            }
            for name in &stack.snapshots {
                let status = tool.status(name);
                assert!(status.starts_with(&format!("0 {LEN} snapshot ")), "{name}: {status}");
                assert!(status.contains(&format!("/{} ", MIB / 2)), "{name}: {status}");
            }
            stack.end();
        }
    }
}

/// Sectors of the huge chunks: one of them is the whole origin.
const HUGE: u64 = 32 * MIB;

/// A chunk as large as the origin, which the first write copies; and sizes that are no chunk's.
fn chunks(tool: Tool, _seed: u64) {
    for kind in KINDS {
        let mut stack = Stack::new(tool, HUGE);
        let before = View::new("orig", HUGE);
        before.fill(&Disk::open(&stack.origin));
        let cow = stack.cow(4 * HUGE);
        let path = stack.add(&stack.line(&cow, kind, HUGE));
        let after = copy_of(&before);
        after.write(&Disk::open(&stack.origin), HUGE / 2, 8);
        after.verify(&Disk::open(&stack.origin));
        before.verify(&Disk::open(&path));
        stack.end();
    }
    let mut stack = Stack::new(tool, LEN);
    let cow = stack.cow(LEN);
    for chunk in [CHUNK + 57, 24, 1 << 22, 1 << 31] {
        let line = stack.line(&cow, "P", chunk);
        assert!(!tool.takes("suite-odd", &line), "{tool:?} takes chunks of {chunk} sectors");
    }
    kernel::remove("suite-cow0");
    stack.end();
}

/// What is known of a device is known of another one that shows the same.
pub(super) fn copy_of(view: &View) -> View {
    let copy = View::new("copy", view.sectors());
    copy.put(view.cells(0, view.sectors()));
    copy
}

/// Writes at random places.
fn write_some(view: &View, disk: &Disk, rng: &mut Rng, writes: u64) {
    for _ in 0..writes {
        let (sector, sectors) = rng.range(disk.sectors, disk.block, 64);
        view.write(disk, sector, sectors);
    }
}

/// Writes to the snapshot do not show on the origin, nor the other way round.
fn independent(tool: Tool, seed: u64) {
    let mut rng = Rng::new(seed);
    for kind in KINDS {
        let mut stack = Stack::new(tool, LEN);
        let (origin, of_origin) = (Disk::open(&stack.origin), View::new("orig", LEN));
        of_origin.fill(&origin);
        let path = stack.snapshot(kind);
        let (snap, of_snap) = (Disk::open(&path), copy_of(&of_origin));
        of_snap.verify(&snap);
        for _ in 0..2 {
            write_some(&of_snap, &snap, &mut rng, 100);
            of_origin.verify(&origin);
            of_snap.verify(&snap);
            write_some(&of_origin, &origin, &mut rng, 100);
            of_origin.verify(&origin);
            of_snap.verify(&snap);
        }
        drop((origin, snap));
        stack.end();
    }
}

/// How many snapshots of one volume are used.
const MANY: usize = 8;

/// Many snapshots of one volume, which is then written as a whole, as is one of them.
fn many(tool: Tool, _seed: u64) {
    for kind in KINDS {
        let mut stack = Stack::new(tool, LEN);
        let origin = Disk::open(&stack.origin);
        let of_origin = View::new("orig", LEN);
        of_origin.fill(&origin);
        let before = copy_of(&of_origin);
        let snaps: Vec<_> = (0..MANY).map(|_| Disk::open(&stack.snapshot(kind))).collect();
        of_origin.fill(&origin);
        let first = copy_of(&before);
        first.fill(&snaps[0]);
        first.verify(&snaps[0]);
        snaps[1..].iter().for_each(|snap| before.verify(snap));
        of_origin.verify(&origin);
        drop((origin, snaps));
        stack.end();
    }
}

/// How many snapshots are written at the same time as their origin.
const WRITTEN: usize = 6;
/// The load on each.
const LOAD: Plan = Plan { writers: 4, max_sectors: 64, writes: 400, seconds: 60, may_break: false };

/// The origin and all snapshots are written at the same time.
fn parallel(tool: Tool, seed: u64) {
    for kind in KINDS {
        let mut stack = Stack::new(tool, LEN);
        let origin = Disk::open(&stack.origin);
        let of_origin = View::new("orig", LEN);
        of_origin.fill(&origin);
        let snaps: Vec<_> = (0..WRITTEN).map(|_| Disk::open(&stack.snapshot(kind))).collect();
        let views: Vec<View> = snaps.iter().map(|_| copy_of(&of_origin)).collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let pairs = snaps.iter().zip(&views).chain([(&origin, &of_origin)]);
            for (number, (disk, view)) in (0..).zip(pairs) {
                let stop = &stop;
                scope.spawn(move || {
                    let written = load::write(view, disk, seed ^ number << 32, LOAD, stop);
                    written.unwrap_or_else(|why| panic!("seed {seed}: {why}"))
                });
            }
        });
        of_origin.verify(&origin);
        snaps.iter().zip(&views).for_each(|(snap, view)| view.verify(snap));
        drop((origin, snaps));
        stack.end();
    }
}

/// Sectors of an origin with a file system: as few as xfs takes.
const FILES_LEN: u64 = 300 * MIB;
/// How many snapshots are taken of it while it changes.
const STAGES: u64 = 3;

/// A file system changes; before each change a snapshot is taken of it, which shows the files of
/// its moment, and changes as well.
fn file_system(tool: Tool, seed: u64, kind: &str) {
    let mut stack = Stack::new(tool, FILES_LEN);
    let (dir, mut rng) = (scratch("origin"), Rng::new(seed));
    let quiet = if kind == "ext4" { "-q -F" } else { "-q -f" };
    sh(&format!("mkfs.{kind} {quiet} {}", stack.origin)).ok();
    sh(&format!("mount -t {kind} {} {dir}", stack.origin)).ok();
    let mut taken = Vec::new();
    for stage in 0..STAGES {
        tree::grow(&format!("{dir}/stage{stage}"), &mut rng, 20, 100 << 10);
        let files = tree::take(&dir);
        sh(&format!("fsfreeze -f {dir}")).ok();
        let path = stack.small_snapshot("P", 60 * MIB);
        sh(&format!("fsfreeze -u {dir}")).ok();
        taken.push((path, files));
        tree::change(&format!("{dir}/stage{stage}"), &mut rng, 20, 100 << 10);
        sh("sync").ok();
    }
    let now = tree::take(&dir);
    let option = if kind == "xfs" { "-o nouuid" } else { "" };
    for (stage, (path, files)) in taken.iter().enumerate() {
        let snap = scratch("snapshot");
        sh(&format!("mount -t {kind} {option} {path} {snap}")).ok();
        tree::assert_same(&format!("{kind} on {path}, seed {seed}"), files, &tree::take(&snap));
        tree::change(&format!("{snap}/stage{stage}"), &mut rng, 5, 100 << 10);
        sh(&format!("umount {snap}")).ok();
    }
    tree::assert_same(&format!("{kind}, seed {seed}"), &now, &tree::take(&dir));
    sh(&format!("umount {dir}")).ok();
    let check = if kind == "ext4" { "e2fsck -fn" } else { "xfs_repair -n" };
    sh(&format!("{check} {}", stack.origin)).ok();
    stack.end();
}
