//! The server as a process: the destinations of its log, its notifications to a service manager;
//! and a command that fails late or is interrupted leaves nothing.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Case;
use crate::disk::{Buf, Disk, MIB, slice};
use crate::load::Rng;
use crate::server;
use crate::sh::{binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "process-log", bound_s: 60, disks: &["n0", "n1"], run: |_| log() },
        Case {
            name: "process-foreground",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |_| foreground(),
        },
        Case {
            name: "process-family-foreground",
            bound_s: 120,
            disks: &["n0", "n1"],
            run: |_| family(),
        },
        Case { name: "process-undone", bound_s: 120, disks: &["n0", "n1"], run: |_| undone() },
        Case { name: "process-interrupted", bound_s: 240, disks: &["n0", "n1"], run: interrupted },
        Case { name: "process-health", bound_s: 60, disks: &["n0", "n1"], run: |_| health() },
    ]
}

const SIZE: u64 = 8 * MIB;
pub fn disks() -> (String, String) {
    (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE))
}

pub fn pid_of(name: &str) -> u64 {
    server::number(name, "/server_pid")
}

/// The messages that a syslog daemon gets until a condition holds.
pub fn heard(
    socket: &UnixDatagram,
    what: &str,
    mut holds: impl FnMut(&str) -> bool,
) -> Vec<String> {
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let (mut lines, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let len = socket
            .recv(&mut bytes)
            .unwrap_or_else(|error| panic!("no {what}: {error}, but {lines:?}"));
        lines.push(String::from_utf8_lossy(&bytes[..len]).into_owned());
        if lines.last().is_some_and(|line| holds(line)) {
            return lines;
        }
    }
}

fn log() {
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 64));
    fs::remove_file("/dev/log").ok();
    let syslog = UnixDatagram::bind("/dev/log").expect("no other daemon");
    server::add(&format!("snapshot --origin {o} --cow {c} --name s --chunk-size 4k"));
    let origin = server::add(&format!("origin --origin {o} --name o"));
    let lines = heard(&syslog, "line about a live device", |line| line.contains("s: /dev/ublkb"));
    assert!(lines.last().is_some_and(|line| line.starts_with("<29>ublk-dm[")), "{lines:?}");
    let pid = pid_of("s");
    // A log that was moved away is begun anew.
    let newest = run_args("bash", &["-c", "ls -t /run/ublk-dm/log/*.log | head -n 1"]).ok();
    let log = newest.stdout.trim();
    let moved = format!("{log}.moved");
    fs::rename(log, &moved).expect("a log");
    sh(&format!("kill -HUP {pid}")).ok();
    heard(&syslog, "word of SIGHUP", |line| line.contains("SIGHUP"));
    let text = fs::read_to_string(log).expect("another log");
    assert!(text.contains("SIGHUP: the logs were opened again"), "{text}");
    assert!(!fs::read_to_string(&moved).expect("the old log").contains("SIGHUP"));
    fs::remove_file(&moved).expect("the old log");
    let disk = Disk::open(&origin);
    (0..8).for_each(|chunk| disk.write(chunk * 8, &Buf::new(8)));
    drop(disk);
    // A loss is logged as an error; a COW that fills up, as a warning.
    heard(&syslog, "line about the full COW", |line| {
        line.starts_with("<28>") && line.contains("full")
    });
    heard(&syslog, "line about the lost snapshot", |line| {
        line.starts_with("<27>") && line.contains("invalidated")
    });
    server::del("--all");
    heard(&syslog, "line about the end", |line| {
        line.starts_with("<29>") && line.contains("s: deleted")
    });
    fs::remove_file("/dev/log").ok();
    // The log outlives the devices, for the owner only.
    server::wait_gone(pid);
    let text = server::log();
    assert!(
        text.contains("INFO  s: deleted") && text.contains("ERROR s: snapshot invalidated"),
        "{text}"
    );
    let mode = run_args("stat", &["-c", "%a", &format!("{}/log", server::run_dir())]).ok().line();
    assert_eq!(mode, "700");
}

/// A service in the foreground, as a manager starts it.
pub struct Service {
    child: Child,
    manager: UnixDatagram,
}

