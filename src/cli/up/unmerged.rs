//! Snapshots of the tab file of which a part has been merged into their origins, as their COWs say:
//! the merge was interrupted, and the machine may have been started again since.
//!
//! Rule kept here: the disk of such an origin is a mixture without the rest, so the origin's device
//! is brought up as the merge that goes on. A COW that cannot be read tells nothing.

use std::path::{Path, PathBuf};

use dm_targets::snapshot::table::Snapshot;
use dm_targets::table::{Table, TargetParams};

use super::plan::{Find, writes_origin_of};
use crate::storage::{Access, Claim, OpenDisk, content, silent};
use crate::tab::{Disk, Entry, Tab};

/// Finds the path of the device with a name.
pub type PathOf<'a> = &'a dyn Fn(&str) -> Option<PathBuf>;

/// Whether a part of a snapshot has been merged into its origin, and another part has not.
pub fn is_half_merged(snapshot: &Entry, path_of: PathOf<'_>) -> bool {
    let TargetParams::Snapshot(table) = &snapshot.table.params else { return false };
    let path = match Disk::of(&table.cow) {
        Disk::Path(path) => PathBuf::from(path),
        Disk::Named(name) => match path_of(name) {
            Some(path) => path,
            None => return false,
        },
    };
    !table.store.is_transient() && is_marked(&path)
}

/// Whether the store on a COW says that it is being merged.
fn is_marked(cow: &Path) -> bool {
    let path = cow.to_owned();
    let look = move || {
        let disk = OpenDisk::open(&path, Access::ReadOnly, Claim::Shared).ok()?;
        content::store_on(&disk).ok()??.identity
    };
    let found = silent::within_limit(cow, look).ok().flatten();
    found.is_some_and(|identity| identity.merging)
}

/// The snapshots of the tab file that are half merged into what a device writes as an origin.
pub fn into<'a>(
    entry: &Entry,
    tab: &'a Tab,
    find: Find<'_>,
    path_of: PathOf<'_>,
) -> Vec<&'a Entry> {
    let is_of = |snapshot: &&Entry| writes_origin_of(entry, snapshot, find) == Some(true);
    tab.entries.iter().filter(is_of).filter(|one| is_half_merged(one, path_of)).collect()
}

/// The device of the tab file by which the origin of a snapshot is written.
pub fn origins_device<'a>(snapshot: &Entry, tab: &'a Tab, find: Find<'_>) -> Option<&'a Entry> {
    tab.entries.iter().find(|entry| writes_origin_of(entry, snapshot, find) == Some(true))
}

/// An origin's device as the merge of a snapshot that goes on; `None`: one of their tables does
/// not allow that.
pub fn merge_of(entry: &Entry, snapshot: &Entry) -> Option<Entry> {
    let (TargetParams::SnapshotOrigin { origin }, TargetParams::Snapshot(table)) =
        (&entry.table.params, &snapshot.table.params)
    else {
        return None;
    };
    if entry.table.len != snapshot.table.len || entry.options.read_only {
        return None;
    }
    let merge = Snapshot {
        origin: origin.clone(),
        discard_zeroes_cow: false,
        discard_passdown_origin: false,
        ..table.clone()
    };
    let table = Table { params: TargetParams::SnapshotMerge(merge), ..entry.table.clone() };
    Some(Entry { table, ..entry.clone() })
}

/// The command that merges the rest of a snapshot, with its own length.
pub fn command(entry: &Entry, snapshot: &Entry, path_of: PathOf<'_>) -> String {
    let path = |word: &str| match Disk::of(word) {
        Disk::Named(name) => path_of(name).map(|path| path.display().to_string()),
        Disk::Path(path) => Some(path.to_owned()),
    };
    let path = |word: &str| path(word).unwrap_or_else(|| word.to_owned());
    let (name, len) = (&entry.name, snapshot.table.len.0);
    let line = match (&snapshot.table.params, entry.origin_written()) {
        (TargetParams::Snapshot(table), Some(origin)) => {
            let chunk = table.chunk_size.map_or(0, |chunk| chunk.sectors().0);
            format!("0 {len} snapshot-merge {} {} P {chunk}", path(origin), path(&table.cow))
        }
        _ => snapshot.table.to_string(),
    };
    let options = &entry.options;
    let id = options.id.map_or_else(String::new, |id| format!(" --id {id}"));
    let uuid = options.uuid.as_ref().map_or_else(String::new, |uuid| format!(" --uuid {uuid}"));
    format!("ublk-dm create {name}{id}{uuid} --table \"{line}\"")
}

/// What the user of the origin's device has to know of its merge.
pub fn goes_on(snapshot: &str) -> String {
    format!(
        "a part of its snapshot {snapshot} has been merged into it: the merge goes on; when it has \
         ended, `ublk-dm up {snapshot}` makes a new snapshot"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tab(text: &str) -> Tab {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tab");
        std::fs::write(&path, text).unwrap();
        crate::tab::files::read_at(path)
    }

    #[test]
    fn an_origins_device_goes_on_as_the_merge_if_its_line_allows_that() {
        let merged = |origin: &str, snapshot: &str| {
            let tab = tab(&format!("o \"{origin}\" id=3,uuid=u\ns \"{snapshot}\" nofail\n"));
            merge_of(&tab.entries[0], &tab.entries[1])
        };
        let snapshot = "0 8 snapshot /d/o /d/c PO 8 1 discard_zeroes_cow";
        let entry = merged("0 8 snapshot-origin /d/x", snapshot).unwrap();
        assert_eq!(entry.table.to_string(), "0 8 snapshot-merge /d/x /d/c PO 8");
        assert_eq!((entry.name.as_str(), entry.options.id), ("o", Some(3)));
        assert_eq!(entry.options.uuid.as_deref(), Some("u"));
        assert!(merged("0 16 snapshot-origin /d/x", snapshot).is_none(), "another length");
        assert!(merged("0 8 linear /d/x 0", snapshot).is_none(), "no origin's device");
    }
}
