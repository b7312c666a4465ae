//! One mirror, nothing fails: it serves I/O, its description is correct and in the kernel's words,
//! all legs get every write, and its deletion leaves no trace. With two, three and nine legs,
//! offsets, all kinds of disks, files, and file systems on top.

use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Disk, MIB, node, slice};
use crate::load::{self, Plan, Rng};
use crate::mirror::{self, Engine, Initial, Mirror, Shape, ours};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{run_args, sh, ublk_dm};
use crate::{kernel, log, server, tree};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "mirror-basic", bound_s: 90, disks: &["n0", "n1"], run: |_| basic() },
        Case {
            name: "mirror-basic-tables",
            bound_s: 120,
            disks: &["n0", "n1", "n2"],
            run: |_| tables(),
        },
        Case {
            name: "mirror-basic-legs",
            bound_s: 120,
            disks: &["n0", "n1", "n2", "s0", "s1"],
            run: legs,
        },
        Case { name: "mirror-basic-files", bound_s: 90, disks: &["n0", "n1"], run: files },
        Case { name: "mirror-basic-ext4", bound_s: 120, disks: &["n0", "s0", "n2"], run: ext4 },
        Case { name: "mirror-basic-fio", bound_s: 120, disks: &["n0", "n1", "n2"], run: fio },
    ]
}

/// Half a MiB, the default.
const REGION: u64 = 1024;

/// Every key of the contract on two whole disks, then its life from the first recovery to its end.
fn basic() {
    if ours() == Engine::Kernel {
        return;
    }
    let len = 16 * MIB;
    let (first, second) = (slice("leg0", "n0", 0, len), slice("leg1", "n1", 0, len));
    let view = View::new("mirr", len);
    view.fill(&Disk::open(&first));
    let out = ublk_dm(&format!("add mirror --leg {first} --leg {second} --name m")).ok();
    let (dev, said) = (out.line(), out.stderr.trim().to_string());
    assert!(
        said.contains("core log is not kept") && said.contains(&first),
        "of a core log add says {said:?}"
    );
    describe(&dev, &first, &second, len);
    let shape = Shape::new(len, REGION, &[&first, &second]);
    server::wait_for(30, "the recovery", || {
        server::number("m", "/mirror/in_sync_regions") == shape.regions()
    });
    let json = server::device("m");
    assert!(json["mirror"]["recovery"].is_null(), "recovery of a mirror in sync: {json}");
    let disk = Disk::open(&dev);
    view.verify(&disk);
    for (at, sectors) in [(3, 2), (REGION - 1, 2), (len - 5, 5), (4 * REGION - 64, 2048)] {
        view.write(&disk, at, sectors);
    }
    disk.flush().unwrap_or_else(|e| panic!("{dev}: flush: {e}"));
    view.verify(&disk);
    let json = server::device("m");
    let stats = &json["stats"];
    assert!(
        stats["writes"].as_u64() >= Some(4) && stats["errors"] == 0,
        "stats after 4 writes: {json}"
    );
    assert!(stats["flushes"].as_u64() >= Some(1), "stats after a flush: {json}");
    let (status, table) = (server::status("m"), server::table("m"));
    assert!(
        ublk_dm("message m check").ok().stdout.is_empty(),
        "`check` finds differences in a sound mirror"
    );
    drop(disk);
    server::del("m");
    server::assert_nothing_left("del");
    mirror::assert_legs_equal(&shape, "after del");
    view.verify(&Disk::open(&first));
    let judge = Mirror::open(Engine::Kernel, "judge", &shape);
    judge.wait_in_sync();
    assert!(
        judge.status_line() == status,
        "the kernel says {:?}, ublk-dm said {status:?}",
        judge.status_line()
    );
    assert!(judge.table() == table, "the kernel says {:?}, ublk-dm said {table:?}", judge.table());
    judge.close();
}

fn describe(dev: &str, first: &str, second: &str, len: u64) {
    let json = server::device("m");
    let expect: [(&str, Value); 16] = [
        ("/target", "mirror".into()),
        ("/state", "live".into()),
        ("/block_device", dev.into()),
        ("/size_bytes", (len * 512).into()),
        ("/logical_block_size", 512.into()),
        ("/read_only", false.into()),
        ("/mirror/log", "core".into()),
        ("/mirror/region_size_bytes", (REGION * 512).into()),
        ("/mirror/regions", (len / REGION).into()),
        ("/mirror/legs/0/path", first.into()),
        ("/mirror/legs/1/path", second.into()),
        ("/mirror/legs/0/health", "A".into()),
        ("/mirror/legs/1/health", "A".into()),
        ("/mirror/legs/0/default", true.into()),
        ("/mirror/legs/1/default", false.into()),
        ("/mirror/legs/0/read_errors", 0.into()),
    ];
    for (pointer, value) in expect {
        assert!(
            json.pointer(pointer) == Some(&value),
            "list --json: {pointer} should be {value} in {json}"
        );
    }
    for key in ["in_sync_regions", "dirty_regions"] {
        assert!(
            json["mirror"][key].is_u64(),
            "list --json: mirror.{key} should be a number in {json}"
        );
    }
    for key in ["write_errors", "flush_errors"] {
        assert!(
            json["mirror"]["legs"][1][key] == 0,
            "list --json: legs[1].{key} should be 0 in {json}"
        );
    }
    let recovery = &json["mirror"]["recovery"];
    let known = ["done_regions", "total_regions"].iter().all(|key| recovery[key].is_u64());
    assert!(
        recovery.is_null() || known,
        "list --json: recovery should be null or tell regions in {json}"
    );
}

