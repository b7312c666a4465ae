//! Tables that are wrong or missing: what is said of them names the device, and what to type.

use std::process::Stdio;

use tempfile::TempDir;

use super::output::{refused, ublk_dm};

#[test]
fn a_wrong_table_is_said_of_its_device() {
    let dir = TempDir::new().expect("a directory");
    let rundir = dir.path().join("run");
    let (empty, none) = ("the table is empty: give each line with --table", "0 8 zero");
    for (arguments, code, why) in [
        (&["create", "l"][..], 2, empty),
        (&["create", "l", "--table", ""], 2, empty),
        (&["create", "l", none], 1, "cannot read the table from 0 8 zero: No such file"),
        (&["create", "l", none], 1, "; a table line is given with --table"),
        (&["create", "l", "--table", "0 8"], 2, "target is missing; see `ublk-dm create --help`"),
        (&["load", "l", "--table", "0 8"], 2, "target is missing; see `ublk-dm load --help`"),
    ] {
        let mut command = ublk_dm(&rundir);
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("it starts");
        let said = refused(&output, code);
        assert!(said.starts_with("ublk-dm: l: ") && said.contains(why), "{arguments:?}: {said}");
    }
}

#[test]
fn a_cow_that_is_the_origin_is_named() {
    let dir = TempDir::new().expect("a directory");
    let disk = dir.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a disk");
    let disk = disk.to_str().expect("text");
    let mut command = ublk_dm(&dir.path().join("run"));
    let output = command.args(["add", "snapshot", "--origin", disk, "--cow", disk]).output();
    let said = refused(&output.expect("it starts"), 2);
    assert!(said.contains(&format!("{disk}: origin and COW are the same device")), "{said}");
}
