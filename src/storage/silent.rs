//! Whether disks answer at all, checked before a thread that must not block waits for them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::content;
use super::{Access, Claim, OpenDisk};
use crate::failure::{Failure, Kind, Reason};
use crate::sys::apart::{self, Outcome};

/// The hidden verb that probes a disk.
pub const ASK_VERB: &str = "ask-disk";
/// How long a disk may take to open and to read its first block. The kernel fails an NVMe or SCSI
/// command after 30 s, and a snapshot whose COW is left out may be lost: the limit is long enough
/// for that answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(35);

/// The disks that do not answer in time. An error is an answer: opening the disk returns the
/// details.
pub fn silent(disks: &BTreeSet<String>) -> BTreeSet<String> {
    let jobs: Vec<Vec<&str>> = disks.iter().map(|disk| vec![ASK_VERB, "--", disk]).collect();
    let outcomes = apart::run(&jobs, ANSWER_LIMIT);
    let late = disks.iter().zip(outcomes).filter(|(_, outcome)| *outcome == Outcome::Late);
    late.map(|(disk, _)| disk.clone()).collect()
}

/// Why a disk that does not answer is not opened.
pub fn no_answer(disk: &str) -> Reason {
    let line = format!("{disk} has not answered for {} s", ANSWER_LIMIT.as_secs());
    Failure::new(Kind::NoAnswer, line)
}

/// Runs `work` on a thread of its own, since the disk may stop answering meanwhile. A late thread
/// is abandoned: its result, such as an open disk, is dropped when the disk answers.
///
/// # Errors
/// The disk has not answered, or no thread could be started.
pub fn within_limit<T: Send + 'static>(
    disk: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reason> {
    within(ANSWER_LIMIT, disk, work)
}

fn within<T: Send + 'static>(
    limit: Duration,
    disk: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reason> {
    let (done, result) = channel();
    let work = move || drop(done.send(work()));
    let path = disk.display();
    let thread = std::thread::Builder::new().name("disk".into()).spawn(work);
    let unasked = |error| Failure::from(error).context(format!("{path}: cannot be examined"));
    thread.map_err(unasked)?;
    result.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => no_answer(&path.to_string()),
        RecvTimeoutError::Disconnected => format!("{path}: could not be examined").into(),
    })
}

/// Opens a disk and reads its first block, in a process that does nothing else.
///
/// # Errors
/// It cannot be opened or read.
pub fn ask(disk: &Path) -> Result<(), Reason> {
    let open = OpenDisk::open(disk, Access::ReadOnly, Claim::Shared)?;
    content::store_on(&open).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_falls_silent_is_left_behind_with_what_comes_of_it() {
        let (limit, disk) = (Duration::from_millis(100), Path::new("/d"));
        assert_eq!(within(limit, disk, || 7), Ok(7));
        let (answer, silent) = channel::<()>();
        let (held, let_go) = channel::<()>();
        let opened = within(limit, disk, move || {
            assert!(silent.recv().is_err());
            held
        });
        assert!(opened.is_err_and(|why| why.starts_with("/d has not answered")));
        drop(answer);
        assert!(let_go.recv_timeout(ANSWER_LIMIT) == Err(RecvTimeoutError::Disconnected));
    }
}
