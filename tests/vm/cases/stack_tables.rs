//! Snapshots of a mirror, or of a range, in the server of that device, when things go wrong or
//! change below them: a leg dies, a COW is full, the device is suspended and its server killed
//! while all is written; tables are replaced, devices grow, discard, are deleted and made again.

use std::thread;
use std::time::{Duration, Instant};

use super::admin::kill;
use super::doctor;
use super::resize::kernel_resizes;
use super::stacks::{SIZE, assert_one_server, lower, snapshot, under_load};
use crate::Case;
use crate::disk::{Buf, Disk, node, slice};
use crate::model::View;
use crate::sh::{sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "stack-broken", bound_s: 240, disks, run: broken },
        Case { name: "stack-tables", bound_s: 90, disks, run: |_| tables() },
        Case { name: "stack-again", bound_s: 90, disks, run: |_| again() },
    ]
}

/// fio writes to the device and to a snapshot; another snapshot shows what was there, and a third
/// one has a COW that is soon full. Meanwhile the device is suspended and resumed again and again,
/// a leg dies, and the server is killed.
fn broken(seed: u64) {
    let lower = lower(true);
    let cow = slice("cow", "n2", 0, 2 * SIZE);
    let (second, small) =
        (slice("cow2", "n2", 2 * SIZE, 2 * SIZE), slice("cow3", "n2", 4 * SIZE, 512));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&lower.path));
    let (snap, written) = (snapshot(&lower, &cow, "s"), snapshot(&lower, &second, "t"));
    snapshot(&lower, &small, "full");
    under_load([&lower.path, &written], seed, 12, |round| {
        match round {
            4 => kernel::swap("leg0", &format!("0 {SIZE} error")),
            6 | 10 => {
                kill("m");
                ublk_dm("recover --all").ok();
            }
            _ => {
                ublk_dm(if round % 2 == 0 { "suspend m" } else { "suspend --noflush m" }).ok();
                thread::sleep(Duration::from_millis(100));
                if round == 8 {
                    kill("m");
                    ublk_dm("recover --all").ok();
                }
                ublk_dm("resume m").ok();
            }
        }
        thread::sleep(Duration::from_millis(500));
        assert_one_server(&["m", "s", "t", "full"]);
        view.verify(&Disk::open_read_only(&snap));
    });
    assert!(server::status("full").ends_with("Invalid"), "{}", server::status("full"));
    for name in ["m", "s", "t"] {
        let errors = server::number(name, "/stats/errors");
        assert!(errors == 0, "{name}: {errors} errors: {}", server::device(name));
    }
    ublk_dm("del s t full").ok();
    server::del("m");
    server::assert_nothing_left("del");
    let judge =
        kernel::snapshot("judge", lower.second.as_deref().expect("a mirror"), &cow, "P", 32);
    view.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// What is shown of a snapshot, its table that is replaced, and discards of its device.
