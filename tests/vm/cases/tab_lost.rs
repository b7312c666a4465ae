//! Mirrors of the tab file one of whose legs is not there. A start of the machine is played as in
//! [`super::tab`], and a disk that is gone by a device of device-mapper that is removed.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use super::admin::kill;
use super::process::Service;
use super::tab::{Tab, path};
use crate::Case;
use crate::disk::{Buf, Disk, MIB, slice};
use crate::faults::{Fails, Faulty};
use crate::model::View;
use crate::runner::scratch;
use crate::server;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let three = &["n0", "n1", "n2"];
    let four = &["n0", "n1", "n2", "n3"];
    vec![
        Case { name: "tab-lost-leg", bound_s: 240, disks: three, run: |_| leg() },
        Case { name: "tab-lost-replaced", bound_s: 180, disks: four, run: |_| replaced() },
        Case { name: "tab-lost-refused", bound_s: 240, disks: four, run: |_| refused() },
        Case { name: "tab-lost-service", bound_s: 180, disks: four, run: |_| service() },
        Case { name: "tab-lost-second", bound_s: 120, disks: four, run: |_| second() },
        Case { name: "tab-lost-cow", bound_s: 120, disks: four, run: |_| cow() },
    ]
}

const LEN: u64 = 8 * MIB;
/// Where the second leg begins on its disk.
const OFFSET: u64 = 64;

/// The legs of the mirror, by the names of their disks.
const LEGS: [(&str, &str, u64); 2] = [("a", "n0", 0), ("b", "n1", OFFSET)];

/// The lasting path of a disk, which leads nowhere while there is no such disk.
fn link(name: &str) -> String {
    format!("{}/{name}", scratch("links"))
}

fn linked(name: &str, node: &str) -> String {
    let link = link(name);
    drop(fs::remove_file(&link));
    symlink(node, &link).expect("a link");
    link
}

fn leg_disk(at: usize) {
    let (name, disk, offset) = LEGS[at];
    linked(name, &slice(name, disk, 0, LEN + offset));
}

fn remove(at: usize) {
    sh(&format!("dmsetup remove {}", LEGS[at].0)).ok();
    fs::remove_file(link(LEGS[at].0)).expect("removable");
}

/// The line of a mirror of these legs.
fn line(features: &str) -> String {
    let [log, a, b] = ["log", "a", "b"].map(link);
    format!("m  \"0 {LEN} mirror disk 2 {log} 1024 2 {a} 0 {b} {OFFSET}{features}\"  timeout=0\n")
}

/// A mirror that is in sync, with this content.
fn made(features: &str, tag: &str) -> (Tab, View) {
    let log = linked("log", &slice("log", "n2", 0, MIB));
    Disk::open(&log).zero(0, MIB);
    (0..2).for_each(leg_disk);
    let (tab, view) = (Tab::of(&line(features)), View::new(tag, LEN));
    tab.up("m");
    ublk_dm("wait m --in-sync").ok();
    view.fill(&Disk::open(&path("m")));
    (tab, view)
}

/// As the end of the machine; what the run directory knows is gone.
fn restart(tab: &Tab) {
    tab.run("down --all").ok();
    server::assert_nothing_left("down --all");
    drop(fs::remove_dir_all(server::run_dir()));
}

fn names() -> Vec<String> {
    server::list().iter().filter_map(|it| it["name"].as_str().map(str::to_owned)).collect()
}

/// Brings the mirror up without a leg, which must be said.
fn up_without(tab: &Tab, at: usize) -> Out {
    let out = tab.run("up m").ok();
    let disk = link(LEGS[at].0);
    let told = format!("m: it runs without leg {at}, {disk}: `ublk-dm message m replace {at} ");
    assert!(out.stderr.contains(&told) && out.stderr.lines().count() == 1, "{}", out.stderr);
    assert_eq!(out.stdout.lines().count(), 1, "{}", out.stdout);
    server::wait_for(20, "the leg to fail", || server::device("m")["health"] == "degraded");
    out
}

