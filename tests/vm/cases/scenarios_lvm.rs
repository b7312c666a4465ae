//! What LVM does when a leg of a mirror is lost, and when a volume becomes too small, by one script
//! for device-mapper and for ublk-dm: `lvconvert --repair` and `lvextend`, under volumes that are
//! written all the time and whose users see no error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::resize::kernel_resizes;
use super::scenarios::{FIRST, LEN, WHILE, forget, linear, under_load};
use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Disk, MIB, digest, node};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::View;
use crate::tool::{Tool, both};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let case = |name, disks, run| Case { name, bound_s: 180, disks, run };
    vec![
        case("scenario-repair", &["n0", "n1", "n2"], |seed| both(seed, repaired)),
        case("scenario-repair-new-leg", &["n0", "n1", "n2"], |seed| both(seed, replaced)),
        case("scenario-extend", &["n0", "n1"], |seed| both(seed, extended)),
        case("scenario-extend-snapshot", &["n0", "n1"], |seed| both(seed, extended_with_snapshot)),
    ]
}

/// Two disks that can be lost, and a third one: LVM's physical volumes.
struct Volumes {
    tool: Tool,
    lost: [Faulty; 2],
    third: String,
    log: String,
    /// The node of the mirror, `vg-v`.
    path: String,
}

/// The first sector of the log, on the third disk.
const LOG: u64 = FIRST + LEN;

impl Volumes {
    /// A mirror on the first two disks, which is in sync.
    fn mirrored(tool: Tool) -> Volumes {
        let disk = |name, disk| Faulty::new(name, disk, 0, FIRST + LEN);
        let third = node("n2");
        let log = tool.create("vg-m_mlog", &format!("0 {MIB} linear {third} {LOG}"));
        let lost = [disk("pv0", "n0"), disk("pv1", "n1")];
        let mut made = Volumes { tool, lost, third, log, path: String::new() };
        let legs = [0, 1].map(|n| made.leg(n, &made.lost[n].path));
        made.clear_log();
        made.path = tool.create("vg-v", &made.line(&legs));
        tool.wait_in_sync("vg-v");
        made
    }

    /// The device below a mirror that is one of its legs.
    fn leg(&self, number: usize, disk: &str) -> String {
        self.tool.create(&format!("vg-m_mimage_{number}"), &linear(disk, FIRST))
    }

    fn clear_log(&self) {
        Disk::open(&self.log).zero(0, 8);
    }

    fn line(&self, [one, two]: &[String; 2]) -> String {
        let log = &self.log;
        format!("0 {LEN} mirror disk 2 {log} 1024 2 {one} 0 {two} 0 1 handle_errors")
    }

    /// A disk is lost while it is written, which the mirror notices.
    fn lose(&self, number: usize) {
        self.lost[number].set(Fault::Gone);
        server::wait_for(30, "the mirror to notice that a leg is lost", || {
            self.health().as_bytes()[number] == b'D'
        });
        thread::sleep(WHILE);
        let whole = self.health().as_bytes()[1 - number];
        assert!(whole == b'A', "the other leg: {}", self.tool.status("vg-v"));
    }

    /// A letter for each leg.
    fn health(&self) -> String {
        let status = self.tool.status("vg-v");
        let words: Vec<&str> = status.split(' ').collect();
        words.get(8).unwrap_or_else(|| panic!("status {status:?}")).to_string()
    }

    fn remove_legs(&self, numbers: &[usize]) {
        numbers.iter().for_each(|number| self.tool.remove(&format!("vg-m_mimage_{number}")));
    }

    /// Everything goes; then each of these disks has what the volume had.
    fn end(self, view: &View, right: &[&str]) {
        self.tool.remove("vg-v");
        for disk in right {
            let judge = kernel::create("judge", &linear(disk, FIRST));
            view.verify(&Disk::open_read_only(&judge));
            kernel::remove("judge");
        }
        if self.tool == Tool::Ours {
            server::forget_ended_legs();
        }
        self.lost.iter().for_each(Faulty::heal);
        ["pv0", "pv1"].iter().for_each(|name| kernel::remove(name));
    }
}

/// The first leg is lost, and the volume goes on with the second one.
fn repaired(tool: Tool, seed: u64) {
    let volumes = Volumes::mirrored(tool);
    let good = volumes.lost[1].path.clone();
    let view = under_load(&volumes.path, seed, |_| {
        volumes.lose(0);
        tool.swap_noflush("vg-v", &linear(&good, FIRST));
        volumes.remove_legs(&[0, 1]);
        tool.remove("vg-m_mlog");
    });
    volumes.end(&view, &[&good]);
}

