//! `list` for people: the columns and the health of devices in every state; and `metrics`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, MIB, slice};
use crate::sh::{binary, sh, ublk_dm};
use crate::{Case, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "list-health", bound_s: 90, disks, run: |_| health() },
        Case { name: "metrics-scraped", bound_s: 90, disks, run: |_| scraped() },
    ]
}

/// Sectors of the disks.
const LEN: u64 = 4 * MIB;

/// The words of a device's line.
fn words(name: &str) -> Vec<String> {
    let listed = ublk_dm("list -o name,size,target,used,health --no-headings").ok().stdout;
    let lines = listed.lines().map(|line| line.split_whitespace().map(str::to_owned));
    let mut lines = lines.map(Iterator::collect::<Vec<_>>);
    let line = lines.find(|words| words[0] == name).unwrap_or_else(|| panic!("{name}: {listed}"));
    assert_eq!(line.len(), 5, "{listed}");
    line
}

fn assert_is(name: &str, size: &str, target: &str, used: &str, health: &str) {
    assert_eq!(words(name), [name, size, target, used, health]);
}

fn health() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, MIB));
    let legs = [Faulty::new("leg0", "n0", LEN, LEN), Faulty::new("leg1", "n1", LEN, LEN)];
    let size = format!("{}M", LEN / MIB / 2 * (MIB / 1024));
    let path = server::add(&format!("origin --origin {origin} --name o"));
    let options = "--chunk-size 16384 --on-full invalidate --name s";
    server::add(&format!("snapshot --origin {origin} --cow {cow} {options}"));
    let (one, two) = (&legs[0].path, &legs[1].path);
    let mirror = format!("mirror --leg {one} --leg {two} --nosync --name m");
    let mirrored = server::add(&mirror);
    assert_is("o", &size, "snapshot-origin", "-", "ok");
    assert_is("s", &size, "snapshot", "4", "ok");
    assert_is("m", &size, "mirror", "-", "ok");
    let head = ublk_dm("list").ok().stdout;
    let head = head.lines().next().unwrap_or_default().to_owned();
    let columns: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "DEVICE", "SIZE", "TARGET", "USED%", "HEALTH", "DISKS"]);
    // A COW that is too small, a leg that fails, a server that dies.
    let disk = Disk::open(&path);
    (0..LEN / 64).for_each(|at| disk.write(at * 64, &Buf::new(8)));
    drop(disk);
    assert_eq!(words("s")[4], "invalid");
    ublk_dm("suspend o").ok();
    assert_is("o", &size, "snapshot-origin", "-", "suspended");
    ublk_dm("resume o").ok();
    legs[1].set(Fault::Gone);
    Disk::open(&mirrored).write(0, &Buf::new(8));
    assert_is("m", &size, "mirror", "-", "degraded");
    let pid = server::number("m", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the state quiesced", || words("m")[4] == "quiesced");
    legs[1].heal();
    ublk_dm("recover m").ok();
    for name in ["s", "o", "m"] {
        server::del(name);
    }
    assert_eq!(ublk_dm("list").ok().stdout, "");
    server::forget_ended_legs();
    server::assert_nothing_left("del");
}

/// The value of a metric of a device; `None` if it has no sample.
fn value(text: &str, metric: &str, name: &str, more: &str) -> Option<u64> {
    let begin = format!("{metric}{{device=\"");
    let labels = format!("name=\"{name}\"{more}");
    let is_it = |line: &&str| line.starts_with(&begin) && line.contains(&labels);
    text.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
}

fn serve(place: &str) -> Child {
    let mut serve = Command::new(binary());
    serve.args(["metrics", "--listen", place]).stdin(Stdio::null());
    serve.spawn().expect("it starts")
}

/// What a server answers.
fn answer(mut server: impl Read + Write, accept: &str, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.0\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
    server.write_all(head.as_bytes()).expect("writable");
    let mut text = String::new();
    server.read_to_string(&mut text).expect("text");
    text
}

