//! Another program takes the place of running servers: under fio's verification and a mounted,
//! written file system, again and again; a program that does not start, or cannot take over; and
//! what is refused before anything is done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::fio;
use super::process::{Service, pid_of};
use crate::Case;
use crate::disk::{Disk, MIB, digest, slice};
use crate::load::{Rng, StopOnDrop};
use crate::runner::scratch;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{server, tree};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "upgrade-fio",
            bound_s: 480,
            disks: &["n0", "n1", "n2", "n3"],
            run: |seed| under_load(seed, 20, &again),
        },
        Case {
            name: "upgrade-rolls-back",
            bound_s: 300,
            disks: &["n0", "n1", "n2", "n3"],
            run: |seed| under_load(seed, BROKEN.len(), &rolled_back),
        },
        Case {
            name: "upgrade-goes-on",
            bound_s: 240,
            disks: &["n0", "n1", "n2", "n3"],
            run: goes_on,
        },
        Case {
            name: "upgrade-refused",
            bound_s: 180,
            disks: &["n0", "n1", "n2"],
            run: |_| refused(),
        },
        Case { name: "upgrade-dies", bound_s: 180, disks: &["n0"], run: dies },
    ]
}

const SIZE: u64 = 16 * MIB;
/// What is wrong with a new program, and whether the old server is touched.
const BROKEN: [(&str, bool); 4] =
    [("start", false), ("refuses", true), ("dies", true), ("start-late", true)];

/// The same program with deliberate faults, none of which is on: another file.
pub(super) fn other() -> String {
    format!("{}-mutants", binary())
}

/// Runs `upgrade` with a program in which something is broken.
pub(super) fn upgrade(program: &str, broken: &str, line: &str) -> Out {
    let broken = format!("UBLK_DM_BROKEN={broken}");
    let words = line.split_whitespace();
    let words: Vec<&str> = [&*broken, program, "upgrade"].into_iter().chain(words).collect();
    run_args("env", &words)
}

/// The objects that `upgrade --json` has printed.
fn objects(out: &Out) -> Vec<Value> {
    let object = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("`{}`: {e}: {line}", out.what))
    };
    out.stdout.lines().map(object).collect()
}

