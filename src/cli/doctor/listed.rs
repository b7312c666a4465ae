//! What `doctor` looks at in the tab file: lines that cannot be used, and devices that are not up.

use std::path::Path;

use super::finding::{Finding, Mend};
use crate::cli::client::Known;
use crate::storage::{self, DiskId};
use crate::tab::{Disk, Entry, Options, files};

/// Looks at the tab file.
pub(super) fn examine(known: &Known) -> Vec<Finding> {
    let tab = match files::read() {
        Ok(tab) => tab,
        Err(why) => return vec![Finding::unseen("tab", &why)],
    };
    let mut found: Vec<Finding> =
        tab.wrong.iter().map(|wrong| Finding::unseen("tab", &wrong.why)).collect();
    let is_up = |name: &str| known.devices().iter().any(|device| device.name == name);
    let missing = tab.entries.iter().filter(|entry| !entry.options.noauto && !is_up(&entry.name));
    found.extend(missing.map(|entry| of_missing(entry, known)));
    found
}

/// A device of the tab file that is not up.
fn of_missing(entry: &Entry, known: &Known) -> Finding {
    let place = &entry.place;
    let user = entry.origin_of_snapshot().and_then(|origin| user_of(origin, known));
    let finding = match user {
        Some(by) => Finding::problem(
            "snapshot-not-up",
            format!(
                "a snapshot of {place} that is not up, while its origin is {by}: each change \
                     there that is not copied ends the snapshot"
            ),
        ),
        None => Finding::advice("not-up", format!("a device of {place} that is not up")),
    };
    let Options { force, other_origin, .. } = entry.options;
    // These may overwrite something: a person decides.
    let mend = match force || other_origin {
        true => Mend::ByHand(format!("ublk-dm up {}", entry.name)),
        false => Mend::Up(entry.name.clone()),
    };
    finding.of(&entry.name).mend(mend)
}

/// Who uses an origin, as the end of "it is ...".
fn user_of(origin: &str, known: &Known) -> Option<String> {
    let path = match Disk::of(origin) {
        Disk::Path(path) => path.to_owned(),
        Disk::Named(name) => {
            let devices = known.devices();
            let device = devices.iter().find(|device| device.name == name)?;
            device.object.block_device.clone()
        }
    };
    storage::user_of(DiskId::of_path(Path::new(&path)).ok()?)
}