fn tables() {
    let lower = lower(false);
    let (path, cow) = (&lower.path, slice("cow", "n2", 0, 2 * SIZE));
    let discard = || {
        let line = "timeout -k 2 30 blkdiscard --force --offset 0 --length 65536";
        sh(&format!("{line} {path}")).code == 0
    };
    assert!(discard(), "the device itself");
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(path));
    let snap = snapshot(&lower, &cow, "s");
    // The kernel tells its user nothing of a discard that is refused.
    discard();
    view.verify(&Disk::open(path));
    view.verify(&Disk::open(&snap));
    Disk::open(path).write(0, &Buf::new(8));
    view.verify(&Disk::open(&snap));
    let (line, status) = (server::table("s"), server::status("s"));
    assert!(line.starts_with(&format!("0 {SIZE} snapshot ")), "{line}");
    assert!(status.starts_with(&format!("0 {SIZE} snapshot ")), "{status}");
    assert!(line.contains(" PO 32"), "{line}");
    for kind in ["P", "PO", "P"] {
        let table = format!("0 {SIZE} snapshot {path} {cow} {kind} 32");
        ublk_dm("suspend s").ok();
        Disk::open(path).write(512, &Buf::new(8));
        let words = ["load", "s", "--table", &table];
        crate::sh::run_args(&crate::sh::binary(), &words).ok();
        ublk_dm("resume s").ok();
        assert!(server::table("s").contains(&format!(" {kind} 32")), "{}", server::table("s"));
        kill("s");
        ublk_dm(&format!("check {cow}")).ok();
        ublk_dm(&format!("dump {cow}")).ok();
        ublk_dm("recover s").ok();
        assert_one_server(&["m", "s"]);
        assert!(server::table("s").contains(&format!(" {kind} 32")), "{}", server::table("s"));
        view.verify(&Disk::open(&snap));
    }
    let out = crate::sh::run_args(
        &crate::sh::binary(),
        &["load", "m", "--table", &format!("0 {SIZE} error")],
    );
    assert!(out.refused().stderr.contains("s is a snapshot of it"));
    if kernel_resizes() {
        // It is as long as its disks: nothing changes, also beside a snapshot.
        ublk_dm("resize m").ok();
        view.verify(&Disk::open(&snap));
    }
    ublk_dm("del s").ok();
    assert!(discard(), "no snapshot needs it");
    let line = format!("add snapshot --origin {path} --cow {cow} --name s");
    assert!(ublk_dm(&line).refused().stderr.contains("the snapshot on it is lost"));
    if kernel_resizes() {
        kernel::swap("leg0", &format!("0 {} linear {} 0", 2 * SIZE, node("n0")));
        ublk_dm(&format!("resize m {}", 2 * SIZE * 512)).ok();
        Disk::open(path).write(2 * SIZE - 8, &Buf::new(8));
    }
    server::del("m");
    server::forget_lost();
    server::assert_nothing_left("del");
}

/// Snapshots whose server has died, or whose device was deleted.
fn again() {
    let lower = lower(true);
    let (path, cow) = (&lower.path, slice("cow", "n2", 0, 2 * SIZE));
    let line = format!("add snapshot --origin {path} --cow {cow} --name s --chunk-size 16k");
    snapshot(&lower, &cow, "s");
    kill("m");
    let begun = Instant::now();
    ublk_dm("del --force s").ok();
    assert!(begun.elapsed() < Duration::from_secs(20), "it waits for the device");
    ublk_dm("recover m").ok();
    assert!(ublk_dm(&line).refused().stderr.contains("the snapshot on it is lost"));
    // The command finds the COW by the name that is on record.
    let found = doctor::problems().into_iter().find(|[check, ..]| check == "lost-store");
    let [.., mend] = found.expect("doctor finds it");
    ublk_dm(mend.strip_prefix("ublk-dm ").expect("a command of ours")).ok();
    let snap = snapshot(&lower, &cow, "s");
    Disk::open(&snap).write(8, &Buf::new(8));
    let view = View::new("snap", SIZE);
    view.fill(&Disk::open(&snap));
    ublk_dm("del s m").ok();
    let (first, second) = (&lower.first, lower.second.as_deref().expect("a mirror"));
    let again = |legs: [&str; 2]| {
        let [one, two] = legs;
        let made = server::add(&format!("mirror --leg {one} --leg {two} --nosync --name m"));
        assert_eq!(&made, path);
    };
    // The same disks, and nobody has written to them.
    again([first, second]);
    ublk_dm(&line).ok();
    assert_one_server(&["m", "s"]);
    view.verify(&Disk::open_read_only(&snap));
    Disk::open(path).write(0, &Buf::new(8));
    view.verify(&Disk::open_read_only(&snap));
    // After another device of these disks it is another origin, and after what is written past all
    // devices: only the user can know what that has changed.
    for is_device in [true, false] {
        ublk_dm("del s m").ok();
        if is_device {
            server::add(&format!("mirror --leg {second} --leg {first} --nosync --name other"));
            server::del("other");
        } else {
            ublk_dm(&format!("zero --to {first}:4096+4096")).ok();
        }
        again([first, second]);
        assert!(ublk_dm(&line).refused().stderr.contains("--other-origin` takes it"));
        ublk_dm(&format!("{line} --other-origin")).ok();
    }
    server::del("--all");
    server::forget_lost();
    server::forget_departed();
    server::assert_nothing_left("del --all");
}
