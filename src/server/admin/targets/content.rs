//! The content of a disk before the disk is reused: data that a user may miss is not overwritten.

use super::wipe::{wipe, zero_start};
use crate::failure::{Failure, Kind, Reason};
use crate::server::admin::machine::OpenDisk;
use crate::storage::signature::SignatureKind;

/// Refuses a disk with other content than `wanted`, which `what` would destroy.
pub(super) fn refuse_other(
    disk: &impl OpenDisk,
    wanted: Option<SignatureKind>,
    what: &str,
) -> Result<(), Reason> {
    let path = disk.path();
    let block = disk.limits().logical_block_size;
    match disk.content()? {
        None if disk.starts_with_zeroes()? => Ok(()),
        None => Err(refused(&path, "unknown data", what, &zero_start(&path, block))),
        Some(found) if Some(found.kind) == wanted => Ok(()),
        Some(found) => {
            let holds = format!("{} (at byte {})", found.name, found.offset);
            Err(refused(&path, &holds, what, &wipe(&path, found.offset, block)))
        }
    }
}

fn refused(path: &str, holds: &str, what: &str, mend: &str) -> Reason {
    let why = format!("{path}: holds {holds}, which {what} would destroy; {mend}, or use --force");
    Failure::new(Kind::Refused, why)
}
