//! `rename`, `--uuid` and what udev asks: what is wrong usage, and what is said without devices.

use tempfile::TempDir;

use crate::output::{is_root, refused, ublk_dm};

#[test]
fn a_name_or_a_uuid_that_cannot_be_one_is_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    let zero = ["--table", "0 8 zero"];
    let long = "x".repeat(129);
    for arguments in [
        &["rename", "a"][..],
        &["rename", "a", ""],
        &["rename", "a", "b c"],
        &["rename", "a", "b/c"],
        &["rename", "a", "17"],
        &["rename", "a", "."],
        &["create", "..", zero[0], zero[1]],
        &["rename", "a", &long],
        &["create", "a", "--uuid", "", zero[0], zero[1]],
        &["create", "a", "--uuid", "b c", zero[0], zero[1]],
        &["create", "a", "--uuid", "b\tc", zero[0], zero[1]],
        &["create", "a", "--uuid", "a/../b", zero[0], zero[1]],
        &["create", "a", "--uuid", &long, zero[0], zero[1]],
        &["add", "origin", "--origin", "/none", "--uuid", ""],
    ] {
        let output = ublk_dm(dir.path()).args(arguments).output().expect("it starts");
        refused(&output, 2);
    }
}

#[test]
fn what_is_not_there_is_not_renamed() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let output = ublk_dm(dir.path()).args(["rename", "a", "b"]).output().expect("it starts");
    assert!(refused(&output, 1).contains("a: no such device"));
}

/// udev waits for the answer, and takes a failure for one about the device.
#[test]
fn udev_is_told_nothing_of_the_disks_of_others() {
    let dir = TempDir::new().expect("a directory");
    for device in ["sda", "ublkb", "ublkb7x", "nvme0n1p1", "ublkc0"] {
        let mut asked = ublk_dm(dir.path());
        let output = asked.args(["udev-properties", device]).output().expect("it starts");
        assert!(output.status.success() && output.stdout.is_empty(), "{device}: {output:?}");
    }
}
