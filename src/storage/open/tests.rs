//! Opening regular files, and paths that are no disks; block devices need root and are tested in a
//! VM.

use std::os::unix::fs::{MetadataExt, symlink};

use tempfile::TempDir;

use super::*;

fn file_of(dir: &TempDir, name: &str, bytes: u64) -> PathBuf {
    let path = dir.path().join(name);
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

fn refusal(path: &Path, access: Access) -> OpenError {
    let error = OpenDisk::open(path, access, Claim::Exclusive).unwrap_err();
    let line = error.to_string();
    assert!(
        !line.contains('\n') && line.starts_with(&format!("cannot open {}: ", path.display())),
        "{line}"
    );
    error
}

#[test]
fn a_file_is_a_disk() {
    let dir = TempDir::new().unwrap();
    let path = file_of(&dir, "disk", (1 << 20) + 4096);
    let disk = OpenDisk::open(&path, Access::ReadWrite, Claim::Exclusive).unwrap();
    assert_eq!(disk.size_sectors % u64::from(disk.limits.logical_block_size / 512), 0);
    assert_eq!(disk.size_sectors, 2056);
    let ragged = file_of(&dir, "ragged", (1 << 20) + 700);
    assert!(matches!(
        refusal(&ragged, Access::ReadOnly).kind,
        OpenErrorKind::Ragged { bytes: 1_049_276, .. }
    ));
    assert!(
        disk.limits.logical_block_size.is_power_of_two() && disk.limits.logical_block_size >= 512
    );
    assert!(disk.limits.physical_block_size >= disk.limits.logical_block_size);
    assert!(disk.limits.volatile_cache && !disk.limits.fua && !disk.limits.read_only);
    assert_eq!(disk.id.on_table_line(&path.display().to_string()), path.display().to_string());
    assert_eq!(Some(disk.id), DiskId::of(&path.metadata().unwrap()));
    assert!(rustix::io::fcntl_getfd(&disk.file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn paths_to_one_file_are_one_disk() {
    let dir = TempDir::new().unwrap();
    let path = file_of(&dir, "disk", 1 << 20);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let disk = OpenDisk::open(&path, Access::ReadOnly, Claim::Shared).unwrap();
    let again = OpenDisk::open(&link, Access::ReadOnly, Claim::Shared).unwrap();
    assert_eq!(disk.id, again.id);
    assert_ne!(disk.path, again.path);
}

#[test]
fn a_written_file_is_claimed_once() {
    let dir = TempDir::new().unwrap();
    let path = file_of(&dir, "disk", 1 << 20);
    let disk = OpenDisk::open(&path, Access::ReadWrite, Claim::Exclusive).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let error = refusal(&path, access);
        assert!(matches!(error.kind, OpenErrorKind::Busy { .. }), "{error}");
        assert!(matches!(error.kind, OpenErrorKind::Busy { .. }));
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    }
    OpenDisk::open(&path, Access::ReadOnly, Claim::Shared).unwrap();
    let duplicate = disk.file.try_clone().unwrap();
    drop(disk);
    refusal(&path, Access::ReadWrite);
    drop(duplicate);
    OpenDisk::open(&path, Access::ReadWrite, Claim::Exclusive).unwrap();
}

#[test]
fn readers_bear_each_other_but_no_writer() {
    let dir = TempDir::new().unwrap();
    let path = file_of(&dir, "disk", 1 << 20);
    let _one = OpenDisk::open(&path, Access::ReadOnly, Claim::Exclusive).unwrap();
    let _two = OpenDisk::open(&path, Access::ReadOnly, Claim::Exclusive).unwrap();
    assert!(matches!(refusal(&path, Access::ReadWrite).kind, OpenErrorKind::Busy { .. }));
}

#[test]
fn what_is_no_disk_is_refused() {
    let dir = TempDir::new().unwrap();
    let error = refusal(dir.path(), Access::ReadOnly);
    assert!(matches!(error.kind, OpenErrorKind::WrongKind { what: "a directory" }), "{error}");
    let error = refusal(Path::new("/dev/null"), Access::ReadOnly);
    assert!(
        matches!(error.kind, OpenErrorKind::WrongKind { what: "a character device" }),
        "{error}"
    );
    let error = refusal(&dir.path().join("none"), Access::ReadOnly);
    assert!(matches!(error.kind, OpenErrorKind::Missing), "{error}");
    let path = file_of(&dir, "file", 1 << 20);
    assert!(matches!(refusal(&path.join("below"), Access::ReadOnly).kind, OpenErrorKind::Missing));
    let error = refusal(&file_of(&dir, "empty", 0), Access::ReadWrite);
    assert!(matches!(error.kind, OpenErrorKind::Empty), "{error}");
    let error = refusal(&file_of(&dir, "tiny", 511), Access::ReadWrite);
    assert!(matches!(error.kind, OpenErrorKind::TooSmall { bytes: 511, .. }), "{error}");
}

#[test]
fn a_size_is_asked_for_again() {
    let dir = TempDir::new().unwrap();
    let path = file_of(&dir, "disk", 1 << 20);
    let disk = OpenDisk::open(&path, Access::ReadWrite, Claim::Exclusive).unwrap();
    disk.file.set_len(3 << 20).unwrap();
    assert_eq!(size_now(&disk.file, disk.id, disk.limits.logical_block_size).unwrap(), 6144);
    assert_eq!(disk.size_sectors, 2048);
}

#[test]
fn opening_leaves_the_file_as_it_was() {
    let dir = TempDir::new().unwrap();
    let path = file_of(&dir, "disk", 1 << 20);
    let before = path.metadata().unwrap();
    drop(OpenDisk::open(&path, Access::ReadWrite, Claim::Exclusive).unwrap());
    let after = path.metadata().unwrap();
    assert_eq!((before.len(), before.blocks()), (after.len(), after.blocks()));
    assert_eq!(
        (before.mtime_nsec(), before.ctime_nsec()),
        (after.mtime_nsec(), after.ctime_nsec())
    );
}

#[test]
fn names_of_disks() {
    assert_eq!(DiskId::Block { major: 259, minor: 3 }.to_string(), "259:3");
    assert_eq!(whole_sectors(4096 + 511, 512), 8);
    assert_eq!(whole_sectors(4096 + 3584, 4096), 8);
    assert_eq!(whole_sectors(4095, 4096), 0);
}

#[test]
fn the_limit_that_is_reached_is_named() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let kind = OpenErrorKind::of_io(io::Error::from_raw_os_error(libc::EMFILE));
    let said = OpenError { path: "/dev/disk".into(), kind }.to_string();
    let number = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    assert!(said.contains(&format!("at most {number} files")), "{said}");
    assert!(said.contains("ulimit -Hn") && !said.contains("kernel log"), "{said}");
}

/// The user that was killed is a thread here that closes the file a moment later.
#[test]
fn a_disk_that_is_being_closed_is_waited_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let claim = |path: &Path| OpenDisk::open(path, Access::ReadWrite, Claim::Exclusive).unwrap();
    let used = claim(file.path());
    let closing = std::thread::spawn(move || {
        std::thread::sleep(CLOSING_LIMIT / 3);
        drop(used);
    });
    let open = || OpenDisk::open_unless_in_use(file.path(), Access::ReadWrite, Claim::Exclusive);
    drop(open().unwrap());
    closing.join().unwrap();
    // One that stays in use is refused, and not waited for longer.
    let used = claim(file.path());
    let begun = Instant::now();
    assert!(matches!(open().unwrap_err().kind, OpenErrorKind::Busy { .. }));
    assert!((CLOSING_LIMIT..10 * CLOSING_LIMIT).contains(&begun.elapsed()));
    drop(used);
}
