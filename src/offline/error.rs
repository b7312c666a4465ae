//! Why there is no verdict about an image, in one line for the user.

use std::fmt;
use std::io;

use dm_targets::units::SECTOR_BYTES;

use crate::failure::{Failure, Kind};

/// Why there is no verdict: something could not be read or written. Exit code 1.
#[derive(Debug)]
pub(crate) enum Error {
    /// An image could not be opened.
    Open {
        /// The image.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The path names a directory, pipe or character device.
    NotStorage {
        /// The path.
        path: String,
    },
    /// An image could not be read.
    Read {
        /// The image.
        path: String,
        /// The offset of the failed read.
        offset_bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The result could not be written.
    Output(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Open { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "{path}: cannot open: {source}; root is not needed, but read permission is"
                )
            }
            Error::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
                write!(f, "cannot open {path}: there is no such device or file: check the path")
            }
            Error::Open { path, source } => write!(f, "{path}: cannot open: {source}"),
            Error::NotStorage { path } => {
                write!(f, "{path}: is neither a block device nor a regular file")
            }
            Error::Read { path, offset_bytes, source } => {
                write!(f, "{path}: cannot read byte {offset_bytes}: {source}")
            }
            Error::Output(source) => write!(f, "cannot write the result: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Open { source, .. } | Error::Read { source, .. } | Error::Output(source) => {
                Some(source)
            }
            Error::NotStorage { .. } => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::Open { source, .. } | Error::Read { source, .. } | Error::Output(source) => {
                Kind::of(source)
            }
            Error::NotStorage { .. } => Kind::Refused,
        };
        let why = Failure::new(kind, error.to_string());
        match error {
            Error::Read { path, offset_bytes, .. } => {
                why.of_disk(path).at_sector(offset_bytes / SECTOR_BYTES)
            }
            Error::Open { path, .. } | Error::NotStorage { path } => why.of_disk(path),
            Error::Output(_) => why,
        }
    }
}
