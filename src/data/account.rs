//! What a device has done, counted as its requests end, and the results that the kernel gets.
//!
//! Rule kept here: no request ends with `EAGAIN`, which the kernel does not treat as a disk error:
//! it gets `EIO` instead.

use std::cell::RefCell;

use dm_targets::request::{Request, RequestKind, TargetError};

use crate::data::durations::Durations;
use crate::protocol;

/// I/O counters of a device since it was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceStats {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub flushes: u64,
    pub discards: u64,
    pub errors: u64,
}

/// The counts of a device.
#[derive(Default)]
pub(super) struct Account {
    stats: RefCell<DeviceStats>,
    durations: RefCell<Durations>,
}

impl Account {
    /// The I/O counters.
    pub(super) fn stats(&self) -> DeviceStats {
        *self.stats.borrow()
    }

    /// How long the requests have taken.
    pub(super) fn durations(&self) -> protocol::Durations {
        self.durations.borrow().object()
    }

    /// A request has ended after `ns` nanoseconds. Returns its result for the kernel: a length, 0
    /// or a negative errno. `name` is the device's, for a message.
    #[inline]
    pub(super) fn end(
        &self,
        request: &Request,
        ns: u64,
        result: &Result<(), TargetError>,
        name: impl FnOnce() -> String,
    ) -> i32 {
        self.durations.borrow_mut().add(request.kind, ns);
        let mut stats = self.stats.borrow_mut();
        let bytes = request.count.bytes();
        match request.kind {
            RequestKind::Read => {
                stats.reads += 1;
                stats.read_bytes += bytes;
            }
            RequestKind::Write { .. } => {
                stats.writes += 1;
                stats.write_bytes += bytes;
            }
            RequestKind::Flush => stats.flushes += 1,
            RequestKind::Discard => stats.discards += 1,
        }
        match result {
            // Reads and writes return their full length; the others return 0, because byte counts
            // could overflow.
            Ok(()) => match request.kind {
                RequestKind::Read | RequestKind::Write { .. } => {
                    i32::try_from(bytes).unwrap_or(i32::MAX)
                }
                RequestKind::Flush | RequestKind::Discard => 0,
            },
            Err(error) => {
                stats.errors += 1;
                failed(request, error, stats.errors, name)
            }
        }
    }
}

/// The result of a request with an error, which is the device's error `number`.
#[cold]
fn failed(
    request: &Request,
    error: &TargetError,
    number: u64,
    name: impl FnOnce() -> String,
) -> i32 {
    if number.is_power_of_two() {
        let (name, kind, sector) = (name(), word(request.kind), request.sector);
        log::warn!("{name}: {kind} at sector {sector}: {error} (error {number})");
    }
    // `EAGAIN` would make the kernel fail the request in another way.
    match error.errno().0 {
        libc::EAGAIN => -libc::EIO,
        errno => -errno,
    }
}

/// The name of a request's kind, for a message.
fn word(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Read => "read",
        RequestKind::Write { .. } => "write",
        RequestKind::Flush => "flush",
        RequestKind::Discard => "discard",
    }
}
