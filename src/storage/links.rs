//! Paths that lead to the same disk after the next start of the machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::id::DiskId;

/// Where links are that are named after the disks themselves.
const BY_ID: &str = "/dev/disk/by-id";
/// Links by numbers, which change.
const BY_NUMBER: &str = "/dev/block";
/// How links begin that are read by people less easily, the last to be taken; and those that are
/// named after what is on the disk.
const PLAIN_LAST: [&str; 4] = ["wwn-", "nvme-eui.", "nvme-uuid.", "dm-uuid-"];
const OF_CONTENT: [&str; 2] = ["lvm-pv-uuid-", "md-uuid-"];

/// A path for the disk that is at a path now: a link stays, since somebody chose its name; the
/// kernel's node becomes a link in `/dev/disk/by-id` if there is one.
pub fn lasting_path(path: &Path) -> PathBuf {
    lasting_in(Path::new(BY_ID), path)
}

fn lasting_in(links: &Path, path: &Path) -> PathBuf {
    let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    let id = |path: &Path| fs::metadata(path).ok().as_ref().and_then(DiskId::of);
    let Some(disk @ DiskId::Block { .. }) = id(path) else { return path.to_owned() };
    if is_link && !path.starts_with(BY_NUMBER) {
        return path.to_owned();
    }
    let entries = fs::read_dir(links).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let begins = |name: &str, with: &[&str]| with.iter().any(|first| name.starts_with(first));
    names.retain(|name| !begins(name, &OF_CONTENT));
    names.sort_by_key(|name| (begins(name, &PLAIN_LAST), name.clone()));
    let found = names.into_iter().map(|name| links.join(name)).find(|link| id(link) == Some(disk));
    found.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_node_becomes_a_link_and_a_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let links = dir.path().join("by-id");
        fs::create_dir(&links).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(lasting_in(&links, &file), file, "a file");
        let none = dir.path().join("none");
        assert_eq!(lasting_in(&links, &none), none);
        let is_disk = |path: &PathBuf| {
            let found = fs::metadata(path).ok().as_ref().and_then(DiskId::of);
            matches!(found, Some(DiskId::Block { .. }))
        };
        let nodes = fs::read_dir("/dev").unwrap().flatten().map(|entry| entry.path());
        // Not every machine for builds has a disk.
        let Some(node) = nodes.into_iter().find(is_disk) else { return };
        let node = fs::canonicalize(node).unwrap();
        assert_eq!(lasting_in(&links, &node), node);
        for name in ["wwn-0x1", "lvm-pv-uuid-a", "nvme-B", "nvme-A"] {
            symlink(&node, links.join(name)).unwrap();
        }
        assert_eq!(lasting_in(&links, &node), links.join("nvme-A"));
        let chosen = dir.path().join("by-part");
        symlink(&node, &chosen).unwrap();
        assert_eq!(lasting_in(&links, &chosen), chosen);
    }
}
