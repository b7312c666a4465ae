//! The disks of a device are not taken by another family, nor by `zero` and `copy`: neither while
//! it has no server, nor under another name while it has one.

use crate::Case;
use crate::disk::{Disk, MIB, digest_ends, slice};
use crate::server;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "claims-dead-server", bound_s: 120, disks, run: |_| dead_server() },
        Case { name: "claims-named", bound_s: 60, disks, run: |_| named() },
        Case { name: "claims-loop-and-file", bound_s: 60, disks, run: |_| loop_and_file() },
    ]
}

const SIZE: u64 = 16 * MIB;

fn refused(out: Out, words: &[&str]) {
    let said = out.refused().stderr;
    assert!(words.iter().all(|word| said.contains(word)), "no {words:?} in {said}");
}

fn dead_server() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let other = slice("oth", "n0", SIZE, SIZE);
    Disk::open(&cow).zero(0, 8);
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let pid = server::number("s", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "state quiesced", || server::device("s")["state"] == "quiesced");
    let before = [&origin, &cow].map(|disk| digest_ends(disk));
    let link = "/tmp/claims-link";
    sh(&format!("ln -sf {cow} {link}")).ok();
    let words = ["of s (/dev/ublkb", "ublk-dm recover s", "ublk-dm del --force s"];
    for disk in [&origin, &cow, link] {
        refused(ublk_dm(&format!("zero --to {disk}")), &words);
        refused(ublk_dm(&format!("copy --from {other} --to {disk}")), &words);
        refused(ublk_dm(&format!("add mirror --leg {other} --leg {disk} --nosync")), &words);
        let table = format!("0 {SIZE} linear {disk} 0");
        refused(run_args(&binary(), &["create", "l", "--table", &table]), &words);
        let add = format!("add snapshot --origin {other} --cow {disk}");
        refused(ublk_dm(&format!("{add} --force")), &words);
        ublk_dm(&format!("copy --from {disk} --to {other}")).ok();
    }
    assert!([&origin, &cow].map(|disk| digest_ends(disk)) == before, "a disk was written");
    ublk_dm("recover s").ok();
    server::del("s");
    sh(&format!("rm {link}")).ok();
    // The disks of a deleted device are free.
    ublk_dm(&format!("zero --to {cow}")).ok();
    server::assert_nothing_left("del");
}

/// A disk that a server holds is that of a device: users know its name, not the process.
fn named() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let other = slice("oth", "n0", SIZE, SIZE);
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let words = ["a disk of s (/dev/ublkb", "in use by process"];
    for disk in [&origin, &cow] {
        refused(ublk_dm(&format!("zero --to {disk}")), &words);
        refused(ublk_dm(&format!("add mirror --leg {other} --leg {disk} --nosync")), &words);
    }
    refused(ublk_dm(&format!("add snapshot --origin {other} --cow {cow} --force")), &words);
    // A device of one server is the disk of another one's device.
    let table = format!("0 {SIZE} linear {other} 0");
    let below = run_args(&binary(), &["create", "below", "--table", &table]).ok().line();
    let table = format!("0 {SIZE} linear {below} 0");
    run_args(&binary(), &["create", "above", "--table", &table]).ok();
    refused(ublk_dm("del below"), &["below: /dev/ublkb", "above stands on it"]);
    server::del("--all");
    server::assert_nothing_left("del");
}

fn loop_and_file() {
    let (origin, other) = (slice("org", "n0", 0, SIZE), slice("oth", "n1", 0, SIZE));
    let file = std::env::temp_dir().join("claims-cow");
    let file = file.to_str().expect("ASCII");
    sh(&format!("truncate -s 8M {file}")).ok();
    let looped = sh(&format!("losetup --find --show {file}")).ok().line();
    for (first, second) in [(file, looped.as_str()), (&looped, file)] {
        server::add(&format!("snapshot --origin {origin} --cow {first} --name s"));
        let before = digest_ends(first);
        let add = format!("add snapshot --origin {other} --cow {second} --force");
        refused(ublk_dm(&add), &[second, "a disk of s"]);
        let own = format!("add snapshot --origin {origin} --cow {second} --force");
        refused(ublk_dm(&own), &[second, "under another name"]);
        refused(ublk_dm(&format!("zero --to {second}")), &[second, "a disk of s"]);
        assert!(digest_ends(first) == before, "the COW was written");
        server::del("s");
        ublk_dm(&format!("zero --to {second}")).ok();
    }
    let add = format!("add mirror --leg {file} --leg {looped} --nosync");
    refused(ublk_dm(&add), &[&looped]);
    refused(ublk_dm(&format!("copy --from {file} --to {looped}")), &["overlap"]);
    sh(&format!("losetup -d {looped}")).ok();
    sh(&format!("rm {file}")).ok();
    server::assert_nothing_left("del");
}
