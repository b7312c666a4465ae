//! The legs of a mirror that are up to date are on record while its log is in memory: a bad sector
//! of the only good leg, a record that is gone, a leg that is dead from the beginning, and a full
//! run directory. And a log on a disk says it in the first recovery, when there is no record.

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Disk, slice};
use crate::faults::{self, Fails};
use crate::kernel;
use crate::mirror::{self, Engine, Mirror, Shape, ours};
use crate::model::View;
use crate::server;
use crate::sh::{binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "mirror-record-bad-sector", bound_s: 90, disks, run: |_| bad_sector() },
        Case { name: "mirror-record-lost", bound_s: 90, disks, run: |_| lost() },
        Case { name: "mirror-record-dead-leg", bound_s: 60, disks, run: |_| dead_leg() },
        Case {
            name: "mirror-exchanged-leg",
            bound_s: 90,
            disks: &["n0", "n1", "n2"],
            run: |_| exchanged(),
        },
        Case { name: "mirror-ended-stale", bound_s: 90, disks, run: |_| ended_stale() },
        Case {
            name: "mirror-record-kernel",
            bound_s: 90,
            disks: &["n0", "n1", "n2"],
            run: |_| used_by_kernel(),
        },
        Case { name: "mirror-record-full", bound_s: 90, disks, run: |_| full() },
        Case {
            name: "mirror-record-first",
            bound_s: 90,
            disks: &["n0", "n1", "n2"],
            run: |_| first(),
        },
        Case { name: "mirror-record-relative-leg", bound_s: 60, disks, run: |_| relative_leg() },
    ]
}

const REGION: u64 = 256;
const REGIONS: u64 = 48;
const LEN: u64 = REGIONS * REGION;

fn kill_9() {
    let pid = server::number("m", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "state quiesced", || server::device("m")["state"] == "quiesced");
}

/// One sector of the only good leg cannot be read, and the server dies during the first recovery:
/// the new leg is not copied over the good one.
fn bad_sector() {
    if ours() == Engine::Kernel {
        return;
    }
    let good = faults::Faulty::new("good", "n0", 0, LEN);
    let new = Faulty::new("new", "n1", 0, LEN);
    let view = View::new("reco", LEN);
    view.fill(&Disk::open(&good.node));
    Disk::open(&new.path).zero(0, LEN);
    good.set(&[(Fails::Reads, 3 * REGION, 8)]);
    new.set(Fault::Slow { read_ms: 0, write_ms: 1_000 });
    server::add(&format!(
        "mirror --leg {} --leg {} --region-size {REGION}s --name m",
        good.node, new.path
    ));
    server::wait_for(30, "an error of recovery", || {
        server::device("m").pointer("/mirror/legs/0/health") != Some(&"A".into())
    });
    kill_9();
    new.heal();
    ublk_dm("recover m").ok();
    good.set(&[]);
    ublk_dm("message m recover").ok();
    ublk_dm("wait m --in-sync").ok();
    server::del("m");
    for leg in [&good.node, &new.path] {
        view.verify_range(&Disk::open(leg), 0, LEN);
    }
}

/// Without the record it is unknown which leg is up to date, so the user must name it.
fn lost() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
    let view = View::new("lost", LEN);
    view.fill(&Disk::open(&legs[1].path));
    let [first, second] = [&legs[0].path, &legs[1].path];
    let on_disk = slice("log", "n1", 2 * LEN, 64);
    Disk::open(&on_disk).zero(0, 64);
    for log in ["core", &on_disk] {
        Disk::open(first).zero(0, LEN);
        server::add(&format!(
            "mirror --leg {first} --leg {second} --source {second} --region-size {REGION}s \
             --log {log} --name m"
        ));
        ublk_dm("wait m --in-sync").ok();
        for spoil in ["rm -f", "truncate -s 20"] {
            kill_9();
            run_args("sh", &["-c", &format!("{spoil} {}/mirror-*.legs", server::run_dir())]).ok();
            let refused = ublk_dm("recover m").refused();
            assert!(refused.stderr.contains("--source"), "{}", refused.stderr);
            ublk_dm(&format!("recover m --source {second}")).ok();
            ublk_dm("wait m --in-sync").ok();
        }
        server::del("m");
    }
    let shape = Shape::new(LEN, REGION, &[first, second]);
    mirror::assert_legs_equal(&shape, "the second leg was named twice");
    view.verify_range(&Disk::open(first), 0, LEN);
}