/// A leg is lost, and another disk takes its place.
fn replaced(tool: Tool, seed: u64) {
    let lost = usize::from(seed % 2 == 1);
    let volumes = Volumes::mirrored(tool);
    let (good, third) = (volumes.lost[1 - lost].path.clone(), volumes.third.clone());
    let view = under_load(&volumes.path, seed, |_| {
        volumes.lose(lost);
        tool.swap_noflush("vg-v", &linear(&good, FIRST));
        volumes.remove_legs(&[0, 1]);
        // It has nothing to say of other legs.
        volumes.clear_log();
        tool.suspend("vg-v");
        let legs = [volumes.leg(0, &good), volumes.leg(1, &third)];
        tool.load("vg-v", &volumes.line(&legs));
        tool.resume("vg-v");
        tool.wait_in_sync("vg-v");
        assert!(volumes.health() == "AA", "{}", tool.status("vg-v"));
    });
    tool.swap("vg-v", &linear(&third, FIRST));
    volumes.remove_legs(&[0, 1]);
    tool.remove("vg-m_mlog");
    volumes.end(&view, &[&good, &third]);
}

/// Sectors of volumes before and after they have grown.
const SHORT: u64 = 4 * MIB;
const LONG: u64 = 6 * MIB;
/// The load on them.
const LOAD: Plan =
    Plan { writers: 4, max_sectors: 64, writes: u64::MAX, seconds: 100, may_break: false };

/// A range and a mirror of two ranges grow, from the bottom up: `lvextend`. The new part can be
/// used at once, and that of a mirror is brought in sync: the disks differ there.
fn extended(tool: Tool, seed: u64) {
    if !kernel_resizes() {
        return;
    }
    let line = |disk: &str, len: u64| format!("0 {len} linear {} {FIRST}", node(disk));
    let volume = tool.create("vg-v", &line("n0", SHORT));
    let longer = |len: u64| line("n0", len);
    grown(tool, seed, &volume, || tool.grow("vg-v", &longer(LONG)));
    tool.remove("vg-v");
    forget(tool);
    let byte = if tool == Tool::Kernel { 0x5a } else { 0xa5 };
    Disk::open(&node("n0")).write_bytes(FIRST + LONG - 8, &[byte; 4096]);
    let names = [("vg-m_mimage_0", "n0"), ("vg-m_mimage_1", "n1")];
    let legs = names.map(|(name, disk)| tool.create(name, &line(disk, SHORT)));
    let mirror =
        |len| format!("0 {len} mirror core 1 1024 2 {} 0 {} 0 1 handle_errors", legs[0], legs[1]);
    let volume = tool.create("vg-v", &mirror(SHORT));
    grown(tool, seed, &volume, || {
        names.iter().for_each(|(name, disk)| tool.grow(name, &line(disk, LONG)));
        tool.grow("vg-v", &mirror(LONG));
    });
    tool.wait_in_sync("vg-v");
    ["vg-v", names[0].0, names[1].0].iter().for_each(|name| tool.remove(name));
    let parts = ["n0", "n1"].map(|disk| Disk::open_read_only(&node(disk)));
    let [one, two] = parts.map(|disk| digest(&disk, FIRST, LONG));
    assert!(one == two, "{tool:?}: the legs differ");
}

/// A volume with a snapshot grows, from the bottom up: the snapshot keeps its length and what it
/// shows.
fn extended_with_snapshot(tool: Tool, seed: u64) {
    if !kernel_resizes() {
        return;
    }
    let range = |len: u64| format!("0 {len} linear {} {FIRST}", node("n0"));
    let real = tool.create("vg-v-real", &range(SHORT));
    let origin = |len: u64| format!("0 {len} snapshot-origin {real}");
    let volume = tool.create("vg-v", &origin(SHORT));
    let old = View::new("olds", SHORT);
    old.fill(&Disk::open(&volume));
    let cow = tool.create("vg-s-cow", &format!("0 {} linear {} {FIRST}", 2 * LONG, node("n1")));
    Disk::open(&cow).zero(0, 8);
    tool.suspend("vg-v");
    let snap = tool.create("vg-s", &format!("0 {SHORT} snapshot {real} {cow} P 16"));
    tool.resume("vg-v");
    grown(tool, seed, &volume, || {
        tool.grow("vg-v-real", &range(LONG));
        tool.grow("vg-v", &origin(LONG));
    });
    let shown = Disk::open_read_only(&snap);
    assert!(shown.sectors == SHORT, "{tool:?}: {} sectors", shown.sectors);
    old.verify(&shown);
    drop(shown);
    ["vg-s", "vg-v", "vg-s-cow", "vg-v-real"].iter().for_each(|name| tool.remove(name));
    forget(tool);
}

/// A device that is written grows.
fn grown(tool: Tool, seed: u64, path: &str, grow: impl FnOnce()) {
    let (disk, view, stop) = (Disk::open(path), View::new("vol ", SHORT), AtomicBool::new(false));
    view.fill(&disk);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let writes = scope.spawn(|| load::write(&view, &disk, seed, LOAD, &stop));
        thread::sleep(WHILE);
        grow();
        let whole = Disk::open(path);
        assert!(whole.sectors == LONG, "{tool:?}: {} sectors", whole.sectors);
        let end = View::new("tail", LONG);
        (SHORT..SHORT + MIB).step_by(512).for_each(|at| end.write(&whole, at, 512));
        end.verify_range(&whole, SHORT, MIB);
        stop.store(true, Ordering::Relaxed);
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify_range(&disk, 0, SHORT);
}
