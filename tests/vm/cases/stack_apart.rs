//! A snapshot of a device is served by that device's server or not at all: another server would not
//! see what the device's users write (I5). And one whose COW cannot be opened for a moment is not
//! lost by that (I9).

use std::fs;

use super::admin::{assert_failed, kill};
use super::process::pid_of;
use super::stacks::{SIZE, assert_one_server, lower};
use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::model::View;
use crate::server;
use crate::sh::{binary, run_args, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "stack-apart-range", bound_s: 60, disks, run: |_| apart(false) },
        Case { name: "stack-apart-mirror", bound_s: 60, disks, run: |_| apart(true) },
        Case { name: "stack-apart-loaded", bound_s: 60, disks, run: |_| loaded() },
        Case { name: "stack-held-cow", bound_s: 60, disks, run: |_| held_cow() },
        Case { name: "stack-apart-killed", bound_s: 240, disks, run: |_| killed() },
    ]
}

/// The files of the run directory with this ending.
fn files(ending: &str) -> Vec<String> {
    let files = fs::read_dir(server::run_dir()).into_iter().flatten().flatten();
    let paths = files.map(|file| file.path().display().to_string());
    paths.filter(|path| path.ends_with(ending)).collect()
}

/// The server of the device cannot be found, or not be asked.
fn apart(is_mirror: bool) {
    let lower = lower(is_mirror);
    let cow = slice("cow", "n2", 0, MIB);
    let add = format!("add snapshot --origin {} --cow {cow} --name s", lower.path);
    let [state] = &files(".json")[..] else { panic!("one state file") };
    let whole = fs::read(state).expect("a state file");
    fs::write(state, &whole[..40]).expect("writable");
    assert_failed(&ublk_dm(&add), &[&[&lower.path, "not on record", "cannot be read"]]);
    fs::remove_file(state).expect("removable");
    assert_failed(&ublk_dm(&add), &[&[&lower.path, "not on record"]]);
    fs::write(state, &whole).expect("writable");
    for socket in files(".sock") {
        fs::rename(&socket, format!("{socket}.away")).expect("renamed");
    }
    assert_failed(&ublk_dm(&add), &[&[&lower.path, "does not answer"]]);
    for away in files(".sock.away") {
        fs::rename(&away, away.trim_end_matches(".away")).expect("renamed");
    }
    assert!(server::list().len() == 1, "a refused snapshot is there");
    ublk_dm(&add).ok();
    assert_one_server(&["m", "s"]);
    ublk_dm("del s m").ok();
    server::assert_nothing_left("del");
}

/// A table makes a device that has such a snapshot carry an origin, or a snapshot of such a device
/// of another one.
fn loaded() {
    let disk = slice("leg0", "n0", 0, SIZE);
    let cow = slice("cow", "n2", 0, MIB);
    let create = |name: &str, line: &str| {
        run_args(&binary(), &["create", name, "--table", line]).ok().line()
    };
    let load = |name: &str, line: &str| run_args(&binary(), &["load", name, "--table", line]);
    let linear = format!("0 {SIZE} linear {disk} 0");
    let path = create("m", &format!("0 {SIZE} error"));
    let snapshot = format!("0 {SIZE} snapshot {path} {cow} P 8");
    server::add(&format!("snapshot --origin {path} --cow {cow} --name s"));
    assert_failed(&load("m", &linear), &[&[&path, "s of another server", "delete that first"]]);
    server::del("s");
    load("m", &linear).ok();
    ublk_dm("resume m").ok();
    create("s", &format!("0 {SIZE} error"));
    assert_failed(&load("s", &snapshot), &[&[&path, "another server", "ublk-dm add snapshot"]]);
    ublk_dm("del s m").ok();
    // The table of a snapshot is loaded before its origin is there.
    let later = create("s", &format!("0 {SIZE} error")).replace("ublkb0", "ublkb1");
    load("s", &format!("0 {SIZE} snapshot {later} {cow} P 8")).ok();
    assert!(create("m", &linear) == later, "another number than expected");
    assert_failed(&ublk_dm("resume s"), &[&[&later, "another server", "the table stays loaded"]]);
    ublk_dm("clear s").ok();
    ublk_dm("resume s").ok();
    // Two devices of a server have snapshots: each has what its own users overwrite.
    let second = slice("leg1", "n1", 0, SIZE);
    let line = format!("0 {SIZE} linear {second} 0");
    run_args(&binary(), &["create", "m2", "--beside", "m", "--table", &line]).ok();
    ublk_dm("del s").ok();
    let [one, two] = [2, 4].map(|at| slice(&format!("cow{at}"), "n2", at * MIB, MIB));
    for (name, snap, cow) in [("m", "s", &one), ("m2", "s2", &two)] {
        let device = Disk::open(server::device(name)["block_device"].as_str().expect("a path"));
        let (before, after) = (View::new("orig", SIZE), View::new("orig", SIZE));
        before.fill(&device);
        let snap = server::add(&format!("snapshot --origin {name} --cow {cow} --name {snap}"));
        after.put(before.cells(0, SIZE));
        after.write(&device, 64, 64);
        before.verify(&Disk::open_read_only(&snap));
        after.verify(&device);
    }
    assert_one_server(&["m", "m2", "s", "s2"]);
    ublk_dm("del s s2 m m2").ok();
    server::forget_lost();
    server::assert_nothing_left("del");
}

