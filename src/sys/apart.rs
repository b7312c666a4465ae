//! Work in processes of their own, for what may keep a thread inside the kernel for good.
//!
//! A thread would not do: a process ends, for whoever waits for it and for its open files, with its
//! last thread, and one that waits for a disk cannot be killed. The children are this program under
//! its hidden verbs; they have none of its descriptors but a pipe, and one that is late stays
//! behind alone.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// This program, also after it has been replaced by another version.
const PROGRAM: &str = "/proc/self/exe";
/// What is taken of a message.
const MESSAGE_BYTES: u64 = 4096;

/// What has become of a job.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has ended well.
    Done,
    /// It has ended otherwise, or not been begun, for this reason.
    Failed(String),
    /// It has not ended in time, and goes on by itself.
    Late,
}

/// Has this program carry out some hidden verbs, all at once, and waits for their ends, at most
/// `limit`.
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
    // Nothing that anyone else waits for, or that could not be unmounted, stays with a child that
    // is late.
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
        // It is written just before the end.
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
        None => format!("it ended without a word: {status}"),
    }
}

/// Waits until a child has said something, or ended.
fn is_readable(stdout: &ChildStdout, end: Instant) -> bool {
    loop {
        // Children that were not waited for yet may have ended meanwhile.
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
        let mut fds = [PollFd::new(stdout, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            // The read that follows says more.
            Err(_) => return true,
        }
    }
}

/// Takes notice of a late child's end, whenever that is. This thread waits for nothing that keeps a
/// process from its own end.
fn reap_later(mut child: Child) {
    let wait = move || drop(child.wait());
    if let Err(error) = std::thread::Builder::new().name("late child".into()).spawn(wait) {
        log::debug!("a late child is not waited for: {error}");
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
