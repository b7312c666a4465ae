//! `monitor` without devices: what keeps it from beginning.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::output::refused;

#[test]
fn monitor_does_not_begin_without_a_place_or_a_program() {
    let dir = TempDir::new().expect("a directory");
    let run = |words: &str| {
        let mut sh = Command::new("sh");
        let script = format!("exec \"$0\" monitor {words}");
        sh.args(["-c", &script, env!("CARGO_BIN_EXE_ublk-dm")]).current_dir(dir.path());
        sh.env("UBLK_DM_RUN_DIR", dir.path()).stdin(Stdio::null()).output().expect("sh")
    };
    assert!(refused(&run(">&-"), 1).contains("stdout: Bad file descriptor"));
    for program in ["/none/x", "none-such", ".", "'echo hi'"] {
        let why = refused(&run(&format!("--exec {program}")), 1);
        assert!(why.contains("--exec") && why.contains("no such program"), "{why}");
    }
}
