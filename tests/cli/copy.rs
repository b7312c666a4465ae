//! `copy` between files. Needs io_uring; where a container forbids io_uring, the program reports
//! that and the test ends.

use std::fs;
use std::process::Command;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

/// A limit on the size of the destination (`ulimit -f`) is an error like a full file system, not
/// the end by a signal, and the data copied until then stays.
#[test]
fn a_limit_on_file_sizes_is_an_error() {
    let dir = TempDir::new().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, vec![0x5a; 8 << 20]).expect("a source");
    fs::write(&to, vec![0; 8 << 20]).expect("a destination");
    let line = "ulimit -f 1024; exec \"$0\" copy --json --from \"$1\" --to \"$2\"";
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
    let written = fs::read(&to).expect("a destination");
    assert_eq!(written.len(), 8 << 20);
    // The result says what was written, not what was asked for.
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["total_bytes"], 8 << 20, "{result}");
    let bytes = result["bytes"].as_u64().expect("a number");
    let there = written.iter().filter(|byte| **byte == 0x5a).count() as u64;
    assert!(bytes <= there && there < 8 << 20, "{result}, and {there} bytes are there");
    assert!(result["error"].is_string(), "{result}");
}

/// If the result cannot be printed, the copy is still done, and the error line says so.
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

/// An unreadable state file may list a device that waits for the disk which the file is named
/// after: that disk is not written to, but can be read.
#[test]
fn a_disk_of_which_it_is_not_known_whether_a_device_waits_is_not_written() {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let dir = TempDir::new().expect("a directory");
    let (disk, other) = (dir.path().join("disk"), dir.path().join("other"));
    fs::write(&disk, vec![0x5a; 1 << 20]).expect("a disk");
    fs::write(&other, vec![0; 1 << 20]).expect("a disk");
    let found = fs::metadata(&disk).expect("a disk");
    let rundir = dir.path().join("run");
    fs::DirBuilder::new().mode(0o700).create(&rundir).expect("a run directory");
    let state = rundir.join(format!("file-{}-{}.json", found.dev(), found.ino()));
    fs::write(&state, "{").expect("a state file");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
        command.env("UBLK_DM_RUN_DIR", &rundir).args(args);
        let output = command.output().expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let [disk, other] = [&disk, &other].map(|path| path.to_str().expect("ASCII"));
    let state = state.to_str().expect("ASCII");
    for args in [["zero", "--to", disk].as_slice(), &["copy", "--from", other, "--to", disk]] {
        let (code, said) = run(args);
        let words = [disk, state, "damaged", "--force"];
        assert!(code == Some(1) && words.iter().all(|word| said.contains(word)), "{said}");
        assert_eq!(fs::read(disk).expect("a disk"), vec![0x5a; 1 << 20]);
    }
    for args in [["copy", "--from", disk, "--to", other].as_slice(), &["zero", "--to", other]] {
        let (code, said) = run(args);
        assert!(code == Some(0) || said.contains("io_uring"), "{said}");
    }
    let (code, said) = run(&["zero", "--force", "--to", disk]);
    assert!(code == Some(0) || said.contains("io_uring"), "{said}");
}

/// A range that begins or ends within a block is refused before anything is read or written.
#[test]
fn a_range_within_a_block_is_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, vec![0x5a; 1 << 20]).expect("a source");
    fs::write(&to, vec![0x11; 1 << 20]).expect("a destination");
    let [from, to] = [&from, &to].map(|path| path.to_str().expect("ASCII"));
    for args in [
        &["copy", "--from", &format!("{from}:100+512"), "--to", to][..],
        &["copy", "--from", &format!("{from}:0+700"), "--to", to],
        &["copy", "--from", from, "--to", &format!("{to}:511")],
        &["zero", "--to", &format!("{to}:513+512")],
        &["zero", "--to", &format!("{to}:512+1000")],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
        let output = command.env("UBLK_DM_RUN_DIR", dir.path()).args(args).output();
        let output = output.expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("not a multiple of the disk's block size"), "{args:?}: {said}");
    }
    assert!(fs::read(to).expect("a destination") == vec![0x11; 1 << 20]);
}

