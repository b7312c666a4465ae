//! Notes of records in the run directory: a file for each COW, mapped, so that noting is two stores and outlives the
//! process.
//!
//! Layout, in words of 64 bits in the machine's byte order: a magic word, the boot's id (two words), the disk's number in
//! this boot, how many records are on the COW, three words of zeroes; then [`PLACES`] places of two words, the chunk and
//! the COW chunk of a record. A COW chunk of zero means that nothing stands there.
//!
//! Rules kept here: I10 (a place is written with its COW chunk last, so it never shows half a record), and what
//! [`Notes`] asks for: notes of another boot, or of another disk that has got the same device number, are not read.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use dm_targets::snapshot::format::Record;
use dm_targets::snapshot::journal::{Noted, Notes, PLACES};
use dm_targets::units::{Chunk, CowChunk};

use super::durable;
use crate::storage::OpenDisk;
use crate::sys::mapping::Words;

/// First word of a file of notes, and its version: "ublkdmN1" on a little-endian machine.
const MAGIC: u64 = 0x314e_6d64_6b6c_6275;
const HEADER_WORDS: usize = 8;
const RECORDED_WORD: usize = 4;
const WORDS: usize = HEADER_WORDS + 2 * PLACES;
/// Tells one boot of the machine from another.
pub(super) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The notes of one COW.
pub struct FileNotes {
    path: PathBuf,
    words: Words,
}

impl FileNotes {
    /// Whether something is noted for a COW, as far as can be told without its claim.
    pub fn exist(path: &Path) -> io::Result<bool> {
        Ok(existing(path)?.is_some_and(|words| !left_in(&words).records.is_empty()))
    }

    /// Opens the notes of a COW that has been claimed, and makes them if they are not there. They are removed when they are
    /// dropped, unless something stands in them.
    pub fn open(path: &Path, cow: &OpenDisk) -> io::Result<FileNotes> {
        let (boot, number) = (boot_id()?, cow.number_in_boot());
        let header = [MAGIC, boot.0, boot.1, number];
        if let Some(words) = existing(path)? {
            if (0..).zip(header).all(|(at, word)| words.get(at) == word) {
                return Ok(FileNotes { path: path.to_owned(), words });
            }
            log::warn!("{}: of another disk or another time, not used", path.display());
        }
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(WORDS * size_of::<u64>(), 0);
        // Written and not only made longer: there must be room for all of it before anyone relies on it.
        durable::replace(path, &bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(FileNotes { path: path.to_owned(), words: Words::of_file(file.as_fd(), WORDS)? })
    }
}

fn existing(path: &Path) -> io::Result<Option<Words>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(file) if is_long_enough(&file)? => Words::of_file(file.as_fd(), WORDS).map(Some),
        Ok(_) => Err(io::Error::other("not a file of notes: remove it to give up what it holds")),
    }
}

fn is_long_enough(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.len() == (WORDS * size_of::<u64>()) as u64)
}

fn left_in(words: &Words) -> Noted {
    let place = |place: usize| {
        let at = HEADER_WORDS + 2 * place;
        let (old, new) = (words.get(at), words.get(at + 1));
        (new != 0).then_some(Record { old: Chunk(old), new: CowChunk(new) })
    };
    Noted { records: (0..PLACES).filter_map(place).collect(), recorded: words.get(RECORDED_WORD) }
}

/// The boot's id as two numbers.
fn boot_id() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(BOOT_ID)?.replace('-', "");
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|part| u64::from_str_radix(part, 16).ok());
    let id = number(0..16).zip(number(16..32));
    id.ok_or_else(|| io::Error::other(format!("{BOOT_ID}: {text:?} is no id")))
}

impl Notes for FileNotes {
    fn left(&self) -> Noted {
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

impl Drop for FileNotes {
    fn drop(&mut self) {
        if self.left().records.is_empty() {
            if let Err(error) = fs::remove_file(&self.path) {
                log::warn!("{}: {error}", self.path.display());
            }
        }
    }
}
