//! Locks of the run directory: one for each family, and one for the directory itself.
//!
//! A command that changes a family holds the family's lock until the server has answered, which may
//! take as long as a disk; commands on other families do not wait for it. The directory's lock is
//! held only for steps that touch small files in the directory. A wait for a lock has a time limit,
//! after which the error describes the holder.
//!
//! Rule kept here: a lock's file is removed only by the process that has locked it, and a process
//! that has locked a file that is no longer the one in the directory tries again; so two processes
//! never hold the lock of one family.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::directory::RunDir;
use crate::failure::{Failure, Reason};

/// Longest wait for the directory's lock, which is held only for work on a few small files.
const DIRECTORY_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a family's lock: somewhat longer than a command may wait for a disk that does
/// not answer.
const FAMILY_LIMIT: Duration = Duration::from_secs(60);
/// The pause between two attempts: the kernel's lock has no time limit.
const PAUSE: Duration = Duration::from_millis(20);

/// The holder of a family's lock.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    /// The verb of its command.
    doing: String,
    /// The name reserved for a device that is being added.
    name: Option<String>,
}

/// A family's lock, held until it is dropped.
#[derive(Debug)]
pub struct FamilyLock {
    file: File,
    path: PathBuf,
    holder: Holder,
}

impl FamilyLock {
    /// Reserves a name for the device that is being added, unless another command that is adding a
    /// device has reserved it, or `taken` says that a device has it. The reservation ends when the
    /// lock is dropped.
    pub fn take_name(
        &mut self,
        rundir: &RunDir,
        name: &str,
        taken: impl FnOnce() -> io::Result<bool>,
    ) -> Result<bool, Reason> {
        let _directory = rundir.lock()?;
        let why = |error: io::Error| Failure::at(&rundir.path, error);
        if taken().map_err(why)? || others_want(rundir, &self.path, name).map_err(why)? {
            return Ok(false);
        }
        self.holder.name = Some(name.to_owned());
        self.say().map_err(why)?;
        Ok(true)
    }

    /// Writes the holder to the lock's file.
    fn say(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)?;
        self.file.write_all(&serde_json::to_vec(&self.holder)?)
    }
}

impl Drop for FamilyLock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{}: {error}", self.path.display());
        }
    }
}