/// An empty range is no range; a disk that ends before the range begins is another fault.
#[test]
fn an_empty_range_is_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, vec![0x5a; 1 << 20]).expect("a source");
    fs::write(&to, vec![0x11; 1 << 20]).expect("a destination");
    let [from, to] = [&from, &to].map(|path| path.to_str().expect("ASCII"));
    let empty = "the range is empty: its length is 0";
    for (args, code, words) in [
        (&["copy", "--from", &format!("{from}:0+0"), "--to", to][..], 2, empty),
        (&["copy", "--from", &format!("{from}:4KiB+0"), "--to", to], 2, empty),
        (&["zero", "--to", &format!("{to}:0+0")], 2, empty),
        (&["copy", "--from", &format!("{from}:1MiB+512"), "--to", to], 1, "do not fit"),
        (&["zero", "--to", &format!("{to}:1MiB+512")], 1, "do not fit"),
        (&["zero", "--to", &format!("{to}:1020KiB+8KiB")], 1, "do not fit"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
        let output = command.env("UBLK_DM_RUN_DIR", dir.path()).args(args).output();
        let output = output.expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{args:?}: {said}");
    }
    assert!(fs::read(to).expect("a destination") == vec![0x11; 1 << 20]);
}

/// A deleted snapshot of a disk is recorded as lost before the disk is written, under any name, if
/// what is written is the origin's.
#[test]
fn a_disk_is_written_after_its_deleted_snapshots_are_lost() {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let dir = TempDir::new().expect("a directory");
    let [disk, cow, rundir] = ["disk", "cow", "run"].map(|name| dir.path().join(name));
    fs::write(&disk, vec![0x5a; 1 << 20]).expect("a disk");
    fs::write(&cow, vec![0x5a; 1 << 20]).expect("a disk");
    fs::DirBuilder::new().mode(0o700).create(&rundir).expect("a run directory");
    let found = fs::metadata(&disk).expect("a disk");
    let born = found.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let on = format!("file {} {} {}", found.dev(), found.ino(), born.map_or(0, |at| at.as_nanos()));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    let store = "0123456789abcdef0123456789abcdef";
    let (departed, lost) =
        (rundir.join("cow-1.departed"), rundir.join(format!("cow-store-{store}.lost")));
    // The origin was a loop device on the second half of the file.
    let content = serde_json::json!({ "key": "k", "boot": boot.trim(), "departure": {
        "cow": { "store": store, "names": ["wwid c"], "former": "", "number": 7, "origin": "" },
        "mark_failed": false, "origin_number": 5,
        "place": { "on": on, "start": 1 << 19, "end": 1 << 20 },
    }});
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
        command.env("UBLK_DM_RUN_DIR", &rundir).args(args);
        let output = command.output().expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let [disk, cow] = [&disk, &cow].map(|path| path.to_str().expect("ASCII"));
    let [first, last] =
        [("0", "+512KiB"), ("1020KiB", "+4KiB")].map(|(at, len)| format!("{disk}:{at}{len}"));
    for (args, is_lost) in [
        (&["zero", "--to", &first][..], false),
        (&["copy", "--from", &format!("{cow}:0+4KiB"), "--to", disk], false),
        (&["copy", "--from", disk, "--to", cow], false),
        (&["zero", "--to", &last], true),
        (&["zero", "--force", "--to", &last], true),
        (&["copy", "--from", &format!("{cow}:0+4KiB"), "--to", &format!("{disk}:1020KiB")], true),
    ] {
        fs::write(&departed, content.to_string()).expect("a record");
        let (code, said) = run(args);
        if said.contains("io_uring") {
            return;
        }
        assert_eq!(code, Some(0), "{args:?}: {said}");
        assert_eq!((lost.exists(), departed.exists()), (is_lost, !is_lost), "{args:?}: {said}");
        assert_eq!(said.contains("is lost"), is_lost, "{args:?}: {said}");
        drop(fs::remove_file(&lost));
    }
    fs::write(&departed, "{").expect("a record");
    let before = fs::read(disk).expect("a disk");
    let (code, said) = run(&["zero", "--force", "--to", disk]);
    assert!(code == Some(1) && said.contains("cow-1.departed: damaged"), "{said}");
    assert!(fs::read(disk).expect("a disk") == before, "it is written");
}

/// Without its length a range is not all of the rest of the disk.
#[test]
fn a_start_without_a_length_is_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, vec![0x5a; 1 << 20]).expect("a source");
    fs::write(&to, vec![0x11; 1 << 20]).expect("a destination");
    let (from, to) = (from.display(), to.display());
    for line in [
        format!("zero --to {to}:4096"),
        format!("zero --to {to}:0"),
        format!("copy --from {from}:4096 --to {to}"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
        let output = command.args(line.split(' ')).output().expect("the program starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
        assert!(stderr.contains("a start without a length"), "{line}: {stderr}");
        assert!(fs::read(format!("{to}")).expect("a destination") == vec![0x11; 1 << 20]);
    }
}
