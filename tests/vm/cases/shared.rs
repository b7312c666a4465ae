//! Disks that are shared (`--shared`): with device-mapper, which has another part of the disk, and
//! among families of ours, each with parts of its own. All parts are written at the same time, and
//! nothing of one is found in another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Case;
use crate::cases::linear::killed_twice;
use crate::disk::{self, Disk, MIB, node, slice};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{ioctl, kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "shared-mapped", bound_s: 240, disks, run: mapped },
        Case { name: "shared-mirrors", bound_s: 240, disks, run: mirrors },
    ]
}

/// Sectors of each part.
const LEN: u64 = 8 * MIB;
/// Where the parts begin.
const LOW: u64 = MIB;
const HIGH: u64 = LOW + LEN;

/// Half of the load for each of two parts of a disk.
const HALF: Plan =
    Plan { writers: 12, max_sectors: 512, writes: 60_000, seconds: 60, may_break: false };

fn create(name: &str, line: &str, options: &[&str]) -> Out {
    run_args(&binary(), &[&["create", name, "--table", line][..], options].concat())
}

fn mirror(legs: [&str; 2], at: u64) -> String {
    format!("0 {LEN} mirror core 2 1024 nosync 2 {} {at} {} {at}", legs[0], legs[1])
}

fn refused(out: Out, words: &[&str]) {
    let said = out.refused().stderr;
    assert!(words.iter().all(|word| said.contains(word)), "no {words:?} in {said}");
}

/// The lower part is ours, a range or a mirror, and the upper one is device-mapper's: both are
/// written while our server is killed, and after an upgrade.
fn mapped(seed: u64) {
    let (one, two) = (node("n0"), node("n1"));
    for line in [format!("0 {LEN} linear {one} {LOW}"), mirror([&one, &two], LOW)] {
        // Device-mapper comes first, and second; a claim of ours keeps it away.
        slice("upper", "n0", HIGH, LEN);
        refused(create("l", &line, &[]), &[&one, "upper"]);
        create("l", &line, &["--shared"]).ok();
        kernel::remove("upper");
        server::del("l");
        create("l", &line, &[]).ok();
        let table = format!("0 {LEN} linear {one} {HIGH}");
        assert!(ioctl::dm_create("upper", &table, false).is_err(), "{one} is not claimed");
        server::del("l");
        let top = create("l", &line, &["--shared"]).ok().line();
        let upper = kernel::create("upper", &table);
        let (ours, its) = (View::new("ours", LEN), View::new("mapd", LEN));
        let (disk, mapped) = (Disk::open(&top), Disk::open(&upper));
        ours.fill(&disk);
        its.fill(&mapped);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (stop, its, mapped) = (&stop, &its, &mapped);
            let _stop = StopOnDrop(stop);
            let writes = scope.spawn(move || load::write(its, mapped, seed + 1, HALF, stop));
            killed_twice((&ours, &disk), HALF, seed, |_| ());
            stop.store(true, Ordering::Relaxed);
            writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        });
        ublk_dm("upgrade l").ok();
        ours.write(&disk, 100, 300);
        its.write(&mapped, 0, 200);
        ours.verify(&disk);
        its.verify(&mapped);
        assert!(server::device("l")["stats"]["errors"] == 0, "{}", server::device("l"));
        drop((disk, mapped));
        server::del("l");
        kernel::remove("upper");
        server::assert_nothing_left("shared-mapped");
        let (low, high) = (slice("low", "n0", LOW, LEN), slice("high", "n0", HIGH, LEN));
        ours.verify(&Disk::open(&low));
        its.verify(&Disk::open(&high));
        kernel::remove("low");
        kernel::remove("high");
    }
    whole();
}

