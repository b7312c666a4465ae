//! Cases that several machines take from one directory: each machine takes the next case when it is
//! free.
//!
//! The directory holds `waiting`, with an empty file for each case, named by its place in the order
//! and its name (`0001-basic`), and one directory for each machine. A machine takes a case by
//! moving its file to its own directory: of two that try, the file system lets one succeed, so that
//! no case runs twice and none is lost. If a machine dies, its directory shows `ci/vm-suite` which
//! cases it had taken.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The queue, as one machine sees it.
pub struct Queue {
    waiting: PathBuf,
    mine: PathBuf,
}

impl Queue {
    /// `mine` is this machine's directory, beside `waiting`.
    pub fn new(mine: &str) -> Queue {
        let mine = PathBuf::from(mine);
        Queue { waiting: mine.parent().unwrap_or(Path::new(".")).join("waiting"), mine }
    }

    /// Takes the next case; returns its name, or `None` when no case is left.
    pub fn take(&self) -> io::Result<Option<String>> {
        let mut files = fs::read_dir(&self.waiting)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<String>>>()?;
        files.sort_unstable();
        for file in files {
            match fs::rename(self.waiting.join(&file), self.mine.join(&file)) {
                Ok(()) => {
                    return Ok(Some(
                        file.split_once('-').map_or(file.as_str(), |(_, name)| name).to_string(),
                    ));
                }
                // Another machine was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
