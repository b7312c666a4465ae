//! `doctor` and `reap` without devices: what is found in the run directory and in the tab file.
//! Both need root: without it these tests report that and end.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::output::{is_root, refused, ublk_dm};

/// The findings of `doctor --json` about these checks.
fn found(dir: &TempDir, checks: &[&str]) -> Vec<Value> {
    let mut command = ublk_dm(&dir.path().join("run"));
    command.env("UBLK_DM_TAB", dir.path().join("tab"));
    let output = command.args(["doctor", "--json"]).output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let all: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let is_bad = all.iter().any(|finding| finding["weight"] == "problem");
    assert_eq!(output.status.code(), Some(if is_bad { 3 } else { 0 }), "{text}");
    let wanted = |finding: &&Value| checks.contains(&finding["check"].as_str().unwrap_or_default());
    all.iter().filter(wanted).cloned().collect()
}

#[test]
fn what_servers_have_left_in_the_run_directory_is_found() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let checks = ["lost-store", "unmerged", "journal", "stale-files", "server"];
    assert_eq!(found(&dir, &checks), Vec::<Value>::new());
    let run = dir.path().join("run");
    fs::create_dir(&run).expect("a directory");
    let lost = r#"{"cow":"nvme-A","origin":"nvme-B","mark_failed":true}"#;
    fs::write(run.join("cow-1.lost"), lost).expect("writable");
    fs::write(run.join("x.records"), "damaged").expect("writable");
    let found = found(&dir, &checks);
    let [lost, journal] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((&lost["check"], &lost["subject"]), (&"lost-store".into(), &"nvme-A".into()));
    assert!(lost["what"].as_str().expect("text").contains("could not be marked"));
    assert_eq!(journal["check"], "journal");
    assert!(journal["subject"].as_str().expect("text").ends_with("x.records"));
    assert_eq!(fs::read_dir(&run).expect("there").count(), 2, "looking changes nothing");
}

#[test]
fn lines_that_cannot_be_used_are_found() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    fs::write(dir.path().join("tab"), "v \"0 8 zero\"\nw nonsense\n").expect("writable");
    let found = found(&dir, &["tab", "not-up"]);
    let [wrong, missing] = found.as_slice() else { panic!("{found:?}") };
    assert!(wrong["what"].as_str().expect("text").contains("tab:2"), "{wrong}");
    assert_eq!((&missing["subject"], &missing["weight"]), (&"v".into(), &"advice".into()));
    assert_eq!(missing["mend"], "ublk-dm up v");
    assert_eq!(missing["fixed"], false);
}

/// A snapshot whose store is lost cannot be brought up: doctor does not advise it.
#[test]
fn a_lost_snapshot_is_not_brought_up() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let (cow, run) = (dir.path().join("cow"), dir.path().join("run"));
    fs::write(&cow, "").expect("writable");
    fs::create_dir(&run).expect("a directory");
    let tab = |cow: &str| {
        let line = format!("s \"0 8 snapshot /dev/none {cow} P 8\" timeout=0\n");
        fs::write(dir.path().join("tab"), line).expect("writable");
        found(&dir, &["snapshot-lost", "snapshot-not-up", "not-up", "lost-store"])
    };
    let lost =
        format!(r#"{{"cow":"path {}","origin":"nvme-B","mark_failed":false}}"#, cow.display());
    fs::write(run.join("cow-1.lost"), lost).expect("writable");
    let found = tab(&cow.display().to_string());
    let [store, snapshot] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(store["check"], "lost-store");
    assert!(store["what"].as_str().expect("text").contains("no disk has this name"), "{store}");
    assert_eq!(snapshot["check"], "snapshot-lost");
    assert_eq!(snapshot["mend"], format!("ublk-dm zero --to {}:0+4096", cow.display()));
    let found = tab("/dev/other");
    assert_eq!(found[1]["mend"], "ublk-dm up s", "{found:?}");
}

/// What stands on itself cannot be brought up: doctor says so, and advises nothing.
#[test]
fn a_circle_is_not_brought_up() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    fs::write(dir.path().join("tab"), "a \"0 8 linear b 0\"\nb \"0 8 linear a 0\"\n")
        .expect("writable");
    let found = found(&dir, &["tab", "not-up"]);
    assert_eq!(found.len(), 2, "{found:?}");
    for one in found {
        assert_eq!((&one["check"], &one["mend"]), (&"tab".into(), &Value::Null), "{one}");
        assert!(one["what"].as_str().expect("text").contains("stands on itself"), "{one}");
    }
}

/// A line with force may overwrite something: `--fix` leaves it to a person.
#[test]
fn what_is_forced_is_not_brought_up() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let tab = "f \"0 8 linear /dev/none 0\" timeout=0,force\n\
               o \"0 8 snapshot /dev/none /dev/nope P 8\" timeout=0,other-origin\n\
               v \"0 8 linear /dev/none 0\" timeout=0\n";
    fs::write(dir.path().join("tab"), tab).expect("writable");
    let mut command = ublk_dm(&dir.path().join("run"));
    command.env("UBLK_DM_TAB", dir.path().join("tab"));
    let output = command.args(["doctor", "--fix"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    for (name, is_tried) in [("f", false), ("o", false), ("v", true)] {
        assert_eq!(said.contains(&format!("ublk-dm up {name}")), is_tried, "{name}: {said}");
    }
}

#[test]
fn there_is_nothing_to_reap_without_devices() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let run = dir.path().join("run");
    let output = ublk_dm(&run).arg("reap").output().expect("it starts");
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    assert!(!run.exists(), "looking makes nothing");
    refused(&ublk_dm(&run).args(["reap", "x"]).output().expect("it starts"), 2);
    refused(&ublk_dm(&run).args(["doctor", "x"]).output().expect("it starts"), 2);
}
