//! Files of the run directory that are replaced as a whole: a reader, and the machine after a loss
//! of power, has one whole version of them.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A file has been replaced, and whether that outlives a loss of power is not known.
#[derive(Debug)]
struct InDoubt(io::Error);

impl fmt::Display for InDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InDoubt(error) = self;
        write!(f, "replaced, but it is not known whether that outlives a loss of power: {error}")
    }
}

impl Error for InDoubt {}

/// Whether a failed [`replace`] has put the new bytes in the place of the old ones all the same.
pub fn is_in_doubt(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<InDoubt>())
}

/// Replaces a file, durably: its bytes are on the disk before its name leads to them, and the name
/// is before this returns.
///
/// # Errors
/// The file is as it was, and nothing else is left; or it is replaced for all who read it, and may
/// be the old one again after a loss of power ([`is_in_doubt`]), because its directory could not be
/// synced.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_and(path, bytes, File::sync_all)
}

fn replace_and(
    path: &Path,
    bytes: &[u8],
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    // Before anything is replaced: there may be no descriptor left.
    let directory = path.parent().map(File::open).transpose()?;
    let new = path.with_extension(match path.extension() {
        Some(extension) => format!("{}-new", extension.to_string_lossy()),
        None => "new".to_owned(),
    });
    let replaced = write_whole(&new, bytes).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        if let Err(error) = fs::remove_file(&new) {
            log::debug!("{}: {error}", new.display());
        }
    }
    replaced?;
    let synced = directory.map_or(Ok(()), |directory| sync(&directory));
    synced.map_err(|error| io::Error::new(error.kind(), InDoubt(error)))
}

/// As [`replace`], of a file that was not there: after an error it is not there either.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes).inspect_err(|error| take_back(path, error))
}

/// Removes what a failed [`replace`] has put where nothing was.
fn take_back(path: &Path, error: &io::Error) {
    if !is_in_doubt(error) {
        return;
    }
    if let Err(error) = fs::remove_file(path) {
        log::error!("{}: it was to be taken back, and stays: {error}", path.display());
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
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
        // A directory in its place cannot be replaced by a file.
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
        let error = replace_and(&path, b"two", fails).unwrap_err();
        assert!(is_in_doubt(&error), "{error}");
        let said = error.to_string();
        assert!(said.starts_with("replaced, but") && said.contains("os error 5"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let error = replace(&dir.path().join("no/such"), b"x").unwrap_err();
        assert!(!is_in_doubt(&error), "{error}");
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
