//! The numbers of devices whose lines leave them open.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Plan;
use crate::cli::running::Running;
use crate::failure::Failure;
use crate::tab::Tab;
use crate::ublk::device;

/// The numbers for devices that get one now: none that another line has.
pub(super) fn numbers(
    tab: &Tab,
    plan: &Plan<'_>,
    running: &Running,
) -> Result<BTreeMap<String, u32>, Failure> {
    let mut taken: BTreeSet<u32> = device::numbers()?.into_iter().collect();
    taken.extend(tab.entries.iter().filter_map(|entry| entry.options.id));
    let new = plan.entries.iter().filter(|entry| running.device(&entry.name).is_none());
    let open = new.filter(|entry| entry.options.id.is_none()).map(|entry| entry.name.clone());
    Ok(open.zip((0..).filter(|number| !taken.contains(number))).collect())
}
