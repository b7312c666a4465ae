//! `monitor`: the events of real devices, while they happen and afterwards.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::Case;
use crate::condition::{Fault, Faulty};
use crate::disk::{Buf, Disk, MIB, slice};
use crate::server;
use crate::sh::{binary, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "monitor-events", bound_s: 90, disks, run: |_| events() },
        Case { name: "monitor-ends", bound_s: 60, disks, run: |_| ends() },
    ]
}

const SEEN: &str = "/tmp/monitor.seen";
const RAN: &str = "/tmp/monitor.ran";
const PROGRAM: &str = "/tmp/monitor.program";

/// Runs `monitor` beside the test, with its output in a file.
fn monitor(arguments: &[&str]) -> Child {
    let seen = File::create(SEEN).expect("tmpfs");
    Command::new(binary())
        .arg("monitor")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(seen)
        .spawn()
        .expect("it starts")
}

/// The events in the file: word, device, priority and the whole object.
fn seen() -> Vec<(String, String, String, Value)> {
    let text = fs::read_to_string(SEEN).unwrap_or_default();
    let word = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let of = |line: &str| -> Option<_> {
        let value: Value = serde_json::from_str(line).ok()?;
        Some((word(&value, "event"), word(&value, "device"), word(&value, "priority"), value))
    };
    text.lines().filter_map(of).collect()
}

fn wait_for(event: &str) {
    server::wait_for(20, event, || seen().iter().any(|(word, ..)| word == event));
}

/// Writes to more chunks than the COW has, and has each recorded.
fn fill(snapshot: &Disk) {
    for chunk in 0..8 {
        drop(snapshot.try_write(chunk * 8, &Buf::new(8)));
        drop(snapshot.flush());
    }
}

/// A snapshot whose COW becomes full, after it has got its name.
fn snapshot_fills() {
    let (o, c) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 64));
    let view = server::add(&format!("snapshot --origin {o} --cow {c} --chunk-size 4k"));
    ublk_dm(&format!("rename {view} s")).ok();
    let top = server::add(&format!("origin --origin {o} --name o"));
    let snapshot = Disk::open(&view);
    fill(&snapshot);
    drop(snapshot);
    wait_for("overflow");
    let percents: Vec<u64> = seen().iter().filter_map(|(.., it)| it["percent"].as_u64()).collect();
    assert_eq!(percents[..2], [50, 80], "the levels of the COW");
    // The origin's next change finds the COW full.
    Disk::open(&top).write(4096, &Buf::new(8));
    wait_for("invalid");
    ublk_dm("del o s").ok();
}

/// A mirror with the name that it is given, which is recovered and loses a leg: the leg's path.
fn mirror_loses_a_leg() -> String {
    let leg = Faulty::new("leg", "n0", 16 * MIB, MIB);
    let other = slice("other", "n1", 16 * MIB, MIB);
    let line = format!("mirror --leg {other} --leg {}", leg.path);
    let mirror = server::add(&line);
    wait_for("recovered");
    leg.set(Fault::Writes);
    Disk::open(&mirror).write(0, &Buf::new(8));
    wait_for("leg-failed");
    server::del("mirror0");
    leg.path.clone()
}

fn events() {
    let program = format!("#!/bin/sh\necho \"$1 $2 $UBLK_DM_EVENT $UBLK_DM_PERCENT\" >>{RAN}\n");
    fs::write(PROGRAM, program).expect("tmpfs");
    sh(&format!("chmod +x {PROGRAM}")).ok();
    fs::remove_file(RAN).ok();
    let mut child = monitor(&["--json", "--exec", PROGRAM]);
    snapshot_fills();
    let leg = mirror_loses_a_leg();
    let all = seen();
    let find = |word: &str| all.iter().find(|(event, ..)| event == word).expect("an event");
    for (word, device, priority) in [
        ("filling", "s", "warning"),
        ("overflow", "s", "warning"),
        ("invalid", "s", "error"),
        ("recovered", "mirror0", "notice"),
        ("leg-failed", "mirror0", "warning"),
    ] {
        let (_, of, at, value) = find(word);
        assert_eq!((of.as_str(), at.as_str()), (device, priority), "{value}");
        assert!(value["version"] == 1 && value["message"].as_str().is_some_and(|it| it.len() > 9));
    }
    let (.., failed) = find("leg-failed");
    assert_eq!((&failed["leg"], failed["disk"].as_str()), (&1.into(), Some(leg.as_str())));
    let ran = || fs::read_to_string(RAN).unwrap_or_default();
    server::wait_for(20, "the program", || ran().contains("leg-failed mirror0 leg-failed"));
    assert!(ran().contains("filling s filling 80\n"), "{}", ran());
    child.kill().expect("a child");
    child.wait().expect("a child");
    // Another monitor shows all of it, although the devices are gone.
    let mut child = monitor(&["--json", "--past"]);
    server::wait_for(20, "what is on record", || seen().len() >= all.len());
    let words = |all: &[(String, String, String, Value)]| {
        let mut words: Vec<_> = all.iter().map(|(event, ..)| event.clone()).collect();
        words.sort();
        words
    };
    assert_eq!(words(&seen()), words(&all));
    child.kill().expect("a child");
    child.wait().expect("a child");
    server::assert_nothing_left("del");
}

/// It ends when its reader has left, and goes on when the run directory was removed.
fn ends() {
    let script = "$0 monitor | true";
    let out = crate::sh::run_args("timeout", &["20", "bash", "-c", script, &binary()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let mut child = monitor(&["--json"]);
    server::wait_for(20, "its directory", || {
        fs::exists(format!("{}/log", server::run_dir())).unwrap_or(false)
    });
    // What it watches may be there again before the directory above is removed.
    drop(sh(&format!("rm -rf {}", server::run_dir())));
    let (o, c) = (slice("org", "n0", 0, 8 * MIB), slice("cow", "n1", 0, 64));
    let view = server::add(&format!("snapshot --origin {o} --cow {c} --name s --chunk-size 4k"));
    let snapshot = Disk::open(&view);
    fill(&snapshot);
    drop(snapshot);
    wait_for("overflow");
    server::del("s");
    child.kill().expect("a child");
    child.wait().expect("a child");
    server::assert_nothing_left("del");
}
