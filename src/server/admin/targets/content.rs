//! The content of a disk before the disk is reused: data that a user may miss is not overwritten.

use std::fmt::Display;

use super::wipe::{wipe, zero_start};
use crate::failure::{Kind, Reason};
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
        None => Err(refused(
            &path,
            format!(
                "holds unknown data, which {what} would destroy; {}, or use --force",
                zero_start(&path, block)
            ),
        )),
        Some(found) if Some(found.kind) == wanted => Ok(()),
        Some(found) => Err(refused(
            &path,
            format!(
                "holds {} (at byte {}), which {what} would destroy; {}, or use --force",
                found.name,
                found.offset,
                wipe(&path, found.offset, block)
            ),
        )),
    }
}

/// Why a disk is not used: its state or its content.
pub(super) fn refused(path: &str, why: impl Display) -> Reason {
    Reason::new(Kind::Refused, format!("{path}: {why}")).of_disk(path)
}