/// The leg of which the mirror has another disk must not be read before it is recovered, nor after
/// it with what it had.
fn assert_legs(view: &View) {
    view.verify(&Disk::open(&path("m")));
    ublk_dm("wait m --in-sync").ok();
    view.verify(&Disk::open(&path("m")));
    assert_eq!(ublk_dm("message m check").ok().stdout, "", "the legs are equal");
}

/// Either leg is missing at a start, and comes back at a later one with what it had.
fn leg() {
    for (at, features) in [(0, ""), (1, ""), (0, " 2 handle_errors keep_log")] {
        let (tab, before) = made(features, "orig");
        let text = fs::read_to_string(&tab.0).expect("a tab file");
        restart(&tab);
        remove(at);
        let first = up_without(&tab, at);
        before.verify(&Disk::open(&path("m")));
        let now = View::new("now_", LEN);
        now.fill(&Disk::open(&path("m")));
        let table = server::table("m");
        // It is up, and nothing else is done.
        assert_eq!(up_without(&tab, at).stdout, first.stdout);
        assert_eq!((server::table("m"), names().len()), (table, 2), "{:?}", names());
        now.verify(&Disk::open(&path("m")));
        tab.run("save").ok();
        assert_eq!(fs::read_to_string(&tab.0).expect("a tab file"), text, "the line is the same");
        let said = tab.run(&format!("save m-lost-{at}")).refused().stderr;
        assert!(said.contains("it stands in for a leg that is not there"), "{said}");
        found_by_doctor(&tab, at);
        // Without the disk again: in the same boot, and after a start.
        tab.run("down m").ok();
        server::assert_nothing_left("down m");
        up_without(&tab, at);
        now.verify(&Disk::open(&path("m")));
        restart(&tab);
        up_without(&tab, at);
        now.verify(&Disk::open(&path("m")));
        restart(&tab);
        // It is stale now, and the other one is missing.
        leg_disk(at);
        remove(1 - at);
        let said = tab.run("up m").refused().stderr;
        assert!(said.contains("no leg is known to be up to date"), "{said}");
        server::assert_nothing_left("a refusal");
        leg_disk(1 - at);
        let out = tab.run("up m").ok();
        assert!(!out.stderr.contains("runs without"), "{}", out.stderr);
        assert_legs(&now);
        assert_eq!(names(), ["m"]);
        restart(&tab);
        ["a", "b", "log"].iter().for_each(|name| drop(sh(&format!("dmsetup remove {name}")).ok()));
    }
}

fn found_by_doctor(tab: &Tab, at: usize) {
    let found = tab.run("doctor --json");
    let lines = found.stdout.lines().map(|line| serde_json::from_str(line).expect("an object"));
    let lines: Vec<Value> = lines.collect();
    let it = lines.iter().find(|it| it["check"] == "degraded").expect("a finding");
    assert_eq!(it["mend"], format!("ublk-dm message m replace {at} DEV"), "{it}");
    assert!(lines.iter().all(|it| it["subject"] != format!("m-lost-{at}")), "{lines:?}");
}

/// Another disk, or the one that has come back, takes the place of the leg in use.
fn replaced() {
    let (tab, before) = made("", "orig");
    restart(&tab);
    remove(0);
    up_without(&tab, 0);
    let user = Disk::open(&path("m"));
    let now = View::new("now_", LEN);
    before.verify(&user);
    now.fill(&user);
    leg_disk(0);
    // It is back, and the mirror runs on without it until it is put in.
    up_without(&tab, 0);
    ublk_dm(&format!("message m replace 0 {}", link("a"))).ok();
    assert_legs(&now);
    assert_eq!((names(), server::device("m")["health"].as_str()), (vec!["m".into()], Some("ok")));
    let out = tab.run("up m").ok();
    assert_eq!(out.stderr, "", "it is as its line says");
    drop(user);
    restart(&tab);
    remove(1);
    up_without(&tab, 1);
    now.verify(&Disk::open(&path("m")));
    let other = linked("c", &slice("c", "n3", 0, LEN));
    ublk_dm(&format!("message m replace 1 {other}")).ok();
    assert_legs(&now);
    assert_eq!(names(), ["m"]);
    let said = tab.run("up m");
    assert!(said.code == 1 && said.stderr.contains("`ublk-dm save m` writes"), "{}", said.stderr);
    tab.run("save m").ok();
    restart(&tab);
    let out = tab.run("up m").ok();
    assert_eq!(out.stderr, "");
    now.verify(&Disk::open(&path("m")));
    // A mirror that has ended has no use for what stood in.
    restart(&tab);
    remove(0);
    tab.run("up m").ok();
    ublk_dm("del m").ok();
    server::assert_nothing_left("del m");
    leg_disk(0);
    tab.run("up m").ok();
    assert_legs(&now);
    restart(&tab);
}

