//! Running programs: `ublk-dm` under test and the file system tools.
//!
//! A command is given as one line that is split at blanks (no path here has any), so that a case
//! reads like a shell session. Nothing here has a time limit of its own: the case's limit covers a
//! command that hangs (see `main.rs`).

use std::env;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The result of a finished command.
pub struct Out {
    /// The line that was run, for messages.
    pub what: String,
    /// Exit code, or 128 + the signal's number.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    /// Asserts that the command succeeded.
    pub fn ok(self) -> Out {
        assert!(
            self.code == 0,
            "`{}` gave exit code {}: {}{}",
            self.what,
            self.code,
            self.stderr.trim(),
            if self.stdout.is_empty() {
                String::new()
            } else {
                format!(" (stdout: {})", self.stdout.trim())
            }
        );
        self
    }

    /// Asserts that the command failed as the command line promises: exit code 1 or 2, one line on
    /// stderr, nothing on stdout.
    pub fn refused(self) -> Out {
        assert!(
            self.code == 1 || self.code == 2,
            "`{}` should be refused with exit code 1 or 2, got {} (stdout: {:?}, stderr: {:?})",
            self.what,
            self.code,
            self.stdout,
            self.stderr
        );
        assert!(
            self.stdout.is_empty(),
            "`{}` failed but printed to stdout: {:?}",
            self.what,
            self.stdout
        );
        assert!(
            self.stderr.lines().count() == 1 && self.stderr.trim().len() > 10,
            "`{}` should say why in exactly one line, said {:?}",
            self.what,
            self.stderr
        );
        self
    }

    /// The only line of stdout.
    pub fn line(&self) -> String {
        let lines: Vec<&str> = self.stdout.lines().collect();
        assert!(
            lines.len() == 1,
            "`{}` should print one line, printed {:?}",
            self.what,
            self.stdout
        );
        lines[0].trim_end().to_string()
    }
}

/// A program to run in the place of the one under test, and the rule that it breaks.
static MUTANT: Mutex<Option<(String, &str)>> = Mutex::new(None);

/// From now on the program with deliberate faults is run, with this fault switched on.
pub fn use_mutant(name: &'static str) {
    let path = format!("{}-mutants", binary().trim_end_matches("-mutants"));
    assert!(
        std::fs::exists(&path).unwrap_or(false),
        "{path} is missing: it is built with --features mutants (ci/check)"
    );
    *MUTANT.lock().expect("no panic") = Some((path, name));
}

/// The `ublk-dm` under test; `UBLK_DM_BIN` puts another one in its place.
pub fn binary() -> String {
    if let Some((path, _)) = &*MUTANT.lock().expect("no panic") {
        return path.clone();
    }
    env::var("UBLK_DM_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ublk-dm").to_string())
}

/// Runs a program with exactly these arguments.
pub fn run_args(program: &str, args: &[&str]) -> Out {
    finish(Command::new(program).args(args), &format!("{program} {}", args.join(" ")))
}

fn finish(command: &mut Command, what: &str) -> Out {
    let done = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot run `{what}`: {e} (run ci/setup for missing tools)"));
    Out {
        what: what.to_string(),
        code: done.status.code().unwrap_or_else(|| 128 + done.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// Runs a line of blank-separated words.
pub fn sh(line: &str) -> Out {
    let words: Vec<&str> = line.split_whitespace().collect();
    run_args(words[0], &words[1..])
}

/// Runs `ublk-dm` with a line of blank-separated arguments.
pub fn ublk_dm(line: &str) -> Out {
    let mut command = Command::new(binary());
    command.args(line.split_whitespace());
    if let Some((_, name)) = &*MUTANT.lock().expect("no panic") {
        command.env("UBLK_DM_MUTANT", name);
    }
    finish(&mut command, &format!("ublk-dm {line}"))
}

/// Runs `ublk-dm` as the user nobody, from a directory that this user may look into.
pub fn ublk_dm_as_nobody(line: &str) -> Out {
    let program = env::temp_dir().join("ublk-dm-of-nobody");
    std::fs::copy(binary(), &program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let mut command = Command::new(&program);
    command.args(line.split_whitespace()).uid(65534).gid(65534);
    finish(&mut command, &format!("(as nobody) ublk-dm {line}"))
}

/// The kernel's last `lines` messages.
pub fn dmesg_tail(lines: usize) -> String {
    let all = run_args("dmesg", &[]).stdout;
    let from = all.lines().count().saturating_sub(lines);
    all.lines().skip(from).collect::<Vec<_>>().join("\n")
}