/// The program of a process, wherever its file is by now.
fn program_of(pid: u64) -> u64 {
    let bytes = std::fs::read(format!("/proc/{pid}/exe")).expect("a process");
    bytes.iter().fold(17, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// What the kernel has said of errors on ublk's devices, also for earlier cases on this machine.
fn errors_of_devices() -> Vec<String> {
    let log = run_args("dmesg", &[]).ok().stdout;
    let errors = log.lines().filter(|line| line.contains("rror") && line.contains("ublkb"));
    errors.map(str::to_owned).collect()
}

/// Two families: an origin that fio writes and verifies, with a snapshot, which stays as it was;
/// and a mirror with a mounted file system that is written. `act` is called for each round.
fn under_load(seed: u64, rounds: usize, act: &dyn Fn(usize)) {
    let before = errors_of_devices().len();
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let top = server::add(&format!("origin --origin {o} --name o"));
    Disk::open(&top).write_bytes(0, &[0x5a; 1 << 20]);
    let snapshot = server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    let (a, b) = (slice("a", "n2", 0, 4 * SIZE), slice("b", "n3", 0, 4 * SIZE));
    let mirror = server::add(&format!("mirror --leg {a} --leg {b} --source {a} --name m"));
    let frozen = || digest(&Disk::open_read_only(&snapshot), 0, SIZE);
    let then = frozen();
    let dir = scratch("upgraded");
    sh(&format!("mkfs.ext4 -q -F {mirror}")).ok();
    sh(&format!("mount {mirror} {dir}")).ok();
    let mut rng = Rng::new(seed);
    tree::grow(&dir, &mut rng, 20, 100 << 10);
    let tree = tree::take(&dir);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let verified = scope.spawn(|| {
            let passes = (0..).take_while(|_| !stop.load(Ordering::Relaxed));
            passes.map(|pass| fio::verify(&top, seed.wrapping_add(pass), 512, 1)).count()
        });
        let churn = scope.spawn(|| tree::churn(&dir, seed, &stop));
        for round in 0..rounds {
            assert!(!verified.is_finished() && !churn.is_finished(), "round {round}: an error");
            act(round);
            // All at once: each look costs an emulated machine with other work a second.
            let all = server::list();
            assert!(all.len() == 3, "round {round}: {all:?}");
            for device in all {
                assert!(device["state"] == "live", "round {round}: {device}");
                assert!(device["stats"]["errors"] == 0, "round {round}: {device}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        let files = churn.join().expect("no panic").unwrap_or_else(|why| panic!("{why}"));
        let passes = verified.join().expect("fio sees no error");
        assert!(files > 3 && passes > 0, "only {files} files, {passes} passes of fio");
        println!("  {passes} passes of fio, {files} files");
    });
    assert!(frozen() == then, "the snapshot has changed");
    tree::assert_same("the file system", &tree, &tree::take(&dir));
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {mirror}")).ok();
    let errors = errors_of_devices().split_off(before);
    assert!(errors.is_empty(), "{}", errors.join(" | "));
    ublk_dm("wait m --in-sync").ok();
    server::del("--all");
    server::assert_nothing_left("upgrades");
    sh(&format!("cmp {a} {b}")).ok();
}

/// The servers of all devices, by these.
fn pids() -> BTreeMap<String, u64> {
    let pid = |device: &Value| {
        (device["name"].as_str().map(str::to_owned)).zip(device["server_pid"].as_u64())
    };
    server::list().iter().filter_map(pid).collect()
}

/// One program takes over from the other, and then the other way round.
fn again(round: usize) {
    let before = pids();
    let program = if round % 2 == 0 { other() } else { binary() };
    let out = upgrade(&program, "nothing", "--all --json").ok();
    let objects = objects(&out);
    assert!(objects.len() == 3 && out.stderr.is_empty(), "{} {}", out.stdout, out.stderr);
    let held: Vec<u64> = objects.iter().filter_map(|object| object["held_ms"].as_u64()).collect();
    let now = pids();
    for object in &objects {
        assert!(object["result"] == "upgraded" && object["same_program"] == false, "{object}");
        let name = object["name"].as_str().expect("a name");
        assert!(object["server_pid"] == now[name], "{object}");
    }
    assert!(held.len() == 3, "{objects:?}");
    let stays = before.iter().filter(|(name, pid)| now[*name] == **pid).count();
    assert!(stays == 0, "the servers are {now:?}, and were {before:?}");
    println!("  round {round}: I/O was held for {} ms", held.iter().max().expect("some"));
}

/// A new program that does not take over: the old one goes on, or takes the devices again.
fn rolled_back(round: usize) {
    let (broken, touched) = BROKEN[round];
    let before = ["o", "m"].map(pid_of);
    let programs = before.map(program_of);
    let out = upgrade(&other(), broken, "--all --json");
    assert!(out.code == 1 && out.stderr.lines().count() == 2, "{broken}: {}", out.stderr);
    let word = if touched { "rolled_back" } else { "unchanged" };
    for object in objects(&out) {
        assert!(object["result"] == word && object["error"].is_string(), "{broken}: {object}");
        assert!(object["held_ms"].is_u64() == touched, "{broken}: {object}");
    }
    let said = if touched { "served by the old program again" } else { "the old server goes on" };
    assert!(out.stderr.lines().all(|line| line.contains(said)), "{broken}: {}", out.stderr);
    let now = ["o", "m"].map(pid_of);
    assert_eq!(now == before, !touched, "{broken}: {before:?}, {now:?}");
    assert_eq!(now.map(program_of), programs, "{broken}: the program is another one");
    // The old program is as good as before: it is replaced by itself.
    let out = ublk_dm("upgrade o m").ok();
    assert!(out.stdout.lines().all(|line| line.contains("it was restarted")), "{}", out.stdout);
    println!("  {broken}: {}", out.stdout.lines().next().unwrap_or_default());
}

/// Has another program take a device's family over; what it prints.
fn upgraded(name: &str) -> String {
    let before = pid_of(name);
    let out = upgrade(&other(), "nothing", name).ok();
    assert!(pid_of(name) != before, "{}", out.stdout);
    out.stdout
}

/// What goes on under the new server: a command in the foreground that watches its device, a
/// suspension, a merge, and the recovery of a mirror.
fn goes_on(seed: u64) {
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let top = server::add(&format!("origin --origin {o} --name o"));
    // A quarter of the disk.
    let mut rng = Rng::new(seed);
    let bytes: Vec<u8> = (0..SIZE * 16).flat_map(|_| rng.next().to_le_bytes()).collect();
    Disk::open(&top).write_bytes(0, &bytes);
    let line = format!("add snapshot --origin {o} --cow {c} --name s --chunk-size 4k --foreground");
    let mut kept = Service::start("s", &line);
    kept.hears("READY=1");
    let said = upgraded("s");
    assert!(said.lines().count() == 2 && said.contains("I/O was held for"), "{said}");
    kept.hears("WATCHDOG=1");
    assert!(!kept.has_ended(), "the command has ended while its device lives");
    kept.signal("TERM");
    assert_eq!(kept.ends(), 0, "the device ends under the new server");
    assert!(Disk::open_read_only(&top).read(0, 8)[..] == bytes[..4096], "what was written");
    suspended();
    // A merge, which is slow.
    sh(&format!("dd if=/dev/zero of={c} bs=64k count=1 oflag=direct status=none")).ok();
    let view = server::add(&format!("snapshot --origin {o} --cow {c} --name t --chunk-size 4k"));
    Disk::open(&view).write_bytes(0, &vec![0xa5; 1 << 20]);
    ublk_dm("merge t --rate 64KiB").ok();
    upgraded("o");
    assert!(server::device("o")["health"] == "merging", "{}", server::device("o"));
    ublk_dm("merge o --rate 0").ok();
    server::wait_for(60, "the end of the merge", || server::device("o")["health"] == "ok");
    assert!(Disk::open_read_only(&top).read(0, 8).iter().all(|byte| *byte == 0xa5));
    // A mirror that is being recovered.
    let (a, b) = (slice("a", "n2", 0, SIZE), slice("b", "n3", 0, SIZE));
    Disk::open_durable(&a).write_bytes(0, &bytes);
    server::add(&format!("mirror --leg {a} --leg {b} --source {a} --force --name m"));
    ublk_dm("message m throttle 1").ok();
    upgraded("m");
    ublk_dm("message m throttle 100").ok();
    ublk_dm("wait m --in-sync").ok();
    server::del("--all");
    sh(&format!("cmp {a} {b}")).ok();
    server::assert_nothing_left("upgrades");
}

/// A device that is suspended with a loaded table: a write waits through two upgrades, and goes
/// where the new table leads.
fn suspended() {
    let (one, next) = (slice("one", "n2", 0, MIB), slice("next", "n3", 0, MIB));
    let line = |disk: &str| format!("0 {MIB} linear {disk} 0");
    let top = run_args(&binary(), &["create", "l", "--table", &line(&one)]).ok().line();
    let disk = Disk::open(&top);
    disk.write_bytes(0, &[0x11; 4096]);
    ublk_dm("suspend l").ok();
    run_args(&binary(), &["load", "l", "--table", &line(&next)]).ok();
    thread::scope(|scope| {
        let write = scope.spawn(|| disk.write_bytes(0, &[0x22; 4096]));
        for _ in 0..2 {
            let said = upgraded("l");
            assert!(said.contains("it stays suspended"), "{said}");
            let device = server::device("l");
            assert!(device["state"] == "suspended" && !write.is_finished(), "{device}");
        }
        ublk_dm("resume l").ok();
        write.join().expect("the write that waited");
    });
    drop(disk);
    server::del("l");
    for (disk, byte) in [(&one, 0x11), (&next, 0x22)] {
        assert!(Disk::open_read_only(disk).read(0, 8).iter().all(|one| *one == byte), "{disk}");
    }
}

/// The old server is killed at some moment of the upgrade: the new one has the device, or the line
/// says what has died and what to do.
fn dies(seed: u64) {
    let (mut rng, mut waits) = (Rng::new(seed), 0);
    let disk = slice("org", "n0", 0, SIZE);
    server::add(&format!("origin --origin {disk} --name o"));
    for round in 0..12 {
        let (pid, pause) = (pid_of("o"), Duration::from_micros(rng.below(400_000)));
        let out = thread::scope(|scope| {
            let out = scope.spawn(|| ublk_dm("upgrade o"));
            thread::sleep(pause);
            sh(&format!("kill -9 {pid}"));
            out.join().expect("no panic")
        });
        println!("  round {round}, after {pause:?}: {}{}", out.stdout.trim(), out.stderr.trim());
        assert!(!out.stderr.contains("onnection refused"), "{}", out.stderr);
        if out.code != 0 {
            let parts = ["o: not upgraded: ", "`ublk-dm recover"];
            assert!(parts.iter().all(|part| out.stderr.contains(part)), "{}", out.stderr);
            let no_server = ["its server has died", "it has no server", "it waits for a server"];
            assert!(no_server.iter().any(|words| out.stderr.contains(words)), "{}", out.stderr);
            waits += 1;
        }
        if server::device("o")["server_pid"].is_null() {
            ublk_dm("recover o").ok();
        }
    }
    println!("  {waits} of 12 found no server");
    server::del("o");
    server::assert_nothing_left("upgrades");
}

/// Refusals leave every server as it is, and hold up no other family.
fn refused() {
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let (a, b) = (slice("a", "n2", 0, SIZE), slice("b", "n1", 64 * MIB, SIZE));
    let refused = |line: &str, why: &str| {
        let out = ublk_dm(&format!("upgrade {line}")).refused();
        assert!(out.stderr.contains(why), "upgrade {line}: {}", out.stderr);
    };
    refused("", "no device is named");
    refused("nonsense", "nonsense: no such device");
    let out = ublk_dm("upgrade --all").ok();
    assert!(out.stdout.is_empty() && out.stderr.is_empty(), "{}{}", out.stdout, out.stderr);
    let link = format!("{}/cow", scratch("links"));
    std::os::unix::fs::symlink(&c, &link).expect("a link");
    server::add(&format!("origin --origin {o} --name o"));
    server::add(&format!("snapshot --origin {o} --cow {link} --name s"));
    let mirror = format!("mirror --leg {a} --leg {b} --nosync --name m");
    server::add(&format!("{mirror} --no-recovery"));
    let before = ["o", "m"].map(pid_of);
    refused("m", "m: not upgraded: it was added with --no-recovery");
    // A COW that could not be opened again.
    std::fs::rename(&link, format!("{link}.away")).expect("renamed");
    refused("s", &link);
    std::fs::rename(format!("{link}.away"), &link).expect("renamed");
    assert_eq!(["o", "m"].map(pid_of), before);
    // The others are upgraded all the same, and so is the family of a device that is named twice.
    let out = ublk_dm("upgrade --all");
    assert!(out.code == 1 && out.stderr.lines().count() == 1, "{}", out.stderr);
    assert!(out.stderr.contains("m: not upgraded: it was added with"), "{}", out.stderr);
    assert!(out.stdout.lines().count() == 2, "{}", out.stdout);
    let out = ublk_dm("upgrade o s o nonsense");
    assert!(out.code == 1 && out.stdout.lines().count() == 2, "{}{}", out.stdout, out.stderr);
    let now = ["o", "m"].map(pid_of);
    assert!(now[0] != before[0] && now[1] == before[1], "{before:?}, {now:?}");
    server::del("m");
    // A snapshot whose exceptions are in memory.
    server::del("s");
    server::add(&format!("snapshot --origin {o} --cow {c} --name t --store transient --force"));
    refused("o", "t: its exceptions are in the memory of its server");
    server::del("t");
    // A server that is stopped, and one that has died.
    let pid = pid_of("o");
    sh(&format!("kill -STOP {pid}")).ok();
    refused("o", "has not answered");
    sh(&format!("kill -CONT {pid}")).ok();
    server::wait_for(20, "an answer", || server::device("o")["state"] == "live");
    assert_eq!(pid_of("o"), pid);
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    refused("o", "it has no server; `ublk-dm recover`");
    ublk_dm("recover o").ok();
    server::del("o");
    // A server that is a service manager's process.
    let mut service = Service::start("m", &format!("add {mirror} --foreground"));
    service.hears("READY=1");
    refused("m", "stays in the foreground: restart its service");
    service.signal("TERM");
    assert_eq!(service.ends(), 0);
    server::assert_nothing_left("refusals");
}
