//! Files of the run directory that are replaced as a whole: a reader, and the machine after a loss
//! of power, has one whole version of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces a file, durably: its bytes are on the disk before its name leads to them, and the name
/// is before this returns. A failure leaves the file as it was, and nothing else.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
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
}
