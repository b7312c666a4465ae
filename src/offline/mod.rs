//! `check` and `dump`: what a COW device or a mirror's log holds, without a server, ublk or root.
//!
//! The image is opened for reading only and is never written. Everything in it may be hostile: no
//! value found in it sizes an allocation, scans stop at terminators and at the device's end, and
//! each list has a named limit ([`report`], [`unique`]). A device that a server is using may change
//! while it is read; faults found then mean nothing.
//!
//! The facts about the formats are in `dm_targets::snapshot::format` and, for the log, in [`log`].
//! Whether the chunk size fits the block sizes of the disks is left to `add`, which knows both
//! disks.

mod content;
mod error;
mod image;
mod json;
mod log;
mod origin;
mod report;
mod store;
mod store_check;
mod text;
mod unique;

use std::io::{self, Write};
use std::path::Path;

use dm_targets::snapshot::format::identity::{self, IDENTITY_END};
use dm_targets::snapshot::format::{self, Found, HEADER_BYTES, Header, HeaderError, Identity};

use crate::failure::FOUND_BAD;
use crate::storage::signature;
use content::Content;
use image::Image;
use report::{IdentityReport, Kind, Report, StoreReport};
use store::Store;

pub(crate) use error::Error;

/// What to examine, and in which form to report it.
pub(crate) struct Request<'a> {
    /// The COW device, mirror log or image file.
    pub(crate) path: &'a Path,
    /// The origin, whose size bounds the records of a snapshot store; without it only absurd
    /// records are found. It must be the one that the store was made for, if the store knows.
    pub(crate) origin: Option<&'a Path>,
    /// One JSON object instead of text.
    pub(crate) json: bool,
}

/// The verdict on a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The structure has no fault.
    Good,
    /// The structure has faults, which were printed.
    Bad,
}

impl Verdict {
    /// The exit code that the command line promises.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Verdict::Good => 0,
            Verdict::Bad => FOUND_BAD,
        }
    }
}

/// [`check`] or [`dump`].
pub(crate) type Verb = fn(&Request<'_>, &mut dyn Write) -> Result<Verdict, Error>;

/// Checks the structure and prints the result.
///
/// # Errors
/// The image or the origin cannot be read, or the result cannot be written.
pub(crate) fn check(request: &Request<'_>, out: &mut dyn Write) -> Result<Verdict, Error> {
    let image = Image::open(request.path)?;
    let (report, _) = examine(&image, request)?;
    finish(
        &report,
        if request.json { json::check(&report, out) } else { text::check(&report, out) },
    )
}

/// Prints everything that the structure holds, as far as it can be read, and its faults.
///
/// # Errors
/// The image or the origin cannot be read, or the result cannot be written.
pub(crate) fn dump(request: &Request<'_>, out: &mut dyn Write) -> Result<Verdict, Error> {
    let image = Image::open(request.path)?;
    let (report, content) = examine(&image, request)?;
    let printed = if request.json {
        json::dump(&report, &content, out)
    } else {
        text::dump(&report, &content, out)
    };
    finish(&report, printed)
}

/// Reads all of a structure, whether it has faults or not.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(path: &Path) -> Result<(), Error> {
    let image = Image::open(path)?;
    examine(&image, &Request { path, origin: None, json: false }).map(drop)
}

/// A reader that has seen enough (`dump | head`) is not a failure.
fn finish(report: &Report, printed: Result<(), Error>) -> Result<Verdict, Error> {
    match printed {
        Err(Error::Output(source)) if source.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    Ok(if report.good { Verdict::Good } else { Verdict::Bad })
}

fn examine<'a>(image: &'a Image, request: &Request<'_>) -> Result<(Report, Content<'a>), Error> {
    let origin = request.origin.map(Image::open).transpose()?;
    let mut report = Report::new(image);
    let Some(first) = image.first_bytes::<HEADER_BYTES>()? else {
        let text = format!("{} bytes are too small for a header", image.size_bytes());
        report.findings.violation(Kind::TooSmall, Some(0), text);
        return Ok((report.with_verdict(), Content::Nothing));
    };
    report.set_first_bytes(&first);
    let mut content = Content::Nothing;
    match format::examine(&first) {
        Ok(Found::Empty) => {
            let mut text =
                "no store: the first word is zero, so a snapshot would create a new store here"
                    .to_string();
            text += &looks_like(image)?;
            report.findings.violation(Kind::NoStore, Some(0), text);
        }
        Ok(Found::Store { header, chunk_size }) => {
            let store = Store::new(image, chunk_size);
            store.examine(header, origin.as_ref(), &mut report)?;
            let block = image.first_bytes::<IDENTITY_END>()?;
            let identity = block.and_then(|block| Identity::decode(&block));
            if let Some(store) = &mut report.snapshot_store {
                store.identity = identity.as_ref().map(IdentityReport::of);
                store.merging = match &identity {
                    Some(identity) => identity.merging,
                    None => block.is_some_and(|block| identity::is_marked(&block)),
                };
            }
            if let Some(path) = request.origin {
                origin::check(path, identity.as_ref(), &mut report);
            }
            content = Content::Store(store);
        }
        Err(HeaderError::Foreign { magic }) if magic == log::MAGIC => {
            content = log::examine(image, &mut report)?.map_or(Content::Nothing, Content::Log);
        }
        Err(error) => {
            let more = if matches!(error, HeaderError::Foreign { .. }) {
                looks_like(image)?
            } else {
                String::new()
            };
            bad_header(&first, error, &more, &mut report);
        }
    }
    Ok((report.with_verdict(), content))
}

/// Names what is on the image instead of a store, if its signature is known. The remains of a file
/// system may lie behind a wiped header.
fn looks_like(image: &Image) -> Result<String, Error> {
    let found =
        signature::find(|offset_bytes, bytes| image.read(offset_bytes, bytes), image.size_bytes())?;
    Ok(found.map_or_else(String::new, |found| {
        format!("; signature of {} at byte {}", found.name, found.offset)
    }))
}

/// Reports an unusable header: both of its faults, although one would do.
fn bad_header(first: &[u8; HEADER_BYTES], error: HeaderError, more: &str, report: &mut Report) {
    let header = Header::decode(first);
    if let Some(header) = header {
        report.set_store(StoreReport::header_only(header));
    }
    let (kind, offset_bytes) = match error {
        HeaderError::Foreign { .. } => (Kind::ForeignMagic, 0),
        HeaderError::Version { .. } => (Kind::BadVersion, 8),
        HeaderError::ChunkSize { .. } => (Kind::BadChunkSize, 12),
    };
    let text = match error {
        // A log would do as well.
        HeaderError::Foreign { magic } => format!(
            "holds neither a snapshot's COW nor a mirror's log: its first word is {magic:#010x}"
        ),
        error => error.to_string(),
    };
    report.findings.violation(kind, Some(offset_bytes), text + more);
    let version = header.map_or(format::VERSION, |header| header.version);
    if kind == Kind::BadChunkSize && version != format::VERSION {
        report.findings.violation(
            Kind::BadVersion,
            Some(8),
            HeaderError::Version { version }.to_string(),
        );
    }
}
