//! `list -o` and `metrics` without devices: what is wrong usage, and what is printed of nothing.

use std::fs;

use tempfile::TempDir;

use crate::output::{is_root, refused, ublk_dm};

#[test]
fn a_column_that_there_is_not_is_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    for arguments in [
        &["list", "-o", "colour"][..],
        &["list", "-o", "name,"],
        &["list", "-o", "name", "--json"],
        &["list", "--no-headings", "--json"],
        &["metrics", "--openmetrics", "--listen", "127.0.0.1:0"],
        &["metrics", "--listen", "9876"],
        &["metrics", "--listen", "localhost:9876"],
    ] {
        let output = ublk_dm(dir.path()).args(arguments).output().expect("it starts");
        refused(&output, 2);
    }
}

/// The answer names disks: no other machine gets it.
#[test]
fn metrics_are_for_this_machine() {
    let dir = TempDir::new().expect("a directory");
    for address in ["0.0.0.0:9876", "192.0.2.1:80", "[::]:9876"] {
        let output =
            ublk_dm(dir.path()).args(["metrics", "--listen", address]).output().expect("it starts");
        assert!(refused(&output, 2).contains("no loopback address"), "{address}");
    }
    // A file that is no socket stays.
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("writable");
    let output =
        ublk_dm(dir.path()).args(["metrics", "--listen"]).arg(&file).output().expect("it starts");
    assert!(refused(&output, 1).contains("Address already in use"));
    assert_eq!(fs::read(&file).expect("there"), b"x");
}

#[test]
fn nothing_has_no_lines() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let said = |arguments: &[&str]| {
        let output = ublk_dm(dir.path()).args(arguments).output().expect("it starts");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(said(&["list"]), "");
    assert_eq!(said(&["list", "-o", "name,health"]), "");
    assert_eq!(said(&["metrics"]), "");
    assert_eq!(said(&["metrics", "--openmetrics"]), "# EOF\n");
}
