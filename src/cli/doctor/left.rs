//! What `doctor` looks at in the run directory: what servers have recorded there because it could
//! be recorded nowhere else.

use dm_targets::table::{Table, TargetParams};
use rustix::fs::statvfs;

use super::finding::{Finding, Mend};
use crate::cli::reap::LEAST_AGE;
use crate::failure::Failure;
use crate::rundir::journal::{self, Left, unused};
use crate::rundir::{RunDir, Unmerged, lost};
use crate::storage::path_of;

/// What the files of a few servers need.
const LEAST_FREE: u64 = 1 << 20;

/// Looks at the run directory.
pub(super) fn examine(rundir: &RunDir) -> Vec<Finding> {
    let mut found = Vec::new();
    let path = rundir.path().display().to_string();
    if let Ok(here) = statvfs(rundir.path()) {
        let free = here.f_bavail.saturating_mul(here.f_frsize);
        if free < LEAST_FREE {
            let what = format!(
                "the run directory has {free} bytes left: when it is full, devices cannot be added \
                 or changed, and a snapshot whose loss cannot be recorded makes writes to its \
                 origin fail"
            );
            found.push(Finding::problem("run-directory", what).of(&path));
        }
    }
    match lost::all(rundir) {
        Ok(all) => found.extend(all.iter().map(lost)),
        Err(error) => found.push(Finding::unseen("lost-store", &Failure::from(error))),
    }
    match rundir.unmerged() {
        Ok(all) => found.extend(all.iter().map(unmerged)),
        Err(error) => found.push(Finding::unseen("unmerged", &Failure::from(error))),
    }
    match journal::left_in_directory(rundir.path()) {
        Ok(all) => found.extend(all.iter().map(journaled)),
        Err(why) => found.push(Finding::unseen("journal", &why)),
    }
    match unused::unused(rundir, LEAST_AGE) {
        Ok(all) => found.extend(all.iter().map(|path| {
            let what = "an empty journal, left by an `add` that was killed";
            Finding::advice("journal-unused", what).of(path.display().to_string()).mend(Mend::Reap)
        })),
        Err(why) => found.push(Finding::unseen("journal-unused", &why)),
    }
    found
}

/// A COW whose snapshot is lost, by its disk's name.
fn lost((cow, why): &(String, String)) -> Finding {
    let here = path_of(cow).map(|path| path.display().to_string());
    let gone = match here {
        Some(_) => String::new(),
        None => "; no disk has this name now: if the COW no longer exists, remove that file".into(),
    };
    let what = format!("the snapshot on this COW must not be used: {why}{gone}");
    let finding = Finding::problem("lost-store", what).of(here.as_deref().unwrap_or(cow));
    finding.by_hand(wiped(here.as_deref().unwrap_or("COW")))
}

/// The command that makes a COW ready for a new snapshot.
pub(super) fn wiped(cow: &str) -> String {
    format!("ublk-dm zero --to {cow}:0+4096")
}

/// A merge without a device.
fn unmerged(left: &Unmerged) -> Finding {
    let Unmerged { name, line, may_have_ended } = left;
    let disks = match Table::parse_table(line).map(|table| table.params) {
        Ok(TargetParams::SnapshotMerge(merge)) => (merge.origin, merge.cow),
        _ => ("its origin".to_owned(), "its COW".to_owned()),
    };
    let has_not = if *may_have_ended { "may not have" } else { "has not" };
    let what =
        format!("the merge of {} into {} {has_not} ended, and has no device", disks.1, disks.0);
    let rest = format!("ublk-dm create {name} --table \"{line}\"");
    Finding::problem("unmerged", what).of(name).by_hand(rest)
}

/// Acknowledged writes that no server has put on their COW.
fn journaled(left: &Left) -> Finding {
    let path = left.path.display().to_string();
    let what = match left.owner {
        Some(_) => format!("{} acknowledged writes wait for their COW", left.records),
        None => "a damaged file of acknowledged writes".to_owned(),
    };
    let mend = format!("ublk-dm recover --all, or ublk-dm journal use {path} --cow DEV");
    Finding::problem("journal", what).of(path).by_hand(mend)
}
