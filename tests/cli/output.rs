//! Output and refusals: a result that cannot be written is a failure, and a refusal is one line
//! that names the fault, whatever the arguments contain.
//!
//! Nothing here needs ublk. Verbs that look for devices need root: without it those tests report
//! that and end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub fn ublk_dm(rundir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
    command.env("UBLK_DM_RUN_DIR", rundir).stdin(Stdio::null());
    command
}

/// Asserts that the program fails with this code and one line on stderr; returns the line.
pub fn refused(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(code), "{:?}: {stderr}", output.status);
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(!stderr.trim_end().contains(char::is_control), "no control characters: {stderr:?}");
    assert!(output.stdout.is_empty(), "nothing on stdout");
    stderr
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("/dev/full").into()
}

pub fn is_root() -> bool {
    let root = fs::metadata("/proc/self").expect("/proc").uid() == 0;
    if !root {
        println!("skipped: needs root");
    }
    root
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let dir = TempDir::new().expect("a directory");
    for arguments in [&["--help"][..], &["--version"], &["add", "--help"], &["help", "list"]] {
        let output =
            ublk_dm(dir.path()).args(arguments).stdout(full()).output().expect("it starts");
        let why = refused(&output, 1);
        assert!(why.contains("stdout") && why.contains("No space left"), "{arguments:?}: {why}");
    }
    if is_root() {
        let output = ublk_dm(dir.path())
            .args(["list", "--json"])
            .stdout(full())
            .output()
            .expect("it starts");
        assert!(refused(&output, 1).contains("No space left"));
    }
}

#[test]
fn a_result_that_has_no_stdout_is_a_failure() {
    let dir = TempDir::new().expect("a directory");
    let run = |script: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-c", script, env!("CARGO_BIN_EXE_ublk-dm")]);
        sh.env("UBLK_DM_RUN_DIR", dir.path()).stdin(Stdio::null()).output().expect("sh")
    };
    for verb in ["--version", "--help", "list --json"] {
        if verb.starts_with("list") && !is_root() {
            continue;
        }
        let why = refused(&run(&format!("exec \"$0\" {verb} >&-")), 1);
        assert!(why.contains("stdout") && why.contains("Bad file descriptor"), "{verb}: {why}");
        // A caller who discards the result wants that.
        for null in [">/dev/null", "1<>/dev/null", ">/dev/null <&-"] {
            let output = run(&format!("exec \"$0\" {verb} {null}"));
            assert_eq!(output.status.code(), Some(0), "{verb} {null}: {output:?}");
        }
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = TempDir::new().expect("a directory");
    for arguments in [&["--help"][..], &["--version"], &["list", "--json"]] {
        if arguments[0] == "list" && !is_root() {
            continue;
        }
        let (reader, writer) = UnixStream::pair().expect("a socket pair");
        drop(reader);
        let output = ublk_dm(dir.path())
            .args(arguments)
            .stdout(OwnedFd::from(writer))
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_complaint_that_cannot_be_written_keeps_its_exit_code() {
    let dir = TempDir::new().expect("a directory");
    let status = ublk_dm(dir.path()).arg("nonsense").stderr(full()).status().expect("it starts");
    assert_eq!(status.code(), Some(2));
    let status = ublk_dm(dir.path())
        .args(["check", "/nonsense"])
        .stderr(full())
        .status()
        .expect("it starts");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_run_directory_that_cannot_be_used_is_named() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("a file");
    for path in [file.clone(), file.join("below")] {
        let output = ublk_dm(&path).args(["list", "--json"]).output().expect("it starts");
        let why = refused(&output, 1);
        assert!(
            why.contains(path.to_str().expect("text")) && why.contains("UBLK_DM_RUN_DIR"),
            "{why}"
        );
    }
    // A relative path is the caller's, and is named as what it means.
    let mut list = ublk_dm(Path::new("file"));
    let output = list.arg("list").current_dir(dir.path()).output().expect("it starts");
    assert!(refused(&output, 1).contains(file.to_str().expect("text")));
    let output = ublk_dm(Path::new("")).arg("list").output().expect("it starts");
    assert!(refused(&output, 1).contains("UBLK_DM_RUN_DIR is empty"));
    if is_root() {
        // No directory can be made there, even by root.
        let disk = dir.path().join("disk");
        fs::write(&disk, vec![0; 1 << 20]).expect("a disk");
        let mut add = ublk_dm(Path::new("/proc/ublk-dm"));
        let output =
            add.args(["add", "origin", "--origin"]).arg(&disk).output().expect("it starts");
        assert!(refused(&output, 1).contains("/proc/ublk-dm"));
    }
}

/// Needs a mount of its own; where a container forbids that, the test has nothing to show.
#[test]
fn a_run_directory_on_a_read_only_file_system_is_named() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let (mounted, disk) = (dir.path().join("mounted"), dir.path().join("disk"));
    fs::create_dir(&mounted).expect("a directory");
    fs::write(&disk, vec![0; 1 << 20]).expect("a disk");
    for rundir in [mounted.clone(), mounted.join("run")] {
        let script = "mount -t tmpfs -o ro none \"$1\" || exit 77; \
                      exec \"$0\" add origin --origin \"$2\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_ublk-dm")]);
        command.arg(&mounted).arg(&disk).env("UBLK_DM_RUN_DIR", &rundir).stdin(Stdio::null());
        let Ok(output) = command.output() else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(77) || said.contains("unshare") {
            println!("skipped: {said}");
            return;
        }
        let why = refused(&output, 1);
        assert!(why.contains(rundir.to_str().expect("text")), "{why}");
    }
}

