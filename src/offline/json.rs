//! The report as one JSON object on one line.
//!
//! What `dump` adds (records, dirty regions) is written as it is read: an object may be larger than
//! memory.

use std::cell::RefCell;
use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{Error as _, SerializeSeq, Serializer};

use super::content::Content;
use super::error::Error;
use super::log::Log;
use super::report::Report;
use super::store::Store;

/// Prints the result of `check`.
pub(super) fn check(report: &Report, out: &mut dyn Write) -> Result<(), Error> {
    print(report, &RefCell::new(None), out)
}

/// Prints the result of `dump`: `check`'s, with `areas` of a store or `dirty` runs of a log.
pub(super) fn dump(
    report: &Report,
    content: &Content<'_>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let failed = RefCell::new(None);
    let count = report
        .snapshot_store
        .as_ref()
        .and_then(|store| store.contents.as_ref())
        .map_or(0, |it| it.areas);
    let (areas, dirty) = match content {
        Content::Store(store) => (Some(Areas { store, count, failed: &failed }), None),
        Content::Log(log) => (None, Some(DirtyRuns { log, failed: &failed })),
        Content::Nothing => (None, None),
    };
    print(&Dump { report, areas, dirty }, &failed, out)
}

/// The read error in the middle of an object, which the serializer cannot carry.
type Failure = RefCell<Option<Error>>;

fn print(value: &impl Serialize, failed: &Failure, out: &mut dyn Write) -> Result<(), Error> {
    let mut out = io::BufWriter::new(out);
    if let Err(error) = serde_json::to_writer(&mut out, value) {
        return Err(failed.take().unwrap_or_else(|| Error::Output(error.into())));
    }
    writeln!(out).and_then(|()| out.flush()).map_err(Error::Output)
}

#[derive(Serialize)]
struct Dump<'a> {
    #[serde(flatten)]
    report: &'a Report,
    areas: Option<Areas<'a>>,
    dirty: Option<DirtyRuns<'a>>,
}

struct Areas<'a> {
    store: &'a Store<'a>,
    count: u64,
    failed: &'a Failure,
}

#[derive(Serialize)]
struct AreaDump<'a> {
    area: u64,
    chunk: u64,
    offset_bytes: u64,
    records: Records<'a>,
}

struct Records<'a> {
    store: &'a Store<'a>,
    area: u64,
    failed: &'a Failure,
}

#[derive(Serialize)]
struct RecordDump {
    index: u64,
    offset_bytes: u64,
    old_chunk: u64,
    new_chunk: u64,
}

struct DirtyRuns<'a> {
    log: &'a Log<'a>,
    failed: &'a Failure,
}

impl Serialize for Areas<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Areas { store, failed, .. } = *self;
        serializer.collect_seq((0..self.count).map(|area| AreaDump {
            area,
            chunk: store.layout().area_chunk(area).0,
            offset_bytes: store.layout().area_start(area).bytes(),
            records: Records { store, area, failed },
        }))
    }
}

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        stream(serializer, self.failed, |next| {
            let read = self.store.read_area(self.area, &mut |index, record| {
                let offset_bytes = self.store.record_offset_bytes(self.area, index);
                next(RecordDump {
                    index,
                    offset_bytes,
                    old_chunk: record.old.0,
                    new_chunk: record.new.0,
                })
            });
            read.map(|_| ())
        })
    }
}

impl Serialize for DirtyRuns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        stream(serializer, self.failed, |next| self.log.dirty_runs(next))
    }
}

/// Writes a list whose elements come from a callback.
fn stream<S: Serializer, T: Serialize>(
    serializer: S,
    failed: &Failure,
    read: impl FnOnce(&mut dyn FnMut(T) -> Result<(), Error>) -> Result<(), Error>,
) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(None)?;
    let mut broken = None;
    let done = read(&mut |element| {
        list.serialize_element(&element).map_err(|error| {
            broken = Some(error);
            // Only stops the read; the reason is in `broken`.
            Error::Output(io::ErrorKind::Other.into())
        })
    });
    match (done, broken) {
        (_, Some(error)) => Err(error),
        (Err(error), None) => {
            failed.replace(Some(error));
            Err(S::Error::custom("cannot continue reading"))
        }
        (Ok(()), None) => list.end(),
    }
}
