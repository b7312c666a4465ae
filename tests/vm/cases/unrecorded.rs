//! Devices whose files in the run directory were removed: every verb sees them, and none says that
//! its work is done.

use crate::Case;
use crate::cases::process::{disks, pid_of};
use crate::disk::{Buf, Disk};
use crate::server;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "unrecorded-served", bound_s: 60, disks, run: |_| served() },
        Case { name: "unrecorded-dead", bound_s: 60, disks, run: |_| dead() },
    ]
}

/// Another run directory: its devices are none of this one's.
const OTHER: &str = "/tmp/unrecorded-other";

fn elsewhere(line: &str) -> Out {
    let script = format!("UBLK_DM_RUN_DIR={OTHER} $0 {line}");
    run_args("bash", &["-c", &script, &binary()])
}

/// Asserts that a command fails and names the device and what can be done.
fn names(line: &str, dev: &str, what: &str) {
    let out = ublk_dm(line);
    assert!(out.code == 1 && out.stderr.lines().count() == 1, "`{line}`: {:?}", out.stderr);
    for word in [dev, "not on record", what] {
        assert!(out.stderr.contains(word), "`{line}` without {word}: {}", out.stderr);
    }
}

const LOOKING: [&str; 4] = ["list", "list --json", "status", "table"];

fn served() {
    let (o, c) = disks();
    elsewhere(&format!("add origin --origin {o} --name x")).ok();
    assert!(server::list().is_empty(), "a device of another run directory is listed");
    LOOKING.iter().for_each(|line| drop(ublk_dm(line).ok()));
    elsewhere("del --all").ok();
    let dev = server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    LOOKING.iter().for_each(|line| drop(ublk_dm(line).ok()));
    let pid = pid_of("s");
    sh(&format!("rm -rf {}", server::run_dir())).ok();
    let kill = format!("`kill {pid}`");
    for line in LOOKING.into_iter().chain([
        "recover --all",
        "upgrade --all",
        "del --all",
        "del --all --force",
    ]) {
        names(line, &dev, &kill);
        Disk::open(&dev).write(0, &Buf::new(8));
    }
    for line in [format!("del {dev}"), format!("del --force {dev}"), "del s".to_owned()] {
        names(&line, &dev, &kill);
    }
    // Another run directory has nothing to do with it.
    elsewhere("list").ok();
    elsewhere("del --all").ok();
    sh(&format!("kill {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("list").ok();
    server::assert_nothing_left("SIGTERM");
}

fn dead() {
    let (o, c) = disks();
    let dev = server::add(&format!("snapshot --origin {o} --cow {c} --name s"));
    let pid = pid_of("s");
    sh(&format!("rm -rf {}", server::run_dir())).ok();
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the server's end", || ublk_dm("list").stderr.contains("has died"));
    let force = format!("`ublk-dm del --force {dev}`");
    for line in
        LOOKING.into_iter().chain(["recover --all", "upgrade --all", "del --all", "recover s"])
    {
        names(line, &dev, &force);
    }
    names(&format!("del {dev}"), &dev, &force);
    let out = ublk_dm(&format!("del --force {dev}")).ok();
    assert!(out.stderr.contains("do not use its COW again"), "{}", out.stderr);
    ublk_dm("list").ok();
    server::assert_nothing_left("del --force");
}