#[test]
fn looking_makes_nothing() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let rundir = dir.path().join("run");
    for arguments in [&["list"][..], &["list", "--json"], &["status"], &["table"]] {
        let output = ublk_dm(&rundir).args(arguments).output().expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    }
    refused(&ublk_dm(&rundir).args(["wait", "nonsense"]).output().expect("it starts"), 1);
    assert!(!rundir.exists(), "a verb that only looks has made the run directory");
}

#[test]
fn an_absent_device_has_one_wording() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    for arguments in [
        &["del", "none"][..],
        &["del", "--force", "none"],
        &["status", "none"],
        &["table", "none"],
        &["suspend", "none"],
        &["resume", "none"],
        &["load", "none", "--table", "0 8 linear /dev/null 0"],
        &["message", "none", "check"],
        &["message", "none", "replace", "0", "/dev/null"],
        &["message", "none", "replace"],
        &["wait", "none"],
        &["wait", "--in-sync", "none"],
        &["recover", "none"],
        &["recover", "--foreground", "none"],
    ] {
        let output = ublk_dm(dir.path()).args(arguments).output().expect("it starts");
        let why = refused(&output, 1);
        assert_eq!(
            why.trim_end(),
            "ublk-dm: none: no such device; see `ublk-dm list`",
            "{arguments:?}"
        );
    }
}

#[test]
fn odd_names_and_ids_are_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    let (rundir, origin) = (dir.path().join("run"), dir.path().join("origin"));
    fs::write(&origin, vec![0; 1 << 20]).expect("an origin");
    let origin = origin.to_str().expect("text");
    let long = "x".repeat(128);
    for name in
        ["\u{1b}[31mred", "a\u{7f}b", "\u{9b}2J", "a b", "a/b", "", "77", "99999999999", &long]
    {
        let arguments = ["add", "origin", "--origin", origin, "--name", name];
        let output = ublk_dm(&rundir).args(arguments).output().expect("it starts");
        let why = refused(&output, 2);
        assert!(why.contains("name") && why.len() < 250, "{why}");
        let table = "0 8 snapshot-origin /dev/null";
        let output =
            ublk_dm(&rundir).args(["create", name, "--table", table]).output().expect("it starts");
        refused(&output, 2);
    }
    for id in ["1048576", "99999999", "4294967295", "4294967296", "-1"] {
        let output = ublk_dm(&rundir)
            .args(["add", "origin", "--origin", origin, "--id", id])
            .output()
            .expect("it starts");
        assert!(refused(&output, 2).contains(id));
    }
    assert!(!rundir.exists(), "a refused command line has made the run directory");
}

#[test]
fn the_words_of_a_user_do_nothing_to_the_terminal() {
    let dir = TempDir::new().expect("a directory");
    for arguments in [
        &["list", "\u{1b}]0;title\u{7}"][..],
        &["check", "/\u{1b}[2J"],
        &["add", "origin", "--\u{1b}c"],
    ] {
        let output = ublk_dm(dir.path()).args(arguments).output().expect("it starts");
        let code = if arguments[0] == "check" { 1 } else { 2 };
        refused(&output, code);
    }
}

#[test]
fn a_missing_disk_has_one_wording() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let words = "cannot open /dev/nonsense: there is no such device or file: check the path";
    for arguments in [
        &["add", "origin", "--origin", "/dev/nonsense"][..],
        &["add", "snapshot", "--origin", "/dev/nonsense", "--cow", "/dev/null"],
        &["add", "mirror", "--leg", "/dev/nonsense", "--leg", "/dev/null"],
        &["create", "m", "--table", "0 8 snapshot-origin /dev/nonsense"],
        &["create", "m", "--table", "0 8 linear /dev/nonsense 0"],
        &["copy", "--from", "/dev/nonsense", "--to", "/dev/null"],
        &["zero", "--to", "/dev/nonsense"],
        &["check", "/dev/nonsense"],
        &["dump", "/dev/nonsense"],
    ] {
        let output = ublk_dm(dir.path()).args(arguments).output().expect("it starts");
        let why = refused(&output, 1);
        assert_eq!(why.trim_end(), format!("ublk-dm: {words}"), "{arguments:?}");
    }
}

