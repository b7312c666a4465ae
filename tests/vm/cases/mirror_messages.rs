//! Messages to a live mirror: `check` finds exactly the ranges that differ, `repair` copies the
//! named leg, and legs are replaced, added and removed under I/O.

mod judged;
mod unfit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, slice};
use crate::load::{self, Plan, StopOnDrop};
use crate::mirror::{self, Did, Engine, Initial, Mirror, Request, Shape, ours};
use crate::model::View;
use crate::server;
use crate::sh::ublk_dm;

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2", "n3"];
    vec![
        Case { name: "mirror-messages-check", bound_s: 90, disks, run: |_| check() },
        Case {
            name: "mirror-messages-check-under-load",
            bound_s: 90,
            disks,
            run: check_under_load,
        },
        Case { name: "mirror-messages-judged", bound_s: 120, disks, run: |_| judged::judged() },
        Case { name: "mirror-messages-legs", bound_s: 120, disks, run: legs },
        Case { name: "mirror-messages-freed", bound_s: 120, disks, run: |_| freed() },
        Case {
            name: "mirror-messages-replace-failed",
            bound_s: 90,
            disks,
            run: |_| replace_failed(),
        },
        Case { name: "mirror-messages-recover", bound_s: 90, disks, run: |_| recover() },
        Case {
            name: "mirror-messages-unfit",
            bound_s: 90,
            disks: &["n0", "n1", "k0"],
            run: |_| unfit::unfit(),
        },
        Case {
            name: "mirror-messages-refused",
            bound_s: 90,
            disks: &["n0", "n1", "k0"],
            run: |_| unfit::refused_table(),
        },
        Case { name: "mirror-messages-throttle", bound_s: 90, disks, run: |_| throttle() },
    ]
}

const REGION: u64 = 512;
const LEN: u64 = 24 * REGION;

fn message(words: &str) -> String {
    ublk_dm(&format!("message m {words}")).ok().stdout
}

/// A range found by `check`: start, length, legs.
fn differences() -> Vec<(u64, u64)> {
    let line = |text: &str| -> (u64, u64) {
        let json: Value =
            serde_json::from_str(text).unwrap_or_else(|e| panic!("check printed {text:?}: {e}"));
        let number =
            |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {json}"));
        assert!(json["legs"].is_array(), "no legs in {json}");
        (number("start_bytes") / 512, number("len_bytes") / 512)
    };
    let checked = ublk_dm("message m check");
    let differs = if checked.stdout.is_empty() { 0 } else { 3 };
    assert_eq!(checked.code, differs, "the exit code of check, which said {}", checked.stdout);
    checked.stdout.lines().map(line).collect()
}

/// Sectors that get other data on one leg, ascending.
const SPOTS: [(usize, u64, u64); 5] =
    [(1, 0, 1), (1, 700, 8), (0, 3 * REGION - 4, 8), (2, 10 * REGION, REGION), (1, LEN - 2, 2)];

fn check() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = ["n0", "n1", "n2"].map(|disk| slice(&format!("leg{disk}"), disk, 0, LEN));
    let shape = Shape::new(LEN, REGION, &[&legs[0], &legs[1], &legs[2]]).initial(Initial::NoSync);
    let view = View::new("mirr", LEN);
    mirror::fill(&view, &shape);
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    assert!(differences().is_empty(), "equal legs differ in {:?}", differences());
    for (leg, sector, sectors) in SPOTS {
        let mut buf = Buf::new(sectors);
        buf.fill(0xD1);
        Disk::open(&legs[leg]).write(sector, &buf);
    }
    let found = differences();
    let hit =
        |sector: u64| found.iter().any(|(start, len)| (*start..start + len).contains(&sector));
    for (leg, sector, sectors) in SPOTS {
        let all = (sector..sector + sectors).all(hit);
        assert!(
            all,
            "leg {leg} differs in {sectors} sectors from {sector} on; check says {found:?}"
        );
    }
    let told: u64 = found.iter().map(|(_, len)| len).sum();
    let put: u64 = SPOTS.iter().map(|(_, _, len)| len).sum();
    assert!(
        told <= put + 8 * 2 * SPOTS.len() as u64,
        "check says {found:?}, which is {told} sectors, not {put}"
    );
    // Leg 1 is the source, whatever it holds.
    message("repair 1");
    assert!(differences().is_empty(), "legs differ after the repair in {:?}", differences());
    let disk = served.disk();
    let wrong = |sector: u64| disk.read(sector, 1).iter().all(|byte| *byte == 0xD1);
    assert!(wrong(0) && wrong(700) && wrong(LEN - 2), "the repair did not take leg 1 as right");
    view.verify_range(&disk, 3 * REGION - 4, 8);
    view.verify_range(&disk, 10 * REGION, REGION);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(&shape, "after repair 1");
    server::assert_nothing_left("del");
}

