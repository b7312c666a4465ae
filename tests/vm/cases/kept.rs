//! Devices in the foreground that another process serves, or will serve: what a service manager
//! sees, whatever happens to the device, its server and the disks below.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use crate::Case;
use crate::cases::admin::{assert_failed, kill, states};
use crate::cases::admin_left_out::{CHUNK, Stage};
use crate::cases::process::{Service, disks};
use crate::disk::Disk;
use crate::faults::{Fails, Faulty};
use crate::mirror::{Did, Request};
use crate::server;
use crate::sh::{binary, run_args, ublk_dm};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "kept-without-a-place",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |_| without_a_place(),
        },
        Case {
            name: "kept-without-a-watch",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |_| without_a_watch(),
        },
        Case { name: "kept-ends", bound_s: 120, disks: &["n0", "n1"], run: |_| ends() },
        Case {
            name: "kept-left-out",
            bound_s: 180,
            disks: &["n0", "n1", "n2"],
            run: |_| left_out(),
        },
        Case { name: "kept-unreadable", bound_s: 120, disks: &["n0", "n1"], run: |_| unreadable() },
    ]
}

/// Number of commands that may wait at a server at the same time.
const PLACES: usize = 32;

/// However many commands wait at the server, a device is kept, and its manager is notified.
fn without_a_place() {
    let (o, c) = disks();
    server::add(&format!("origin --origin {o} --name o"));
    let (id, pid) = (server::number("o", "/id"), server::number("o", "/server_pid"));
    let cookie = server::cookie("o");
    let sockets =
        fs::read_dir(server::run_dir()).expect("readable").flatten().map(|entry| entry.path());
    let socket = sockets
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "sock"))
        .expect("a socket");
    let wait = || {
        let mut client = UnixStream::connect(&socket).expect("a server");
        writeln!(
            client,
            r#"{{"Wait":{{"device":{{"id":{id},"cookie":{cookie}}},"events":null}}}}"#
        )
        .expect("taken");
        client
    };
    let waiting: Vec<_> = (0..PLACES).map(|_| wait()).collect();
    server::wait_for(20, "all places to be taken", || {
        let out = run_args("timeout", &["2", &binary(), "wait", "o"]);
        out.stderr.contains("are waiting already")
    });
    let mut kept =
        Service::start("s", &format!("add snapshot --origin {o} --cow {c} --name s --foreground"));
    kept.hears("READY=1");
    for _ in 0..3 {
        kept.hears("WATCHDOG=1");
    }
    assert!(!kept.has_ended(), "the command has ended while its device lives");
    assert!(states().len() == 2, "{:?}", states());
    drop(waiting);
    server::wait_for(20, "places to be free", || !server::has_waiting_command(pid));
    kept.hears("WATCHDOG=1");
    kept.signal("TERM");
    kept.hears("STOPPING=1");
    assert_eq!(kept.ends(), 0);
    assert!(states().len() == 1, "{:?}", states());
    server::del("o");
    server::assert_nothing_left("del");
}

/// A command that cannot watch over a device does not have it added.
fn without_a_watch() {
    let (o, c) = disks();
    server::add(&format!("origin --origin {o} --name o"));
    run_args("mv", &["/dev/ublk-control", "/dev/ublk-aside"]).ok();
    let add = format!("add snapshot --origin {o} --cow {c} --name s --foreground");
    let refused = ublk_dm(&add);
    run_args("mv", &["/dev/ublk-aside", "/dev/ublk-control"]).ok();
    assert_failed(&refused, &[&["device node"]]);
    assert_eq!(states().len(), 1, "{:?}", states());
    let mut kept = Service::start("s", &add);
    kept.hears("READY=1");
    kept.signal("TERM");
    assert_eq!(kept.ends(), 0);
    server::del("o");
    server::assert_nothing_left("del");
}

