//! What LVM does to merge a snapshot back (`lvconvert --merge`), by one script for device-mapper
//! and for ublk-dm: the volume is an origin's device over a device of its own, of which the
//! snapshot is one, and which is a range or a mirror.

use crate::Case;
use crate::disk::{Disk, MIB, digest, node};
use crate::model::View;
use crate::server;
use crate::tool::{Tool, both};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![Case { name: "scenario-merge-back", bound_s: 180, disks, run: |seed| both(seed, merge) }]
}

/// Sectors of the volume.
const LEN: u64 = 16 * MIB;
/// Sectors of the COW.
const COW: u64 = 24 * MIB;
/// Where a disk's first extent begins.
const FIRST: u64 = 2048;

/// How many sectors of a COW are in use, and how many of these are not data.
fn usage(tool: Tool, name: &str) -> (u64, u64) {
    let status = tool.status(name);
    let words: Vec<&str> = status.split(' ').collect();
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{name}: {status}"));
    let (used, _) = words[3].split_once('/').unwrap_or_else(|| panic!("{name}: {status}"));
    (number(used), number(words[4]))
}

fn merge(tool: Tool, seed: u64) {
    for is_mirror in [false, true] {
        merge_into(tool, seed, is_mirror);
    }
}

fn merge_into(tool: Tool, seed: u64, is_mirror: bool) {
    let disks = ["n0", "n1"].map(node);
    let range = |disk: &str| format!("0 {LEN} linear {disk} {FIRST}");
    let legs: &[&str] = if is_mirror { &["vg-v_mimage_0", "vg-v_mimage_1"] } else { &[] };
    let below: Vec<_> =
        legs.iter().zip(&disks).map(|(leg, disk)| tool.create(leg, &range(disk))).collect();
    let real = match below.as_slice() {
        [one, two] => format!("0 {LEN} mirror core 2 1024 nosync 2 {one} 0 {two} 0"),
        _ => range(&disks[0]),
    };
    let real = tool.create("vg-v-real", &real);
    let cow = tool.create("vg-s-cow", &format!("0 {COW} linear {} {}", disks[0], FIRST + LEN));
    Disk::open(&cow).zero(0, 8);
    let plain = format!("0 {LEN} snapshot-origin {real}");
    let volume = tool.create("vg-v", &plain);
    let view = View::new("vol ", LEN);
    view.fill(&Disk::open(&volume));
    let store = format!("{real} {cow} P 16");
    let snap = tool.create("vg-s", &format!("0 {LEN} snapshot {store}"));
    // Both are changed; what is merged is what the snapshot shows.
    let old = View::new("vol ", LEN);
    old.put(view.cells(0, LEN));
    let (on_volume, on_snap) = (Disk::open(&volume), Disk::open(&snap));
    for at in 0..200 {
        view.write(&on_volume, (seed + at * 1559) % (LEN - 16) / 8 * 8, 8);
        old.write(&on_snap, (seed + at * 977) % (LEN - 16) / 8 * 8, 8);
    }
    on_snap.flush().expect("a flush");
    drop((on_volume, on_snap));
    ["vg-v", "vg-s"].iter().for_each(|name| tool.suspend(name));
    tool.load("vg-s", &format!("0 {LEN} error"));
    tool.load("vg-v", &format!("0 {LEN} snapshot-merge {store}"));
    ["vg-v", "vg-s"].iter().for_each(|name| tool.resume(name));
    let on_volume = Disk::open(&volume);
    for at in 0..100 {
        old.write(&on_volume, (seed + at * 3001) % (LEN - 16) / 8 * 8, 8);
    }
    server::wait_for(60, "the end of the merge", || {
        let (used, metadata) = usage(tool, "vg-v");
        used == metadata
    });
    old.verify(&on_volume);
    tool.swap("vg-v", &plain);
    old.verify(&on_volume);
    drop(on_volume);
    let shown = digest(&Disk::open_read_only(&volume), 0, LEN);
    assert!(digest(&Disk::open_read_only(&real), 0, LEN) == shown, "it is not below the volume");
    let devices = ["vg-v", "vg-s", "vg-s-cow", "vg-v-real"];
    devices.iter().chain(legs).for_each(|name| tool.remove(name));
    if tool == Tool::Ours {
        server::forget_departed();
        server::forget_ended_legs();
    }
}
