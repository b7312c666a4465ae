//! `ublk-dm` as its users see it: add, del, list, status, and checks that nothing is left.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sh::{binary, ublk_dm};

/// Runs `ublk-dm add LINE`; the answer must be one `/dev/ublkbN`, and that must exist.
pub fn add(line: &str) -> String {
    let out = ublk_dm(&format!("add {line}")).ok();
    let path = out.line();
    let number = path.strip_prefix("/dev/ublkb").and_then(|n| n.parse::<u32>().ok());
    assert!(
        number.is_some() && out.stdout == format!("{path}\n"),
        "`{}` printed {:?}",
        out.what,
        out.stdout
    );
    let kind =
        fs::metadata(&path).unwrap_or_else(|e| panic!("`{}`: {path}: {e}", out.what)).file_type();
    assert!(kind.is_block_device(), "`{}`: {path} is no block device", out.what);
    path
}

/// Runs `ublk-dm del`; it must be silent.
pub fn del(names: &str) {
    let out = ublk_dm(&format!("del {names}")).ok();
    assert!(out.stdout.is_empty(), "`{}` printed {:?}", out.what, out.stdout);
}

/// The devices of `list --json`.
pub fn list() -> Vec<Value> {
    let out = ublk_dm("list --json").ok();
    let json: Value = serde_json::from_str(&out.stdout)
        .unwrap_or_else(|e| panic!("list --json: {e} in {:?}", out.stdout));
    assert!(json["version"] == 1, "list --json has version {}", json["version"]);
    json["devices"]
        .as_array()
        .unwrap_or_else(|| panic!("list --json has no devices: {json}"))
        .clone()
}

/// One device of `list --json`.
pub fn device(name: &str) -> Value {
    let all = list();
    all.iter()
        .find(|d| d["name"] == name)
        .unwrap_or_else(|| panic!("list --json has no {name}: {all:?}"))
        .clone()
}

/// A number of `list --json` by its JSON pointer, e.g. `/stats/copies`.
pub fn number(name: &str, pointer: &str) -> u64 {
    let device = device(name);
    device
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{name}: no number {pointer} in {device}"))
}

/// The cookie of a device, from its state file.
pub fn cookie(name: &str) -> u64 {
    let files =
        fs::read_dir(run_dir()).expect("a run directory").flatten().map(|entry| entry.path());
    let states = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let states =
        states.filter_map(|path| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok());
    let devices: Vec<Value> =
        states.filter_map(|state| state["devices"].as_array().cloned()).flatten().collect();
    let device = devices.iter().find(|device| device["name"] == name);
    device
        .and_then(|device| device["cookie"].as_u64())
        .unwrap_or_else(|| panic!("no cookie of {name}: {devices:?}"))
}

pub fn status(name: &str) -> String {
    ublk_dm(&format!("status {name}")).ok().stdout.trim_end().to_string()
}

pub fn table(name: &str) -> String {
    ublk_dm(&format!("table {name}")).ok().stdout.trim_end().to_string()
}

/// The log lines of servers since the case began.
pub fn log() -> String {
    let logs = fs::read_dir(format!("{}/log", run_dir()))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let logs = logs.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
}

/// The run directory of the program under test.
pub fn run_dir() -> String {
    std::env::var("UBLK_DM_RUN_DIR").unwrap_or_else(|_| "/run/ublk-dm".to_string())
}

/// The existing records of lost stores.
pub fn lost() -> Vec<String> {
    let files = fs::read_dir(run_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    let lost = files.filter(|path| path.extension().is_some_and(|end| end == "lost"));
    lost.map(|path| path.display().to_string()).collect()
}

/// Removes the records of lost stores, as wiping their COWs does, and returns their number.
pub fn forget_lost() -> usize {
    let lost = lost();
    lost.iter().for_each(|path| fs::remove_file(path).unwrap_or_else(|e| panic!("{path}: {e}")));
    lost.len()
}

/// Removes the records of departed snapshots: the next case has other origins on the same disks.
pub fn forget_departed() {
    let files = fs::read_dir(run_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    let departed = files.filter(|path| path.extension().is_some_and(|end| end == "departed"));
    departed.for_each(|path| {
        fs::remove_file(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    });
}

/// Waits until the server's process has ended.
pub fn wait_gone(pid: u64) {
    wait_for(20, &format!("server process {pid} to end"), || {
        !fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false)
    });
}

/// Polls until it holds; panics after `seconds`.
#[track_caller]
pub fn wait_for(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < until, "waited {seconds} s in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The ids of all processes that run the program under test.
pub fn processes() -> Vec<u64> {
    let binary = binary();
    let ids = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u64| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let exe = fs::read_link(format!("/proc/{id}/exe")).ok();
        exe.is_some_and(|e| e.as_os_str() == binary.as_str())
            || words.split(|b| *b == 0).any(|w| w == binary.as_bytes())
    })
    .collect()
}

/// Everything that must not exist while there is no device.
pub fn leftovers() -> Vec<String> {
    let mut found: Vec<String> = processes().iter().map(|id| format!("process {id}")).collect();
    for dir in ["/dev", "/sys/block"] {
        let names = fs::read_dir(dir)
            .expect("readable")
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok());
        found.extend(
            names
                .filter(|n| n.starts_with("ublkb") || n.starts_with("ublkc"))
                .map(|n| format!("{dir}/{n}")),
        );
    }
    if let Ok(entries) = fs::read_dir(run_dir()) {
        // Logs outlive devices, and so do records of COWs whose origins may still be changed, and
        // of stale legs.
        let departed =
            |path: &Path| path.extension().is_some_and(|end| end == "departed" || end == "ended");
        let entries = entries
            .flatten()
            .map(|e| e.path())
            .filter(|path| !path.ends_with("log") && !departed(path));
        found.extend(entries.map(|path| path.display().to_string()));
    }
    found
}

/// Removes the records of ended mirrors: their legs have been written anew.
pub fn forget_ended_legs() {
    let files = fs::read_dir(run_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    let ended = files.filter(|path| path.extension().is_some_and(|end| end == "ended"));
    ended.for_each(|path| fs::remove_file(path).expect("removable"));
}

/// What is still left after a moment, in which processes can end.
pub fn left_over() -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let found = leftovers();
        if found.is_empty() || Instant::now() > until {
            return found;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that no process, device or file is left.
pub fn assert_nothing_left(after: &str) {
    let found = left_over();
    assert!(found.is_empty(), "left behind after {after}: {}", found.join(", "));
}

/// Whether a server has a waiting command: its thread sleeps once the command has arrived.
pub fn has_waiting_command(pid: u64) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.into_iter().any(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.contains("(aside) S ")
    })
}