/// How many snapshots are added while another server follows that of their origin.
const KILLS: u64 = 12;

/// The server is killed, and the snapshot added while another one takes over: either both are in
/// one server, or there is no snapshot.
fn killed() {
    let lower = lower(false);
    let mut view = View::new("orig", SIZE);
    view.fill(&Disk::open(&lower.path));
    for round in 0..KILLS {
        let cow = slice(&format!("cow{round}"), "n2", round * MIB, MIB);
        let delay = f64::from(u32::try_from(round).expect("few")) * 0.02;
        let add = format!(
            "kill -9 {}; {} recover --all & sleep {delay}; \
             {} add snapshot --origin {} --cow {cow} --name s{round}; wait",
            pid_of("m"),
            binary(),
            binary(),
            lower.path
        );
        drop(run_args("bash", &["-c", &add]));
        drop(ublk_dm("recover --all"));
        let name = format!("s{round}");
        if server::list().iter().any(|device| device["name"] == *name) {
            assert_one_server(&["m", &name]);
            let now = View::new("orig", SIZE);
            now.put(view.cells(0, SIZE));
            now.write(&Disk::open(&lower.path), round * 16, 8);
            let path = server::device(&name)["block_device"].as_str().expect("a path").to_owned();
            view.verify(&Disk::open(&path));
            server::del(&name);
            view = now;
        }
    }
    view.verify(&Disk::open(&lower.path));
    kill("m");
    ublk_dm("recover m").ok();
    server::del("m");
    server::forget_lost();
    server::assert_nothing_left("del");
}

/// The device below the COW is suspended when the server dies, twice.
fn held_cow() {
    let lower = lower(false);
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&lower.path));
    let cow = slice("cow", "n2", 0, 2 * MIB);
    let line = format!("0 {} linear {cow} 0", 2 * MIB);
    run_args(&binary(), &["create", "cw", "--table", &line, "--beside", "m"]).ok();
    let snapshot = server::add(&format!("snapshot --origin {} --cow cw --name s", lower.path));
    assert_one_server(&["m", "cw", "s"]);
    let changed = View::new("orig", SIZE);
    changed.put(view.cells(0, SIZE));
    changed.write(&Disk::open(&lower.path), 8, 16);
    ublk_dm("suspend cw").ok();
    for _ in 0..2 {
        kill("cw");
        let recovered = ublk_dm("recover --all");
        assert_failed(&recovered, &[&["m: not recovered", "cw"], &["s: not recovered", "m"]]);
        assert!(recovered.stderr.contains("`ublk-dm resume cw`"), "{}", recovered.stderr);
        assert_failed(&ublk_dm("recover m"), &[&["m: not recovered", "cw"]]);
        assert_failed(&ublk_dm("resume m"), &[&["m: it waits for a server"]]);
    }
    ublk_dm("resume cw").ok();
    ublk_dm("recover --all").ok();
    changed.verify(&Disk::open(&lower.path));
    changed.write(&Disk::open(&lower.path), 64, 16);
    view.verify(&Disk::open(&snapshot));
    ublk_dm("del s m cw").ok();
    server::forget_lost();
    server::assert_nothing_left("del");
}
