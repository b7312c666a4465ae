//! The journal of a COW in the run directory: records that are not on the COW yet, in a mapped
//! file, so that journaling a record is two stores and the record outlives the process.
//!
//! Rules kept here: I10 (the COW chunk of a place is written last, so a place never holds half a
//! record), and the contract of [`Journal`]: a journal of another boot, or of a disk that was
//! reattached, is not used. It is not discarded either: [`owner`] says to which COW it may belong,
//! and the administrator decides (`ublk-dm journal`).

pub mod find;
mod layout;
pub mod owner;
pub mod unused;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dm_targets::snapshot::format::Record;
use dm_targets::snapshot::journal::{Journal, Journaled, PLACES};
use dm_targets::units::{Chunk, CowChunk};

use super::durable;
use crate::failure::{Failure, Reason};
use crate::sys::disk as sys;
use crate::sys::mapping::SharedWords;
pub use layout::EXTENSION;
use layout::{BYTES, HEADER_WORDS, MAGIC, RECORDED_WORD, WORDS};
use owner::Owner;

/// The journal of one COW.
pub struct FileJournal {
    path: PathBuf,
    words: SharedWords,
    /// Locked while a server uses the journal.
    _file: File,
}

impl FileJournal {
    /// Opens the journal of a claimed COW, or creates it. Dropping it removes the file, unless it
    /// holds records.
    pub fn open(path: &Path, owner: &Owner) -> io::Result<FileJournal> {
        if let Some((file, words)) = existing(path)? {
            if words.get(0) == MAGIC
                && owner::is_exactly(&owner::of_words(|at| words.get(at)), owner)
            {
                lock(&file)?;
                return Ok(FileJournal { path: path.to_owned(), words, _file: file });
            }
            if !left_in(&words).records.is_empty() {
                return Err(io::Error::other(
                    "it holds writes of another disk or from another boot",
                ));
            }
        }
        let mut bytes: Vec<u8> = owner.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(WORDS * size_of::<u64>(), 0);
        // Written, not only extended: all its space must be allocated before a record relies on it.
        durable::replace(path, &bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        lock(&file)?;
        Ok(FileJournal {
            path: path.to_owned(),
            words: SharedWords::of_file(file.as_fd(), WORDS)?,
            _file: file,
        })
    }
}

/// Locks a journal for a server. One that a command has removed meanwhile would not outlive it.
fn lock(file: &File) -> io::Result<()> {
    sys::lock(file, true)?;
    if file.metadata()?.nlink() == 0 {
        return Err(io::Error::other("it has just been removed by a command: try again"));
    }
    Ok(())
}

/// A journal that no server uses.
pub struct Left {
    pub path: PathBuf,
    /// Its owner; `None` if it is damaged.
    pub owner: Option<Owner>,
    /// Number of records in it.
    pub records: usize,
}

/// The paths of all journals in a directory; none if the directory does not exist.
pub fn paths_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(paths),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The journals in a directory that hold records, or are damaged, and that no server uses.
pub fn left_in_directory(directory: &Path) -> Result<Vec<Left>, Reason> {
    let mut left = Vec::new();
    for path in paths_in(directory)? {
        let found = left_at(&path);
        left.extend(found.map_err(|error| Failure::at(&path, error))?);
    }
    Ok(left)
}

/// The journal at a path, if it exists, holds records or is damaged, and no server uses it.
pub fn left_at(path: &Path) -> io::Result<Option<Left>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if sys::is_locked(&file)? {
        return Ok(None);
    }
    if file.metadata()?.len() != BYTES {
        return Ok(Some(Left { path: path.to_owned(), owner: None, records: 0 }));
    }
    let words = SharedWords::of_file(file.as_fd(), WORDS)?;
    let records = left_in(&words).records.len();
    let owner = (words.get(0) == MAGIC).then(|| owner::of_words(|at| words.get(at)));
    Ok((records > 0 || owner.is_none()).then(|| Left { path: path.to_owned(), owner, records }))
}

/// Removes the journals of a disk that hold no records and that no server uses.
pub fn remove_empty(directory: &Path, key: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_disks =
            path.extension().is_some_and(|end| end == EXTENSION) && owner::is_of_disk(&path, key);
        if !is_disks {
            continue;
        }
        if let Some((file, words)) = existing(&path).ok().flatten() {
            if !sys::is_locked(&file)? && left_in(&words).records.is_empty() {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes a journal that no server uses.
pub fn discard(path: &Path) -> io::Result<()> {
    // Locked first: a server that opens it meanwhile is refused, not left with an unlinked file.
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    sys::lock(&file, true)?;
    fs::remove_file(path)
}

/// Gives a journal to another owner, at that owner's path.
pub fn give(from: &Path, to: &Path, owner: &Owner) -> io::Result<()> {
    let mut bytes = fs::read(from)?;
    let recorded = RECORDED_WORD * size_of::<u64>()..(RECORDED_WORD + 1) * size_of::<u64>();
    let header: Vec<u8> = owner.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
    for (at, byte) in header.into_iter().enumerate().filter(|(at, _)| !recorded.contains(at)) {
        bytes[at] = byte;
    }
    durable::replace(to, &bytes)?;
    if from == to { Ok(()) } else { fs::remove_file(from) }
}

fn existing(path: &Path) -> io::Result<Option<(File, SharedWords)>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(file) if file.metadata()?.len() == BYTES => {
            let words = SharedWords::of_file(file.as_fd(), WORDS)?;
            Ok(Some((file, words)))
        }
        Ok(_) => Err(io::Error::other("it is damaged")),
    }
}

fn left_in(words: &SharedWords) -> Journaled {
    let place = |place: usize| {
        let at = HEADER_WORDS + 2 * place;
        let (old, new) = (words.get(at), words.get(at + 1));
        (new != 0).then_some(Record { old: Chunk(old), new: CowChunk(new) })
    };
    Journaled {
        records: (0..PLACES).filter_map(place).collect(),
        recorded: words.get(RECORDED_WORD),
    }
}

impl Journal for FileJournal {
    fn left(&self) -> Journaled {
        left_in(&self.words)
    }

    fn set_recorded(&self, count: u64) {
        self.words.set(RECORDED_WORD, count);
    }

    fn put(&self, place: usize, record: Option<Record>) {
        let at = HEADER_WORDS + 2 * place;
        if let Some(record) = record {
            self.words.set(at, record.old.0);
        }
        self.words.set(at + 1, record.map_or(0, |record| record.new.0));
    }

    fn clear(&self) {
        (0..PLACES).for_each(|place| self.put(place, None));
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        if self.left().records.is_empty() {
            if let Err(error) = fs::remove_file(&self.path) {
                log::warn!("{}: {error}", self.path.display());
            }
        }
    }
}
