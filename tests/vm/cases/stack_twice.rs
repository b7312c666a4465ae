//! Snapshots of a snapshot: one process and one hop for a disk, its snapshots, and theirs. And what
//! is kept when one of a device's snapshots stays.

use super::admin::kill;
use super::fio::verify;
use super::stacks::{Lower, SIZE, assert_one_server, killed_while_written, lower, snapshot};
use crate::Case;
use crate::disk::{Buf, Disk, digest, slice};
use crate::model::View;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "stack-twice", bound_s: 150, disks, run: twice },
        Case { name: "stack-kept", bound_s: 60, disks, run: |_| kept() },
        Case { name: "stack-kept-apart", bound_s: 90, disks, run: |_| kept_apart() },
    ]
}

/// A disk `m` and a snapshot `s` of it are written, and their server is killed meanwhile; `t` and
/// `u`, snapshots of that snapshot and of `t`, show what there was. The kernel reads the same from
/// the COWs.
fn twice(seed: u64) {
    let disk = slice("disk", "n0", 0, SIZE);
    let cows = [0, 1, 2].map(|at| slice(&format!("cow{at}"), "n1", 2 * SIZE * at, 2 * SIZE));
    let [first, second, third] = &cows;
    let add = |origin: &str, cow: &str, chunk: &str, name: &str| {
        let sizes = format!("--chunk-size {chunk} --name {name}");
        server::add(&format!("snapshot --origin {origin} --cow {cow} {sizes}"))
    };
    let origin = server::add(&format!("origin --origin {disk} --name m"));
    let (old, middle) = (View::new("orig", SIZE), View::new("midd", SIZE));
    old.fill(&Disk::open(&origin));
    let snap = add(&disk, first, "16k", "s");
    middle.fill(&Disk::open(&snap));
    let of_snap = add(&snap, second, "4k", "t");
    let of_that = add("t", third, "64k", "u");
    assert_one_server(&["m", "s", "t", "u"]);
    old.verify(&Disk::open(&origin));
    // The disk: nothing of it is in the snapshots.
    verify(&origin, seed, 512, 1);
    middle.verify(&Disk::open(&of_snap));
    let frozen = View::new("midd", SIZE);
    frozen.put(middle.cells(0, SIZE));
    killed_while_written((&snap, &middle), (&of_snap, &frozen), seed, &["m", "s", "t", "u"]);
    verify(&of_snap, seed, 512, 1);
    frozen.verify(&Disk::open(&of_that));
    let why = ublk_dm("del --force s").refused();
    assert!(why.stderr.contains("t is a snapshot of it"), "{}", why.stderr);
    ublk_dm("merge s").refused();
    let shown = digest(&Disk::open_read_only(&of_snap), 0, SIZE);
    ublk_dm("del --all").ok();
    server::assert_nothing_left("del --all");
    let below = kernel::snapshot("below", &disk, first, "P", 32);
    middle.verify(&Disk::open(&below));
    let judge = kernel::snapshot("judge", &below, second, "P", 8);
    assert!(digest(&Disk::open_read_only(&judge), 0, SIZE) == shown, "another content");
    let upper = kernel::snapshot("upper", &judge, third, "P", 128);
    frozen.verify(&Disk::open(&upper));
    let names = ["upper", "judge", "below", "disk", "cow0", "cow1", "cow2"];
    names.iter().for_each(|name| kernel::remove(name));
}

/// A mirror with the snapshots `s` and `t`, and `u` of `t`. As long as one of the others stays, so
/// does the mirror, and `s` with it: it would be written without it.
fn kept() {
    let lower = lower(true);
    let cow = |name: &str, at: u64| slice(name, "n2", at * 2 * SIZE, 2 * SIZE);
    let snap = snapshot(&lower, &cow("cow0", 0), "s");
    let other = snapshot(&lower, &cow("cow1", 1), "t");
    let first = String::new();
    let upper = Lower { path: other.clone(), first, second: None };
    let upper = snapshot(&upper, &cow("cow2", 2), "u");
    let stays = |command: &str, why: &str| {
        let said = ublk_dm(command).stderr;
        let what = "s: not deleted, because its origin m stays and would invalidate it: ";
        assert!(said.contains(what) && said.contains(why), "{command}: {said}");
        assert_one_server(&["m", "s", "t", "u"]);
    };
    // Nobody asks for the deletion of what stands on `m`, or on what does.
    stays("del m s", ": t depends on it");
    stays("del t m s", ": u depends on it");
    for path in [&other, &upper] {
        let _open = Disk::open(path);
        stays("del --all", " use");
        stays("del u t m s", " use");
    }
    Disk::open(&lower.path).write(8, &Buf::new(8));
    assert!(!server::status("s").contains("Invalid"), "{snap} has lost its content");
    ublk_dm("del --all").ok();
    server::forget_departed();
    server::assert_nothing_left("del --all");
}

/// A mirror with two snapshots, and the device of another server on one of them: both stay as long
/// as that device is not deleted, because its server is dead or does not answer.
fn kept_apart() {
    let lower = lower(true);
    let cow = |name: &str, at: u64| slice(name, "n2", at * 2 * SIZE, 2 * SIZE);
    snapshot(&lower, &cow("cow0", 0), "s");
    let other = snapshot(&lower, &cow("cow1", 1), "t");
    let line = format!("0 {SIZE} linear {other} 0");
    run_args(&binary(), &["create", "x", "--table", &line]).ok();
    let pid = server::number("x", "/server_pid");
    assert_ne!(pid, server::number("m", "/server_pid"));
    let stays = || {
        let said = ublk_dm("del --all").stderr;
        let what = "s: not deleted, because its origin m stays and would invalidate it: ";
        assert!(said.contains(what) && said.contains(": x depends on it"), "{said}");
        assert_one_server(&["m", "s", "t"]);
    };
    sh(&format!("kill -STOP {pid}")).ok();
    stays();
    sh(&format!("kill -CONT {pid}")).ok();
    kill("x");
    stays();
    Disk::open(&lower.path).write(8, &Buf::new(8));
    assert!(!server::status("s").contains("Invalid"), "s has lost its content");
    ublk_dm("recover x").ok();
    // What goes is no hindrance.
    ublk_dm("del --all").ok();
    server::forget_departed();
    server::assert_nothing_left("del --all");
}
