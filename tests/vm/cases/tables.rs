//! Tables that change under load, what the next server knows of a suspended device, and what lines
//! do not say: the options of `create` and `load`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::disk::{Buf, Disk, MIB, slice};
use crate::load::{self, Plan};
use crate::mirror::{self, Initial, Mirror, Shape, ours};
use crate::model::View;
use crate::server;
use crate::sh::{binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "tables-resume-swaps", bound_s: 180, disks: &["n0", "n1"], run: resume_swaps },
        Case {
            name: "tables-suspended-kill",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |_| suspended_kill(),
        },
        Case {
            name: "tables-over-error",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| over_error(),
        },
        Case { name: "tables-options", bound_s: 90, disks: &["n0", "n1"], run: |_| options() },
    ]
}

const REGION: u64 = 512;
const LEN: u64 = 32 * REGION;

/// Device-mapper's usual idiom under writes: `load`, then `resume`, which suspends by itself. A
/// table that cannot be put in place leaves the old one running, and `resume` of a device that runs
/// changes nothing.
fn resume_swaps(seed: u64) {
    let legs = [slice("leg0", "n0", 0, LEN), slice("leg1", "n1", 0, LEN)];
    let shape = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]).initial(Initial::NoSync);
    let view = View::new("mirr", LEN);
    mirror::fill(&view, &shape);
    let served = Mirror::open(ours(), "m", &shape);
    let disk = served.disk();
    let stop = AtomicBool::new(false);
    // More writers would leave no CPU time for the commands.
    let plan =
        Plan { writers: 4, max_sectors: 64, writes: 1_000_000, seconds: 600, may_break: false };
    let state = || server::device("m")["state"].clone();
    thread::scope(|scope| {
        let writes = scope.spawn(|| load::write(&view, &disk, seed, plan, &stop));
        for _ in 0..5 {
            served.resume();
            served.load(&shape);
            served.resume();
        }
        if ours() == mirror::Engine::Ublk {
            assert!(state() == "live", "after swaps: {}", state());
            let absent =
                Shape::new(LEN, REGION, &[&legs[0], "/dev/not-there"]).initial(Initial::NoSync);
            let loaded = run_args(&binary(), &["load", "m", "--table", &absent.table()]);
            let resumed =
                if loaded.code == 0 { ublk_dm("resume m").refused() } else { loaded.refused() };
            assert!(resumed.stderr.contains("not-there"), "{}", resumed.stderr);
            assert!(state() == "live", "after a table that cannot be: {}", state());
            let before = server::number("m", "/stats/writes");
            server::wait_for(20, "writes to go on", || {
                server::number("m", "/stats/writes") > before + 10
            });
            // A device that was suspended before stays suspended.
            ublk_dm("suspend m").ok();
            run_args(&binary(), &["load", "m", "--table", &absent.table()]);
            ublk_dm("resume m").refused();
            assert!(state() == "suspended", "after a table that cannot be: {}", state());
            ublk_dm("resume m").ok();
        }
        stop.store(true, Ordering::Relaxed);
        let done =
            writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(done > 20, "seed {seed}: only {done} writes");
    });
    view.verify(&disk);
    drop(disk);
    served.wait_in_sync();
    served.close();
    mirror::assert_legs_equal(&shape, "after swaps under load");
}

/// A device of `error` lines in the server of an origin gets the table of a snapshot of it.
fn over_error() {
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 8 * MIB));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    let (error, len) = (format!("0 {} error", 8 * MIB), 8 * MIB);
    run_args(&binary(), &["create", "e", "--beside", "o", "--table", &error]).ok();
    assert_eq!(server::number("e", "/server_pid"), server::number("o", "/server_pid"));
    let (mut old, mut new) = (Buf::new(8), Buf::new(8));
    old.fill(0x0D);
    new.fill(0xE7);
    top.write(64, &old);
    let table = format!("0 {len} snapshot {origin} {cow} P 16");
    run_args(&binary(), &["load", "e", "--table", &table]).ok();
    ublk_dm("resume e").ok();
    top.write(64, &new);
    let snapshot = Disk::open(&format!("/dev/ublkb{}", server::number("e", "/id")));
    assert!(*snapshot.read(64, 8) == *old && *top.read(64, 8) == *new, "the snapshot keeps it");
    drop((snapshot, top));
    let none = ["create", "x", "--beside", "no-such-device", "--table", &error];
    run_args(&binary(), &none).refused();
    server::del("--all");
    server::assert_nothing_left("del --all");
}