fn end(mut server: Child) {
    sh(&format!("kill -TERM {}", server.id())).ok();
    assert!(server.wait().expect("it ends").success());
}

/// A write that waits for its device has taken that long.
fn durations(path: &str) {
    let count = |more: &str| {
        let text = ublk_dm("metrics").ok().stdout;
        let (end, le) = if more.is_empty() { ("count", "") } else { ("bucket", ",le=\"") };
        let metric = format!("ublk_dm_request_duration_seconds_{end}");
        let labels = format!(",operation=\"write\"{le}{more}");
        value(&text, &metric, "o", &labels).unwrap_or_else(|| panic!("{metric}{labels}: {text}"))
    };
    assert_eq!((count(""), count("+Inf\"")), (4, 4));
    let quick = count("0.3\"");
    ublk_dm("suspend o").ok();
    let path = path.to_owned();
    let late = thread::spawn(move || Disk::open(&path).write(0, &Buf::new(8)));
    thread::sleep(Duration::from_millis(700));
    ublk_dm("resume o").ok();
    late.join().expect("it is written");
    assert_eq!((count(""), count("0.3\""), count("10\"")), (5, quick, 5));
}

/// Once on stdout, and for each scrape: what users have done, and a server that has died.
fn scraped() {
    let (origin, cow) = (slice("origin", "n0", 0, LEN), slice("cow", "n1", 0, MIB));
    let path = server::add(&format!("origin --origin {origin} --name o"));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 16384 --name s"));
    let disk = Disk::open(&path);
    (0..4).for_each(|at| disk.write(at * 64, &Buf::new(8)));
    drop(disk);
    let text = ublk_dm("metrics").ok().stdout;
    let of = |metric: &str, name: &str| value(&text, metric, name, "");
    assert_eq!(of("ublk_dm_writes_total", "o"), Some(4), "{text}");
    assert_eq!(of("ublk_dm_written_bytes_total", "o"), Some(4 * 4096), "{text}");
    assert_eq!(of("ublk_dm_copied_bytes_total", "s"), Some(4 * 16384), "{text}");
    assert_eq!(of("ublk_dm_exceptions", "s"), Some(4), "{text}");
    assert_eq!(of("ublk_dm_size_bytes", "s"), Some(LEN * 512), "{text}");
    assert_eq!(of("ublk_dm_cow_size_bytes", "s"), Some(MIB * 512), "{text}");
    assert_eq!(value(&text, "ublk_dm_health", "s", ",health=\"ok\""), Some(1), "{text}");
    assert!(ublk_dm("metrics --openmetrics").ok().stdout.ends_with("# EOF\n"));
    durations(&path);
    let socket = "/run/ublk-dm-metrics";
    let (tcp, unix) = (serve("127.0.0.1:9876"), serve(socket));
    server::wait_for(20, "the socket", || Path::new(socket).exists());
    server::wait_for(20, "the port", || TcpStream::connect("127.0.0.1:9876").is_ok());
    let connect = || UnixStream::connect(socket).expect("it listens");
    let open = "application/openmetrics-text;version=1.0.0";
    let said = answer(TcpStream::connect("127.0.0.1:9876").expect("it listens"), open, "/metrics");
    assert!(said.contains("200 OK") && said.contains("openmetrics-text"), "{said}");
    assert!(answer(connect(), "*/*", "/").contains("404"));
    let pid = server::number("s", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the state quiesced", || {
        let said = answer(connect(), "*/*", "/metrics");
        assert!(said.contains("version=0.0.4"), "{said}");
        value(&said, "ublk_dm_state", "s", ",state=\"quiesced\"") == Some(1)
            && value(&said, "ublk_dm_server_answers", "s", "") == Some(0)
            && value(&said, "ublk_dm_writes_total", "o", "").is_none()
    });
    [tcp, unix].into_iter().for_each(end);
    assert!(!Path::new(socket).exists());
    ublk_dm("recover --all").ok();
    ublk_dm("del o s").ok();
    server::assert_nothing_left("del");
}
