//! Servers, disks and clients that do not answer: no wait for them is without a limit, others are
//! not delayed, and a client that leaves occupies nothing.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Case;
use crate::cases::admin::{assert_failed, kill_after};
use crate::cases::process::Service;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, MIB, slice};
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "hang-server", bound_s: 240, disks: &["n0", "n1"], run: |_| stopped_server() },
        Case { name: "hang-disk", bound_s: 240, disks: &["n0", "n1"], run: |_| hung_disk() },
        Case {
            name: "hang-recover",
            bound_s: 400,
            disks: &["n0", "n1"],
            run: |_| recovered_beside(),
        },
        Case { name: "hang-delete", bound_s: 400, disks: &["n0", "n1"], run: |_| deleted_beside() },
        Case { name: "hang-mirror", bound_s: 400, disks: &["n0", "n1"], run: |_| hung_leg() },
        Case { name: "hang-end", bound_s: 400, disks: &["n0", "n1"], run: |_| ended_beside() },
        Case { name: "hang-early", bound_s: 240, disks: &["n0", "n1"], run: |_| told_early() },
        Case { name: "hang-places", bound_s: 60, disks: &["n0", "n1"], run: |_| places() },
        Case {
            name: "hang-killed-clients",
            bound_s: 180,
            disks: &["n0", "n1"],
            run: |_| killed_clients(),
        },
    ]
}

/// Longest time of a command to a server that does not answer, on a slow machine.
const LIMIT: Duration = Duration::from_secs(45);

fn within(line: &str) -> Out {
    let begun = Instant::now();
    let out = ublk_dm(line);
    assert!(begun.elapsed() < LIMIT, "`{line}` took {:?}", begun.elapsed());
    out
}

/// A stopped server: only its own devices are unreachable, and commands sent to it meanwhile are
/// not carried out later.
fn stopped_server() {
    let disks: Vec<_> = (0..3u64)
        .map(|n| {
            let names =
                [["o0", "c0"], ["o1", "c1"], ["o2", "c2"]][usize::try_from(n).expect("small")];
            (
                slice(names[0], "n0", n * 8 * MIB, 8 * MIB),
                slice(names[1], "n1", n * 8 * MIB, 8 * MIB),
            )
        })
        .collect();
    let add =
        |n: usize| format!("add snapshot --origin {} --cow {} --name s{n}", disks[n].0, disks[n].1);
    ublk_dm(&add(0)).ok();
    ublk_dm(&add(1)).ok();
    let pid = server::number("s0", "/server_pid");
    sh(&format!("kill -STOP {pid}")).ok();
    let listed = within("list").ok().stdout;
    assert!(
        listed.lines().any(|line| line.starts_with("s0 ") && line.contains(" hangs ")),
        "{listed}"
    );
    assert!(
        listed.lines().any(|line| line.starts_with("s1 ") && line.contains(" ok ")),
        "{listed}"
    );
    assert!(server::device("s0")["answers"] == false && server::device("s1")["answers"] != false);
    within(&add(2)).ok();
    within("del s1").ok();
    within("recover --all").ok();
    for line in ["recover s0", "suspend s0", "del s0", "del s0 --force", "status s0"] {
        let out = within(line).refused();
        assert!(
            out.stderr.contains("ublkb") && out.stderr.contains("answer"),
            "`{line}` said {:?}",
            out.stderr
        );
    }
    sh(&format!("kill -CONT {pid}")).ok();
    server::wait_for(20, "s0 to be live", || server::device("s0")["answers"] != false);
    assert!(
        server::device("s0")["state"] == "live",
        "a command was carried out whose client had left"
    );
    server::del("s0 s2");
    server::assert_nothing_left("del of what was stopped");
}

