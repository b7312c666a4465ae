//! Disks that are given by the names of devices: a snapshot's origin and COW, legs and logs, lines
//! of tables. What is on record is the device's path, so a server that dies is followed by one that
//! knows the disks.

use super::admin::{assert_failed, kill};
use super::stacks::{SIZE, assert_one_server, lower, snapshot};
use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::model::View;
use crate::runner::scratch;
use crate::server;
use crate::sh::{binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![Case { name: "stack-named", bound_s: 120, disks, run: |_| named() }]
}

fn create(name: &str, line: &str) -> String {
    run_args(&binary(), &["create", name, "--table", line]).ok().line()
}

/// A snapshot of the device `m` on a COW that is a device, too; a mirror of devices; a table.
fn named() {
    let mut lower = lower(true);
    let path = lower.path.clone();
    "m".clone_into(&mut lower.path);
    let cow = slice("cow", "n2", 0, 2 * SIZE);
    let cow = create("store", &format!("0 {} linear {cow} 0", 2 * SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&path));
    let snap = snapshot(&lower, "store", "s");
    assert_one_server(&["m", "s"]);
    let object = &server::device("s")["snapshot"];
    assert!(object["origin"] == path && object["cow"] == cow, "{object}");
    let changed = View::new("orig", SIZE);
    changed.put(view.cells(0, SIZE));
    changed.write(&Disk::open(&path), 8, 16);
    view.verify(&Disk::open(&snap));
    kill("m");
    ublk_dm("recover --all").ok();
    changed.verify(&Disk::open(&path));
    view.verify(&Disk::open(&snap));
    refused(&path);
    server::del("s");
    legs(&path);
    ublk_dm("del m store").ok();
    // A linear device was made of `m` after `s` had been deleted.
    assert!(server::forget_lost() == 1, "`s` is not known as lost");
    server::assert_nothing_left("del");
}

/// Words that are no disks, or not clearly one.
fn refused(path: &str) {
    let dir = scratch("here");
    sh(&format!("truncate -s {} {dir}/m", MIB * 512)).ok();
    let here = |line: &str| run_args("sh", &["-c", &format!("cd {dir}; {} {line}", binary())]);
    let both = format!("./m is the file, {path} the device");
    assert_failed(&here("add mirror --leg m --leg /dev/null"), &[&["m: ", &both]]);
    assert_failed(&here("add origin --origin other"), &[&["other: no such file here"]]);
    // A path names the file, and a device's name does not.
    let file = here("add origin --origin ./m --name file").ok().line();
    assert!(server::device("file")["origin"]["path"] == format!("{dir}/m"), "{file}");
    server::del("file");
}

/// Legs, a log and lines by name; and a leg that is replaced.
fn legs(origin: &str) {
    let disk = slice("legs", "n2", 2 * SIZE, 4 * SIZE);
    for (at, name) in ["a", "b", "c", "log"].iter().enumerate() {
        let start = at as u64 * SIZE;
        create(name, &format!("0 {SIZE} linear {disk} {start}"));
    }
    let node =
        |name: &str| server::device(name)["block_device"].as_str().expect("a path").to_owned();
    let mirror = server::add("mirror --leg a:64KiB --leg b --log log --nosync --name named");
    let view = View::new("legs", SIZE - 128);
    view.fill(&Disk::open(&mirror));
    ublk_dm("message named replace b c:8s").ok();
    ublk_dm("wait named --in-sync").ok();
    let legs = server::device("named")["mirror"]["legs"].clone();
    assert!(legs[0]["path"] == node("a") && legs[1]["path"] == node("c"), "{legs}");
    assert!(legs[1]["offset_bytes"] == 4096, "{legs}");
    view.verify(&Disk::open(&mirror));
    kill("named");
    ublk_dm("recover --source c named").ok();
    view.verify(&Disk::open(&mirror));
    server::del("named");
    // A table that is loaded by name.
    let line = create("line", "0 8 linear b 0");
    run_args(&binary(), &["load", "line", "--table", "0 8 linear m 8"]).ok();
    ublk_dm("resume line").ok();
    let (one, two) = (Disk::open(&line).read(0, 8), Disk::open(origin).read(8, 8));
    assert!(one[..] == two[..], "the line is not on m");
    server::del("line");
    ublk_dm("del a b c log").ok();
}
