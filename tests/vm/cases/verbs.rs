//! Verbs that act on a live device: suspend and resume, waiting for events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::disk::{Buf, Disk, MIB, node, slice};
use crate::server;
use crate::sh::{self, ublk_dm};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "verbs-suspend", bound_s: 60, disks: &["n0", "n1"], run: |_| suspend() },
        Case {
            name: "verbs-create-by-number",
            bound_s: 60,
            disks: &["n0", "n1"],
            run: |_| by_number(),
        },
        Case { name: "verbs-wait", bound_s: 60, disks: &["n0", "n1"], run: |_| wait() },
    ]
}

/// I/O to a suspended device waits and is neither lost nor failed; other devices continue; the
/// device can be deleted nevertheless.
fn suspend() {
    let (origin, cow) = (node("n0"), slice("cow", "n1", 0, 32 * MIB));
    let top = Disk::open(&server::add(&format!("origin --origin {origin} --name org")));
    let snap =
        Disk::open(&server::add(&format!("snapshot --origin {origin} --cow {cow} --name s")));
    ublk_dm("suspend s").ok();
    assert!(server::device("s")["state"] == "suspended", "{}", server::device("s"));
    let (mut new, mut old) = (Buf::new(8), Buf::new(8));
    new.fill(0xA5);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            snap.write(64, &new);
            done.store(true, Ordering::SeqCst);
        });
        top.write(0, &new);
        thread::sleep(Duration::from_millis(400));
        assert!(!done.load(Ordering::SeqCst), "a write to a suspended device has ended");
        ublk_dm("resume s").ok();
    });
    assert!(server::device("s")["state"] == "live", "{}", server::device("s"));
    snap.try_read(64, &mut old).expect("readable");
    assert!(*old == *new, "the write that waited is there");
    old = snap.read(0, 8);
    assert!(
        old.iter().all(|byte| *byte == 0),
        "the snapshot kept what the origin's write replaced"
    );
    for bad in ["suspend nobody", "resume nobody", "wait nobody"] {
        ublk_dm(bad).refused();
    }
    drop(snap);
    ublk_dm("suspend s --noflush").ok();
    drop(top);
    server::del("--all");
    server::assert_nothing_left("del --all of a suspended device");
}

/// `create` and `load` accept the output of `table`, also if no udev makes links for device
/// numbers.
fn by_number() {
    let run = |args: &[&str]| sh::run_args(&sh::binary(), args);
    assert!(!std::path::Path::new("/dev/block").exists(), "udev runs here");
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 8 * MIB));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    let snapshot = ublk_dm("table s").ok().line();
    assert!(snapshot.split(' ').filter(|word| word.contains(':')).count() == 2, "{snapshot}");
    server::del("s");
    run(&["create", "s", "--table", &snapshot]).ok();
    assert!(ublk_dm("table s").ok().line() == snapshot);
    server::del("s");
    server::add(&format!("mirror --leg {origin} --leg {cow} --nosync --name m"));
    let mirror = ublk_dm("table m").ok().line();
    run(&["load", "m", "--table", &mirror]).ok();
    ublk_dm("resume m").ok();
    server::del("m");
    run(&["create", "m", "--table", &mirror]).ok();
    server::del("m");
    let said = run(&["create", "x", "--table", &snapshot.replacen(':', ":1000", 1)]).refused();
    assert!(said.stderr.contains("/dev/block/"), "{}", said.stderr);
    assert!(server::forget_lost() == 1, "the mirror was made over the origin of `s`");
    server::assert_nothing_left("create by number");
}

/// `wait` returns at the next event, immediately if there was one, and when the device is deleted.
fn wait() {
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, MIB));
    let snap = Disk::open(&server::add(&format!(
        "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"
    )));
    let (none, pid) = (server::number("s", "/events"), server::number("s", "/server_pid"));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ublk_dm("wait s").ok().line());
        server::wait_for(20, "wait to ask", || server::has_waiting_command(pid));
        snap.write(0, &Buf::new(MIB * 3 / 4));
        let count: u64 = waiting.join().expect("no panic").parse().expect("a count");
        assert!(count > none, "{count} events after {none}");
    });
    let now = server::number("s", "/events");
    assert!(ublk_dm(&format!("wait s {none}")).ok().line() == now.to_string(), "returns at once");
    drop(snap);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ublk_dm(&format!("wait s {now}")).refused());
        server::wait_for(20, "wait to ask", || server::has_waiting_command(pid));
        server::del("s");
        let out = waiting.join().expect("no panic");
        assert!(
            out.stderr.contains("gone") || out.stderr.contains("closed without a reply"),
            "{}",
            out.stderr
        );
    });
    server::assert_nothing_left("del of a device that is waited for");
}
