//! Files of the run directory that are replaced atomically: a reader, also after a loss of power,
//! sees one complete version. What is valid in one boot only may be overwritten in place instead if
//! the directory is full: a reader, also after the death of the process, sees one complete version.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A file has been replaced, but may revert after a loss of power.
#[derive(Debug)]
struct InDoubt(io::Error);

impl fmt::Display for InDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InDoubt(error) = self;
        write!(f, "replaced, but the new content may not survive a loss of power: {error}")
    }
}

impl Error for InDoubt {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Whether a failed [`replace`] has replaced the file nevertheless.
pub fn is_in_doubt(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<InDoubt>())
}

/// Durably replaces a file: the new bytes are on the disk before the rename, and the rename is on
/// the disk before this returns.
///
/// # Errors
/// Either the file is unchanged and no other file is left; or readers see the new file, but it may
/// revert after a loss of power ([`is_in_doubt`]), because its directory could not be synced.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_and(path, bytes, PRIVATE, File::sync_all)
}

/// The same for a file outside of the run directory, with a mode of its own.
///
/// # Errors
/// As [`replace`].
pub fn replace_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_and(path, bytes, mode, File::sync_all)
}

/// The mode of the run directory's files.
const PRIVATE: u32 = 0o600;

fn replace_and(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    // Opened before the rename: afterwards there may be no descriptor left.
    let directory = path.parent().map(File::open).transpose()?;
    let new = path.with_extension(match path.extension() {
        Some(extension) => format!("{}-new", extension.to_string_lossy()),
        None => "new".to_owned(),
    });
    let replaced = write_whole(&new, bytes, mode).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        if let Err(error) = fs::remove_file(&new) {
            log::debug!("{}: {error}", new.display());
        }
    }
    replaced?;
    let synced = directory.map_or(Ok(()), |directory| sync(&directory));
    synced.map_err(|error| io::Error::new(error.kind(), InDoubt(error)))
}

/// Like [`replace`], for a file that does not exist: after an error it still does not exist.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes).inspect_err(|error| take_back(path, error))
}

/// Most bytes that are written in place: those of a page. The death of the process leaves all of
/// them or none.
pub const PAGE_BYTES: usize = 4096;

/// Durably replaces the content of a file by as many bytes in place, which needs no room. Whether
/// the file is whole after a loss of power is not known.
///
/// # Errors
/// The file has another size, or is longer than [`PAGE_BYTES`]: it is unchanged. Or it cannot be
/// written.
pub fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if bytes.len() > PAGE_BYTES || file.metadata()?.len() != bytes.len() as u64 {
        return Err(io::Error::other("the new content does not fit in the place of the old one"));
    }
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

/// Removes a new file that a failed [`replace`] has put in place.
fn take_back(path: &Path, error: &io::Error) {
    if !is_in_doubt(error) {
        return;
    }
    if let Err(error) = fs::remove_file(path) {
        log::error!("{}: it cannot be removed again: {error}", path.display());
    }
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_or_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("family.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // A file cannot replace a directory.
        let taken = dir.path().join("taken.json");
        fs::create_dir(&taken).unwrap();
        replace(&taken, b"three").unwrap_err();
        assert!(!dir.path().join("taken.json-new").exists(), "what was half done is gone");
    }

    #[test]
    fn what_is_replaced_and_may_not_last_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("family.json");
        replace(&path, b"one").unwrap();
        let fails = |_: &File| Err(io::Error::from_raw_os_error(libc::EIO));
        let error = replace_and(&path, b"two", PRIVATE, fails).unwrap_err();
        assert!(is_in_doubt(&error), "{error}");
        let said = error.to_string();
        assert!(said.starts_with("replaced, but") && said.contains("os error 5"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let error = replace(&dir.path().join("no/such"), b"x").unwrap_err();
        assert!(!is_in_doubt(&error), "{error}");
    }

    #[test]
    fn only_as_many_bytes_are_written_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mirror.legs");
        overwrite(&path, b"one").unwrap_err();
        assert!(!path.exists());
        replace(&path, b"one").unwrap();
        overwrite(&path, b"two").unwrap();
        overwrite(&path, b"three").unwrap_err();
        overwrite(&path, b"").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let long = [b'x'; PAGE_BYTES + 1];
        replace(&path, &long).unwrap();
        overwrite(&path, &[b'y'; PAGE_BYTES + 1]).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), long);
    }

    #[test]
    fn a_new_file_that_may_not_last_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cow-1.departed");
        fs::write(&path, "x").unwrap();
        take_back(&path, &io::Error::from_raw_os_error(libc::EIO));
        assert!(path.exists(), "nothing was replaced");
        take_back(&path, &io::Error::other(InDoubt(io::Error::from_raw_os_error(libc::EIO))));
        assert!(!path.exists());
        create(&path, b"y").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"y");
    }
}