/// The end of the command says how the device ended, or that it has not.
fn ends() {
    let (o, c) = disks();
    let snapshot = format!("add snapshot --origin {o} --cow {c} --name s --foreground");
    server::add(&format!("origin --origin {o} --name o"));
    let start = || {
        let kept = Service::start("s", &snapshot);
        kept.hears("READY=1");
        kept
    };
    // A device in use stays.
    let mut kept = start();
    let dir = crate::runner::scratch("mnt");
    let path = format!("/dev/ublkb{}", server::number("s", "/id"));
    run_args("mkfs.ext4", &["-q", &path]).ok();
    run_args("mount", &[&path, &dir]).ok();
    kept.signal("TERM");
    assert_eq!(kept.ends(), 1, "it was not deleted");
    assert!(server::device("s")["state"] == "live", "{:?}", states());
    run_args("umount", &[&dir]).ok();
    // Started again, it keeps the existing device; if another command deletes the device, it has
    // done its work.
    let mut kept = start();
    kept.signal("HUP");
    server::del("s");
    assert_eq!(kept.ends(), 0, "it was deleted");
    // Its server ends cleanly, and the devices with it.
    let mut kept = start();
    let pid = server::number("o", "/server_pid");
    run_args("kill", &["-TERM", &pid.to_string()]).ok();
    assert_eq!(kept.ends(), 0, "it was deleted");
    server::assert_nothing_left("SIGTERM");
    // The server dies, and the devices wait.
    server::add(&format!("origin --origin {o} --name o"));
    let mut kept = start();
    kill("o");
    assert_eq!(kept.ends(), 1, "it waits for a server");
    ublk_dm("recover --all").ok();
    let mut kept = start();
    kept.signal("TERM");
    assert_eq!(kept.ends(), 0);
    server::del("o");
    server::assert_nothing_left("del");
}

/// A command fails if its named device cannot be taken over, and does not affect the others; as
/// soon as the device can be taken over, the same command does so, whichever process serves the
/// others by then.
fn left_out() {
    let stage = Stage::new("");
    let (origin, cow) = (&stage.origin, &stage.cow);
    let add = format!(
        "add snapshot --origin {origin} --cow {cow} --chunk-size 4k --name bad --foreground"
    );
    stage.break_up();
    for line in [add.as_str(), "recover --foreground bad", "recover --foreground o bad"] {
        assert_failed(&ublk_dm(line), &[&["bad: not recovered", cow]]);
        assert!(
            states().iter().all(|(_, state)| state == "quiesced"),
            "after `{line}`: {:?}",
            states()
        );
    }
    // The others are recovered, in a process of their own.
    let mut first = Service::start("o", "recover --foreground o");
    first.hears("READY=1");
    stage.assert_states("quiesced");
    for line in [add.as_str(), "recover --foreground bad"] {
        assert_failed(&ublk_dm(line), &[&["bad: not recovered", cow]]);
        stage.assert_states("quiesced");
    }
    let read = Request::read(&stage.bad, 0, CHUNK);
    assert!(read.did(500) == Did::Held, "a read of what is left out waits");
    stage.put_back();
    let mut second = Service::start("bad", &add);
    second.hears("READY=1");
    assert!(read.did(20_000) == Did::Success, "a read that waited goes on");
    stage.assert_states("live");
    stage.frozen.verify(&Disk::open(&stage.bad));
    // The same with the other verb.
    first.signal("KILL");
    first.ends();
    assert_eq!(second.ends(), 1, "its server has died");
    server::wait_for(20, "all to wait", || states().iter().all(|(_, state)| state == "quiesced"));
    fs::rename(&stage.cow, stage.aside()).expect("renamed");
    assert_failed(&ublk_dm("recover --all"), &[&["bad: not recovered", cow]]);
    stage.put_back();
    let mut second = Service::start("bad", "recover --foreground bad");
    second.hears("READY=1");
    stage.assert_states("live");
    stage.frozen.verify(&Disk::open(&stage.bad));
    second.signal("TERM");
    assert_eq!(second.ends(), 0);
    server::del("--all");
    server::assert_nothing_left("del");
}

/// A store of which only the beginning can be read is found so before anything else is taken over:
/// its origin must not be written without it.
fn unreadable() {
    let (o, _) = disks();
    let cow = Faulty::new("frail", "n1", 0, 32 * 2048);
    server::add(&format!("origin --origin {o} --name o"));
    server::add(&format!("snapshot --origin {o} --cow {} --chunk-size 4k --name bad", cow.node));
    kill("o");
    // The records of the second chunk of its COW, behind the header.
    cow.set(&[(Fails::Reads, 8, 8)]);
    assert_failed(&ublk_dm("recover --foreground bad"), &[&["bad: not recovered", &cow.node]]);
    assert!(states().iter().all(|(_, state)| state == "quiesced"), "{:?}", states());
    cow.set(&[]);
    let mut kept = Service::start("bad", "recover --foreground bad");
    kept.hears("READY=1");
    assert!(states().iter().all(|(_, state)| state == "live"), "{:?}", states());
    assert!(server::device("bad")["snapshot"]["valid"] == true, "{:?}", server::list());
    server::del("--all");
    kept.ends();
    server::assert_nothing_left("del");
}
