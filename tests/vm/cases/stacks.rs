//! Snapshots of a mirror, and of a range, in the server of that device: one process and one hop.
//! The device's own users write through the origin that it carries, mounted or not; it lives on
//! after `kill -9` and under another program's server, is suspended and resumed under its
//! snapshots, and ends after them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::admin::kill;
use super::fio::verify;
use super::process::pid_of;
use super::upgrade::{other, upgrade};
use crate::Case;
use crate::disk::{Buf, Disk, MIB, claim, completed, node, slice};
use crate::load::{self, StopOnDrop};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{kernel, server, tree};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "stack-fio", bound_s: 150, disks, run: fio },
        Case { name: "stack-killed", bound_s: 150, disks, run: killed },
        Case { name: "stack-suspended", bound_s: 90, disks, run: |_| suspended() },
        Case { name: "stack-flushed", bound_s: 60, disks, run: |_| flushed() },
        Case { name: "stack-deleted", bound_s: 90, disks, run: |_| deleted() },
        Case { name: "stack-upgraded", bound_s: 240, disks, run: upgraded },
        Case { name: "stack-mounted", bound_s: 150, disks, run: mounted },
    ]
}

pub(super) const SIZE: u64 = 8 * MIB;

/// A device, with the disk that holds its bytes.
pub(super) struct Lower {
    pub(super) path: String,
    pub(super) first: String,
    pub(super) second: Option<String>,
}

/// A mirror of two disks, or a range of one, with the name `m`.
pub(super) fn lower(is_mirror: bool) -> Lower {
    let first = slice("leg0", "n0", 0, SIZE);
    if is_mirror {
        let second = slice("leg1", "n1", 0, SIZE);
        let path = server::add(&format!("mirror --leg {first} --leg {second} --nosync --name m"));
        return Lower { path, first, second: Some(second) };
    }
    let line = format!("0 {SIZE} linear {first} 0");
    let out = run_args(&binary(), &["create", "m", "--table", &line]).ok();
    Lower { path: out.line(), first, second: None }
}

pub(super) fn snapshot(lower: &Lower, cow: &str, name: &str) -> String {
    let path = &lower.path;
    let line = format!("snapshot --origin {path} --cow {cow} --chunk-size 16k --name {name}");
    server::add(&line)
}

pub(super) fn assert_one_server(names: &[&str]) {
    // All at once: these are asked under load.
    let all = server::list();
    let pid = |name: &&str| {
        let device = all.iter().find(|device| device["name"] == **name);
        device.and_then(|device| device["server_pid"].as_u64())
    };
    let pids: Vec<Option<u64>> = names.iter().map(pid).collect();
    assert!(pids[0].is_some(), "{names:?} are served by {pids:?}");
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{names:?} are served by {pids:?}");
}

impl Lower {
    fn assert_legs_equal(&self) {
        let Some(second) = &self.second else { return };
        let digest = |path: &str| crate::disk::digest(&Disk::open(path), 0, SIZE);
        assert!(digest(&self.first) == digest(second), "the legs differ");
    }
}

/// fio writes to the device and to one snapshot of it; another snapshot shows what was there. The
/// kernel reads the same from its COW.
fn fio(seed: u64) {
    for is_mirror in [true, false] {
        let lower = lower(is_mirror);
        let (cow, second) =
            (slice("cow", "n2", 0, 2 * SIZE), slice("cow2", "n2", 2 * SIZE, 2 * SIZE));
        let view = View::new("orig", SIZE);
        view.fill(&Disk::open(&lower.path));
        let snap = snapshot(&lower, &cow, "s");
        let other = snapshot(&lower, &second, "t");
        assert_one_server(&["m", "s", "t"]);
        verify(&other, seed, 512, 1);
        verify(&lower.path, seed, 512, 1);
        view.verify(&Disk::open(&snap));
        for name in ["m", "s"] {
            let errors = server::number(name, "/stats/errors");
            assert!(errors == 0, "{name}: {errors} errors: {}", server::device(name));
        }
        ublk_dm("del s t").ok();
        server::del("m");
        server::assert_nothing_left("del");
        lower.assert_legs_equal();
        let judge = kernel::snapshot("judge", &lower.first, &cow, "P", 32);
        view.verify(&Disk::open(&judge));
        kernel::remove("judge");
        let legs: &[&str] = if is_mirror { &["leg0", "leg1"] } else { &["leg0"] };
        ["cow", "cow2"].iter().chain(legs).for_each(|name| kernel::remove(name));
        for disk in ["n0", "n1", "n2"] {
            crate::disk::wipe(disk);
        }
    }
}

