//! `create --notable`, `load`, `clear` and `resume`: a device that gets its table later, as scripts
//! for device-mapper make it, and tables that are loaded and dropped.

use crate::disk::{Disk, MIB, slice};
use crate::model::View;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{Case, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "notable-life", bound_s: 120, disks: &["n0"], run: |_| life() },
        Case { name: "notable-cleared", bound_s: 120, disks: &["n0", "n1"], run: |_| cleared() },
    ]
}

const LEN: u64 = MIB;

fn load(name: &str, line: &str) -> Out {
    run_args(&binary(), &["load", name, "--table", line])
}

fn inactive(name: &str) -> String {
    ublk_dm(&format!("table --inactive {name}")).ok().stdout
}

fn is_without(name: &str) -> bool {
    let listed = ublk_dm("list --json").ok().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let all = listed["without_table"].as_array().cloned().unwrap_or_default();
    all.iter().any(|one| one["name"] == name)
}

/// From the name to a device that outlives its server, and back.
fn life() {
    let disk = slice("a", "n0", 0, LEN);
    assert_eq!(ublk_dm("create v --notable").ok().stdout, "");
    assert!(is_without("v") && server::list().is_empty() && server::processes().is_empty());
    let said = run_args(&binary(), &["create", "v", "--table", "0 8 error"]).refused().stderr;
    assert!(said.contains("is taken by a device without a table"), "{said}");
    load("v", "0 8 linear /dev/nonsense 0").ok();
    let said = ublk_dm("resume v").refused().stderr;
    assert!(said.contains("/dev/nonsense") && said.contains("no longer loaded"), "{said}");
    assert!(is_without("v") && server::list().is_empty());
    ublk_dm("resume v").refused();
    let line = format!("0 {LEN} linear {disk} 0");
    load("v", &line).ok();
    let path = ublk_dm("resume v").ok().stdout.trim().to_owned();
    assert!(!is_without("v") && server::device("v")["block_device"] == path.as_str());
    let (view, top) = (View::new("note", LEN), Disk::open(&path));
    view.fill(&top);
    let pid = server::number("v", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("recover v").ok();
    view.verify(&top);
    drop(top);
    server::del("v");
    server::assert_nothing_left("del");
    // What `create` says of the device holds when it is made.
    ublk_dm("create w --notable --id 7 --read-only --no-recovery").ok();
    load("w", &line).ok();
    assert_eq!(ublk_dm("resume w").ok().stdout.trim(), "/dev/ublkb7");
    let made = server::device("w");
    assert!(made["read_only"] == true && made["recovery"] == false, "{made}");
    server::del("w");
    ublk_dm("create x --notable").ok();
    ublk_dm("create y --notable").ok();
    server::del("x");
    assert!(!is_without("x") && is_without("y"));
    ublk_dm("del --all").ok();
    assert!(!is_without("y"));
    server::assert_nothing_left("del --all");
}

/// A loaded table is shown and dropped; one that cannot be used is dropped, which is said.
fn cleared() {
    let (one, two) = (slice("a", "n0", 0, LEN), slice("b", "n1", 0, LEN));
    let line = |disk: &str| format!("0 {LEN} linear {disk} 0");
    let made = run_args(&binary(), &["create", "l", "--table", &line(&one)]).ok();
    let view = View::new("clrd", LEN);
    let top = Disk::open(made.stdout.trim());
    view.fill(&top);
    assert_eq!(inactive("l"), "");
    ublk_dm("clear l").ok();
    load("l", &line(&two)).ok();
    let live = server::table("l");
    let next = inactive("l");
    assert!(next.starts_with(&format!("0 {LEN} linear ")) && next.trim() != live, "{next} {live}");
    ublk_dm("clear l").ok();
    assert_eq!(inactive("l"), "");
    ublk_dm("suspend l").ok();
    ublk_dm("resume l").ok();
    assert_eq!(server::table("l"), live);
    view.verify(&top);
    load("l", &format!("0 {LEN} linear {two} 8")).ok();
    let said = ublk_dm("resume l").refused().stderr;
    assert!(said.contains("do not fit") && said.contains("no longer loaded"), "{said}");
    assert_eq!(inactive("l"), "");
    view.verify(&top);
    drop(top);
    server::del("l");
    server::assert_nothing_left("del");
}
