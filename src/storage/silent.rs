//! Whether disks answer at all, before anything waits for them that must not.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::content;
use super::{Access, Claim, OpenDisk};
use crate::failure::Reason;
use crate::sys::apart::{self, Outcome};

/// The hidden verb that asks a disk.
pub const ASK_VERB: &str = "ask-disk";
/// How long a disk may take to open and to read its first block. The kernel gives up on an NVMe or
/// SCSI command after 30 s and says so, and a snapshot whose COW is left out may be lost: what
/// still may come to an answer is waited for.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(35);

/// Those of some disks that do not answer in time. An error is an answer: whoever opens the disk is
/// told more.
pub fn silent(disks: &BTreeSet<String>) -> BTreeSet<String> {
    let jobs: Vec<Vec<&str>> = disks.iter().map(|disk| vec![ASK_VERB, "--", disk]).collect();
    let outcomes = apart::run(&jobs, ANSWER_LIMIT);
    let late = disks.iter().zip(outcomes).filter(|(_, outcome)| *outcome == Outcome::Late);
    late.map(|(disk, _)| disk.clone()).collect()
}

/// Why a disk that does not answer is not opened.
pub fn no_answer(disk: &str) -> Reason {
    format!("{disk} has not answered for {} s", ANSWER_LIMIT.as_secs())
}

/// Opens a disk and reads its first block, in a process that does nothing else.
///
/// # Errors
/// It cannot be opened or read.
pub fn ask(disk: &Path) -> Result<(), Reason> {
    let open =
        OpenDisk::open(disk, Access::ReadOnly, Claim::Shared).map_err(|error| error.to_string())?;
    content::store_on(&open).map(drop)
}
