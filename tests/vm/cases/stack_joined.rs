//! A mirror over linear devices, and ranges over devices, in one server: one hop from the users to
//! the disks. Two disks' linear devices are put into one server with `--beside`.

use std::thread;
use std::time::Duration;

use super::admin::kill;
use super::fio::verify;
use super::stacks::{SIZE, assert_one_server, killed_while_written};
use crate::Case;
use crate::disk::{Buf, Disk, completed, node, slice};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{kernel, load, server, tree};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "stack-joined", bound_s: 150, disks, run: joined },
        Case { name: "stack-joined-killed", bound_s: 150, disks, run: killed },
        Case { name: "stack-joined-mounted", bound_s: 150, disks, run: mounted },
    ]
}

/// Makes a linear device of a disk, in the server of another one if that is given.
fn linear(name: &str, disk: &str, beside: Option<&str>) -> String {
    let line = format!("0 {SIZE} linear {disk} 0");
    let mut words = vec!["create", name, "--table", &line];
    words.extend(beside.into_iter().flat_map(|other| ["--beside", other]));
    run_args(&binary(), &words).ok().line()
}

/// A mirror `m` over the linear devices `l0` and `l1`, given by their names.
fn mirror(disks: [&str; 2]) -> String {
    linear("l0", disks[0], None);
    linear("l1", disks[1], Some("l0"));
    let path = server::add("mirror --leg l0 --leg l1 --nosync --name m");
    assert_one_server(&["l0", "l1", "m"]);
    path
}

fn end() {
    ublk_dm("del m l0 l1").ok();
    server::assert_nothing_left("del");
}

fn digest(path: &str) -> u64 {
    crate::disk::digest(&Disk::open_read_only(path), 0, SIZE)
}

/// Requests pass both levels in one process, flushes reach the disks, nobody else writes to a leg,
/// and neither level can go under the other.
fn joined(seed: u64) {
    let disks = [node("n0"), node("n1")];
    let device = mirror([&disks[0], &disks[1]]);
    verify(&device, seed, 512, 1);
    let flushes = || [completed(&disks[0], 15), completed(&disks[1], 15)];
    let open = Disk::open(&device);
    let before = flushes();
    open.write(64, &Buf::new(8));
    open.flush().expect("a flush");
    let after = flushes();
    assert!((0..2).all(|leg| after[leg] > before[leg]), "{before:?}, {after:?}");
    Disk::open_durable(&device).write(4096, &Buf::new(8));
    assert!((0..2).all(|leg| flushes()[leg] > after[leg]), "FUA: {after:?}");
    drop(open);
    let legs = ["l0", "l1"].map(|name| format!("/dev/ublkb{}", server::number(name, "/id")));
    for leg in &legs {
        let out = sh(&format!("dd if=/dev/zero of={leg} bs=4096 count=1 conv=notrunc"));
        assert!(out.code != 0, "another program writes to a leg: {}", out.stderr);
    }
    for command in ["del l0", "del --force l0"] {
        let out = ublk_dm(command).refused();
        assert!(out.stderr.contains("m stands on it: delete that first"), "{}", out.stderr);
    }
    let out = ublk_dm(&format!("add snapshot --origin {} --cow {} --name s", legs[0], node("n2")));
    assert!(out.code != 0 && out.stderr.contains("m stands on"), "{}", out.stderr);
    ublk_dm("suspend l0").ok();
    thread::scope(|scope| {
        let writer = scope.spawn(|| Disk::open(&device).write(0, &Buf::new(8)));
        thread::sleep(Duration::from_millis(500));
        assert!(!writer.is_finished(), "a suspended leg answers");
        let out = ublk_dm("suspend m").refused();
        assert!(out.stderr.contains("is suspended and holds its I/O"), "{}", out.stderr);
        ublk_dm("resume l0").ok();
        writer.join().expect("a write");
    });
    // A range of the mirror, through three levels.
    let half = SIZE / 2;
    let line = format!("0 {half} linear m {half}");
    let range = run_args(&binary(), &["create", "r", "--table", &line]).ok().line();
    assert_one_server(&["m", "r"]);
    verify(&range, seed, 512, 1);
    ublk_dm("del r").ok();
    for name in ["m", "l0", "l1"] {
        let errors = server::number(name, "/stats/errors");
        assert!(errors == 0, "{name}: {errors} errors: {}", server::device(name));
    }
    ublk_dm("del m").ok();
    assert!(digest(&legs[0]) == digest(&legs[1]), "the legs differ");
    // They can be written again.
    Disk::open(&legs[0]).write(0, &Buf::new(8));
    server::del("--all");
    server::assert_nothing_left("del --all");
}