/// The run directory has no room when a leg misses a write, and the server dies before it has.
fn full() {
    if ours() == Engine::Kernel {
        return;
    }
    let dir = server::run_dir();
    sh(&format!("mkdir -p {dir}")).ok();
    sh(&format!("mount -t tmpfs -o size=256k,mode=0700 tmpfs {dir}")).ok();
    let (bad, good) = (Faulty::new("bad", "n0", 0, LEN), slice("good", "n1", 0, LEN));
    let view = View::new("full", LEN);
    view.fill(&Disk::open(&bad.path));
    let path = server::add(&format!(
        "mirror --leg {} --leg {good} --force --region-size {REGION}s --name m",
        bad.path
    ));
    ublk_dm("wait m --in-sync").ok();
    drop(sh(&format!("dd if=/dev/zero of={dir}/filler bs=1k")));
    bad.set(Fault::Writes);
    view.write(&Disk::open(&path), 3 * REGION, 8);
    kill_9();
    bad.heal();
    sh(&format!("rm {dir}/filler")).ok();
    ublk_dm("recover m").ok();
    ublk_dm("wait m --in-sync").ok();
    server::del("m");
    for leg in [&bad.path, &good] {
        view.verify_range(&Disk::open(leg), 0, LEN);
    }
    sh(&format!("umount -l {dir}")).ok();
}

/// A mirror ends in its first recovery, and nothing is left but its log, as after a loss of power:
/// the legs are given in another order, and then the regions in another size.
fn first() {
    if ours() == Engine::Kernel {
        return;
    }
    let (good, new) = (slice("good", "n0", 0, LEN), Faulty::new("new", "n1", 0, LEN));
    let log = slice("log", "n2", 0, 64);
    let view = View::new("frst", LEN);
    view.fill(&Disk::open(&good));
    Disk::open(&new.path).zero(0, LEN);
    Disk::open(&log).zero(0, 64);
    new.set(Fault::Slow { read_ms: 0, write_ms: 1_000 });
    let add = |legs: [&str; 2], region: u64| {
        let [first, second] = legs;
        ublk_dm(&format!(
            "add mirror --leg {first} --leg {second} --log {log} --region-size {region}s --name m"
        ))
    };
    let path = add([&good, &new.path], REGION).ok().line();
    view.write(&Disk::open(&path), 3 * REGION, 8);
    kill_9();
    new.heal();
    ublk_dm("del --force m").ok();
    server::forget_ended_legs();
    let said = add([&new.path, &good], REGION).ok().stderr;
    assert!(said.contains(&format!("recovered from {good}")), "{said}");
    ublk_dm("wait m --in-sync").ok();
    server::del("m");
    let said = add([&new.path, &good], 2 * REGION).refused().stderr;
    assert!(said.contains("--region-size 128KiB"), "{said}");
    for leg in [&new.path, &good] {
        view.verify_range(&Disk::open(leg), 0, LEN);
    }
}

/// A table line with a dead leg has the kernel's meaning: the mirror starts without that leg, also
/// as the table that replaces its own.
fn dead_leg() {
    let good = Faulty::new("good", "n0", 0, LEN);
    let dead = kernel::create("dead", &format!("0 {LEN} error"));
    let view = View::new("dead", LEN);
    view.fill(&Disk::open(&good.path));
    let shape = Shape::new(LEN, REGION, &[&good.path, &dead]).features(&["handle_errors"]);
    for engine in [Engine::Kernel, ours()] {
        let served = Mirror::open(engine, "m", &shape);
        let is_degraded = |served: &Mirror| {
            served.wait_status(20, "the letter of a failed recovery", |status| {
                status.short() == "0/48 AS c"
            });
            view.verify(&served.disk());
        };
        is_degraded(&served);
        if engine == ours() {
            assert_eq!(server::device("m")["health"], "degraded");
        }
        served.load(&shape);
        served.suspend(false);
        served.resume();
        is_degraded(&served);
        served.close();
    }
    kernel::remove("dead");
}

