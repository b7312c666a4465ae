//! The run directory: one that other users may change is not trusted, nor is a link that leads
//! nowhere taken for an empty one. Nothing here needs ublk.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use tempfile::TempDir;

use crate::output::{is_root, refused, ublk_dm};

/// Asserts that verbs that read the directory, and one that asks whose a disk is, refuse it.
fn assert_refused(rundir: &Path, here: &Path, words: &[&str]) {
    let disk = here.join("disk");
    fs::write(&disk, vec![0x5a; 1 << 20]).expect("a disk");
    let disk = disk.to_str().expect("ASCII");
    let verbs = [&["list"][..], &["recover", "--all"], &["del", "--all"], &["journal", "list"]];
    let needs_root = verbs.into_iter().filter(|_| is_root());
    for arguments in needs_root.chain([&["zero", "--to", disk][..]]) {
        let output = ublk_dm(rundir).args(arguments).output().expect("it starts");
        let why = refused(&output, 1);
        let shown = rundir.to_str().expect("ASCII");
        for word in words.iter().chain([&shown, &"UBLK_DM_RUN_DIR"]) {
            assert!(why.contains(word), "{arguments:?}: {word} in {why}");
        }
    }
    assert!(fs::read(disk).expect("a disk") == vec![0x5a; 1 << 20]);
}

#[test]
fn a_directory_that_others_may_write_to_is_not_trusted() {
    let dir = TempDir::new().expect("a directory");
    let rundir = dir.path().join("run");
    fs::create_dir(&rundir).expect("a directory");
    for mode in [0o777, 0o1777, 0o770] {
        fs::set_permissions(&rundir, Permissions::from_mode(mode)).expect("its mode");
        let mode = format!("mode {mode:04o}");
        assert_refused(&rundir, dir.path(), &[&mode, "`chmod 700 "]);
    }
    // As the line says.
    fs::set_permissions(&rundir, Permissions::from_mode(0o700)).expect("its mode");
    let zero = ["zero", "--to", "disk"];
    let output = ublk_dm(&rundir).args(zero).current_dir(dir.path()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("io_uring"), "{said}");
}

#[test]
fn another_users_directory_is_not_trusted() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let rundir = dir.path().join("run");
    fs::create_dir(&rundir).expect("a directory");
    fs::set_permissions(&rundir, Permissions::from_mode(0o700)).expect("its mode");
    chown(&rundir, Some(1), None).expect("another owner");
    assert_refused(&rundir, dir.path(), &["belongs to user 1", "`chown 0 "]);
}

#[test]
fn a_link_that_leads_nowhere_is_no_empty_directory() {
    let dir = TempDir::new().expect("a directory");
    let (link, there) = (dir.path().join("link"), dir.path().join("there"));
    symlink(&there, &link).expect("a link");
    assert_refused(&link, dir.path(), &["is a link to a directory that does not exist"]);
    assert!(!there.exists());
    // A link to a directory is one.
    fs::create_dir(&there).expect("a directory");
    fs::set_permissions(&there, Permissions::from_mode(0o700)).expect("its mode");
    if is_root() {
        let output = ublk_dm(&link).args(["list", "--json"]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}