/// The server dies again and again while the mirror is written, and a snapshot of it is read.
fn killed(seed: u64) {
    let disks = [slice("leg0", "n0", 0, SIZE), slice("leg1", "n1", 0, SIZE)];
    let device = mirror([&disks[0], &disks[1]]);
    let cow = slice("cow", "n2", 0, 2 * SIZE);
    let (view, frozen) = (View::new("devi", SIZE), View::new("devi", SIZE));
    view.fill(&Disk::open(&device));
    frozen.put(view.cells(0, SIZE));
    let line = format!("snapshot --origin m --cow {cow} --chunk-size 16k --name s");
    let snap = server::add(&line);
    assert_one_server(&["l0", "l1", "m", "s"]);
    killed_while_written((&device, &view), (&snap, &frozen), seed, &["l0", "l1", "m", "s"]);
    ublk_dm("upgrade m").ok();
    view.verify(&Disk::open(&device));
    ublk_dm("del s").ok();
    end();
    assert!(digest(&disks[0]) == digest(&disks[1]), "the legs differ");
    for name in ["cow", "leg0", "leg1"] {
        kernel::remove(name);
    }
}

/// A file system on a mirror over linear devices: a snapshot of it, kill -9, and what was there.
fn mounted(seed: u64) {
    let disks = [slice("leg0", "n0", 0, SIZE), slice("leg1", "n1", 0, SIZE)];
    let device = mirror([&disks[0], &disks[1]]);
    let (cow, dir, then) = (slice("cow", "n2", 0, 2 * SIZE), scratch("on"), scratch("then"));
    sh(&format!("mkfs.ext4 -q -F {device}")).ok();
    sh(&format!("mount {device} {dir}")).ok();
    let mut rng = load::Rng::new(seed);
    tree::grow(&dir, &mut rng, 30, 64 << 10);
    let before = tree::take(&dir);
    sh("sync").ok();
    sh(&format!("fsfreeze -f {dir}")).ok();
    let snap = server::add(&format!("snapshot --origin m --cow {cow} --chunk-size 16k --name s"));
    sh(&format!("fsfreeze -u {dir}")).ok();
    tree::change(&dir, &mut rng, 30, 64 << 10);
    sh("sync").ok();
    let now = tree::take(&dir);
    sh(&format!("mount -o ro,noload {snap} {then}")).ok();
    assert!(tree::take(&then) == before, "the snapshot shows other files");
    for _ in 0..2 {
        kill("m");
        ublk_dm("recover --all").ok();
        sh("echo 3 > /proc/sys/vm/drop_caches").ok();
        assert!(tree::take(&then) == before, "the snapshot shows other files after recover");
        assert!(tree::take(&dir) == now, "the mirror shows other files after recover");
    }
    sh(&format!("umount {then}")).ok();
    ublk_dm("del s").ok();
    sh(&format!("umount {dir}")).ok();
    sh(&format!("fsck.ext4 -f -n {device}")).ok();
    end();
    // The kernel finds the same on one leg.
    sh(&format!("mount -o ro {} {dir}", disks[1])).ok();
    assert!(tree::take(&dir) == now, "the leg shows other files");
    sh(&format!("umount {dir}")).ok();
    server::forget_lost();
}