/// Flags and table lines mean the same, and the output has the kernel's own lines.
fn tables() {
    let len = 5 * MIB + 24;
    let paths = [slice("leg0", "n0", 0, len), slice("leg1", "n1", 0, len + 4096)];
    let log = slice("log", "n2", 0, 64);
    let shape = |initial, features: &'static [&'static str]| {
        let mut shape =
            Shape::new(len, 512, &[&paths[0], &paths[1]]).initial(initial).features(features);
        shape.legs[1].1 = 4096;
        shape
    };
    for (shape, log) in [
        (shape(Initial::FromLog, &[]), false),
        (shape(Initial::NoSync, &["handle_errors"]), false),
        (shape(Initial::FromLog, &["handle_errors", "keep_log"]), true),
        (shape(Initial::NoSync, &[]), true),
        (shape(Initial::Sync, &["handle_errors"]), true),
    ]
    .map(|(shape, on_disk)| if on_disk { (shape.log(&log), true) } else { (shape, false) })
    {
        if log {
            Disk::open(shape.log.as_deref().expect("a log")).zero(0, 16);
        }
        let judge = Mirror::open(Engine::Kernel, "judge", &shape);
        judge.wait_in_sync();
        let lines = (judge.status_line(), judge.table());
        judge.close();
        for by_flags in [true, false] {
            let served = if by_flags {
                Mirror::add(ours(), "m", &shape)
            } else {
                Mirror::open(ours(), "m", &shape)
            };
            served.wait_in_sync();
            let own = (served.status_line(), served.table());
            assert!(
                own == lines,
                "by flags: {by_flags}: the kernel says {lines:?}, ublk-dm {own:?}"
            );
            served.close();
        }
    }
}

/// Two to nine legs at offsets on NVMe and SATA: a recovery with writes and verifying readers
/// beside it.
fn legs(seed: u64) {
    let len = 6 * MIB + 80; // the last region is short
    let disks = ["n0", "n1", "s0", "n2", "s1", "n0", "n1", "s0", "n2"];
    for count in [2, 3, 9] {
        let mut shape = Shape::new(len, 512, &[]);
        for (n, disk) in (0u64..).zip(&disks[..count]) {
            let offset = n % 3 * 520;
            shape
                .legs
                .push((slice(&format!("leg{n}"), disk, n / 5 * 64 * MIB, len + offset), offset));
        }
        let view = View::new("mirr", len);
        view.fill(&Disk::open(&shape.legs[0].0));
        let served = Mirror::add(ours(), "m", &shape);
        let (disk, stop) = (served.disk(), AtomicBool::new(false));
        thread::scope(|scope| {
            let reader = scope.spawn(|| load::verify(&view, &disk, seed, 2, &stop));
            let plan = Plan { writes: 150, ..Plan::depth_32(150, 20) };
            let done = load::write(&view, &disk, seed, plan, &AtomicBool::new(false));
            served.wait_in_sync();
            stop.store(true, Ordering::Relaxed);
            reader
                .join()
                .expect("no panic")
                .unwrap_or_else(|why| panic!("{count} legs, seed {seed}: {why}"));
            done.unwrap_or_else(|why| panic!("{count} legs, seed {seed}: {why}"));
        });
        view.verify(&disk);
        drop(disk);
        let (status, table) = (served.status_line(), served.table());
        served.close();
        mirror::assert_legs_equal(&shape, &format!("{count} legs, seed {seed}"));
        let judge = Mirror::open(Engine::Kernel, "judge", &shape.clone().initial(Initial::NoSync));
        assert!(
            judge.status_line() == status,
            "the kernel says {:?}, ublk-dm {status:?}",
            judge.status_line()
        );
        assert!(
            judge.table().replace("core 2 512 nosync", "core 1 512") == table,
            "the kernel says {:?}, not {table:?}",
            judge.table()
        );
        view.verify(&judge.disk());
        judge.close();
        (0..count).for_each(|n| kernel::remove(&format!("leg{n}")));
    }
}

