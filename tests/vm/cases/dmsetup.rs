//! One script in dmsetup's own words (`dmsetup.sh`), run with dmsetup and with `ublk-dm dmsetup` on
//! disks with the same content: what both print, what they begin to complain with, and their exit
//! codes are equal.

mod said;

use std::fs;
use std::os::unix::fs::symlink;

use crate::Case;
use crate::disk::{node, wipe};
use crate::server;
use crate::sh::{binary, run_args, sh};

pub fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, bound_s: 600, disks: DISKS, run };
    vec![
        case("dmsetup-basics", |_| compare("basics")),
        case("dmsetup-columns", |_| compare("columns")),
        case("dmsetup-wrong", |_| compare("wrong")),
        case("dmsetup-snapshots", |_| compare("snapshots")),
        case("dmsetup-mirrors", |_| compare("mirrors")),
        case("dmsetup-ours", |_| ours()),
    ]
}

const DISKS: &[&str] = &["n0", "n1", "n2"];
const SCRIPT: &str = include_str!("dmsetup.sh");
const PLACE: &str = "/tmp/dm-script";

/// What a run of the script says, to be compared.
fn printed(dmsetup: &str, scenario: &str) -> Vec<String> {
    fs::write(PLACE, SCRIPT).expect("the script");
    DISKS.iter().for_each(|disk| wipe(disk));
    let program = format!("DMSETUP={dmsetup}");
    let disks: Vec<String> = DISKS.iter().map(|disk| node(disk)).collect();
    let words = ["LC_ALL=C.UTF-8", &program, "bash", PLACE, scenario].into_iter();
    let words: Vec<&str> = words.chain(disks.iter().map(String::as_str)).collect();
    said::comparable(&run_args("env", &words).ok().stdout, dmsetup)
}

/// Runs a scenario with both.
fn compare(scenario: &str) {
    for module in ["dm_snapshot", "dm_mirror", "dm_zero"] {
        sh(&format!("modprobe {module}")).ok();
    }
    let theirs = printed("dmsetup", scenario);
    let ours = printed(&format!("{} dmsetup", binary()), scenario);
    let all = theirs.join("\n");
    assert!(theirs.len() > 20, "the script says little: {all}");
    for (at, (line, own)) in theirs.iter().zip(&ours).enumerate() {
        let before = theirs[at.saturating_sub(12)..at].join("\n");
        assert!(line == own, "line {at}: dmsetup\n{line}\nublk-dm dmsetup\n{own}\nafter\n{before}");
    }
    assert_eq!(theirs.len(), ours.len(), "{all}\n\n{}", ours.join("\n"));
    server::forget_lost();
    server::forget_departed();
    server::forget_ended_legs();
    server::assert_nothing_left("the script");
}

/// What scripts meet here and not with device-mapper.
fn ours() {
    let udmsetup = "/tmp/udmsetup";
    symlink(binary(), udmsetup).expect("a link");
    let run = |words: &[&str]| run_args(udmsetup, words);
    let disk = node("n0");
    let line = |at: u64| format!("0 2048 linear {disk} {at}");
    run(&["create", "low", "-m", "7", "--table", &line(0)]).ok();
    // A path of device-mapper's directory, where there is nothing, is the device with that name.
    run(&["create", "top", "--table", "0 1024 linear /dev/mapper/low 1024"]).ok();
    let said = run(&["ls", "--exec", "echo", "low"]);
    assert!(said.code == 1, "ls has no words: {}", said.stdout);
    let paths = run(&["ls", "--exec", "echo"]).ok().stdout;
    assert!(paths.lines().any(|line| line.ends_with("/dev/ublkb7")), "{paths}");
    let deps = run(&["deps", "-o", "devname", "top"]).ok().line();
    assert_eq!(deps, "1 dependencies\t: (low)");
    let concise = run(&["table", "--concise", "low"]).ok().line();
    assert!(concise.starts_with("low,,7,rw,0 2048 linear "), "{concise}");
    // Parts of a disk are shared, as far as they do not overlap.
    run(&["create", "part", "--table", &line(4096)]).ok();
    let why = run(&["remove", "low"]);
    assert!(why.code == 1 && why.stderr.ends_with("Command failed.\n"), "{}", why.stderr);
    let busy = "device-mapper: remove ioctl on low  failed: ";
    assert!(why.stderr.starts_with(busy), "{}", why.stderr);
    run(&["remove", "top"]).ok();
    run(&["remove", "low"]).ok();
    run(&["create", "--concise", &concise]).ok();
    assert_eq!(run(&["table", "--concise", "low"]).ok().line(), concise);
    // A device whose server is gone holds its requests, and is removed by force.
    let pid = server::number("low", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "state quiesced", || server::device("low")["state"] == "quiesced");
    let state = run(&["info", "-c", "--noheadings", "-o", "suspended", "low"]).ok().line();
    assert_eq!(state, "Suspended");
    assert_eq!(run(&["remove", "low"]).code, 1);
    run(&["remove", "-f", "low"]).ok();
    // Its server had served `part` as well.
    assert_eq!(run(&["remove_all"]).ok().stdout, "");
    assert!(run(&["ls"]).ok().line().starts_with("part\t"), "it is not removed without force");
    run(&["remove_all", "-f"]).ok();
    assert_eq!(run(&["ls"]).ok().line(), "No devices found");
    server::assert_nothing_left("remove_all");
    fs::remove_file(udmsetup).expect("the link");
}