/// Writes are under way all the time: a sound mirror has no differences.
fn check_under_load(seed: u64) {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = ["n0", "n1"].map(|disk| slice(&format!("leg{disk}"), disk, 0, LEN));
    let shape = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&legs[0]));
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    served.wait_in_sync();
    let (disk, stop) = (served.disk(), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let load =
            scope.spawn(|| load::write(&view, &disk, seed, Plan::depth_32(100_000, 60), &stop));
        for _ in 0..4 {
            let found = differences();
            assert!(found.is_empty(), "seed {seed}: differences under load: {found:?}");
        }
        message("repair 1");
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
    view.verify(&disk);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(&shape, &format!("check under load, seed {seed}"));
}

/// A leg is replaced, one added, and the two old ones removed, under writes and verifying readers.
fn legs(seed: u64) {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = ["n0", "n1", "n2", "n3"].map(|disk| slice(&format!("leg{disk}"), disk, 0, LEN));
    let shape = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&legs[0]));
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    served.wait_in_sync();
    let (disk, stop) = (served.disk(), AtomicBool::new(false));
    let plan = Plan { writers: 12, max_sectors: 512, ..Plan::depth_32(100_000, 60) };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let load = scope.spawn(|| load::write(&view, &disk, seed, plan, &stop));
        let reader = scope.spawn(|| load::verify(&view, &disk, seed, 2, &stop));
        for (words, count) in [
            (format!("replace 1 {}", legs[2]), 2),
            (format!("add-leg {}", legs[3]), 3),
            (format!("remove-leg {}", legs[0]), 2),
        ] {
            message(&words);
            let status = served.wait_in_sync();
            assert!(status.letters == "A".repeat(count), "after `{words}`: {}", status.short());
        }
        stop.store(true, Ordering::Relaxed);
        let writes =
            load.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        reader.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(writes > 50, "only {writes} writes");
    });
    view.verify(&disk);
    let json = server::device("m");
    let paths: Vec<&str> = json["mirror"]["legs"]
        .as_array()
        .expect("legs")
        .iter()
        .filter_map(|l| l["path"].as_str())
        .collect();
    assert!(paths == [&legs[2], &legs[3]], "the legs are {paths:?}");
    drop(disk);
    let left = Shape::new(LEN, REGION, &[&legs[2], &legs[3]]);
    let table = served.table();
    served.close();
    mirror::assert_legs_equal(&left, &format!("other legs, seed {seed}"));
    view.verify(&Disk::open(&legs[2]));
    let judge = Mirror::open(Engine::Kernel, "judge", &left);
    assert!(judge.table() == table, "the kernel says {:?}, ublk-dm said {table:?}", judge.table());
    judge.close();
    server::assert_nothing_left("del");
}