#[test]
fn a_path_that_is_not_utf8_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join(OsStr::from_bytes(b"disk\xff"));
    fs::write(&path, vec![0; 1 << 20]).expect("a disk");
    let output = ublk_dm(dir.path())
        .args(["add", "origin", "--origin"])
        .arg(&path)
        .output()
        .expect("it starts");
    assert!(refused(&output, 2).contains("UTF-8"));
    // A relative path in a directory whose own path is not UTF-8.
    let below = dir.path().join(OsStr::from_bytes(b"dir\xff"));
    fs::create_dir(&below).expect("a directory");
    fs::write(below.join("disk"), vec![0; 1 << 20]).expect("a disk");
    let output = ublk_dm(dir.path())
        .args(["add", "origin", "--origin", "disk"])
        .current_dir(&below)
        .output()
        .expect("it starts");
    assert!(refused(&output, 2).contains("UTF-8"));
    // A disk that is only read needs no lasting name.
    let output = ublk_dm(dir.path()).arg("check").arg(&path).output().expect("it starts");
    assert_ne!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn one_leg_is_a_leg() {
    let dir = TempDir::new().expect("a directory");
    let output = ublk_dm(dir.path())
        .args(["add", "mirror", "--leg", "/dev/null"])
        .output()
        .expect("it starts");
    assert!(refused(&output, 2).contains("1 leg: "));
    let line = "0 8 mirror core 1 8 1 /dev/null 0";
    let output =
        ublk_dm(dir.path()).args(["create", "m", "--table", line]).output().expect("it starts");
    assert!(refused(&output, 2).contains("1 leg: "));
}

#[test]
fn a_table_is_given_line_by_line_in_a_file_or_on_stdin() {
    let dir = TempDir::new().expect("a directory");
    let (rundir, file) = (dir.path().join("run"), dir.path().join("table"));
    let (first, second) = ("0 8 linear /dev/null 0", "9 8 zero");
    fs::write(&file, format!("# two lines\n{first}\n\n{second}\n")).expect("a file");
    let file = file.to_str().expect("text");
    let gap = "start 9: leaves a gap; it must be 8";
    for (arguments, line) in [
        (&["create", "l", "--table", first, "--table", second][..], 2),
        (&["create", "l", file], 4),
    ] {
        let output = ublk_dm(&rundir).args(arguments).output().expect("it starts");
        let said = refused(&output, 2);
        let see = "see `ublk-dm create --help`";
        let expected = format!("ublk-dm: l: line {line}: {gap}; {see}");
        assert_eq!(said.trim_end(), expected, "{arguments:?}");
    }
    let input = fs::File::open(file).expect("a file");
    let output = ublk_dm(&rundir).args(["create", "l"]).stdin(input).output().expect("it starts");
    assert!(refused(&output, 2).starts_with(&format!("ublk-dm: l: line 4: {gap}; see ")));
    for (lines, why) in [
        (["0 8 zero", "8 8 mirror core 1 8 2 a 0 b 0"], "line 2: target mirror: must be the only"),
        (["0 8 error", "0 8 error"], "line 2: start 0: overlaps the lines before"),
        (["0 8 error 0", "8 8 zero"], "line 1: error: \"0\" is one argument too many"),
    ] {
        for verb in ["create", "load"] {
            let arguments = [verb, "l", "--table", lines[0], "--table", lines[1]];
            let output = ublk_dm(&rundir).args(arguments).output().expect("it starts");
            let said = refused(&output, 2);
            assert!(said.contains(why), "{said}");
        }
    }
    assert!(!rundir.exists(), "a refused command line has made the run directory");
}

#[test]
fn a_linear_line_that_means_nothing_is_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    let rundir = dir.path().join("run");
    for (arguments, why) in [
        ("", "device is missing"),
        ("/dev/null", "offset is missing"),
        ("/dev/null 0 0", "one argument too many"),
        ("/dev/null 8k", "not a decimal number"),
        ("/dev/null -8", "not a decimal number"),
        ("/dev/null 18446744073709551615", "beyond the largest possible disk"),
    ] {
        let line = format!("0 8 linear {arguments}");
        let output =
            ublk_dm(&rundir).args(["create", "l", "--table", &line]).output().expect("it starts");
        let said = refused(&output, 2);
        assert!(said.contains("linear: ") && said.contains(why), "{line}: {said}");
    }
    let line = "0 8 linear /dev/null 0";
    let output =
        ublk_dm(&rundir).args(["create", "l", "--table", line, "--source", "/dev/null"]).output();
    assert!(refused(&output.expect("it starts"), 2).contains("--source"));
    assert!(!rundir.exists(), "a refused command line has made the run directory");
}