/// A leg is named by a path relative to the caller's directory, and by a number from 0, as in the
/// error that lists them.
fn relative_leg() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
    let [first, second] = [&legs[0].path, &legs[1].path];
    server::add(&format!(
        "mirror --leg {first} --leg {second} --nosync --region-size {REGION}s --name m"
    ));
    let (dir, name) = second.rsplit_once('/').expect("an absolute path");
    run_args("sh", &["-c", &format!("cd {dir} && {} message m repair {name}", binary())]).ok();
    let refused = ublk_dm("message m repair 2").refused();
    assert!(refused.stderr.contains(&format!("0 ({first}), 1 ({second})")), "{}", refused.stderr);
    server::del("m");
}

/// A leg is exchanged for another disk while its mirror is down: a clean log does not speak for it.
fn exchanged() {
    if ours() == Engine::Kernel {
        return;
    }
    let slices = [("one", "n0", 0), ("two", "n1", 0), ("three", "n1", 2 * LEN), ("log", "n2", 0)];
    let [first, second, third, log] = slices.map(|(name, disk, at)| slice(name, disk, at, LEN));
    let view = View::new("exch", LEN);
    let line = |legs: [&str; 2]| {
        let [one, two] = legs;
        format!("mirror --leg {one} --leg {two} --log {log} --region-size {REGION}s --name m")
    };
    let path = server::add(&line([&first, &second]));
    ublk_dm("wait m --in-sync").ok();
    view.fill(&Disk::open(&path));
    server::del("m");
    View::new("past", LEN).fill(&Disk::open(&third));
    let path = server::add(&line([&third, &second]));
    view.verify_range(&Disk::open(&path), 0, LEN);
    ublk_dm("wait m --in-sync").ok();
    server::del("m");
    for leg in [&third, &second] {
        view.verify_range(&Disk::open(leg), 0, LEN);
    }
    // Other content is not overwritten without a question.
    sh(&format!("mkfs.ext4 -qF {first}")).ok();
    let refused = ublk_dm(&format!("add {}", line([&first, &second]))).refused();
    assert!(
        refused.stderr.contains(&first) && refused.stderr.contains("ext"),
        "{}",
        refused.stderr
    );
    // The kernel knows nothing of names, and keeps them.
    let legs = format!("2 {third} 0 {second} 0");
    let served = kernel::create("k", &format!("0 {LEN} mirror disk 2 {log} {REGION} {legs}"));
    view.verify_range(&Disk::open(&served), 0, LEN);
    kernel::remove("k");
    let path = server::add(&line([&third, &second]));
    let status = ublk_dm("status m").ok().line();
    assert!(status.contains(" 48/48 1 AA "), "{status}");
    view.verify_range(&Disk::open(&path), 0, LEN);
    server::del("m");
}

/// Deletes a mirror, of which the log alone knows then, as after a restart of the machine.
fn del_forgotten() {
    ublk_dm("del m").ok();
    for entry in std::fs::read_dir(server::run_dir()).expect("readable").flatten() {
        if entry.path().extension().is_some_and(|end| end == "ended") {
            std::fs::remove_file(entry.path()).expect("removable");
        }
    }
}

