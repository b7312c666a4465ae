//! Words that are to be disks: what is said of those that are none. Names of devices need root,
//! whose run directory this is: without it these tests report that and end.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::output::{is_root, refused, ublk_dm};

fn refusal(here: &Path, words: &[&str]) -> String {
    let mut command = ublk_dm(&here.join("run"));
    refused(&command.args(words).current_dir(here).output().expect("it starts"), 1)
}

#[test]
fn a_word_that_is_neither_a_file_nor_a_name_is_said_to_be_neither() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    fs::write(dir.path().join("file"), vec![0; 1 << 20]).expect("a file");
    let refusal = |words: &[&str]| refusal(dir.path(), words);
    let none = "none: no such file here, and no device has this name; see `ublk-dm list`";
    for words in [
        &["add", "origin", "--origin", "none"][..],
        &["add", "snapshot", "--origin", "none", "--cow", "file"],
        &["add", "snapshot", "--origin", "file", "--cow", "none"],
        &["add", "mirror", "--leg", "file", "--leg", "none:1MiB"],
        &["add", "mirror", "--leg", "./file", "--leg", "./file:64KiB", "--log", "none"],
        &["create", "x", "--table", "0 8 linear none 0"],
        &["load", "x", "--table", "0 8 linear none 0"],
        &["message", "x", "replace", "0", "none"],
        &["message", "x", "add-leg", "none:8s"],
    ] {
        let why = refusal(words);
        assert!(why.contains(none), "{words:?}: {why}");
    }
    let why = refusal(&["add", "origin", "--origin", "17"]);
    assert!(why.contains("17: no such file here; a number names no disk: /dev/ublkb17"), "{why}");
    // A path is no name.
    let why = refusal(&["add", "origin", "--origin", "./none"]);
    assert!(why.contains("/none: ") && !why.contains("no device"), "{why}");
    assert!(!dir.path().join("run").exists(), "nothing is made");
}

#[test]
fn a_device_without_a_table_is_no_disk() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let make = ["create", "v", "--notable"];
    assert!(ublk_dm(&dir.path().join("run")).args(make).status().expect("it starts").success());
    let why = refusal(dir.path(), &["add", "origin", "--origin", "v"]);
    assert!(why.contains("v: it has no table and is not a disk yet"), "{why}");
}
