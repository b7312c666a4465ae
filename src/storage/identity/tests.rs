//! Disks keep their names by every path; `sysfs` is a directory of files here.

use std::os::unix::fs::symlink;

use super::*;
use crate::storage::{OpenDisk, leg_name, names_of};

/// A directory of files that also stands in for sysfs.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Fixture {
        Fixture(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(path)
    }

    /// A file that is not empty.
    fn file(&self, name: &str) -> PathBuf {
        fs::write(self.at(name), name).unwrap();
        self.at(name)
    }

    /// The directory of a block device, with files in it.
    fn device(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.at(name);
        for (file, text) in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        dir
    }

    fn loop_on(&self, name: &str, file: &str, offset: u64) -> PathBuf {
        self.device(name, &[("loop/backing_file", file), ("loop/offset", &offset.to_string())])
    }
}

fn name_at(path: &Path) -> String {
    disk_name(path, DiskId::of_path(path).unwrap())
}

#[test]
fn a_file_is_the_same_by_every_path() {
    let fixture = Fixture::new();
    let file = fixture.file("a");
    let names_at = |path: &Path| names_by(path, name_at(path));
    let names = names_at(&file);
    let path = format!("path {}", file.display());
    assert!(
        names.len() == 2 && names[1] == path,
        "{names:?}: the temporary file's file system knows no time of birth"
    );
    symlink(&file, fixture.at("link")).unwrap();
    assert_eq!(names_at(&fixture.at("link")), names);
    fs::hard_link(&file, fixture.at("hard")).unwrap();
    assert_eq!(names_at(&fixture.at("hard"))[0], names[0]);
    fs::rename(&file, fixture.at("moved")).unwrap();
    assert_eq!(names_at(&fixture.at("moved"))[0], names[0]);
    // Another file at its path.
    let other = names_at(&fixture.file("a"));
    assert!(other[0] != names[0] && other[1] == names[1], "{other:?}");
}

#[test]
fn a_loop_device_is_its_file() {
    let fixture = Fixture::new();
    let file = fixture.file("a");
    let whole = fixture.loop_on("loop0", file.to_str().unwrap(), 0);
    assert_eq!(block_name(&whole), name_at(&file));
    let inside = fixture.loop_on("loop1", file.to_str().unwrap(), 1 << 20);
    assert!(certainly_differ(&block_name(&inside), &name_at(&file)), "it is a part of it");
    let part = fixture.device("loop0/loop0p1", &[("partition", "1"), ("start", "2048")]);
    assert_eq!(block_name(&part), block_name(&inside), "the same part");
    // A file that is deleted, or that a server in another root cannot see.
    let gone = fixture.loop_on("loop2", "/nowhere/a (deleted)", 0);
    assert_eq!(block_name(&gone), "file  /nowhere/a (deleted)");
    let blank = fixture.loop_on("loop3", fixture.file("with blank ").to_str().unwrap(), 0);
    assert_eq!(block_name(&blank), name_at(&fixture.at("with blank ")));
    // As in the records of earlier versions.
    assert_eq!(
        lasting_name_in(&part),
        Some(format!("loop/backing_file {} start 2048", file.display()))
    );
}

#[test]
fn a_disk_has_the_name_of_its_hardware_or_its_stack() {
    let fixture = Fixture::new();
    let disk = fixture.device("sda", &[("device/wwid", "naa.5 "), ("device/serial", "7")]);
    assert_eq!(block_name(&disk), "device/wwid naa.5");
    assert_eq!(lasting_name_in(&disk).unwrap(), "device/wwid naa.5 ");
    let part = fixture.device("sda/sda1", &[("partition", "1"), ("start", "64")]);
    assert_eq!(block_name(&part), "device/wwid naa.5 start 64");
    assert_eq!(lasting_name_in(&part).unwrap(), "device/wwid naa.5 start 64");
    assert_eq!(
        block_name(&fixture.device("dm-0", &[("dm/name", "x"), ("dm/uuid", "")])),
        "dm/name x"
    );
    let unnamed = fixture.device("vda", &[("serial", "")]);
    assert_eq!((block_name(&unnamed), lasting_name_in(&unnamed)), (String::new(), None));
}

#[test]
fn names_differ_for_certain_or_may_be_one_disks() {
    for (one, other) in [
        ("wwid 1", "wwid 2"),
        ("serial 1", "serial 2"),
        ("wwid 1", "wwid 1 start 8"),
        ("file 5-12 /a", "file 5-13 /b"),
    ] {
        assert!(certainly_differ(one, other) && certainly_differ(other, one), "{one} and {other}");
        assert!(!certainly_differ(one, one) && !certainly_differ(one, ""));
    }
    for (one, other) in [
        ("wwid 1", "serial 1"),
        ("wwid 1 ", "wwid 1"),
        ("wwid 1", "/dev/sda"),
        ("dm/name one", "dm/name two"),
        ("dm/uuid 1", "dm/uuid 2"),
        ("file 5-12 /a", "file 5-12 /b"),
        ("file 5-12 /a", "file 6-13 /a"),
        ("file  /a", "file 5-12 /b"),
        ("loop/backing_file /a ", "file 5-12 /b"),
        ("/a", "file 5-12 /b"),
    ] {
        assert!(
            !certainly_differ(one, other) && !certainly_differ(other, one),
            "{one} and {other}"
        );
    }
}

/// Asking again could wait for a file system that hangs, on a thread that has no time for that.
#[test]
fn what_an_open_disk_is_known_by_is_not_asked_for_again() {
    let fixture = Fixture::new();
    let file = fixture.file("disk");
    fs::write(&file, [1; 4096]).unwrap();
    let (access, claim) = (crate::storage::Access::ReadOnly, crate::storage::Claim::Shared);
    let disk = OpenDisk::open(&file, access, claim).unwrap();
    let told = || (leg_name(&disk), names_of(&disk));
    let before = told();
    fs::remove_file(&file).unwrap();
    assert_eq!(told(), before);
}

#[test]
fn a_leg_in_a_file_is_known_by_its_birth() {
    let fixture = Fixture::new();
    let name = |path: &Path| {
        leg_name(
            &OpenDisk::open(path, crate::storage::Access::ReadOnly, crate::storage::Claim::Shared)
                .unwrap(),
        )
    };
    let file = fixture.file("leg");
    fs::write(&file, [1; 4096]).unwrap();
    let first = name(&file);
    assert!(first.starts_with("file ") && !first.contains('/'), "{first}");
    fs::rename(&file, fixture.at("moved")).unwrap();
    assert_eq!(name(&fixture.at("moved")), first);
    fs::write(&file, [2; 4096]).unwrap();
    assert_ne!(name(&file), first, "another file at its path");
    let looped = fixture.loop_on("loop0", fixture.at("moved").to_str().unwrap(), 0);
    assert_eq!(name_of_leg(&block_name(&looped), "loop".to_owned()), first);
    for (known, former) in [("wwid a", "wwid a "), ("file  /a", "/a"), ("", "/dev/vda")] {
        assert_eq!(name_of_leg(known, former.to_owned()), former, "as ever");
    }
}
