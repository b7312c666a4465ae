//! A block device or image file, opened for reading only.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use super::error::Error;

/// How much is read at once; small areas are read in one piece.
const PIECE_BYTES: usize = 256 * 1024;
/// The size of the first read: terminators come early.
const FIRST_PIECE_BYTES: usize = 4096;

/// An open image, and its size.
pub(super) struct Image {
    file: File,
    path: String,
    size_bytes: u64,
}

impl Image {
    /// Opens a block device or a regular file. The file type is checked first, because opening a
    /// pipe would block.
    pub(super) fn open(path: &Path) -> Result<Image, Error> {
        let name = path.display().to_string();
        let failed = |source| Error::Open { path: name.clone(), source };
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::NotStorage { path: name });
        }
        let mut file = File::open(path).map_err(failed)?;
        // The metadata of a block device does not contain its size.
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Image { file, path: name, size_bytes })
    }

    /// The path under which the image was opened.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The size of the image.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fills `bytes` from `offset_bytes` on.
    pub(super) fn read(&self, offset_bytes: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let failed = |source| Error::Read { path: self.path.clone(), offset_bytes, source };
        self.file.read_exact_at(bytes, offset_bytes).map_err(failed)
    }

    /// The first `N` bytes; `None` if the image is shorter.
    pub(super) fn first_bytes<const N: usize>(&self) -> Result<Option<[u8; N]>, Error> {
        let mut bytes = [0; N];
        if self.size_bytes < N as u64 {
            return Ok(None);
        }
        self.read(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Reads a range piece by piece, up to the end of the image or until `visit` (position, bytes)
    /// returns [`Progress::Enough`]. The length of every piece but the last is a multiple of 4096
    /// bytes, so no record is split.
    pub(super) fn read_pieces(
        &self,
        start_bytes: u64,
        len_bytes: u64,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let end = start_bytes.saturating_add(len_bytes).min(self.size_bytes);
        let mut buffer = Vec::new();
        let mut at = start_bytes;
        while at < end {
            let wanted = if buffer.is_empty() { FIRST_PIECE_BYTES } else { PIECE_BYTES };
            let len = usize::try_from(end - at).map_or(wanted, |left| left.min(wanted));
            buffer.resize(len, 0);
            self.read(at, &mut buffer)?;
            if visit(at, &buffer)? == Progress::Enough {
                break;
            }
            at += len as u64;
        }
        Ok(())
    }
}

/// Receives a piece: its start, and its bytes.
pub(super) type Visit<'a> = dyn FnMut(u64, &[u8]) -> Result<Progress, Error> + 'a;

/// Whether to go on reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Read the next piece.
    More,
    /// The rest is not needed.
    Enough,
}
