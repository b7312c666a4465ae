//! The owner of a journal: a store, on a disk, in one boot. Pure except for [`Owner::of`].
//!
//! A journal is used only with the disk and in the boot that it was made for, because only then is
//! the data that its records point to known to be on the disk: a reattached disk (a loop device, a
//! network disk) may have lost its last writes. A journal that may belong to the same disk or store
//! blocks any use of that disk until the journal is assigned to it or discarded; a journal that
//! certainly belongs to another COW blocks nothing.

use std::fmt;
use std::io;
use std::path::Path;

use dm_targets::snapshot::format::StoreId;

use super::layout::{HEADER_WORDS, MAGIC};
use crate::rundir::boot::boot_numbers;
use crate::rundir::family_key;
use crate::storage::{OpenDisk, lasting_name, names_of};

/// The owner of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The boot's id.
    pub boot: (u64, u64),
    /// The disk's number in that boot.
    pub number: u64,
    /// The store's id; zero if it has none.
    pub store: (u64, u64),
    /// A hash of the disk's lasting name; zero if it has none.
    pub name: u64,
    /// A hash of the disk's name as earlier versions recorded it, if any; no longer recorded.
    pub former: u64,
}

/// How a journal that no server uses relates to a COW that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// It belongs to this COW.
    Own,
    /// It was made in an earlier boot.
    OtherBoot,
    /// It belongs to the same disk or store, which was reattached, or to another disk that had the
    /// same number.
    AttachedAnew,
    /// It belongs to another store on the same disk.
    OtherStore,
    /// Its content is damaged; its file name says that it belonged to this disk.
    Damaged,
    /// It belongs to another COW.
    None,
}

impl fmt::Display for Kinship {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kinship::Own => "of this COW",
            Kinship::OtherBoot => {
                "of this COW or one like it, from before the machine was restarted"
            }
            Kinship::AttachedAnew => {
                "of this COW before it was reattached, or of another disk that had its number"
            }
            Kinship::OtherStore => "of another store that was on this disk",
            Kinship::Damaged => "of a disk with this number, and damaged",
            Kinship::None => "of another COW",
        })
    }
}

impl Owner {
    /// The owner of the journal of a COW that holds, or will hold, the store.
    ///
    /// # Errors
    /// If the boot's id cannot be read.
    pub fn of(cow: &OpenDisk, store: Option<StoreId>) -> io::Result<Owner> {
        let former = Some(lasting_name(cow)).filter(|name| *name != cow.path.display().to_string());
        // The name is the same for a file and a loop device on it. A node in /dev is not a name:
        // the next disk may get the same node.
        let lasts = !cow.known.name.is_empty();
        let name = names_of(cow).into_iter().next().filter(|_| lasts);
        let [name, former] = [name, former].map(|name| name.map_or(0, |name| hash(&name)));
        let store = store.map_or((0, 0), |store| {
            let (high, low) = store.0.split_at(8);
            (number_of(high), number_of(low))
        });
        Ok(Owner { boot: boot_numbers()?, number: cow.known.number, store, name, former })
    }

    /// The words of a journal's header.
    pub(super) fn words(&self) -> [u64; HEADER_WORDS] {
        let Owner { boot, number, store, name, former: _ } = *self;
        [MAGIC, boot.0, boot.1, number, 0, store.0, store.1, name]
    }

    /// Whether both stores are known and differ.
    pub fn is_other_store(&self, other: &Owner) -> bool {
        self.store != (0, 0) && other.store != (0, 0) && self.store != other.store
    }
}

/// The owner in a journal's header.
pub(super) fn of_words(word: impl Fn(usize) -> u64) -> Owner {
    Owner {
        boot: (word(1), word(2)),
        number: word(3),
        store: (word(5), word(6)),
        name: word(7),
        former: 0,
    }
}

/// Whether a journal certainly belongs to the owner.
pub(super) fn is_exactly(found: &Owner, owner: &Owner) -> bool {
    found.boot == owner.boot && found.number == owner.number && !found.is_other_store(owner)
}

/// How a journal relates to a COW with this key. The journal's file name begins with the key of its
/// disk.
pub fn kinship(journal: &Path, found: Option<&Owner>, key: &str, owner: &Owner) -> Kinship {
    let same_key = is_of_disk(journal, key);
    let Some(found) = found else { return if same_key { Kinship::Damaged } else { Kinship::None } };
    let same_number = same_key && found.boot == owner.boot && found.number == owner.number;
    let same_store = owner.store != (0, 0) && found.store == owner.store;
    let same_name = found.name != 0 && [owner.name, owner.former].contains(&found.name);
    let other_name = owner.name != 0 && found.name != 0 && !same_name;
    match found.is_other_store(owner) {
        false if same_number => Kinship::Own,
        true if same_number || same_name => Kinship::OtherStore,
        true if !same_key || other_name => Kinship::None,
        false if other_name && !same_store => Kinship::None,
        _ if !(same_key || same_store || same_name) => Kinship::None,
        _ if found.boot == owner.boot => Kinship::AttachedAnew,
        _ => Kinship::OtherBoot,
    }
}

