//! A server's log: the journal's own protocol, and a stderr that nothing reads.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Case;
use crate::cases::process::{heard, pid_of};
use crate::disk::{Buf, Disk, MIB, slice};
use crate::ioctl;
use crate::server;
use crate::sh::{binary, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "process-journal", bound_s: 60, disks, run: |_| journal() },
        Case { name: "process-stderr-full", bound_s: 300, disks, run: |_| stderr_full() },
    ]
}

/// Where the journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// A message in the journal's protocol is a list of `NAME=value`, if each value is one line.
fn journal() {
    fs::create_dir_all("/run/systemd/journal").expect("tmpfs");
    fs::remove_file(JOURNAL).ok();
    let journal = UnixDatagram::bind(JOURNAL).expect("no journal in the VM");
    let (o, c) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 160));
    let dev = server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    let lines = heard(&journal, "line about a live device", |line| line.contains("s: /dev/ublkb"));
    let live = lines.last().expect("a line");
    for field in ["PRIORITY=5", "SYSLOG_IDENTIFIER=ublk-dm", "UBLK_DM_SERVER="] {
        assert!(live.lines().any(|line| line.starts_with(field)), "no {field} in {live:?}");
    }
    // An event has fields of its own.
    let view = Disk::open(&dev);
    (0..3).for_each(|chunk| view.write(chunk * 32, &Buf::new(8)));
    view.flush().expect("recorded");
    drop(view);
    // Such a field is its name, its length in eight bytes, and its value.
    let field = |name: &str, value: &str| {
        let len = String::from_utf8_lossy(&(value.len() as u64).to_le_bytes()).into_owned();
        format!("{name}\n{len}{value}\n")
    };
    let filling = field("UBLK_DM_EVENT", "filling");
    let lines = heard(&journal, "an event", |line| line.contains(&filling));
    let event = lines.last().expect("a line");
    let (device, percent) = (field("UBLK_DM_DEVICE", "s"), field("UBLK_DM_PERCENT", "95"));
    for part in ["PRIORITY=4", &device, &percent, "UBLK_DM_SERVER="] {
        assert!(event.contains(part), "no {part} in {event:?}");
    }
    server::del("s");
    heard(&journal, "line about the end", |line| line.contains("s: deleted"));
    fs::remove_file(JOURNAL).ok();
    server::assert_nothing_left("del");
}

/// A server in the foreground writes its log to stderr as well. A reader that has stopped reading
/// must not hold up the data path, nor commands, nor the end: the case would never end.
fn stderr_full() {
    const SIZE: u64 = 8 * MIB;
    let (o, c) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 64));
    let script = "exec 2> >(echo $BASHPID >/tmp/stderr-reader; exec sleep infinity); \
                  head -c 65536 /dev/zero >&2; exec $0 $@";
    let line = format!("add snapshot --origin {o} --cow {c} --name s --chunk-size 4k --foreground");
    let mut child = Command::new("bash")
        .args(["-c", script, &binary()])
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("bash");
    server::wait_for(20, "the device", || {
        server::list().iter().any(|device| device["state"] == "live")
    });
    let pid = pid_of("s");
    let view = Disk::open(&format!("/dev/ublkb{}", server::number("s", "/id")));
    // Each signal is a line, and so are the levels of the COW: more than the server keeps.
    for _ in 0..1200 {
        ioctl::signal(pid, libc::SIGHUP);
        thread::sleep(Duration::from_millis(1));
    }
    (0..5).for_each(|chunk| view.write(chunk * 8, &Buf::new(8)));
    ublk_dm("status s").ok();
    drop(view);
    sh(&format!("kill {pid}")).ok();
    server::wait_gone(pid);
    assert_eq!(child.wait().expect("a child").code(), Some(0));
    server::assert_nothing_left("SIGTERM");
    let reader = fs::read_to_string("/tmp/stderr-reader").expect("its number");
    sh(&format!("kill {reader}")).ok();
}