/// The server of a device that is written dies, and is followed by another one, several times: the
/// device has what was written, and its snapshot what it had. All of these are in one server.
pub fn killed_while_written(
    (device, view): (&str, &View),
    (snap, frozen): (&str, &View),
    seed: u64,
    together: &[&str],
) {
    let disk = Disk::open(device);
    for round in 0..4_u64 {
        let end = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for at in 0..40 {
                    let sector = (seed + round * 977 + at * 389) % (SIZE - 16) / 8 * 8;
                    view.write(&disk, sector, 8);
                }
            });
            thread::sleep(Duration::from_millis(30));
            kill("m");
            ublk_dm("recover --all").ok();
            writer.join()
        });
        end.expect("a writer that waits for the next server");
        assert_one_server(together);
        view.verify(&disk);
        frozen.verify(&Disk::open(snap));
    }
}

/// The server dies again and again while the device and its snapshot are written.
fn killed(seed: u64) {
    let lower = lower(true);
    let cow = slice("cow", "n2", 0, 2 * SIZE);
    let (view, frozen) = (View::new("devi", SIZE), View::new("devi", SIZE));
    view.fill(&Disk::open(&lower.path));
    frozen.put(view.cells(0, SIZE));
    let snap = snapshot(&lower, &cow, "s");
    killed_while_written((&lower.path, &view), (&snap, &frozen), seed, &["m", "s"]);
    ublk_dm("del s").ok();
    server::del("m");
    server::assert_nothing_left("del");
    lower.assert_legs_equal();
}

/// A suspended device holds the requests of its users and of its snapshots, and no command waits
/// for them; the next server finds it suspended.
fn suspended() {
    let lower = lower(true);
    let cow = slice("cow", "n2", 0, 2 * SIZE);
    let snap = snapshot(&lower, &cow, "s");
    ublk_dm("suspend m").ok();
    thread::scope(|scope| {
        let reader = scope.spawn(|| Disk::open_read_only(&snap).read(0, 8));
        let writer = scope.spawn(|| Disk::open(&lower.path).write(0, &Buf::new(8)));
        thread::sleep(Duration::from_millis(500));
        assert!(!reader.is_finished() && !writer.is_finished(), "a suspended device answers");
        for command in ["suspend s", "del --force s", "resize s"] {
            let out = ublk_dm(command).refused();
            assert!(out.stderr.contains("is suspended and holds its I/O"), "{}", out.stderr);
        }
        kill("m");
        ublk_dm("recover --all").ok();
        thread::sleep(Duration::from_millis(300));
        assert!(!reader.is_finished() && !writer.is_finished(), "the next server has forgotten");
        ublk_dm("resume m").ok();
        reader.join().expect("a read");
        writer.join().expect("a write");
    });
    ublk_dm("suspend s").ok();
    Disk::open(&lower.path).write(64, &Buf::new(8));
    ublk_dm("resume s").ok();
    ublk_dm("del s").ok();
    server::del("m");
    server::assert_nothing_left("del");
}

