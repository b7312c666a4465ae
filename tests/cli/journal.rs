//! `journal`: the files that it accepts as journals, and its errors for other files. Needs root,
//! like every verb that reads the run directory, but no ublk.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::output::is_root;

/// The form of a journal's name.
const NAME: &str = "block-7-0-1.records";

fn journal(rundir: &Path, here: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
    command.env("UBLK_DM_RUN_DIR", rundir).current_dir(here).arg("journal").args(arguments);
    command.output().expect("it starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn there_is_nothing_to_list_where_no_run_directory_is() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let rundir = dir.path().join("run");
    let output = journal(&rundir, dir.path(), &["list"]);
    assert_eq!(
        (output.status.code(), output.stdout.len(), said(&output)),
        (Some(0), 0, String::new())
    );
    assert!(!rundir.exists(), "looking has made the run directory");
}

/// A file is not mistaken for the journal of the same name in the run directory.
#[test]
fn a_file_elsewhere_is_no_journal() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let (rundir, other) = (dir.path().join("run"), dir.path().join("other"));
    fs::create_dir(&rundir).expect("a directory");
    fs::create_dir(&other).expect("a directory");
    // A damaged journal can only be discarded.
    fs::write(rundir.join(NAME), b"damaged").expect("a file");
    fs::write(other.join(NAME), b"another").expect("a file");
    let elsewhere = other.join(NAME).display().to_string();
    let absent = dir.path().join(format!("absent/{NAME}")).display().to_string();
    for file in [elsewhere.as_str(), absent.as_str(), NAME, "run/../other/block-7-0-1.records"] {
        for arguments in [&["discard", file][..], &["use", file, "--cow", "/dev/null"]] {
            let here = if file == NAME { other.as_path() } else { dir.path() };
            let output = journal(&rundir, here, arguments);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
            assert!(
                said(&output).contains(file) && said(&output).contains("journal list"),
                "{}",
                said(&output)
            );
        }
    }
    assert!(
        rundir.join(NAME).exists() && other.join(NAME).exists(),
        "a file was removed that was not named"
    );
    // The same file by another path is the same file.
    let linked = dir.path().join("linked");
    std::os::unix::fs::symlink(&rundir, &linked).expect("a link");
    let output = journal(&rundir, dir.path(), &["discard", &format!("linked/../linked/{NAME}")]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!rundir.join(NAME).exists() && other.join(NAME).exists());
    // The name alone is enough in the run directory itself.
    fs::write(rundir.join(NAME), b"damaged").expect("a file");
    assert_eq!(journal(&rundir, &rundir, &["discard", NAME]).status.code(), Some(0));
    assert!(!rundir.join(NAME).exists());
}

/// An unreadable journal is named, and does not keep the others from being listed.
#[test]
fn every_journal_is_listed_by_itself() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    fs::create_dir(dir.path().join("a.records")).expect("a directory in a file's place");
    fs::write(dir.path().join(NAME), b"damaged").expect("a file");
    let output = journal(dir.path(), dir.path(), &["list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("a.records") && said(&output).lines().count() == 1,
        "{}",
        said(&output)
    );
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(listed.contains(NAME) && listed.contains("damaged"), "{listed}");
}