/// A disk that hangs: the command that waits for it ends and names the disk; others are not
/// affected; in the end nothing is left.
fn hung_disk() {
    let (o0, c0) = (slice("o0", "n0", 0, 8 * MIB), slice("c0", "n1", 0, 8 * MIB));
    let (o1, c1) = (slice("o1", "n0", 8 * MIB, 8 * MIB), slice("c1", "n1", 8 * MIB, 8 * MIB));
    kernel::suspend("c0", true);
    std::thread::scope(|scope| {
        let hangs = scope.spawn(|| {
            ublk_dm(&format!("add snapshot --origin {o0} --cow {c0} --name s0")).refused()
        });
        std::thread::sleep(Duration::from_secs(3));
        within(&format!("add snapshot --origin {o1} --cow {c1} --name s1")).ok();
        within("list").ok();
        let out = within(&format!("add snapshot --origin {o1} --cow {c1} --name s0")).refused();
        assert!(
            out.stderr.contains("name"),
            "a name that is on its way to a device is taken: {}",
            out.stderr
        );
        within("del s1").ok();
        let out = hangs.join().expect("no panic");
        assert!(out.stderr.contains("has not answered"), "{}", out.stderr);
        assert!(
            out.stderr.contains("/c0") || out.stderr.contains("/dm-"),
            "which disk? {}",
            out.stderr
        );
    });
    kernel::resume("c0");
    server::assert_nothing_left("an add whose client had left");
    ublk_dm(&format!("add snapshot --origin {o0} --cow {c0} --name s0")).ok();
    server::del("s0");
}

/// An origin with an intact snapshot and one whose COW hangs while all three wait for a server.
struct Family {
    origin: String,
    top: String,
    sound: String,
    bad: String,
    cow: String,
}

impl Family {
    /// `before` runs while all are served.
    fn dead(before: impl FnOnce(&Family)) -> Family {
        let (origin, cow) =
            (slice("org", "n0", 0, 8 * MIB), slice("bad-cow", "n1", 8 * MIB, 8 * MIB));
        let sound_cow = slice("cow", "n1", 0, 8 * MIB);
        let snapshot = |cow: &str, name: &str| {
            server::add(&format!(
                "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name {name}"
            ))
        };
        let top = server::add(&format!("origin --origin {origin} --name o"));
        let (sound, bad) = (snapshot(&sound_cow, "sound"), snapshot(&cow, "bad"));
        let family = Family { origin, top, sound, bad, cow };
        Disk::open(&family.top).write(0, &Buf::new(64));
        kill_after("o", || before(&family));
        kernel::suspend("bad-cow", true);
        family
    }
}

/// Longest time of a command that detects that a disk does not answer, on a slow machine.
const SILENT_LIMIT: Duration = Duration::from_secs(100);

