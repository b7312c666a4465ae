//! Ends that no command has asked for, or that occur while a device is in use.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::cases::process::Service;
use crate::disk::{self, Disk, MIB, claim, is_free, slice};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{ioctl, kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "leave-stopped",
            bound_s: 90,
            disks: &["n0", "n1"],
            run: |_| taken_away(ioctl::ublk_stop),
        },
        Case {
            name: "leave-deleted",
            bound_s: 90,
            disks: &["n0", "n1"],
            run: |_| taken_away(ioctl::ublk_delete),
        },
        Case { name: "leave-one-of-two", bound_s: 90, disks: &["n0", "n1"], run: |_| one_of_two() },
        Case {
            name: "leave-sigterm-mounted",
            bound_s: 150,
            disks: &["n0", "n1"],
            run: |_| sigterm_mounted(),
        },
        Case {
            name: "leave-sigterm-open",
            bound_s: 90,
            disks: &["n0", "n1"],
            run: |_| sigterm_open(),
        },
        Case {
            name: "leave-sigterm-recovered",
            bound_s: 90,
            disks: &["n0", "n1"],
            run: |_| sigterm_recovered(),
        },
        Case { name: "leave-foreground", bound_s: 90, disks: &["n0", "n1"], run: |_| foreground() },
    ]
}

const SIZE: u64 = 8 * MIB;

fn id_of(name: &str) -> u32 {
    u32::try_from(server::number(name, "/id")).expect("an id")
}

/// Another program stops or deletes a device: it is not reported as live, its disks are free, and
/// its written data is there for the next device.
fn taken_away(take: fn(u32) -> std::io::Result<()>) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("snap", SIZE);
    view.fill(&Disk::open(&origin));
    let add = format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s");
    let disk = Disk::open(&server::add(&add));
    for at in (0..SIZE - 64).step_by(4001) {
        view.write(&disk, at, 20);
    }
    drop(disk);
    let pid = server::number("s", "/server_pid");
    take(id_of("s")).expect("taken");
    server::wait_for(20, "the device to be gone", || server::list().is_empty());
    for line in ["recover s", "status s", "del s"] {
        ublk_dm(line).refused();
    }
    server::wait_gone(pid);
    assert!(is_free(&cow) && is_free(&origin), "the disks are released");
    server::assert_nothing_left("the end by another program");
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 8);
    view.verify(&Disk::open(&judge));
    kernel::remove("judge");
    let again = Disk::open(&server::add(&add));
    view.verify(&again);
    drop(again);
    server::del("s");
}

/// One device of a family is removed; the others continue.
fn one_of_two() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    ioctl::ublk_delete(id_of("s")).expect("deleted");
    server::wait_for(20, "the snapshot to be gone", || server::list().len() == 1);
    top.zero(0, 64);
    assert!(server::device("o")["state"] == "live" && is_free(&cow));
    // The origin was written without the snapshot: the store is lost, and a new store takes its
    // place.
    Disk::open(&cow).zero(0, 8);
    let again = server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    drop((top, again));
    server::del("--all");
    server::assert_nothing_left("del --all");
}

/// A server that is ending is waited for: `recover` that says it is done has devices with a server.
fn sigterm_recovered() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let top = server::add(&format!("origin --origin {origin} --name o"));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let claim = claim(&top).expect("it is not in use");
    for wait in [0, 1, 2, 4, 6, 8] {
        let pid = server::number("o", "/server_pid");
        sh(&format!("kill -TERM {pid}")).ok();
        thread::sleep(Duration::from_millis(wait));
        ublk_dm(if wait % 4 == 0 { "recover --all" } else { "recover o s" }).ok();
        thread::sleep(Duration::from_millis(200));
        for name in ["o", "s"] {
            let device = server::device(name);
            assert!(device["state"] == "live" && device["server_pid"] != pid, "{device}");
        }
        Disk::open(&top).zero(0, 64);
    }
    drop(claim);
    server::del("--all");
    server::assert_nothing_left("the recoveries");
    server::forget_departed();
    // What the server deletes when it ends is not recovered, and another device of it is.
    let other = slice("oth", "n0", 2 * SIZE, SIZE);
    for wait in [0, 3] {
        for (name, disk, beside) in [("kept", &origin, None), ("gone", &other, Some("kept"))] {
            let line = format!("0 {SIZE} linear {disk} 0");
            let beside = beside.into_iter().flat_map(|one| ["--beside", one]);
            let words = ["create", name, "--table", &line].into_iter().chain(beside);
            run_args(&binary(), &words.collect::<Vec<_>>()).ok();
        }
        let node = server::device("kept")["block_device"].as_str().expect("a path").to_owned();
        let claim = disk::claim(&node).expect("it is not in use");
        sh(&format!("kill -TERM {}", server::number("kept", "/server_pid"))).ok();
        thread::sleep(Duration::from_millis(wait));
        ublk_dm("recover gone").refused();
        ublk_dm("recover --all").ok();
        assert!(server::device("kept")["state"] == "live", "{}", server::device("kept"));
        drop(claim);
        server::del("--all");
    }
    // A range was made of the snapshot's origin.
    server::forget_lost();
    server::assert_nothing_left("del --all");
}