/// Whether a journal belongs to the disk with this key, according to its file name.
pub(super) fn is_of_disk(journal: &Path, key: &str) -> bool {
    let file = journal.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
    file.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The file name of a COW's journal: a disk that is reattached under the same number gets another
/// name.
pub fn file_name(cow: &OpenDisk) -> String {
    format!("{}-{:x}.records", family_key(cow.id), cow.known.number)
}

fn number_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// FNV-1a, and never zero.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
        .max(1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::storage::{Access, Claim};

    const OWNER: Owner = Owner { boot: (1, 2), number: 40, store: (5, 6), name: 9, former: 10 };

    fn of(journal: &str, found: Owner) -> Kinship {
        kinship(Path::new(journal), Some(&found), "block-7-0", &OWNER)
    }

    #[test]
    fn a_journal_is_its_own_disks_in_its_own_boot() {
        assert_eq!(of("/run/block-7-0-28.records", OWNER), Kinship::Own);
        assert_eq!(
            of("/run/block-7-0.records", OWNER),
            Kinship::Own,
            "as servers before this one named it"
        );
        assert_eq!(
            of("/run/block-7-0.records", Owner { store: (0, 0), name: 0, ..OWNER }),
            Kinship::Own
        );
        assert_eq!(
            of("/run/block-7-0-28.records", Owner { boot: (1, 3), ..OWNER }),
            Kinship::OtherBoot
        );
        assert_eq!(
            of("/run/block-7-0-28.records", Owner { store: (7, 7), ..OWNER }),
            Kinship::OtherStore
        );
    }

    #[test]
    fn a_disk_that_was_attached_anew_is_known_by_its_store_or_name_and_else_feared_to_be_it() {
        let anew = Owner { number: 41, ..OWNER };
        for (journal, found) in [
            ("/run/block-7-0-29.records", anew.clone()),
            ("/run/block-7-1-29.records", anew.clone()),
            ("/run/block-7-1-29.records", Owner { name: 0, ..anew.clone() }),
            ("/run/block-7-1-29.records", Owner { name: 3, ..anew.clone() }),
            ("/run/block-7-1-29.records", Owner { store: (0, 0), ..anew.clone() }),
            ("/run/block-7-0-29.records", Owner { store: (0, 0), name: 0, ..anew.clone() }),
        ] {
            assert_eq!(of(journal, found.clone()), Kinship::AttachedAnew, "{journal} {found:?}");
        }
    }

    #[test]
    fn a_file_and_a_loop_device_on_it_have_one_journal() {
        // The store is in the kernel's format, without an id; the numbers of file and loop device
        // differ.
        let without_id = |name| Owner { number: 41, store: (0, 0), name, ..OWNER };
        assert_eq!(of("/run/file-3-12-29.records", without_id(9)), Kinship::AttachedAnew);
        assert_eq!(
            of("/run/block-7-1-29.records", without_id(10)),
            Kinship::AttachedAnew,
            "as named before"
        );
        assert_eq!(of("/run/file-3-12-29.records", without_id(11)), Kinship::None);
    }

    #[test]
    fn a_disk_has_one_name_by_each_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let link = file.path().with_extension("link");
        std::os::unix::fs::symlink(file.path(), &link).unwrap();
        let hard = file.path().with_extension("hard");
        fs::hard_link(file.path(), &hard).unwrap();
        let owner = |path: &Path| {
            Owner::of(&OpenDisk::open(path, Access::ReadOnly, Claim::Shared).unwrap(), None)
                .unwrap()
        };
        let first = owner(file.path());
        assert!(first.name != 0 && first.former == 0, "{first:?}");
        assert!([&link, &hard].iter().all(|path| owner(path) == first));
        fs::remove_file(link).unwrap();
        fs::remove_file(hard).unwrap();
    }

    #[test]
    fn what_is_certainly_anothers_is_no_obstacle() {
        let anew = Owner { number: 41, ..OWNER };
        for (journal, found) in [
            ("/run/block-7-1-29.records", Owner { store: (7, 7), name: 0, ..anew.clone() }),
            ("/run/block-7-1-29.records", Owner { store: (0, 0), name: 0, ..anew.clone() }),
            ("/run/block-7-0-29.records", Owner { store: (7, 7), name: 8, ..anew.clone() }),
            ("/run/block-7-0-29.records", Owner { store: (0, 0), name: 8, ..anew.clone() }),
            ("/run/block-7-01-29.records", Owner { store: (0, 0), name: 0, ..anew }),
        ] {
            assert_eq!(of(journal, found.clone()), Kinship::None, "{journal} {found:?}");
        }
        let damaged = |journal| kinship(Path::new(journal), None, "block-7-0", &OWNER);
        assert_eq!(damaged("/run/block-7-0-28.records"), Kinship::Damaged);
        assert_eq!(damaged("/run/block-7-11-28.records"), Kinship::None);
    }
}
