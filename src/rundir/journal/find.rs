//! Finds the journal of a COW that is being opened, among those that dead servers have left.
//!
//! Rule kept here: acknowledged writes are used or asked about, never ignored. A journal that may
//! belong to this COW, but not certainly, makes opening the COW fail; the message names the file
//! and the possible actions.

use std::path::{Path, PathBuf};

use super::owner::{self, Kinship, Owner};
use super::{Left, left_in_directory};
use crate::failure::Reason;
use crate::rundir::family_key;
use crate::storage::OpenDisk;

/// What a COW is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To continue with the store that is on it.
    GoOn,
    /// To create a new store on it.
    NewStore,
}

/// The path of a COW's journal, existing or new, and whether the journal holds records.
///
/// # Errors
/// If a journal may belong to this COW, but not certainly.
pub fn find(
    directory: &Path,
    cow: &OpenDisk,
    owner: &Owner,
    purpose: Purpose,
) -> Result<(PathBuf, bool), Reason> {
    let left = left_in_directory(directory).map_err(|why| why.context(directory.display()))?;
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
    let give_up = format!("`ublk-dm journal discard {file}` discards them");
    let what =
        format!("{cow}: {file} holds acknowledged writes that are not on any COW yet, {kinship}");
    match kinship {
        Kinship::Damaged | Kinship::OtherStore => format!("{what}: {give_up}").into(),
        _ => format!(
            "{what}: `ublk-dm journal use {file} --cow {cow}` if they belong here, {give_up}"
        )
        .into(),
    }
}