/// A COW hangs while its family is taken over: origin and intact snapshot are recovered, and later
/// attempts do not affect their users. When the COW answers, its snapshot is recovered, and is
/// invalid.
fn recovered_beside() {
    let family = Family::dead(|_| {});
    let told: &[&str] = &["bad: not recovered", &family.cow, "has not answered"];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| ublk_dm("recover --all"));
        // Meanwhile `list` misses none.
        while !taken.is_finished() {
            let listed = ublk_dm("list --no-headings").ok().stdout;
            let names: Vec<_> = listed.lines().map(|line| line.split(' ').next()).collect();
            assert_eq!(names, ["o", "sound", "bad"].map(Some), "{listed}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_failed(&taken.join().expect("no panic"), &[told]);
    });
    assert!(begun.elapsed() < SILENT_LIMIT, "it took {:?}", begun.elapsed());
    let (top, sound) = (Disk::open(&family.top), Disk::open(&family.sound));
    std::thread::scope(|scope| {
        let again = scope.spawn(|| ublk_dm("recover bad"));
        let mut longest = Duration::ZERO;
        while !again.is_finished() {
            let begun = Instant::now();
            top.write(0, &Buf::new(64));
            sound.read(0, 64);
            longest = longest.max(begun.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_failed(&again.join().expect("no panic"), &[told]);
        assert!(longest < Duration::from_secs(10), "users have waited for {longest:?}");
    });
    drop((top, sound));
    kernel::resume("bad-cow");
    assert_failed(&ublk_dm("recover bad"), &[&["bad: ", "is invalid"]]);
    assert!(Disk::open_read_only(&family.bad).try_read(0, &mut Buf::new(8)).is_err());
    assert!(
        server::device("o")["state"] == "live"
            && Disk::open_read_only(&family.origin).sectors == 8 * MIB
    );
    server::del("o sound bad");
    server::assert_nothing_left("del of what had been left out");
}

/// A snapshot of a dead server is deleted whose COW hangs: the command ends, its acknowledged
/// writes stay on record, and the rest of its family is deleted as usual.
fn deleted_beside() {
    let family = Family::dead(|family| Disk::open(&family.bad).write(128, &Buf::new(8)));
    let begun = Instant::now();
    assert_failed(
        &ublk_dm("del bad --force"),
        &[&["bad: deleted, but", &family.cow, "has not answered"]],
    );
    assert!(begun.elapsed() < SILENT_LIMIT, "it took {:?}", begun.elapsed());
    assert!(!server::list().iter().any(|device| device["name"] == "bad"));
    kernel::resume("bad-cow");
    ublk_dm("del sound --force").ok();
    ublk_dm("del o --force").ok();
    let (origin, cow) = (&family.origin, &family.cow);
    let out = ublk_dm(&format!("add snapshot --origin {origin} --cow {cow} --name bad")).refused();
    assert!(out.stderr.contains(cow.as_str()) && out.stderr.contains("lost"), "{}", out.stderr);
    assert!(server::forget_lost() > 0);
    // The journal still exists, for a later decision.
    let files =
        std::fs::read_dir(server::run_dir()).expect("readable").flatten().map(|entry| entry.path());
    let journaled: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "records")).collect();
    assert!(journaled.len() == 1, "journals: {journaled:?}");
    journaled.iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
}

/// Commands to a mirror with outstanding I/O on a leg that does not answer: each ends, names the
/// disk, and has done nothing; the server carries out other commands meanwhile.
fn hung_leg() {
    let a = slice("l0", "n0", 0, 8 * MIB);
    let b = slice("l1", "n1", 0, 8 * MIB);
    let c = slice("l2", "n0", 8 * MIB, 8 * MIB);
    let top = server::add(&format!("mirror --leg {a} --leg {b} --name m"));
    server::wait_for(60, "the legs to be equal", || {
        ublk_dm("status m").ok().stdout.contains("64/64")
            || server::device("m")["mirror"]["in_sync_regions"]
                == server::device("m")["mirror"]["regions"]
    });
    kernel::suspend("l1", true);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| Disk::open(&top).write(0, &Buf::new(8)));
        std::thread::sleep(Duration::from_secs(2));
        for line in ["suspend m", "del m --force", &format!("message m replace 1 {c}")] {
            let begun = Instant::now();
            let out = ublk_dm(line).refused();
            assert!(out.stderr.contains("has not answered"), "`{line}`: {}", out.stderr);
            assert!(begun.elapsed() < SILENT_LIMIT, "`{line}` took {:?}", begun.elapsed());
            within("message m throttle 50").ok();
            within("status m").ok();
        }
        assert!(!writes.is_finished());
        kernel::resume("l1");
        writes.join().expect("no panic");
    });
    assert!(server::device("m")["state"] == "live", "it was done behind its user's back");
    let table = ublk_dm("table m").ok().stdout;
    ublk_dm(&format!("message m replace 1 {c}")).ok();
    assert!(ublk_dm("table m").ok().stdout != table);
    server::del("m");
    server::assert_nothing_left("del of a mirror of which a leg had hung");
}