/// Legs and log as files of a file system.
fn files(seed: u64) {
    if ours() == Engine::Kernel {
        return;
    }
    let dir = scratch("files");
    sh(&format!("mkfs.ext4 -q {}", node("n0"))).ok();
    sh(&format!("mount {} {dir}", node("n0"))).ok();
    let len = 8 * MIB;
    let [first, second, dirty] = ["first", "second", "log"].map(|name| format!("{dir}/{name}"));
    for (path, kib) in [(&first, 8192), (&second, 8192), (&dirty, 64)] {
        sh(&format!("truncate -s {kib}K {path}")).ok();
    }
    let mut shape = Shape::new(len, REGION, &[&first, &second]).log(&dirty);
    let view = View::new("mirr", len);
    view.fill(&Disk::open(&first));
    let served = Mirror::add(ours(), "m", &shape);
    served.wait_in_sync();
    let disk = served.disk();
    load::write(&view, &disk, seed, Plan::depth_32(100, 20), &AtomicBool::new(false))
        .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    view.verify(&disk);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(&shape, &format!("files, seed {seed}"));
    assert!(log::dirty(&dirty, shape.regions()).is_empty(), "the log should be clean after del");
    let looped =
        |path: &str| sh(&format!("losetup --find --show --direct-io=on {path}")).ok().line();
    shape.legs = vec![(looped(&first), 0), (looped(&second), 0)];
    shape.log = Some(looped(&dirty));
    let judge = Mirror::open(Engine::Kernel, "judge", &shape);
    assert!(judge.status().short() == "16/16 AA A", "the kernel says {}", judge.status().short());
    view.verify(&judge.disk());
    judge.close();
    sh("losetup -D").ok();
    sh(&format!("umount {dir}")).ok();
}

/// A file system on a mirror that is recovered meanwhile; each leg alone holds it.
fn ext4(seed: u64) {
    let len = 96 * MIB;
    let legs = [slice("leg0", "n0", 0, len), slice("leg1", "s0", 0, len)];
    let shape = Shape::new(len, REGION, &[&legs[0], &legs[1]]).log(&slice("log", "n2", 0, 64));
    let served = Mirror::add(ours(), "m", &shape);
    let dir = scratch("mirror");
    sh(&format!("mkfs.ext4 -q -F {}", served.path)).ok();
    sh(&format!("mount -t ext4 {} {dir}", served.path)).ok();
    let mut rng = Rng::new(seed);
    tree::grow(&dir, &mut rng, 60, 200 << 10);
    tree::change(&dir, &mut rng, 60, 200 << 10);
    let then = tree::take(&dir);
    sh(&format!("umount {dir}")).ok();
    served.wait_in_sync();
    served.close();
    mirror::assert_legs_equal(&shape, &format!("ext4, seed {seed}"));
    for leg in legs {
        sh(&format!("e2fsck -fn {leg}")).ok();
        sh(&format!("mount -t ext4 {leg} {dir}")).ok();
        tree::assert_same(&format!("ext4 on {leg}, seed {seed}"), &then, &tree::take(&dir));
        sh(&format!("umount {dir}")).ok();
    }
}

/// fio's verification at depth 32; the second leg is slow for a while, and the log is used heavily.
fn fio(seed: u64) {
    let len = 16 * MIB;
    let first = slice("leg0", "n0", 0, len);
    let second = Faulty::new("leg1", "n1", 0, len);
    let shape = Shape::new(len, 128, &[&first, &second.path])
        .log(&slice("log", "n2", 0, 64))
        .features(&["handle_errors"]);
    let served = Mirror::open(ours(), "m", &shape);
    second.set(Fault::Slow { read_ms: 5, write_ms: 2 });
    let line = "--name=v --bssplit=512/10:4k/25:12k/15:16k/15:64k/20:256k/15 --blockalign=512 \
                --rw=randwrite --direct=1 \
                --ioengine=io_uring --iodepth=32 --verify=crc32c --do_verify=1 --verify_fatal=1 \
                 --verify_backlog=256 \
                --verify_state_save=0 --allow_file_create=0 --size=100%";
    let (file, seeded) =
        (format!("--filename={}", served.path), format!("--randseed={}", seed % (1 << 31)));
    let mut args: Vec<&str> = line.split_whitespace().collect();
    args.extend([file.as_str(), seeded.as_str()]);
    run_args("fio", &args).ok();
    second.heal();
    served.wait_in_sync();
    served.close();
    mirror::assert_legs_equal(&shape, &format!("fio, seed {seed}"));
    assert!(
        log::dirty(shape.log.as_deref().expect("a log"), shape.regions()).is_empty(),
        "a dirty log after del"
    );
}