/// A flush, and a write with FUA, reach both legs.
fn flushed() {
    let (legs, cow) = ([node("n0"), node("n1")], slice("cow", "n2", 0, SIZE));
    let path =
        server::add(&format!("mirror --leg {} --leg {} --nosync --name m", legs[0], legs[1]));
    let lower = Lower { path, first: legs[0].clone(), second: None };
    snapshot(&lower, &cow, "s");
    let flushes = || [completed(&legs[0], 15), completed(&legs[1], 15)];
    let device = Disk::open(&lower.path);
    for at in 0..4 {
        let before = flushes();
        device.write(at * 64, &Buf::new(8));
        device.flush().expect("a flush");
        let after = flushes();
        assert!((0..2).all(|leg| after[leg] > before[leg]), "{before:?}, {after:?}");
    }
    let before = flushes();
    Disk::open_durable(&lower.path).write(4096, &Buf::new(8));
    let after = flushes();
    assert!((0..2).all(|leg| after[leg] > before[leg]), "FUA: {before:?}, {after:?}");
    drop(device);
    ublk_dm("del s").ok();
    server::del("m");
}

/// A device ends after its snapshots; one that is deleted while the device is not in use can be
/// added again until the device changes.
fn deleted() {
    let lower = lower(true);
    let cow = slice("cow", "n2", 0, 2 * SIZE);
    let snap = snapshot(&lower, &cow, "s");
    for command in ["del m", "del --force m"] {
        let out = ublk_dm(command).refused();
        assert!(out.stderr.contains("s is a snapshot of it: delete that first"), "{}", out.stderr);
    }
    Disk::open(&snap).write(8, &Buf::new(8));
    {
        // As a mount has it: it would stay, and be written without its snapshot.
        let _claim = claim(&lower.path).expect("it is not in use");
        // Force would be refused as well, and is not advised.
        let out = ublk_dm("del m").refused();
        let right = out.stderr.contains("delete that first") && !out.stderr.contains("--force");
        assert!(right, "{}", out.stderr);
        kept_together();
    }
    {
        let top = Disk::open(&lower.path);
        kept_together();
        let pid = server::number("m", "/server_pid");
        sh(&format!("kill -TERM {pid}")).ok();
        server::wait_gone(pid);
        ublk_dm("recover --all").ok();
        top.write(8, &Buf::new(8));
        assert!(!server::status("s").contains("Invalid"), "SIGTERM has lost the snapshot");
    }
    ublk_dm("del s").ok();
    snapshot(&lower, &cow, "s");
    ublk_dm("del s").ok();
    kill("m");
    ublk_dm("recover m").ok();
    Disk::open(&lower.path).write(8, &Buf::new(8));
    let line = format!("add snapshot --origin {} --cow {cow} --name s", lower.path);
    let out = ublk_dm(&line).refused();
    assert!(out.stderr.contains("the snapshot on it is lost"), "{}", out.stderr);
    ublk_dm(&format!("zero --to {cow}:0+4096")).ok();
    snapshot(&lower, &cow, "s");
    kill("m");
    for command in ["del m", "del --force m"] {
        let out = ublk_dm(command).refused();
        let right = out.stderr.contains("s is a snapshot of it: delete that first");
        assert!(right && !out.stderr.contains("--force"), "{}", out.stderr);
    }
    ublk_dm("recover --all").ok();
    let said = ublk_dm("del m s").ok().stderr;
    assert!(!said.contains("stays"), "nothing stays: {said}");
    server::forget_lost();
    server::forget_departed();
    server::assert_nothing_left("del --all");
}

/// Neither the used device `m` nor its snapshot `s` is deleted.
fn kept_together() {
    for command in ["del --all", "del m s"] {
        let out = ublk_dm(command);
        let why = "s: not deleted, because its origin m stays and would invalidate it";
        let lines = out.stderr.lines().count();
        assert!(out.code == 1 && lines == 2 && out.stderr.contains(why), "{}", out.stderr);
        assert_one_server(&["m", "s"]);
    }
}

/// fio writes to these devices and verifies what it reads, without an error, while `act` is called
/// for each round.
pub(super) fn under_load(paths: [&String; 2], seed: u64, rounds: usize, act: impl Fn(usize)) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let passes = |path: &str| {
            let passes = (0..).take_while(|_| !stop.load(Ordering::Relaxed));
            passes.map(|pass| verify(path, seed.wrapping_add(pass), 512, 1)).count()
        };
        let writers = paths.map(|path| scope.spawn(move || passes(path)));
        for round in 0..rounds {
            let is_over = writers.iter().any(|writer| writer.is_finished());
            assert!(!is_over, "round {round}: an error");
            act(round);
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("fio sees no error");
        }
    });
}

