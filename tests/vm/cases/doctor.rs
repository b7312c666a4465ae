//! `doctor` and `reap`: what is wrong with real devices is found, the command that mends it is
//! named, and what dead servers have left is deleted, but nothing else.

use serde_json::Value;

use crate::Case;
use crate::cases::process::{disks, pid_of};
use crate::disk::{Buf, Disk};
use crate::ioctl;
use crate::server;
use crate::sh::{Out, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "doctor-dead-server", bound_s: 60, disks, run: |_| dead_server() },
        Case { name: "doctor-tab", bound_s: 60, disks, run: |_| tab() },
        Case { name: "doctor-reap", bound_s: 90, disks, run: |_| reaped() },
        Case { name: "doctor-reap-in-use", bound_s: 60, disks, run: |_| in_use() },
    ]
}

/// The findings of `doctor --json`, by their checks and subjects.
fn found(line: &str, code: i32) -> Vec<(String, String, Value)> {
    let out = ublk_dm(line);
    assert_eq!(out.code, code, "`{line}`: {}{}", out.stdout, out.stderr);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("an object on each line");
        assert_eq!(value["version"], 1);
        (word(&value["check"]), word(&value["subject"]), value)
    };
    out.stdout.lines().map(of).collect()
}

/// The problems that `doctor` finds: check, subject and command.
pub fn problems() -> Vec<[String; 3]> {
    let code = ublk_dm("doctor --json").code;
    let found = found("doctor --json", code).into_iter();
    let problems: Vec<[String; 3]> = found
        .filter(|(_, _, value)| value["weight"] == "problem")
        .map(|(check, subject, value)| {
            [check, subject, value["mend"].as_str().unwrap_or_default().to_owned()]
        })
        .collect();
    assert_eq!(code, if problems.is_empty() { 0 } else { 3 });
    problems
}

fn words(words: [&str; 3]) -> [String; 3] {
    words.map(str::to_owned)
}

fn kill(name: &str) {
    let pid = pid_of(name);
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the server's end", || {
        ["quiesced", "dead"].contains(&server::device(name)["state"].as_str().unwrap_or_default())
    });
}

fn dead_server() {
    let (o, c) = disks();
    assert_eq!(problems(), Vec::<[String; 3]>::new(), "on a machine without devices");
    server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    let dev = server::add(&format!("origin --origin {o} --name o"));
    assert_eq!(problems(), Vec::<[String; 3]>::new(), "with sound devices");
    ublk_dm("suspend s").ok();
    let (check, subject, value) = found("doctor --json", 0).remove(0);
    assert!(value["weight"] == "advice", "{value}");
    assert!(check == "kernel" || check == "udev" || subject == "s", "{value}");
    let said = ublk_dm("doctor").ok().stdout;
    assert!(said.contains("advice: s: it is suspended") && said.contains("    ublk-dm resume s\n"));
    ublk_dm("resume s").ok();
    kill("o");
    let dead = [
        words(["no-server", "s", "ublk-dm recover s"]),
        words(["no-server", "o", "ublk-dm recover o"]),
    ];
    assert_eq!(problems(), dead);
    assert_eq!(problems(), dead, "looking changes nothing");
    let fixed = found("doctor --fix --json", 0);
    let fixed: Vec<&str> = fixed
        .iter()
        .filter(|(_, _, value)| value["fixed"] == true)
        .map(|(_, subject, _)| subject.as_str())
        .collect();
    assert_eq!(fixed, ["s", "o"]);
    Disk::open(&dev).write(0, &Buf::new(8));
    assert_eq!(problems(), Vec::<[String; 3]>::new());
    ublk_dm("del --all").ok();
}

fn with_tab(path: &str, line: &str) -> Out {
    let script = format!("UBLK_DM_TAB={path} $0 {line}");
    crate::sh::run_args("bash", &["-c", &script, &crate::sh::binary()])
}

fn tab() {
    let (o, c) = disks();
    let path = format!("{}/doctor.tab", std::env::temp_dir().display());
    let size = sh(&format!("blockdev --getsz {o}")).ok().line();
    let line = format!("s \"0 {size} snapshot {o} {c} P 8\"\nwrong\n");
    std::fs::write(&path, line).expect("writable");
    let said = with_tab(&path, "doctor");
    assert!(said.code == 3, "a line that cannot be used is a problem: {}", said.stdout);
    assert!(said.stdout.contains("advice: s: a device of") && said.stdout.contains(":2"));
    server::add(&format!("origin --origin {o} --name o"));
    let said = with_tab(&path, "doctor").stdout;
    let problem = "problem: s: a snapshot of";
    assert!(said.contains(problem) && said.contains("    ublk-dm up s\n"), "{said}");
    let said = with_tab(&path, "doctor --fix");
    assert!(said.stdout.contains("fixed: s: "), "{}{}", said.stdout, said.stderr);
    assert_eq!(server::device("s")["state"], "live");
    assert_eq!(said.code, 3, "the line that cannot be used is still there");
    ublk_dm("del o s").ok();
    sh(&format!("rm {path}")).ok();
}