/// What cannot be known is not guessed, and nothing is left behind.
fn refused() {
    let (tab, view) = made("", "orig");
    let text = fs::read_to_string(&tab.0).expect("a tab file");
    restart(&tab);
    remove(0);
    let refuses = |text: &str, why: &str| {
        tab.write(text);
        let said = tab.run("up m").refused().stderr;
        assert!(said.contains(why), "{why}: {said}");
        server::assert_nothing_left(why);
    };
    let [log, b] = ["log", "b"].map(link);
    refuses(&text.replace(&format!("disk 2 {log}"), "core 1"), "a core log does not remember");
    refuses(&text.replace("timeout=0", &format!("timeout=0,source={b}")), "source= in its line");
    let holds = format!("{OFFSET} 1 handle_errors\"");
    refuses(&text.replace(&format!("{OFFSET}\""), &holds), "its writes would be held");
    refuses(&text.replace(&b, "/dev/none"), "none of its legs is there");
    refuses(&text.replace(&log, "/dev/nolog"), "/dev/nolog");
    let named = format!("{text}m-lost-0 \"0 8 zero\" noauto\n");
    refuses(&named, "the name of what would stand in");
    // A log that is new does not know these legs.
    let new = slice("new", "n3", 0, MIB);
    Disk::open(&new).zero(0, MIB);
    let other = text.replace(&log, &new);
    refuses(&other, "no leg is known to be up to date");
    // A user's device has the name.
    tab.write(&text);
    run_args(&binary(), &["create", "m-lost-0", "--table", "0 8 zero"]).ok();
    let said = tab.run("up m").refused().stderr;
    assert!(said.contains("the name m-lost-0 is taken"), "{said}");
    assert_eq!(names(), ["m-lost-0"]);
    server::del("m-lost-0");
    // One that can be read and not written would go on naming the leg that is not there.
    sh("dmsetup remove log").ok();
    let log = Faulty::new("log", "n2", 0, MIB);
    linked("log", &log.node);
    log.set(&[(Fails::WritesAndFlushes, 0, MIB)]);
    let said = tab.run("up m").refused().stderr;
    assert!(said.contains("its log cannot be written"), "{said}");
    server::assert_nothing_left("a log that cannot be written");
    log.set(&[]);
    up_without(&tab, 0);
    view.verify(&Disk::open(&path("m")));
    // What is in use stays, with what stands in.
    let user = crate::disk::claim(&path("m")).expect("free");
    assert_eq!(tab.run("down m").code, 1);
    assert_eq!(names().len(), 2);
    drop(user);
    restart(&tab);
}

/// As a service, with a snapshot on the mirror: its server is killed, and it is stopped.
fn service() {
    let cow = slice("c", "n3", 0, 2 * LEN);
    let (tab, view) = made("", "orig");
    let text = fs::read_to_string(&tab.0).expect("a tab file");
    tab.write(&format!("{text}s \"0 {LEN} snapshot m {cow} P 16\" other-origin\n"));
    restart(&tab);
    remove(0);
    let start = || {
        let service = Service::start_with("m", "up --foreground m", &[("UBLK_DM_TAB", &tab.0)]);
        service.hears("READY=1");
        service
    };
    let mut service = start();
    assert_eq!(names().len(), 3, "{:?}", names());
    let now = View::new("now_", LEN);
    now.fill(&Disk::open(&path("m")));
    view.verify(&Disk::open(&path("s")));
    kill("m");
    assert_eq!(service.ends(), 1, "its server has died");
    service = start();
    now.verify(&Disk::open(&path("m")));
    view.verify(&Disk::open(&path("s")));
    assert_eq!(server::device("m")["health"], "degraded");
    tab.run("down s").ok();
    let pid = server::number("m", "/server_pid");
    service.signal("TERM");
    assert_eq!(service.ends(), 0);
    assert!(!fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false), "the disks are free");
    server::assert_nothing_left("the service");
    leg_disk(0);
    tab.write(&text);
    tab.up("m");
    assert_legs(&now);
    restart(&tab);
}