/// A mounted disk, swap, and a disk that another program has claimed are not shared.
fn whole() {
    let two = node("n1");
    let line = format!("0 {LEN} linear {two} {LOW}");
    let dir = scratch("shared-mounted");
    sh(&format!("mkfs.ext4 -q -F {two}")).ok();
    sh(&format!("mount {two} {dir}")).ok();
    refused(create("l", &line, &["--shared"]), &[&two, "mounted on"]);
    sh(&format!("umount {dir}")).ok();
    disk::wipe("n1");
    sh(&format!("mkswap {two}")).ok();
    sh(&format!("swapon {two}")).ok();
    refused(create("l", &line, &["--shared"]), &[&two, "swap"]);
    sh(&format!("swapoff {two}")).ok();
    disk::wipe("n1");
    let claimed = disk::claim(&two).expect("a claim");
    refused(create("l", &line, &["--shared"]), &[&two, "in use by process"]);
    drop(claimed);
    create("l", &line, &["--shared"]).ok();
    // A command that writes to the disk cannot share it.
    let out = ublk_dm(&format!("zero --to {two}")).refused();
    let parts = ["a disk of l (/dev/ublkb", "--force writes to it nevertheless"];
    let right = parts.iter().all(|part| out.stderr.contains(part));
    assert!(right && !out.stderr.contains("--shared"), "{}", out.stderr);
    server::del("l");
    server::assert_nothing_left("shared-mapped");
}

/// Two mirrors on parts of the same disks, each in a server of its own. One is left for one of its
/// legs, while device-mapper has that leg as well, as LVM leaves a mirror; what it had on the other
/// disk becomes a third device. The second mirror is written throughout, and all servers are
/// killed.
fn mirrors(seed: u64) {
    let (one, two) = (node("n0"), node("n1"));
    create("a", &mirror([&one, &two], LOW), &[]).ok();
    create("b", &mirror([&one, &two], HIGH), &["--shared"]).refused();
    server::del("a");
    let top = create("a", &mirror([&one, &two], LOW), &["--shared"]).ok().line();
    refused(create("b", &mirror([&one, &two], HIGH), &[]), &[&one, "in use by another device"]);
    let over = mirror([&one, &two], HIGH - 1024);
    refused(create("b", &over, &["--shared"]), &["a disk of a", "the same sectors"]);
    let other = create("b", &mirror([&one, &two], HIGH), &["--shared"]).ok().line();
    let (a, b) = (View::new("aaaa", LEN), View::new("bbbb", LEN));
    let (disk, second) = (Disk::open(&top), Disk::open(&other));
    a.fill(&disk);
    b.fill(&second);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (stop, b, second) = (&stop, &b, &second);
        let _stop = StopOnDrop(stop);
        let plan = Plan::depth_32(100_000, 90);
        let writes = scope.spawn(move || load::write(b, second, seed, plan, stop));
        // Device-mapper's device for the leg is there before the mirror is left.
        let leg = slice("leg", "n1", LOW, LEN);
        let line = format!("0 {LEN} linear {one} {LOW}");
        refused(create("c", &line, &["--shared"]), &[&one, "a disk of a"]);
        let load = format!("0 {LEN} linear {two} {LOW}");
        run_args(&binary(), &["load", "a", "--table", &load]).ok();
        ublk_dm("resume a").ok();
        let third = create("c", &line, &["--shared"]).ok().line();
        a.write(&disk, 64, 500);
        a.verify(&disk);
        a.verify(&Disk::open_read_only(&leg));
        kernel::remove("leg");
        let c = View::new("cccc", LEN);
        let third = Disk::open(&third);
        c.fill(&third);
        ublk_dm(&format!("resize c {}", (LEN + 8) * 512)).refused();
        for pid in ["a", "b", "c"].map(|name| server::number(name, "/server_pid")) {
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
        }
        ublk_dm("recover --all").ok();
        c.verify(&third);
        a.verify(&disk);
        stop.store(true, Ordering::Relaxed);
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    b.verify(&second);
    drop((disk, second));
    ublk_dm("wait b --in-sync").ok();
    server::del("--all");
    server::assert_nothing_left("shared-mirrors");
    for (view, disk, at) in [(&a, "n1", LOW), (&b, "n0", HIGH), (&b, "n1", HIGH)] {
        let judge = slice("judge", disk, at, LEN);
        view.verify(&Disk::open(&judge));
        kernel::remove("judge");
    }
    server::forget_ended_legs();
}
