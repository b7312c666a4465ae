//! Work in processes of their own, for calls that may keep a thread inside the kernel forever.
//!
//! A thread would not do: for processes that wait for its end or for its open files, a process ends
//! with its last thread, and a thread that waits for a disk cannot be killed. The children are this
//! program under its hidden verbs; they have none of its descriptors but a pipe, and a late child
//! stays behind alone.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// This program, even after its file has been replaced by another version.
const PROGRAM: &str = "/proc/self/exe";
/// How much of a message is read.
const MESSAGE_BYTES: u64 = 16 << 10;

/// The result of a job.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job succeeded.
    Done,
    /// The job failed, or could not be started, for this reason.
    Failed(String),
    /// The job has not ended in time, and continues on its own.
    Late,
}

/// Runs hidden verbs of this program, all at once, and waits for their ends, at most `limit`.
pub fn run(jobs: &[Vec<&str>], limit: Duration) -> Vec<Outcome> {
    let command = |words: &Vec<&str>| {
        let mut command = Command::new(PROGRAM);
        command.args(words);
        command
    };
    run_all(jobs.iter().map(command), limit)
}

fn run_all(commands: impl Iterator<Item = Command>, limit: Duration) -> Vec<Outcome> {
    let end = Instant::now() + limit;
    // A late child must hold nothing that another process waits for, and keep no file system busy.
    let start = |mut command: Command| {
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    };
    let children: Vec<io::Result<Child>> = commands.map(start).collect();
    let outcome = |child: io::Result<Child>| match child {
        Ok(child) => outcome_of(child, end),
        Err(error) => Outcome::Failed(format!("{PROGRAM}: {error}")),
    };
    children.into_iter().map(outcome).collect()
}

fn outcome_of(mut child: Child, end: Instant) -> Outcome {
    let mut message = String::new();
    if let Some(stdout) = child.stdout.take() {
        if !is_readable(&stdout, end) {
            reap_later(child);
            return Outcome::Late;
        }
        // The message is written just before the child ends.
        if let Err(error) = stdout.take(MESSAGE_BYTES).read_to_string(&mut message) {
            log::debug!("{PROGRAM}: {error}");
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Outcome::Done,
        Ok(status) => Outcome::Failed(said(&message, status)),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn said(message: &str, status: ExitStatus) -> String {
    match message.lines().next() {
        Some(line) => line.to_owned(),
        None => format!("it ended without a message: {status}"),
    }
}

/// Waits until a child has written something, or ended.
fn is_readable(stdout: &ChildStdout, end: Instant) -> bool {
    loop {
        // Children that have not been waited for yet may have ended meanwhile.
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
        let mut fds = [PollFd::new(stdout, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            // The read that follows reports the error.
            Err(_) => return true,
        }
    }
}

/// Reaps a late child when it ends. The waiting thread does not keep this process from ending.
fn reap_later(mut child: Child) {
    let wait = move || drop(child.wait());
    if let Err(error) = std::thread::Builder::new().name("late child".into()).spawn(wait) {
        log::debug!("cannot wait for a late child process: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn all_are_waited_for_at_once_and_no_longer_than_that() {
        let begun = Instant::now();
        let lines = ["sleep 3", "exit 0", "sleep 3", "echo why; exit 1", "exit 3"];
        let outcomes = run_all(lines.into_iter().map(shell), Duration::from_secs(1));
        let failed = |why: &str| Outcome::Failed(why.to_owned());
        assert_eq!(outcomes[..4], [Outcome::Late, Outcome::Done, Outcome::Late, failed("why")]);
        assert!(
            matches!(&outcomes[4], Outcome::Failed(why) if why.contains("exit status: 3")),
            "{:?}",
            outcomes[4]
        );
        assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_cannot_be_begun_is_not_late() {
        let outcomes = run_all([Command::new("/nonsense")].into_iter(), Duration::from_secs(1));
        assert!(
            matches!(&outcomes[..], [Outcome::Failed(why)] if why.contains("No such file")),
            "{outcomes:?}"
        );
    }
}