/// A server gets SIGTERM while a COW hangs: it ends as far as the kernel allows, and its device
/// waits with all its acknowledged writes.
fn ended_beside() {
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 8 * MIB));
    let add = format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s");
    let top = server::add(&add);
    let mut written = Buf::new(8);
    written.fill(7);
    Disk::open(&top).write(128, &written);
    let pid = server::number("s", "/server_pid");
    kernel::suspend("cow", true);
    sh(&format!("kill -TERM {pid}")).ok();
    let listens = || {
        let files = std::fs::read_dir(server::run_dir()).expect("readable").flatten();
        files.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "sock"))
    };
    server::wait_for(SILENT_LIMIT.as_secs(), "the server to end", || !listens());
    kernel::resume("cow");
    server::wait_for(20, "the device to wait", || server::device("s")["state"] == "quiesced");
    ublk_dm("recover s").ok();
    assert!(Disk::open_read_only(&top).read(128, 8)[..] == written[..], "it is lost");
    server::del("s");
    server::assert_nothing_left("del of what waited");
}

/// A command in the foreground gets SIGTERM while it adds a device: it fails, and nothing is left.
fn told_early() {
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 8 * MIB));
    kernel::suspend("cow", true);
    let mut added = Service::start(
        "s",
        &format!("add snapshot --origin {origin} --cow {cow} --name s --foreground"),
    );
    std::thread::sleep(Duration::from_secs(5));
    added.signal("TERM");
    std::thread::sleep(Duration::from_secs(15));
    kernel::resume("cow");
    assert_eq!(added.ends(), 1, "it was told to end while it added");
    server::assert_nothing_left("SIGTERM to an add");
}

/// Clients that leave while they wait free their places.
fn places() {
    let (origin, cow) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, MIB));
    let snap = Disk::open(&server::add(&format!(
        "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"
    )));
    let (id, cookie) = (server::number("s", "/id"), server::cookie("s"));
    let sockets =
        std::fs::read_dir(server::run_dir()).expect("readable").flatten().map(|entry| entry.path());
    let socket = sockets
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "sock"))
        .expect("a socket");
    for round in 0..100 {
        let mut client = UnixStream::connect(&socket).expect("a server");
        writeln!(
            client,
            r#"{{"Wait":{{"device":{{"id":{id},"cookie":{cookie}}},"events":null}}}}"#
        )
        .expect("taken");
        if round % 10 == 0 {
            let pid = server::number("s", "/server_pid");
            server::wait_for(20, "wait to ask", || server::has_waiting_command(pid));
        }
    }
    // Clients that send nothing do not block others.
    let mute: Vec<_> = (0..3).map(|_| UnixStream::connect(&socket).expect("a server")).collect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ublk_dm("wait s 0").ok().line());
        snap.write(0, &Buf::new(MIB * 3 / 4));
        assert!(waiting.join().expect("no panic").parse::<u32>().expect("a count") > 0);
    });
    drop((snap, mute));
    server::del("s");
    server::assert_nothing_left("del");
}

/// Commands that wait, of each kind, are killed when the server takes no more: their places are
/// free again, long before what they have begun would be done.
fn killed_clients() {
    let (one, two) = (slice("one", "n0", 0, 8 * MIB), Faulty::new("two", "n1", 0, 8 * MIB));
    server::add(&format!(
        "mirror --leg {one} --leg {} --nosync --region-size 64k --name m",
        two.path
    ));
    two.set(Fault::Slow { read_ms: 5_000, write_ms: 0 });
    for line in ["wait m", "message m check"] {
        let start = || {
            let mut command = Command::new(binary());
            command.args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("it starts")
        };
        let mut clients: Vec<_> = (0..40).map(|_| start()).collect();
        server::wait_for(60, "all places to be taken", || {
            clients.iter_mut().any(|client| client.try_wait().expect("a child").is_some())
        });
        for client in &mut clients {
            // One that was refused has ended.
            client.kill().ok();
            client.wait().expect("a child");
        }
        server::wait_for(20, &format!("the places of `{line}` to be free"), || {
            let out = run_args("timeout", &["2", &binary(), "wait", "m"]);
            !out.stderr.contains("are waiting already")
        });
    }
    two.heal();
    server::del("m");
    server::assert_nothing_left("del");
}
