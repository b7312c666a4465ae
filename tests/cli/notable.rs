//! Devices without a table (`create --notable`): what commands say of them without ublk. Verbs that
//! look for devices need root: without it these tests report that and end.

use std::path::Path;

use tempfile::TempDir;

use super::output::{is_root, refused, ublk_dm};

/// What a command that succeeds prints.
fn said(rundir: &Path, words: &[&str]) -> String {
    let output = ublk_dm(rundir).args(words).output().expect("it starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn refusal(rundir: &Path, words: &[&str], code: i32) -> String {
    refused(&ublk_dm(rundir).args(words).output().expect("it starts"), code)
}

#[test]
fn a_device_without_a_table_has_no_table_at_once() {
    let dir = TempDir::new().expect("a directory");
    for words in [&["--table", "0 8 error"][..], &["file"], &["--force"], &["--source", "/a"]] {
        let why = refusal(dir.path(), &[&["create", "l", "--notable"], words].concat(), 2);
        assert!(why.contains("--notable"), "{why}");
    }
    let why = refusal(dir.path(), &["create", "7", "--notable"], 2);
    assert!(why.contains("it is a number"), "{why}");
}

#[test]
fn a_name_is_taken_loaded_cleared_and_freed() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let said = |words: &[&str]| said(dir.path(), words);
    let refusal = |words: &[&str]| refusal(dir.path(), words, 1);
    let line = "0 8 linear /dev/null 0";
    assert_eq!(said(&["create", "v", "--notable", "--id", "3"]), "");
    for words in [&["create", "v", "--notable"][..], &["create", "v", "--table", "0 8 error"]] {
        let why = refusal(words);
        assert!(why.contains("the name v is taken by a device without a table"), "{why}");
    }
    let why = refusal(&["create", "w", "--notable", "--id", "3"]);
    assert!(why.contains("the id 3 is taken by v, a device without a table"), "{why}");
    let listed = || serde_json::from_str::<serde_json::Value>(&said(&["list", "--json"])).unwrap();
    let shown = listed()["without_table"][0].clone();
    assert!(shown["name"] == "v" && shown["id"] == 3 && shown["inactive_table"].is_null());
    let plain = said(&["list", "--no-headings"]);
    assert!(plain.starts_with("v ") && plain.contains("no-table"), "{plain}");
    assert_eq!(said(&["list", "-o", "id,health,name"]), "ID  HEALTH    NAME\n 3  no-table  v\n");
    assert_eq!(said(&["list", "-o", "size", "--no-headings"]), "-\n");
    let nothing = [&["table", "v"][..], &["status", "v"], &["table", "--inactive", "v"]];
    for words in nothing {
        assert_eq!(said(words), "", "{words:?}");
    }
    assert_eq!(said(&["table", "--inactive"]), "v:\n");
    for words in [&["resume", "v"][..], &["suspend", "v"], &["wait", "v"], &["upgrade", "v"]] {
        let why = refusal(words);
        assert!(
            why.contains(
                "v: it has no table: `ublk-dm load v --table LINE` and `ublk-dm resume v`"
            ),
            "{why}"
        );
    }
    said(&["load", "v", "--table", line]);
    assert_eq!(listed()["without_table"][0]["inactive_table"], line);
    assert_eq!(said(&["table", "--inactive", "v"]), line.to_owned() + "\n");
    said(&["clear", "v"]);
    assert_eq!(said(&["table", "--inactive", "v"]), "");
    // /dev/null is no disk, whether there is ublk or not.
    said(&["load", "v", "--table", line]);
    let why = refusal(&["resume", "v"]);
    assert!(
        why.starts_with("ublk-dm: v: ") && why.contains("the table is no longer loaded"),
        "{why}"
    );
    assert_eq!(said(&["table", "--inactive", "v"]), "");
    said(&["del", "v"]);
    assert_eq!(listed()["without_table"], serde_json::Value::Null);
    let why = refusal(&["del", "v"]);
    assert!(why.contains("v: no such device"), "{why}");
    said(&["create", "v", "--notable"]);
    said(&["del", "--all"]);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
