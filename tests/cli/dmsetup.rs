//! `ublk-dm dmsetup` and `udmsetup` without ublk: the grammar, what is printed of devices without a
//! table, and exit codes. Commands that look for devices need root: without it these tests report
//! that and end.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::output::{is_root, ublk_dm};

fn run(rundir: &Path, words: &[&str]) -> Output {
    ublk_dm(rundir).arg("dmsetup").args(words).output().expect("it starts")
}

/// What a command that succeeds prints.
fn said(rundir: &Path, words: &[&str]) -> String {
    let output = run(rundir, words);
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What a command that fails complains of.
fn refusal(rundir: &Path, words: &[&str]) -> String {
    let output = run(rundir, words);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
    stderr
}

#[test]
fn a_command_line_that_is_wrong_is_exit_code_1() {
    let dir = TempDir::new().expect("a directory");
    let end = "Couldn't process command line.\n";
    for (words, why) in [
        (&["bogus"][..], "Unknown command.\n"),
        (&["message", "v"], "Incorrect number of arguments.\n"),
        (&["ls", "v"], "Incorrect number of arguments.\n"),
        (&["create", "v", "--notable", "--table", "0 1 error"], "--table and --notable are"),
        (&["info", "--bogus"], "dmsetup: unexpected argument '--bogus'"),
        (&["create", "v", "--table"], "dmsetup: a value is required for '--table"),
        (&["rename", "v", "--setuuid", "U"], "--setuuid: not supported: "),
        (&["measure", "v"], "measure: not supported"),
        (&[], "Usage: udmsetup COMMAND"),
    ] {
        let stderr = refusal(dir.path(), words);
        assert!(stderr.starts_with(why) && stderr.ends_with(end), "{words:?}: {stderr}");
    }
    for line in ["garbage", "0 bogus"] {
        let stderr = refusal(dir.path(), &["create", "v", "--table", line]);
        assert_eq!(stderr, "Invalid format on line 1 of table .\nCommand failed.\n");
    }
    let stderr = refusal(dir.path(), &["create", "v", "/none/there"]);
    assert!(stderr.starts_with("Couldn't open '/none/there' for reading: No such"), "{stderr}");
}

#[test]
fn what_needs_no_device_needs_no_root() {
    let dir = TempDir::new().expect("a directory");
    for words in [&["mknodes"][..], &["udevcomplete_all"], &["udevcomplete", "0xd4d1"], &["mangle"]]
    {
        assert_eq!(said(dir.path(), words), "", "{words:?}");
    }
    for words in [&["version"][..], &["--version"]] {
        let text = said(dir.path(), words);
        let [library, driver] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(library.starts_with("Library version:   ublk-dm "), "{library}");
        assert!(driver.starts_with("Driver version:    4."), "{driver}");
    }
    let targets = said(dir.path(), &["targets"]);
    assert!(targets.lines().any(|line| line == "snapshot-origin  v1.9.0"), "{targets}");
    assert_eq!(said(dir.path(), &["target-version", "zero"]), "zero             v1.2.0\n");
    let help = run(dir.path(), &["help"]);
    assert!(help.status.success() && help.stdout.is_empty() && !help.stderr.is_empty());
}

/// Under its own name it takes the same words, and `--help` is dmsetup's.
#[test]
fn the_name_makes_the_program_dmsetup() {
    let dir = TempDir::new().expect("a directory");
    let link = dir.path().join("udmsetup");
    symlink(env!("CARGO_BIN_EXE_ublk-dm"), &link).expect("a link");
    let output = Command::new(&link).args(["-v", "targets"]).output().expect("it starts");
    assert!(output.status.success() && output.stdout.starts_with(b"zero"), "{output:?}");
    let output = Command::new(&link).arg("--help").output().expect("it starts");
    assert!(output.status.success() && output.stderr.starts_with(b"Usage: udmsetup"), "{output:?}");
    let output = run(dir.path(), &["--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(help.contains("ublk-dm dmsetup ls --tree") && help.contains("udmsetup"), "{help}");
}

#[test]
fn a_device_without_a_table_is_shown_as_dmsetup_shows_it() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let said = |words: &[&str]| said(dir.path(), words);
    let refusal = |words: &[&str]| refusal(dir.path(), words);
    for words in [&["ls"][..], &["info"], &["status"], &["table"], &["info", "-c"], &["deps"]] {
        assert_eq!(said(words), "No devices found\n", "{words:?}");
    }
    assert_eq!(said(&["create", "v", "-n"]), "");
    assert_eq!(said(&["create", "w", "--table", ""]), "", "a table of no lines is none");
    let taken = refusal(&["create", "v", "--table", "0 8 error"]);
    let busy = "device-mapper: create ioctl on v  failed: Device or resource busy";
    assert!(taken.starts_with(busy) && taken.ends_with("\nCommand failed.\n"), "{taken}");
    assert_eq!(said(&["ls"]), "v\t(-:-)\nw\t(-:-)\n");
    assert_eq!(said(&["status"]), "v: \nw: \n");
    assert_eq!(said(&["table", "v"]), "\n");
    assert_eq!(said(&["deps", "v"]), "0 dependencies\t:\n");
    said(&["load", "v", "--table", "0 8 linear /none 0 # said"]);
    let columns = "name,attr,open,segments,events,uuid";
    assert_eq!(said(&["info", "-c", "--nohead", "-o", columns, "v"]), "v:-I-w:0:0:0:\n");
    assert_eq!(
        said(&["info", "v", "-co", "name,attr"]),
        "Name             Stat\nv                -I-w\n"
    );
    let info = said(&["info", "v"]);
    assert!(info.starts_with("Name:              v\nState:             ACTIVE\n"), "{info}");
    assert!(
        info.contains("\nTables present:    INACTIVE\n") && info.ends_with(": 0\n\n"),
        "{info}"
    );
    assert_eq!(said(&["table", "--inactive", "v"]), "0 8 linear /none 0\n");
    assert_eq!(said(&["table", "--concise"]), "v,,,rw;w,,,rw\n");
    assert_eq!(said(&["info", "-c", "--noheadings", "-o", "name", "-S", "attr!=---w"]), "v\n");
    said(&["clear", "v"]);
    said(&["suspend", "v"]);
    let why = refusal(&["resume", "v"]);
    assert!(why.starts_with("device-mapper: resume ioctl on v  failed: Invalid argument"), "{why}");
    let why = refusal(&["remove", "v", "none", "w"]);
    let none = "device-mapper: remove ioctl on none  failed: No such device or address\n";
    assert_eq!(why, none.to_owned() + "Command failed.\n");
    assert_eq!(said(&["ls"]), "w\t(-:-)\n", "it ends at the first that fails");
    assert_eq!(refusal(&["info", "v"]), "Device does not exist.\nCommand failed.\n");
    said(&["remove_all"]);
    assert_eq!(said(&["ls"]), "No devices found\n");
}

/// A table that is given in no other way is read from stdin.
#[test]
fn a_table_comes_from_stdin() {
    let dir = TempDir::new().expect("a directory");
    let mut command = ublk_dm(dir.path());
    let child = command.args(["dmsetup", "create", "v"]).stdin(Stdio::piped());
    let mut child = child.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"# one\n0 8 error\nnonsense\n").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr, "Invalid format on line 3 of table on stdin.\nCommand failed.\n");
}
