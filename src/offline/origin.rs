//! Whether a snapshot's exception store was made for the origin that the user names.
//!
//! Rule kept here: the judgement is that of `add`, which refuses another origin. Where nothing can
//! be known, the report says so: the kernel's stores name no origin, and a disk may have no name.

use std::path::Path;

use dm_targets::snapshot::format::Identity;

use super::report::{Kind, Report};
use crate::storage::name_at;

/// Compares an origin with the one that a store records, and adds the result to the report.
pub(super) fn check(path: &Path, identity: Option<&Identity>, report: &mut Report) {
    let here = name_at(path);
    let recorded = identity.filter(|identity| !identity.origin.is_empty() && !here.is_empty());
    let is_it = recorded.map(|identity| identity.is_for(&here));
    let contents = report.snapshot_store.as_mut().and_then(|store| store.contents.as_mut());
    if let Some(origin) = contents.and_then(|contents| contents.origin.as_mut()) {
        origin.is_the_stores = is_it;
    }
    if let (Some(identity), Some(false)) = (recorded, is_it) {
        let message = format!(
            "made for another origin: {}, and {} is {}; `add` takes it with --other-origin only",
            identity.origin,
            path.display(),
            here.trim_end()
        );
        report.findings.violation(Kind::OtherOrigin, None, message);
    }
}