impl RunDir {
    /// Takes the directory's lock, for a step that does not block.
    ///
    /// # Errors
    /// Another command has held the lock for longer than such a step can take.
    pub fn lock(&self) -> Result<File, Reason> {
        let why = |error: io::Error| Failure::at(&self.path, error);
        self.make()?;
        let file = File::open(&self.path).map_err(why)?;
        let end = Instant::now() + DIRECTORY_LIMIT;
        while !try_lock(&file).map_err(why)? {
            if Instant::now() >= end {
                let (path, seconds) = (self.path.display(), DIRECTORY_LIMIT.as_secs());
                return Err(format!(
                    "{path}: another command has held its lock for {seconds} s: that command is \
                     stopped or hangs"
                )
                .into());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(file)
    }

    /// Waits for other commands that change the family, and excludes further ones.
    ///
    /// # Errors
    /// Another command has held the lock for longer than it may wait itself; the message names that
    /// command.
    pub fn lock_family(&self, key: &str, doing: &str) -> Result<FamilyLock, Reason> {
        let path = self.lock_file(key);
        let why = |error: io::Error| Failure::at(&path, error);
        self.make()?;
        let end = Instant::now() + FAMILY_LIMIT;
        loop {
            let file = open(&path).map_err(why)?;
            if try_lock(&file).map_err(why)? && is_at(&file, &path) {
                let holder =
                    Holder { pid: std::process::id(), doing: doing.to_owned(), name: None };
                let mut lock = FamilyLock { file, path: path.clone(), holder };
                // The lock is held even if this write fails: on a full file system devices can
                // still be deleted.
                if let Err(error) = lock.say() {
                    log::debug!("{}: {error}", path.display());
                }
                return Ok(lock);
            }
            if Instant::now() >= end {
                let Holder { pid, doing, .. } = holder_of(&path);
                let seconds = FAMILY_LIMIT.as_secs();
                return Err(format!(
                    "{key}: `ublk-dm {doing}` (process {pid}) has held the lock of this server for \
                     {seconds} s"
                )
                .into());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The names that commands on other families have reserved for devices that they are adding.
    pub(super) fn wanted_names(&self, key: &str) -> io::Result<Vec<String>> {
        let own = self.lock_file(key);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "lock") && path != own {
                names.extend(holder_of(&path).name);
            }
        }
        Ok(names)
    }

    fn lock_file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.lock"))
    }

    /// Removes the file of a family's lock that a killed command has left behind.
    pub(super) fn remove_stale_lock(&self, key: &str) {
        drop(stale(&self.lock_file(key)));
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::io::retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether an open file is still the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |one: fs::Metadata, other: fs::Metadata| {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    file.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(|(one, other)| same(one, other))
}

/// Takes over a lock whose holder is dead; dropping the lock removes its file.
fn stale(path: &Path) -> Option<FamilyLock> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    let ours = try_lock(&file).unwrap_or(false) && is_at(&file, path);
    ours.then(|| FamilyLock { file, path: path.to_owned(), holder: Holder::default() })
}

fn holder_of(path: &Path) -> Holder {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Whether a command on another family is adding a device of this name.
fn others_want(rundir: &RunDir, own: &Path, name: &str) -> io::Result<bool> {
    for entry in fs::read_dir(&rundir.path)? {
        let path = entry?.path();
        let is_other = path.extension().is_some_and(|end| end == "lock") && path != own;
        if is_other && holder_of(&path).name.as_deref() == Some(name) && stale(&path).is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A temporary run directory, removed when dropped.
    struct Temporary(RunDir);

    impl Temporary {
        fn new(name: &str) -> Temporary {
            let path =
                std::env::temp_dir().join(format!("ublk-dm-lock-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Temporary(RunDir::trusted(path))
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0.path).unwrap();
        }
    }

    #[test]
    fn a_family_has_one_holder_and_others_are_not_kept_waiting() {
        let dir = Temporary::new("family");
        let (inside, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let lock = dir.0.lock_family("one", "add").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        turns.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(turns.load(Ordering::SeqCst), 160);
        let one = dir.0.lock_family("one", "add").unwrap();
        let begun = Instant::now();
        drop((dir.0.lock_family("two", "del").unwrap(), dir.0.lock().unwrap()));
        assert!(begun.elapsed() < FAMILY_LIMIT / 2, "another family's lock was waited for");
        drop(one);
        assert_eq!(fs::read_dir(&dir.0.path).unwrap().count(), 0, "files are left behind");
    }

    #[test]
    fn a_name_is_for_one_of_those_on_their_way() {
        let dir = Temporary::new("name");
        let mut one = dir.0.lock_family("one", "add").unwrap();
        let mut two = dir.0.lock_family("two", "add").unwrap();
        assert!(one.take_name(&dir.0, "snap", || Ok(false)).unwrap());
        assert!(!two.take_name(&dir.0, "snap", || Ok(false)).unwrap());
        assert!(!two.take_name(&dir.0, "other", || Ok(true)).unwrap());
        drop(one);
        assert!(two.take_name(&dir.0, "snap", || Ok(false)).unwrap());
        // A killed command leaves only its lock file.
        fs::write(dir.0.lock_file("three"), br#"{"pid":1,"doing":"add","name":"late"}"#).unwrap();
        assert!(two.take_name(&dir.0, "late", || Ok(false)).unwrap());
        drop(two);
        assert_eq!(fs::read_dir(&dir.0.path).unwrap().count(), 0, "files are left behind");
    }
}
