//! How a disk is written on a command line or a table line.

use std::path::{Path, PathBuf};

use dm_targets::table::parse_size;

use crate::failure::{Failure, wrong_usage};
use crate::protocol::Leg;

/// The server has another working directory.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// `DEV` or `DEV:OFFSET`; a path that exists may itself hold colons.
pub fn leg_of(word: &str) -> Result<Leg, Failure> {
    let (path, offset) = match word.rsplit_once(':') {
        Some((path, offset)) if !Path::new(word).exists() => {
            let bytes = parse_size(offset).map_err(|error| wrong_usage(format!("leg {word}: {error}")))?;
            (path, bytes)
        }
        _ => (word, 0),
    };
    if offset % 512 != 0 {
        return Err(wrong_usage(format!("leg {word}: the offset is not a multiple of 512 bytes")));
    }
    Ok(Leg { path: absolute(Path::new(path))?, offset_sectors: offset / 512 })
}

/// A device word of a table line: a path, or `MAJ:MIN`.
pub fn device_of(word: &str) -> PathBuf {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match word.split_once(':') {
        Some((major, minor)) if is_number(major) && is_number(minor) => Path::new("/dev/block").join(word),
        _ => word.into(),
    }
}