/// A suspended device whose server is killed is suspended again under the next one, whatever waits
/// for it and however often the server is killed; and a loaded table is not forgotten.
fn suspended_kill() {
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 8 * MIB));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let legs = [slice("leg0", "n0", 8 * MIB, LEN), slice("leg1", "n1", 8 * MIB, LEN)];
    let shape = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]).initial(Initial::NoSync);
    let other = Shape::new(LEN, REGION, &[&legs[1], &legs[0]]).initial(Initial::NoSync);
    let line = |shape: &Shape| shape.table();
    ublk_dm("list").ok();
    run_args(&binary(), &["create", "m", "--table", &line(&shape)]).ok();
    let mirror = Disk::open(&format!("/dev/ublkb{}", server::number("m", "/id")));
    let mut new = Buf::new(8);
    new.fill(0xA5);
    for name in ["o", "m"] {
        ublk_dm(&format!("suspend {name}")).ok();
    }
    run_args(&binary(), &["load", "m", "--table", &line(&other)]).ok();
    let before = server::table("m");
    let ended = [AtomicBool::new(false), AtomicBool::new(false)];
    thread::scope(|scope| {
        for (disk, ended) in [&top, &mirror].into_iter().zip(&ended) {
            let new = &new;
            scope.spawn(move || {
                disk.write(64, new);
                ended.store(true, Ordering::SeqCst);
            });
        }
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(500));
            for name in ["o", "m"] {
                let pid = server::number(name, "/server_pid");
                sh(&format!("kill -9 {pid}")).ok();
                server::wait_gone(pid);
                server::wait_for(20, "state quiesced", || {
                    server::device(name)["state"] == "quiesced"
                });
            }
            ublk_dm("recover --all").ok();
            thread::sleep(Duration::from_millis(500));
            for (name, ended) in ["o", "m"].into_iter().zip(&ended) {
                assert!(server::device(name)["state"] == "suspended", "{}", server::device(name));
                assert!(!ended.load(Ordering::SeqCst), "a write to {name} went through");
            }
            assert!(server::device("s")["state"] == "live", "{}", server::device("s"));
            assert!(server::table("m") == before, "{}", server::table("m"));
        }
        for name in ["o", "m"] {
            ublk_dm(&format!("resume {name}")).ok();
        }
    });
    assert!(server::table("m") != before, "the table that was loaded is in place: {before}");
    assert!(
        *mirror.read(64, 8) == *new && *top.read(64, 8) == *new,
        "the writes that waited are there"
    );
    drop((top, mirror));
    server::del("--all");
    server::assert_nothing_left("del --all");
    mirror::assert_legs_equal(&shape, "after the end");
}

/// A line says nothing of the device's number, of whether it can be written and waits for its next
/// server, and of which leg is right: `create` takes that as `add` does, and `load` what concerns
/// its disks.
fn options() {
    let legs = [slice("leg0", "n0", 0, LEN), slice("leg1", "n1", 0, LEN)];
    let line = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]).table();
    let view = View::new("line", LEN);
    let differ = || {
        view.fill(&Disk::open(&legs[1]));
        Disk::open(&legs[0]).zero(0, LEN);
    };
    let equal = || {
        ublk_dm("wait m --in-sync").ok();
        legs.iter().for_each(|leg| view.verify_range(&Disk::open_read_only(leg), 0, LEN));
    };
    let run = |words: &[&str]| run_args(&binary(), words);
    differ();
    // Another program uses it.
    let user = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&legs[1]);
    let more = ["--id", "7", "--read-only", "--no-recovery", "--source", &legs[1]];
    let create = [&["create", "m", "--table", &line][..], &more].concat();
    run(&create).refused();
    let path = run(&[&create[..], &["--force"]].concat()).ok().line();
    drop(user.expect("a disk"));
    assert!(path == "/dev/ublkb7", "{path}");
    let written = Disk::try_open(&path, true).and_then(|disk| disk.try_write(0, &Buf::new(8)));
    assert!(written.is_err(), "a read-only device was written");
    equal();
    let pid = server::number("m", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "state dead", || server::device("m")["state"] == "dead");
    ublk_dm("del m --force").ok();
    server::assert_nothing_left("del --force of what dies with its server");

    differ();
    let nosync = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]).initial(Initial::NoSync).table();
    run(&["create", "m", "--table", &nosync]).ok();
    let sync = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]).initial(Initial::Sync).table();
    run(&["load", "m", "--table", &sync, "--force", "--source", &legs[1]]).ok();
    ublk_dm("resume m").ok();
    equal();
    server::del("m");
    server::assert_nothing_left("del");
}
