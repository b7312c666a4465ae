//! The journal of a COW that is being opened, found among those that dead servers have left.
//!
//! Rule kept here: what a server had acknowledged is used or asked for, never passed over. A
//! journal that may be of this COW and is not certainly so stops its opening, and the message says
//! which file it is and what can be done.

use std::path::{Path, PathBuf};

use super::owner::{self, Kinship, Owner};
use super::{Left, left_in_directory};
use crate::failure::Reason;
use crate::rundir::family_key;
use crate::storage::OpenDisk;

/// What a COW is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To go on with the store that is on it.
    GoOn,
    /// To make a new store on it.
    NewStore,
}

/// Where the journal of a COW is, or is to be, and whether something stands in it.
///
/// # Errors
/// If there is one that may be this COW's and is not certainly so.
pub fn find(
    directory: &Path,
    cow: &OpenDisk,
    owner: &Owner,
    purpose: Purpose,
) -> Result<(PathBuf, bool), Reason> {
    let left = left_in_directory(directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    let key = family_key(cow.id);
    let mut own = None;
    for journal in left {
        match owner::kinship(&journal.path, journal.owner.as_ref(), &key, owner) {
            Kinship::None => {}
            Kinship::Own if purpose == Purpose::GoOn && own.is_none() => own = Some(journal.path),
            Kinship::Own => return Err(refusal(&cow.path, &journal, Kinship::OtherStore)),
            kinship => return Err(refusal(&cow.path, &journal, kinship)),
        }
    }
    let left = own.is_some();
    Ok((own.unwrap_or_else(|| directory.join(owner::file_name(cow))), left))
}

fn refusal(cow: &Path, journal: &Left, kinship: Kinship) -> Reason {
    let (file, cow) = (journal.path.display(), cow.display());
    let give_up = format!("`ublk-dm journal discard {file}` gives them up");
    let what = format!("{cow}: {file} holds acknowledged writes that are on no COW yet, {kinship}");
    match kinship {
        Kinship::Damaged | Kinship::OtherStore => format!("{what}: {give_up}").into(),
        _ => format!(
            "{what}: `ublk-dm journal use {file} --cow {cow}` if they belong here, {give_up}"
        )
        .into(),
    }
}