/// A replaced first leg is free, and so is the name of the server of a mirror over it: also for two
/// simultaneous commands.
fn freed() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = ["n0", "n1", "n2", "n3"].map(|disk| slice(&format!("leg{disk}"), disk, 0, LEN));
    let other = slice("other", "n3", LEN, LEN);
    let add = |name: &str, second: &str| {
        format!("add mirror --leg {} --leg {second} --name {name} --nosync", legs[0])
    };
    ublk_dm(&add("m", &legs[1])).ok();
    message(&format!("replace 0 {}", legs[2]));
    let outs = thread::scope(|scope| {
        let adds = [("n", &legs[3]), ("p", &other)].map(|(name, second)| {
            let line = format!("{} --force", add(name, second));
            scope.spawn(move || ublk_dm(&line))
        });
        adds.map(|add| add.join().expect("no panic"))
    });
    let done: Vec<_> = ["n", "p"].into_iter().zip(&outs).filter(|(_, out)| out.code == 0).collect();
    assert!(done.len() == 1, "one has the disk: {:?}", outs.map(|out| (out.code, out.stderr)));
    let name = done[0].0;
    let refused = outs.iter().find(|out| out.code != 0).expect("the other one");
    assert!(refused.stderr.contains("in use"), "{}", refused.stderr);
    // Each has a server of its own, and is recovered independently.
    assert!(server::number("m", "/server_pid") != server::number(name, "/server_pid"));
    crate::cases::admin::kill(name);
    assert!(server::device("m")["state"] == "live");
    crate::cases::admin::kill("m");
    ublk_dm("recover --all").ok();
    assert!(server::list().iter().all(|device| device["state"] == "live"), "{:?}", server::list());
    // The disk belongs to its present user, whatever the name of the first server suggests.
    server::del("m");
    let out = ublk_dm(&add("q", &legs[1])).refused();
    assert!(out.stderr.contains("in use"), "{}", out.stderr);
    server::del(name);
    ublk_dm(&add("q", &legs[1])).ok();
    server::del("q");
    server::assert_nothing_left("del");
}

/// A leg dies, a write is held; replacing the leg releases it.
fn replace_failed() {
    if ours() == Engine::Kernel {
        return;
    }
    let (first, spare) = (slice("leg0", "n0", 0, LEN), slice("spare", "n2", 0, LEN));
    let second = Faulty::new("leg1", "n1", 0, LEN);
    let shape = Shape::new(LEN, REGION, &[&first, &second.path]).features(&["handle_errors"]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&first));
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    served.wait_in_sync();
    second.set(Fault::Gone);
    let ticket = view.begin(5 * REGION, 64).expect("no other writer");
    let request = Request::write(&served.path, ticket);
    served.wait_status(10, "a failed leg", |status| status.letters == "AD");
    assert!(request.did(500) == Did::Held, "the write should be held");
    message(&format!("replace {} {spare}", second.path));
    assert!(request.did(20_000) == Did::Success, "the write should go on with the new leg");
    view.end(ticket);
    served.wait_status(20, "24/24 AA c", |status| status.short() == "24/24 AA c");
    view.verify(&served.disk());
    served.close();
    mirror::assert_legs_equal(&Shape::new(LEN, REGION, &[&first, &spare]), "after the replacement");
    server::assert_nothing_left("del");
}

/// A region that is unreadable on the source stays out of sync, and is copied by `recover` when it
/// can be read again.
fn recover() {
    if ours() == Engine::Kernel {
        return;
    }
    let (first, second) = (Faulty::new("leg0", "n0", 0, LEN), slice("leg1", "n1", 0, LEN));
    let shape = Shape::new(LEN, REGION, &[&first.path, &second]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&first.path));
    first.set(Fault::Unreadable { sector: 3 * REGION, sectors: REGION });
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let left = served.wait_status(20, "one region that cannot be read", |status| {
        status.short().starts_with("23/24")
    });
    assert!(left.letters == "SA", "{}", left.short());
    first.heal();
    message("recover");
    served.wait_status(20, "everything in sync", |status| status.short().starts_with("24/24"));
    view.verify(&served.disk());
    served.close();
    mirror::assert_legs_equal(&shape, "after the sector can be read again");
    server::assert_nothing_left("del");
}

/// A throttled recovery continues, reports its progress, and ends.
fn throttle() {
    if ours() == Engine::Kernel {
        return;
    }
    let first = slice("leg0", "n0", 0, LEN);
    let second = Faulty::new("leg1", "n1", 0, LEN);
    let shape = Shape::new(LEN, REGION, &[&first, &second.path]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&first));
    second.set(Fault::Slow { read_ms: 0, write_ms: 1500 });
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    message("throttle 10");
    let json = server::device("m")["mirror"]["recovery"].clone();
    for key in ["done_regions", "total_regions"] {
        assert!(json[key].is_u64(), "recovery should tell {key}: {json}");
    }
    for key in ["bytes_per_second", "seconds_left"] {
        assert!(json.get(key).is_some(), "recovery should tell {key}: {json}");
    }
    second.heal();
    message("throttle 100");
    served.wait_in_sync();
    view.verify(&served.disk());
    served.close();
    mirror::assert_legs_equal(&shape, "after a throttled recovery");
}