impl Service {
    pub fn start(name: &str, arguments: &str) -> Service {
        Service::start_with(name, arguments, &[])
    }

    /// The same with more variables.
    pub fn start_with(name: &str, arguments: &str, more: &[(&str, &str)]) -> Service {
        let path = format!("/tmp/notify-{name}");
        fs::remove_file(&path).ok();
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let script = "export WATCHDOG_PID=$$ WATCHDOG_USEC=400000; exec $0 $@";
        let child = Command::new("bash")
            .args(["-c", script, &binary()])
            .args(arguments.split_whitespace())
            .env("NOTIFY_SOCKET", &path)
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("bash");
        Service { child, manager }
    }

    pub fn hears(&self, what: &str) {
        heard(&self.manager, what, |message| message.lines().any(|line| line == what));
    }

    pub fn signal(&self, name: &str) {
        sh(&format!("kill -{name} {}", self.child.id())).ok();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    pub fn ends(&mut self) -> i32 {
        let status = self.child.wait().expect("a child");
        status.code().unwrap_or(-1)
    }
}

fn foreground() {
    let (o, c) = disks();
    let line = format!("add snapshot --origin {o} --cow {c} --name s --chunk-size 4k --foreground");
    let mut first = Service::start("s", &line);
    first.hears("READY=1");
    first.hears("WATCHDOG=1");
    let id = server::number("s", "/id");
    let table = server::table("s");
    let view = Disk::open(&format!("/dev/ublkb{id}"));
    let mut data = Buf::new(8);
    data.fill(0x5a);
    view.write(8, &data);
    first.signal("KILL");
    first.ends();
    server::wait_for(20, "state quiesced", || server::device("s")["state"] == "quiesced");
    // The content of the state file is still shown.
    assert_eq!(server::device("s")["health"], "unknown");
    assert_eq!(server::device("s")["snapshot"]["cow"], c.as_str());
    assert_eq!(server::table("s"), table);
    // A manager starts the same command line again.
    let mut second = Service::start("s", &line);
    second.hears("READY=1");
    assert_eq!(server::number("s", "/id"), id, "it took its own device over");
    assert!(*view.read(8, 8) == *data, "what was acknowledged is there");
    second.signal("KILL");
    second.ends();
    // Another device may not have the name.
    let other = slice("other", "n1", 32 * MIB, SIZE);
    ublk_dm(&format!("add snapshot --origin {o} --cow {other} --name s --foreground")).refused();
    let mut third = Service::start("s", "recover --foreground s");
    third.hears("READY=1");
    third.signal("HUP");
    third.hears("WATCHDOG=1");
    assert!(*view.read(8, 8) == *data, "what was acknowledged is there");
    ublk_dm("recover --foreground s").refused();
    drop(view);
    third.signal("TERM");
    third.hears("STOPPING=1");
    assert_eq!(third.ends(), 0);
    server::assert_nothing_left("SIGTERM");
}

/// Two devices of one family, each with a process of its own.
fn family() {
    let (o, c) = disks();
    let origin = format!("add origin --origin {o} --name o --foreground");
    let snapshot = format!("add snapshot --origin {o} --cow {c} --name s --foreground");
    let mut first = Service::start("o", &origin);
    first.hears("READY=1");
    let mut second = Service::start("s", &snapshot);
    second.hears("READY=1");
    assert_eq!(server::list().len(), 2);
    second.signal("TERM");
    second.hears("STOPPING=1");
    assert_eq!(second.ends(), 0);
    assert_eq!(
        server::list().len(),
        1,
        "the snapshot is gone, its origin is not: {:?}",
        server::list()
    );
    let mut second = Service::start("s", &snapshot);
    second.hears("READY=1");
    // The server dies, and with it both commands: the one that is started first gets the family.
    first.signal("KILL");
    first.ends();
    assert_eq!(second.ends(), 1, "a service whose server has died fails");
    let mut second = Service::start("s", &snapshot);
    second.hears("READY=1");
    assert_eq!(server::list().len(), 2);
    let mut first = Service::start("o", &origin);
    first.hears("READY=1");
    first.signal("TERM");
    assert_eq!(first.ends(), 0);
    second.signal("TERM");
    assert_eq!(second.ends(), 0);
    server::assert_nothing_left("both services");
}

fn undone() {
    let (o, c) = disks();
    // More than a new store overwrites.
    let known: Vec<u8> = (0..64 << 10).map(|at: u32| (at / 7 % 251) as u8 | 1).collect();
    let start = || Disk::open_read_only(&c).read(0, 128);
    Disk::open_durable(&c).write_bytes(0, &known);
    let before = start();
    for more in ["", " --foreground"] {
        let script = format!("$0 add snapshot --force --origin {o} --cow {c}{more} >/dev/full");
        let out = run_args("bash", &["-c", &script, &binary()]).refused();
        assert!(out.code == 1 && out.stderr.contains("No space left"), "{}", out.stderr);
        assert!(
            out.stderr.contains("deleted again") && out.stderr.contains(&c),
            "what is left: {}",
            out.stderr
        );
        assert!(out.stderr.contains("is restored"), "{}", out.stderr);
        server::assert_nothing_left("add >/dev/full");
        assert!(start()[..] == before[..], "what --force had overwritten{more}");
    }
    // A family that continues.
    server::add(&format!("origin --origin {o} --name o"));
    let script = format!("$0 add snapshot --force --origin {o} --cow {c} >/dev/full");
    run_args("bash", &["-c", &script, &binary()]).refused();
    assert!(start()[..] == before[..], "what --force had overwritten, in a family that lives on");
    assert_eq!(server::list().len(), 1, "{:?}", server::list());
    server::del("o");
    server::assert_nothing_left("del");
}

/// Ctrl-C at any moment: either the device exists and its path was printed, or nothing exists.
fn interrupted(seed: u64) {
    let (o, c) = disks();
    let known: Vec<u8> = (0..64 << 10).map(|at: u32| (at / 5 % 251) as u8 | 1).collect();
    let mut rng = Rng::new(seed);
    let (mut added, mut undone) = (0, 0);
    for round in 0..24 {
        Disk::open_durable(&c).write_bytes(0, &known);
        let before = Disk::open_read_only(&c).read(0, 128);
        let mut command = Command::new(binary());
        command.args(["add", "snapshot", "--force", "--origin", &o, "--cow", &c, "--name", "s"]);
        let child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(rng.next() % (250 * (1 + round % 8))));
        sh(&format!("kill -INT {}", child.id()));
        let out = child.wait_with_output().expect("a child");
        if out.status.success() {
            assert!(out.stdout.starts_with(b"/dev/ublkb"), "success without a path");
            added += 1;
            server::del("s");
        } else {
            assert!(out.stdout.is_empty(), "interrupted, and printed {:?}", out.stdout);
            undone += 1;
        }
        server::assert_nothing_left("an interrupted add");
        let as_it_was = Disk::open_read_only(&c).read(0, 128)[..] == before[..];
        assert_eq!(
            as_it_was,
            !out.status.success(),
            "what --force had overwritten, in round {round}"
        );
    }
    println!("  {added} added, {undone} interrupted");
    assert!(undone > 0, "no add was interrupted");
}

fn health() {
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 64));
    server::add(&format!("origin --origin {o} --name o"));
    server::add(&format!("snapshot --origin {o} --cow {c} --name s --chunk-size 4k"));
    let health = |name: &str| server::device(name)["health"].as_str().expect("health").to_owned();
    assert_eq!((health("o"), health("s")), ("ok".into(), "ok".into()));
    let view = Disk::open(&format!("/dev/ublkb{}", server::number("s", "/id")));
    for chunk in 0..6 {
        view.write(chunk * 8, &Buf::new(8));
    }
    drop(view);
    assert_eq!(health("s"), "full");
    // The origin's write finds no room: the snapshot is lost.
    let origin = Disk::open(&format!("/dev/ublkb{}", server::number("o", "/id")));
    origin.write(64, &Buf::new(8));
    drop(origin);
    assert_eq!(health("s"), "invalid");
    server::del("--all");
    server::assert_nothing_left("del");
}