/// Of three legs one is not there, and then another one fails: the third has everything, in use and
/// at the next start.
fn second() {
    let log = linked("log", &slice("log", "n3", 0, MIB));
    Disk::open(&log).zero(0, MIB);
    let leg = Faulty::new("a", "n0", 0, LEN);
    let legs =
        [linked("a", &leg.node), linked("b", &slice("b", "n1", 0, LEN)), slice("c3", "n2", 0, LEN)];
    let [a, b, c] = &legs;
    let line = format!("m  \"0 {LEN} mirror disk 2 {log} 1024 3 {a} 0 {b} 0 {c} 0\"  timeout=0\n");
    let (tab, view) = (Tab::of(&line), View::new("orig", LEN));
    tab.up("m");
    ublk_dm("wait m --in-sync").ok();
    restart(&tab);
    remove(1);
    let told = tab.run("up m").ok().stderr;
    assert!(told.contains("m: it runs without leg 1, ") && told.lines().count() == 1, "{told}");
    view.fill(&Disk::open(&path("m")));
    [a, c].iter().for_each(|leg| view.verify(&Disk::open(leg)));
    leg.set(&[(Fails::All, 0, LEN)]);
    view.verify(&Disk::open(&path("m")));
    view.fill(&Disk::open(&path("m")));
    view.verify(&Disk::open(&path("m")));
    restart(&tab);
    fs::remove_file(link("a")).expect("removable");
    let told = tab.run("up m").ok().stderr;
    assert!(told.contains("runs without leg 0") && told.contains("runs without leg 1"), "{told}");
    view.verify(&Disk::open(&path("m")));
    restart(&tab);
}

/// The COW of a snapshot is not there at a start, its origin is written, and the COW comes back.
fn cow() {
    let (origin, kept) = (linked("o", &slice("o", "n0", 0, LEN)), slice("kept", "n1", 0, LEN));
    let missing = linked("c", &kept);
    let line = |of: &str| format!("s \"0 {LEN} snapshot {of} {missing} P 16\" nofail,timeout=0\n");
    let of_disk = format!("o \"0 {LEN} snapshot-origin {origin}\"\n{}", line(&origin));
    let carried = format!("o \"0 {LEN} linear {origin} 0\"\n{}", line("/dev/ublk-dm/o"));
    for text in [of_disk, carried] {
        Disk::open(&missing).zero(0, 8);
        let tab = Tab::of(&text);
        tab.up("--all");
        Disk::open(&path("o")).write(0, &Buf::new(8));
        for writes in [false, true] {
            restart(&tab);
            fs::remove_file(&missing).expect("removable");
            let told = tab.run("up --all").ok().stderr;
            assert!(told.contains("o: its snapshot s is not up, and is lost with"), "{told}");
            if writes {
                Disk::open(&path("o")).write(4096, &Buf::new(8));
            }
            linked("c", &kept);
            let out = tab.run("up s");
            assert_eq!(out.stderr.contains("a mixture of two moments"), writes, "{}", out.stderr);
            if writes {
                // A person is told of the way out before anything is tried.
                let told = tab.run("doctor").stdout;
                let out = format!("`ublk-dm zero --to {missing}:0+4096` and `up` make a new one");
                assert!(told.contains(&out), "{told}");
            }
            tab.run("doctor --fix");
            assert_eq!(names().len(), if writes { 1 } else { 2 }, "{:?}", names());
        }
        restart(&tab);
    }
}
