//! Mirrors: the `mirror` target with its dirty log.
//!
//! # The protocol
//!
//! A mirror has 2 to 9 *legs* with the same content, and is divided into *regions*. A **write**
//! goes to all legs, and is acknowledged when it has completed on all of them. Before a leg is
//! written, the regions of the write are marked dirty in the log, durably (I7); all writes that
//! wait for a mark share one write of the log. A region stays dirty for a while
//! ([`target::CLEAN_DELAY_MS`]), so that the next writes to it are issued immediately. Then all
//! legs are flushed, and the regions not written since become clean again, in batches.
//!
//! After a crash the legs may differ in the dirty regions, and only there. These are *out of sync*:
//! their reads go to the *default leg* alone, so that they return the same bytes each time, and
//! their writes to the *source legs*. **Recovery** copies them from the default leg to all legs
//! that are not sources. Several regions recover concurrently, contiguous ones in one copy; a write
//! waits only for the copy of its own region.
//!
//! A **leg that fails** a write is no longer a source, and the region is out of sync. The leg is
//! *stale*, which is written to the header of the log (where the kernel's format leaves room)
//! before any write is acknowledged that only the other legs have. So the leg is not a source after
//! a restart either, and is not read until every region has been recovered. From the first failure
//! or change of legs on, the header names all legs, and the log's bits apply to these alone: if the
//! log is opened with another leg, nothing is in sync, and that leg is stale. The result of the
//! write follows the kernel's table ([`legs::Legs::verdict`]): with `handle_errors` it is *held*
//! until the mirror is suspended (then it is requeued for the next table) or its legs are changed
//! (then it is retried); with `keep_log`, and without `handle_errors`, it succeeds on the remaining
//! legs.
//!
//! # Where this differs from the kernel, and why
//!
//! * *Sources are a set.* The kernel has only a default leg. If one of three legs is replaced, the
//!   other two are up to date and stay so: both are written in regions out of sync, and either can
//!   be the default.
//! * *Unreadable data is never replaced by zeroes.* Without `handle_errors` the kernel writes
//!   zeroes to the other legs where the source cannot be read, and counts the region as in sync; it
//!   also counts regions as in sync in which a write to a leg failed. Here such a region stays out
//!   of sync: the other legs keep their data, the status shows the region, and everything else
//!   continues. If there is another source leg, the region is recovered from that leg.
//! * *No write is acknowledged unless a source leg has it.* Without `handle_errors` the kernel
//!   acknowledges a write that failed on the only leg known to be up to date if it succeeded on
//!   another leg, and later recovers the other leg from the failed one. Here the write fails.
//! * *The default leg changes whenever another source leg is healthier*, even without
//!   `handle_errors`.
//! * *A read is tried on every leg that may have the data*, even on a leg with errors if there is
//!   no other.
//! * *Discards are tracked* like writes. Whether a discarded range reads the same on all legs
//!   depends on the legs: `check` may list it. A discard that some legs completed and others
//!   refused puts the region out of sync, and recovery makes the legs equal; no leg counts as
//!   failed.
//! * *The set of up-to-date legs is journaled*, also for a log in memory: [`leg_state`] defines
//!   what is journaled and how a later server uses it. If no leg is known to be up to date, none is
//!   chosen.
//! * *A resumed mirror trusts a region as in sync only if it was in sync before the suspend*,
//!   whatever the log or `nosync` says.
//! * Only changed blocks of the log are written, and regions are cleaned in batches.
//!
//! As in the kernel, overlapping user writes in flight together may leave the legs different in
//! that range.
//!
//! A region that could not be recovered is retried when the mirror is resumed, when its legs
//! change, or on demand, as in the kernel. A kernel that uses the log in between ignores the stale
//! flags, and recovers from the first leg.
//!
//! # Who does what
//!
//! [`regions`] with `regions_write`, `regions_clean`, `regions_lock` and `regions_flush`, [`legs`]
//! with `read_balance`, and [`leg_state`] decide (pure), [`mod@format`] encodes and decodes the log
//! (pure), `log` makes marks durable, `cleaner` makes regions clean, `recovery` copies, `read`,
//! `write` and `flush` carry out requests, `record` journals the state of the legs, [`target`] is
//! the mirror's state, `lifecycle` opens, suspends, resumes and closes it and `activate` makes it
//! usable, [`compare`] compares
//! and repairs, `change_legs` changes the legs. All of it runs on one thread, so state is borrowed,
//! never locked, and never borrowed across an await.

mod activate;
mod beginning;
mod bits;
pub mod change_legs;
mod cleaner;
pub mod compare;
mod config;
mod flush;
mod flushes;
pub mod format;
mod grow;
mod leg_claims;
pub mod leg_flags;
mod leg_ios;
pub mod leg_set;
pub mod leg_state;
pub mod legs;
mod lifecycle;
mod log;
pub mod log_region_size;
mod no_source;
mod open_error;
mod open_log;
mod parts;
mod read;
mod read_balance;
mod record;
mod recovery;
pub mod regions;
mod regions_clean;
mod regions_flush;
mod regions_grow;
mod regions_lock;
mod regions_write;
pub(crate) mod remap;
pub mod status;
pub(crate) mod stretch;
pub mod table;
pub mod target;
mod unflushed;
mod write;

use std::fmt;
use std::rc::Rc;

use crate::disk::DiskError;
use legs::Failure;

/// An event for the administrator. Targets do not log; the caller that opened the mirror supplies a
/// listener.
#[derive(Clone, Debug)]
pub enum Event {
    /// Every region is in sync.
    InSync,
    /// A leg had its first error of a kind since all regions were in sync.
    LegFailed {
        /// The leg's index in the table, from 0.
        leg: usize,
        /// The leg's disk.
        disk: Rc<str>,
        /// The kind of failure.
        failure: Failure,
        /// The disk's error.
        error: DiskError,
    },
    /// The log could not be read or written.
    LogFailed(Option<DiskError>),
    /// The log is not used: it cannot say which legs are up to date, since none of those could be
    /// flushed.
    LogUnused,
    /// Writes are held until the mirror is suspended or its legs are changed.
    WritesHeld,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::InSync => write!(f, "all legs are in sync"),
            Event::LegFailed { leg, disk, failure, error } => {
                let what = match failure {
                    Failure::Write => "has missed a write",
                    Failure::Flush => "could not be flushed",
                    Failure::Sync => "failed during recovery",
                    Failure::Read => "could not be read",
                };
                write!(f, "leg {leg} ({disk}) {what}: {error}")
            }
            Event::LogFailed(Some(error)) => write!(f, "the dirty log failed: {error}"),
            Event::LogFailed(None) => {
                write!(f, "the dirty log has an unknown version: its content is ignored")
            }
            Event::LogUnused => {
                write!(f, "the dirty log is not used: no leg that is up to date can be flushed")
            }
            Event::WritesHeld => {
                write!(
                    f,
                    "writes are held because a leg or the dirty log cannot be written: replace the \
                     failed disk"
                )
            }
        }
    }
}
