//! Work in processes of their own, for calls that may keep a thread inside the kernel forever.
//!
//! A thread would not do: for processes that wait for its end or for its open files, a process ends
//! with its last thread, and a thread that waits for a disk cannot be killed. The children are this
//! program under its hidden verbs; they have none of its descriptors but a pipe, and a late child
//! stays behind alone.

use std::io::{self, ErrorKind, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// This program, even after its file has been replaced by another version.
pub const PROGRAM: &str = "/proc/self/exe";
/// How much of a message is read.
const MESSAGE_BYTES: usize = 64 << 10;

/// The result of a job.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job succeeded.
    Done,
    /// The job failed, or could not be started, for this reason.
    Failed(String),
    /// The job has not ended in time, and continues on its own. This is what it has written so far.
    Late(String),
}

/// Runs a hidden verb of this program and waits for its end, at most `limit`.
pub fn run(words: &[&str], limit: Duration) -> Outcome {
    let mut command = Command::new(PROGRAM);
    command.args(words);
    outcome_of(command, limit)
}

/// A child that has been started and waits for its words. It ends without them.
pub struct Ready(Child);

/// Starts a hidden verb of this program that reads its words from stdin, before they are known: a
/// start takes longer than most jobs.
///
/// # Errors
/// It cannot be started.
pub fn ready(verb: &str) -> io::Result<Ready> {
    let mut command = Command::new(PROGRAM);
    command.arg(verb);
    spawn(command, Stdio::piped()).map(Ready)
}

impl Ready {
    /// Gives the child its words, each with a zero after it, and waits for its end, at most
    /// `limit`. `None`: it has ended before.
    pub fn run<'a>(
        mut self,
        words: impl Iterator<Item = &'a str>,
        limit: Duration,
    ) -> Option<Outcome> {
        let end = Instant::now() + limit;
        let told: Vec<u8> = words.flat_map(|word| word.bytes().chain([0])).collect();
        let given = self.0.stdin.take().is_some_and(|mut stdin| stdin.write_all(&told).is_ok());
        if given {
            return Some(end_of(self.0, end));
        }
        self.dismiss();
        None
    }

    /// Has the child end without words.
    pub fn dismiss(mut self) {
        drop(self.0.stdin.take());
        reap_later(self.0);
    }
}

fn outcome_of(command: Command, limit: Duration) -> Outcome {
    let end = Instant::now() + limit;
    match spawn(command, Stdio::null()) {
        Ok(child) => end_of(child, end),
        Err(error) => Outcome::Failed(format!("{PROGRAM}: {error}")),
    }
}

/// A late child must hold nothing that another process waits for, and keep no file system busy.
fn spawn(mut command: Command, stdin: Stdio) -> io::Result<Child> {
    command.current_dir("/").stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn()
}

fn end_of(mut child: Child, end: Instant) -> Outcome {
    let mut message = Vec::new();
    let ended = child.stdout.take().is_none_or(|stdout| read_until(stdout, end, &mut message));
    let message = String::from_utf8_lossy(&message).into_owned();
    if !ended {
        reap_later(child);
        return Outcome::Late(message);
    }
    match child.wait() {
        Ok(status) if status.success() => Outcome::Done,
        Ok(status) => Outcome::Failed(said(&message, status)),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Reads what a child writes until it ends; `false` if it has not ended in time.
fn read_until(mut stdout: ChildStdout, end: Instant, message: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 512];
    while is_readable(&stdout, end) {
        match stdout.read(&mut bytes) {
            Ok(0) => return true,
            Ok(count) if message.len() < MESSAGE_BYTES => message.extend(&bytes[..count]),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                log::debug!("{PROGRAM}: {error}");
                return true;
            }
        }
    }
    false
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
    fn a_job_is_waited_for_no_longer_than_its_limit() {
        let outcome = |line, ms| outcome_of(shell(line), Duration::from_millis(ms));
        let begun = Instant::now();
        assert_eq!(outcome("echo 1; sleep 3; echo 2", 300), Outcome::Late("1\n".to_owned()));
        assert_eq!(outcome("sleep 3", 300), Outcome::Late(String::new()));
        assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
        assert_eq!(outcome("exit 0", 30_000), Outcome::Done);
        assert_eq!(outcome("echo 1; sleep 0.3; echo 2", 30_000), Outcome::Done);
        assert_eq!(outcome("echo why; exit 1", 30_000), Outcome::Failed("why".to_owned()));
        let silent = outcome("exit 3", 30_000);
        assert!(
            matches!(&silent, Outcome::Failed(why) if why.contains("exit status: 3")),
            "{silent:?}"
        );
    }

    #[test]
    fn a_child_that_waits_for_its_words_gets_them_or_ends() {
        let ready = |line| Ready(spawn(shell(line), Stdio::piped()).unwrap());
        let run = |ready: Ready, words: &[&str]| {
            ready.run(words.iter().copied(), Duration::from_secs(30))
        };
        let given = "[ \"$(tr '\\0' '|')\" = 'a|b c|' ]";
        assert_eq!(run(ready(given), &["a", "b c"]), Some(Outcome::Done));
        assert!(matches!(run(ready(given), &["a"]), Some(Outcome::Failed(_))));
        let mut gone = ready("exec 0<&-; exit 0");
        gone.0.wait().unwrap();
        // `wait` has closed its stdin.
        assert_eq!(run(gone, &["a"]), None);
    }

    #[test]
    fn a_long_message_is_cut_and_does_not_stop_a_job() {
        let line = "yes | head -c 1000000; exit 1";
        let outcome = outcome_of(shell(line), Duration::from_secs(30));
        assert_eq!(outcome, Outcome::Failed("y".to_owned()));
    }

    #[test]
    fn what_cannot_be_begun_is_not_late() {
        let outcome = outcome_of(Command::new("/nonsense"), Duration::from_secs(1));
        assert!(
            matches!(&outcome, Outcome::Failed(why) if why.contains("No such file")),
            "{outcome:?}"
        );
    }
}