/// SIGTERM while the origin is mounted and written: the disk stays, writes wait for the next
/// server, and the snapshot has missed no write.
fn sigterm_mounted() {
    let (origin, cow) = (slice("org", "n0", 0, 64 * MIB), slice("cow", "n1", 0, 64 * MIB));
    let top = server::add(&format!("origin --origin {origin} --name o"));
    sh(&format!("mkfs.ext4 -q {top}")).ok();
    let dir = scratch("ends");
    sh(&format!("mount {top} {dir}")).ok();
    fs::write(format!("{dir}/before"), vec![1; 1 << 20]).expect("written");
    sh("sync").ok();
    let snap = server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    fs::write(format!("{dir}/cached"), vec![2; 1 << 20]).expect("in the page cache");
    for _ in 0..2 {
        let pid = server::number("o", "/server_pid");
        sh(&format!("kill -TERM {pid}")).ok();
        server::wait_gone(pid);
        for name in ["o", "s"] {
            server::wait_for(20, "state quiesced", || server::device(name)["state"] == "quiesced");
        }
        thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let file = fs::File::create(format!("{dir}/after")).expect("made");
                std::io::Write::write_all(&mut &file, &vec![3; 1 << 20]).expect("written");
                file.sync_all().expect("synced");
            });
            thread::sleep(Duration::from_secs(1));
            assert!(!waits.is_finished(), "a write has ended without a server");
            ublk_dm("recover --all").ok();
        });
    }
    sh(&format!("umount {dir}")).ok();
    sh(&format!("fsck.ext4 -fn {top}")).ok();
    sh(&format!("mount -o ro,noload {snap} {dir}")).ok();
    assert!(fs::read(format!("{dir}/before")).expect("there") == vec![1; 1 << 20]);
    assert!(
        !fs::exists(format!("{dir}/after")).expect("readable"),
        "the snapshot has what came later"
    );
    sh(&format!("umount {dir}")).ok();
    let pid = server::number("o", "/server_pid");
    sh(&format!("kill -TERM {pid}")).ok();
    server::wait_gone(pid);
    server::assert_nothing_left("SIGTERM to a server whose devices are unused");
    sh(&format!("mount -o ro {origin} {dir}")).ok();
    for (name, byte) in [("before", 1), ("cached", 2), ("after", 3)] {
        assert!(fs::read(format!("{dir}/{name}")).expect("there") == vec![byte; 1 << 20], "{name}");
    }
    sh(&format!("umount {dir}")).ok();
}

/// SIGTERM while a device is open that would die with its server: it is served until it is closed.
fn sigterm_open() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = View::new("snap", SIZE);
    view.fill(&Disk::open(&origin));
    let add = format!("snapshot --origin {origin} --cow {cow} --name s --no-recovery");
    let disk = Disk::open(&server::add(&add));
    let pid = server::number("s", "/server_pid");
    sh(&format!("kill -TERM {pid}")).ok();
    thread::sleep(Duration::from_secs(4));
    view.write(&disk, 100, 64);
    view.verify(&disk);
    assert!(
        server::log().contains("unused"),
        "the server says what it waits for: {}",
        server::log()
    );
    drop(disk);
    server::wait_gone(pid);
    server::assert_nothing_left("the close of the last user");
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 32);
    view.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// A server in the foreground that has to leave a device behind has not ended well: I/O waits for
/// the next server.
fn foreground() {
    let origin = slice("org", "n0", 0, SIZE);
    let line = format!("add origin --origin {origin} --name o --foreground");
    let mut service = Service::start("o", &line);
    service.hears("READY=1");
    let view = View::new("orig", SIZE);
    let disk = Disk::open(&format!("/dev/ublkb{}", server::number("o", "/id")));
    view.fill(&disk);
    service.signal("TERM");
    assert_eq!(service.ends(), 1, "the exit code says that a device is left");
    assert_eq!(server::device("o")["state"], "quiesced");
    ublk_dm("recover o").ok();
    view.verify(&disk);
    drop(disk);
    server::del("o");
    server::assert_nothing_left("del");
}
