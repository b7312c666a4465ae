//! `copy` between files. Needs io_uring; where a container forbids that, the program says so and
//! the test has nothing to show.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

/// A destination that may not be written as far as that (`ulimit -f`) is an error like a full file
/// system, not the end by a signal, and what was copied until then stays.
#[test]
fn a_limit_on_file_sizes_is_an_error() {
    let dir = TempDir::new().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, vec![0x5a; 8 << 20]).expect("a source");
    fs::write(&to, vec![0; 8 << 20]).expect("a destination");
    let line = "ulimit -f 1024; exec \"$0\" copy --from \"$1\" --to \"$2\"";
    let mut command = Command::new("sh");
    command.args(["-c", line, env!("CARGO_BIN_EXE_ublk-dm")]).arg(&from).arg(&to);
    let output = command.output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("io_uring") {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{:?}: {stderr}", output.status);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("File too large") && stderr.contains("to:"), "{stderr}");
    assert_eq!(fs::metadata(&to).expect("a destination").len(), 8 << 20);
}

/// What is done stays done when it cannot be read of, and the one line says so.
#[test]
fn a_copy_whose_result_cannot_be_written_says_that_it_is_done() {
    let dir = TempDir::new().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, vec![0x5a; 1 << 20]).expect("a source");
    fs::write(&to, vec![0; 1 << 20]).expect("a destination");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
    command.args(["copy", "--json", "--from"]).arg(&from).arg("--to").arg(&to);
    let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = command.stdout(full).output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("io_uring") {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("everything is written") && stderr.contains("No space left"),
        "{stderr}"
    );
    assert!(fs::read(&to).expect("a destination") == vec![0x5a; 1 << 20]);
}