/// Another program takes over, again and again, while fio writes to the device and to a snapshot of
/// it; another snapshot shows what was there. One that cannot take over changes nothing.
fn upgraded(seed: u64) {
    let lower = lower(true);
    let (cow, second) = (slice("cow", "n2", 0, 2 * SIZE), slice("cow2", "n2", 2 * SIZE, 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&lower.path));
    let (snap, written) = (snapshot(&lower, &cow, "s"), snapshot(&lower, &second, "t"));
    // It has to be resumed first, which is said at once.
    ublk_dm("suspend m").ok();
    let (pid, begun) = (pid_of("m"), Instant::now());
    let out = ublk_dm("upgrade t").refused();
    assert!(out.stderr.contains("m, of which it is a snapshot, is suspended"), "{}", out.stderr);
    assert!(begun.elapsed() < Duration::from_secs(20) && pid_of("m") == pid, "{}", out.stderr);
    ublk_dm("resume m").ok();
    under_load([&lower.path, &written], seed, 10, |round| {
        let before = pid_of("m");
        let (broken, program) = match round {
            4 => ("refuses", other()),
            8 => ("dies", other()),
            even if even % 2 == 0 => ("nothing", other()),
            _ => ("nothing", binary()),
        };
        let out = upgrade(&program, broken, "s");
        assert_eq!(out.code == 0, broken == "nothing", "{broken}: {}", out.stderr);
        let is_back = out.stderr.contains("served by the old program again");
        assert!(is_back || out.code == 0, "{broken}: {}", out.stderr);
        assert!(pid_of("m") != before, "round {round}: {}", out.stderr);
        assert_one_server(&["m", "s", "t"]);
        view.verify(&Disk::open_read_only(&snap));
        println!("  round {round}: {}", out.stdout.lines().next().unwrap_or(&out.stderr));
    });
    for name in ["m", "s", "t"] {
        let errors = server::number(name, "/stats/errors");
        assert!(errors == 0, "{name}: {errors} errors: {}", server::device(name));
    }
    ublk_dm("del s t").ok();
    server::del("m");
    server::assert_nothing_left("upgrades");
    lower.assert_legs_equal();
}

/// A snapshot of a mounted mirror: the mount stays, and the snapshot has what was there.
fn mounted(seed: u64) {
    let lower = lower(true);
    let (cow, dir, then) = (slice("cow", "n2", 0, 2 * SIZE), scratch("on"), scratch("then"));
    sh(&format!("mkfs.ext4 -q -F {}", lower.path)).ok();
    sh(&format!("mount {} {dir}", lower.path)).ok();
    let mut rng = load::Rng::new(seed);
    tree::grow(&dir, &mut rng, 30, 64 << 10);
    let before = tree::take(&dir);
    sh("sync").ok();
    sh(&format!("fsfreeze -f {dir}")).ok();
    let snap = snapshot(&lower, &cow, "s");
    sh(&format!("fsfreeze -u {dir}")).ok();
    tree::change(&dir, &mut rng, 30, 64 << 10);
    sh("sync").ok();
    let now = tree::take(&dir);
    sh(&format!("mount -o ro,noload {snap} {then}")).ok();
    assert!(tree::take(&then) == before, "the snapshot shows other files");
    kill("m");
    ublk_dm("recover --all").ok();
    sh("echo 3 > /proc/sys/vm/drop_caches").ok();
    assert!(tree::take(&then) == before, "the snapshot shows other files after recover");
    assert!(tree::take(&dir) == now, "the mirror shows other files after recover");
    let out = ublk_dm("del s").refused();
    assert!(out.stderr.contains("it is mounted"), "{}", out.stderr);
    sh(&format!("umount {then}")).ok();
    ublk_dm("del s").ok();
    sh(&format!("umount {dir}")).ok();
    sh(&format!("fsck.ext4 -f -n {}", lower.path)).ok();
    server::del("m");
    server::forget_lost();
    server::assert_nothing_left("del");
}