/// A device that no file knows of, and whose server was killed. Returns its path.
fn orphan(line: &str, name: &str) -> String {
    let dev = server::add(line);
    let pid = pid_of(name);
    sh(&format!("rm -rf {}", server::run_dir())).ok();
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the server's end", || ublk_dm("list").stderr.contains("has died"));
    dev
}

fn reaped() {
    let (o, c) = disks();
    assert!(ublk_dm("reap").ok().stdout.is_empty(), "nothing is there to be deleted");
    // A sound device and one that waits for a server stay.
    server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    kill("s");
    assert!(ublk_dm("reap").ok().stdout.is_empty(), "it can be recovered");
    ublk_dm("recover s").ok();
    assert!(ublk_dm("reap").ok().stdout.is_empty());
    // Another program deletes the device of a dead server.
    let id = server::device("s")["id"].as_u64().and_then(|id| u32::try_from(id).ok()).expect("id");
    kill("s");
    ioctl::ublk_stop(id).expect("stopped");
    sh(&format!("touch -d 1970-01-02 /dev/ublkc{id}")).ok();
    let said = ublk_dm("reap");
    assert!(said.stdout.is_empty(), "it is on record: {}{}", said.stdout, said.stderr);
    ioctl::ublk_delete(id).expect("deleted");
    let [[check, _, mend]] = <[[String; 3]; 1]>::try_from(problems()).expect("one problem");
    assert_eq!([check.as_str(), &mend], ["stale-files", "ublk-dm reap"]);
    assert!(ublk_dm("reap").ok().stdout.contains("files removed"));
    // The files of a device are removed, and its server dies.
    let dev = orphan(&format!("snapshot --origin {o} --cow {c} --name s"), "s");
    assert_eq!(problems(), [words(["not-on-record", &dev, "ublk-dm reap"])]);
    let said = ublk_dm("reap").ok();
    assert!(said.stdout.contains(&format!("{dev}: deleted")), "{}{}", said.stdout, said.stderr);
    // One that has no disk any more: not while it may just be added.
    let dev = orphan(&format!("snapshot --origin {o} --cow {c} --name s"), "s");
    let id: u32 = dev["/dev/ublkb".len()..].parse().expect("a number");
    ioctl::ublk_stop(id).expect("stopped");
    assert!(ublk_dm("reap").ok().stdout.is_empty(), "it may just be added");
    let node = format!("/dev/ublkc{id}");
    sh(&format!("touch -d 1970-01-02 {node}")).ok();
    assert_eq!(problems(), [words(["never-started", &node, "ublk-dm reap"])]);
    let said = ublk_dm("doctor --fix").ok().stdout;
    assert!(said.contains(&format!("fixed: {node}: ")), "{said}");
    journals_reaped(&o, &c);
    server::assert_nothing_left("reap");
}

/// A journal that a killed `add` has left goes; one that is in use, or was just made, stays.
fn journals_reaped(o: &str, c: &str) {
    let dir = server::run_dir();
    let journals = || {
        let files = std::fs::read_dir(&dir).expect("the run directory").flatten();
        let paths = files.map(|file| file.path().display().to_string());
        paths.filter(|path| path.ends_with(".records")).collect::<Vec<_>>()
    };
    server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    let own = journals();
    assert_eq!(own.len(), 1, "{own:?}");
    let left = format!("{dir}/block-1-2-3fff.records");
    sh(&format!("cp {} {left}", own[0])).ok();
    sh(&format!("touch -d 1970-01-02 {}", own[0])).ok();
    assert!(ublk_dm("reap").ok().stdout.is_empty(), "it may be of an `add` that runs");
    sh(&format!("touch -d 1970-01-02 {left}")).ok();
    let said = ublk_dm("doctor").stdout;
    assert!(said.contains(&format!("{left}: an empty journal")), "{said}");
    let said = ublk_dm("reap").ok().stdout;
    assert_eq!(said, format!("{left}: removed; it holds no writes\n"));
    assert_eq!(journals(), own);
    server::del("s");
}

fn in_use() {
    let (o, c) = disks();
    sh(&format!("mkfs.ext4 -q {o}")).ok();
    let at = format!("{}/in-use", std::env::temp_dir().display());
    sh(&format!("mkdir -p {at}")).ok();
    let dev = server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    sh(&format!("mount {dev} {at}")).ok();
    let pid = pid_of("s");
    sh(&format!("rm -rf {}", server::run_dir())).ok();
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the server's end", || ublk_dm("list").stderr.contains("has died"));
    let out = ublk_dm("reap");
    let why = format!("mounted on {at}: `ublk-dm del --force {dev}`");
    assert!(out.code == 1 && out.stderr.contains(&why), "{}", out.stderr);
    ublk_dm(&format!("del --force {dev}")).ok();
    sh(&format!("umount -l {at}")).ok();
    server::wait_for(20, "the device's end", || ublk_dm("list").code == 0);
}