/// The kernel uses a log that has a leg as stale. While that leg cannot be written the log keeps
/// its marks, and which leg is right must be named; once the kernel has copied it, both are.
fn used_by_kernel() {
    if ours() == Engine::Kernel {
        return;
    }
    let first = slice("leg0", "n0", 0, LEN);
    let (second, log) = (Faulty::new("leg1", "n1", 0, LEN), slice("log", "n2", 0, LEN));
    let view = View::new("usek", LEN);
    let line = format!(
        "mirror --leg {first} --leg {} --log {log} --region-size {REGION}s --name m",
        second.path
    );
    let version = || Disk::open_read_only(&log).read(0, 8)[4];
    let path = server::add(&line);
    ublk_dm("wait m --in-sync").ok();
    view.fill(&Disk::open(&path));
    assert!(version() == 2, "no leg is stale, and the version is {}", version());
    second.set(Fault::Bad { sector: 0, sectors: LEN });
    let disk = Disk::open(&path);
    view.write(&disk, 3 * REGION, REGION);
    disk.flush().expect("the other leg has it");
    drop(disk);
    del_forgotten();
    assert!(version() == 1, "a leg is stale, and the version is {}", version());
    let legs = format!("2 {first} 0 {} 0", second.path);
    // Without `handle_errors` the kernel has a region in sync that it could not copy.
    let table = format!("0 {LEN} mirror disk 2 {log} {REGION} {legs} 1 handle_errors");
    let dirty = crate::log::dirty(&log, REGIONS);
    assert!(dirty == [3], "marked are {dirty:?}");
    let judge = kernel::create("k", &table);
    view.verify_range(&Disk::open(&judge), 0, LEN);
    kernel::remove("k");
    assert!(version() == 2, "the kernel has used the log, and the version is {}", version());
    let dirty = crate::log::dirty(&log, REGIONS);
    assert!(dirty == [3], "the kernel has copied to a leg that fails: {dirty:?}");
    let refused = ublk_dm(&format!("add {line}")).refused();
    assert!(refused.stderr.contains("another program"), "{}", refused.stderr);
    second.heal();
    let path = server::add(&format!("{line} --source {first}"));
    ublk_dm("wait m --in-sync").ok();
    view.verify_range(&Disk::open(&path), 0, LEN);
    second.set(Fault::Bad { sector: 0, sectors: LEN });
    view.write(&Disk::open(&path), 5 * REGION, REGION);
    del_forgotten();
    second.heal();
    kernel::create("k", &table);
    server::wait_for(20, "48/48 of the kernel's", || kernel::status("k").contains(" 48/48 "));
    kernel::remove("k");
    let path = server::add(&line);
    let status = ublk_dm("status m").ok().line();
    assert!(status.contains(" 48/48 1 AA "), "{status}");
    view.verify_range(&Disk::open(&path), 0, LEN);
    server::del("m");
}

/// A leg misses a write, and the mirror is deleted: it is refused as a source, with and without its
/// name, and nothing is kept of a mirror that ends in sync.
fn ended_stale() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = [Faulty::new("leg0", "n0", 0, LEN), Faulty::new("leg1", "n1", 0, LEN)];
    let [first, second] = [&legs[0].path, &legs[1].path];
    let view = View::new("ende", LEN);
    let line = format!("mirror --leg {first} --leg {second} --region-size {REGION}s --name m");
    let path = server::add(&line);
    ublk_dm("wait m --in-sync").ok();
    view.fill(&Disk::open(&path));
    legs[0].set(Fault::Bad { sector: 0, sectors: LEN });
    let disk = Disk::open(&path);
    view.write(&disk, 3 * REGION, REGION);
    disk.flush().expect("the other leg has it");
    drop(disk);
    let deleted = ublk_dm("del m").ok();
    assert!(deleted.stderr.contains(&format!("not up to date: {first}")), "{}", deleted.stderr);
    legs[0].heal();
    let refused = ublk_dm(&format!("add {line} --source {first}")).refused();
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    // The disks may have been used since: no source is chosen for the user.
    let refused = ublk_dm(&format!("add {line}")).refused();
    assert!(refused.stderr.contains(&format!("(up to date: {second})")), "{}", refused.stderr);
    let added = ublk_dm(&format!("add {line} --source {second}")).ok();
    ublk_dm("wait m --in-sync").ok();
    view.verify_range(&Disk::open(&added.line()), 0, LEN);
    server::del("m");
    for leg in [first, second] {
        view.verify_range(&Disk::open(leg), 0, LEN);
    }
    let kept = std::fs::read_dir(server::run_dir()).expect("readable").flatten();
    let kept = kept.filter(|entry| entry.path().extension().is_some_and(|end| end == "ended"));
    assert_eq!(kept.count(), 0);
}
