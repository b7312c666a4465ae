//! Mirrors: the `mirror` target with its dirty log.
//!
//! # The protocol
//!
//! A mirror has 2 to 9 *legs* with the same content, and is divided into *regions*. A **write**
//! goes to all legs, and is acknowledged when all have it. Before a leg is written, the regions of
//! the write are marked dirty in the log, durably (I7); all writes that have to wait for that share
//! one write of the log. A region stays dirty for a while ([`target::CLEAN_DELAY_MS`]), so that the
//! next writes to it go out at once. Then all legs are flushed, and the regions that nobody touched
//! meanwhile become clean again, many at a time.
//!
//! After a crash the legs may differ in the dirty regions, and only there. These are *out of sync*:
//! reads go to the *default leg* alone, so that they give the same bytes each time, and writes to
//! the *source legs*. **Recovery** copies them from the default leg to all legs that are no
//! sources. Several regions recover at once, contiguous ones in one copy; a write waits only for
//! the copy that its own region is in.
//!
//! A **leg that fails** a write is no source any more and its region is out of sync; it is *stale*,
//! and that is written to the header of the log (where the kernel's format leaves room) before
//! anything is acknowledged that only the other legs have. So it is no source after a restart
//! either, and is not read from until everything has been recovered. From the first failure or
//! change of legs on the header names all legs, and its bits are about these alone: opened with
//! another one, nothing is in sync, and that leg is stale. What becomes of the write follows the
//! kernel's table ([`legs::Legs::verdict`]): with `handle_errors` it is *held* until the mirror is
//! suspended (then it is for the next table) or its legs are changed (then it is tried again); with
//! `keep_log`, and without `handle_errors`, it succeeds on the legs that are left.
//!
//! # Where this differs from the kernel, and why
//!
//! * *Sources are a set.* The kernel knows the default leg only. Of three legs of which one is
//!   replaced, two are right, and stay so: both are written in regions out of sync, and either can
//!   be the default.
//! * *What could not be read is never made up.* Without `handle_errors` the kernel writes zeroes to
//!   the other legs where the source cannot be read, and counts the region as in sync; it also
//!   counts regions as in sync that a leg could not be written in. Here such a region stays out of
//!   sync: the other legs keep what they had, status shows it, all else goes on. If another source
//!   leg is there, the region is recovered from that one.
//! * *No write is acknowledged that no source leg has.* Without `handle_errors` the kernel
//!   acknowledges a write that failed on the only leg known to be right as long as another one took
//!   it, and recovers that other one from the former later. Here it fails.
//! * *The default leg changes whenever another source leg is healthier*, also without
//!   `handle_errors`.
//! * *A read is tried on every leg that can have the data*, also on one with errors when there is
//!   no other.
//! * *Discards are tracked* like writes. Whether a discarded range reads the same on all legs is up
//!   to them: `check` may list it. A discard that some legs did and others refused puts the region
//!   out of sync, and recovery makes it the same everywhere; no leg counts as failed.
//! * *Which legs are right is remembered.* With a log in memory too: [`leg_state`] says what is put
//!   on record, and what a later server makes of it. Where no leg is known to be right, none is
//!   chosen.
//! * *A resumed mirror believes in sync only what it also knew itself*, whatever the log or
//!   `nosync` say.
//! * Only blocks of the log that changed are written, and clean regions in batches.
//!
//! As in the kernel, users' writes that overlap and are in flight together may leave the legs
//! different in that range.
//!
//! A region that could not be recovered is tried again when the mirror is resumed, when its legs
//! change, or on demand, as in the kernel. A kernel that uses the log in between does not know of
//! stale legs, and recovers from the first one.
//!
//! # Who does what
//!
//! [`regions`] with `regions_clean`, `regions_lock` and `regions_flush`, [`legs`] with
//! `read_balance`, and [`leg_state`] decide (pure), [`mod@format`] knows the log's bytes (pure),
//! `log` makes marks durable, `cleaner` makes regions clean, `recovery` copies, `read`, `write` and
//! `flush` carry requests out, `record` puts the state of the legs on record, [`target`] is the
//! mirror's state and `lifecycle` its beginning and end, [`compare`] compares and repairs,
//! `change_legs` changes the legs. All of it runs on one thread, so state is borrowed, never
//! locked, and never borrowed across an await.

pub mod bits;
mod change_legs;
mod cleaner;
pub mod compare;
mod config;
mod flush;
mod flushes;
pub mod format;
pub mod leg_state;
pub mod legs;
mod lifecycle;
mod log;
mod open_error;
mod parts;
mod read;
mod read_balance;
mod record;
mod recovery;
pub mod regions;
mod regions_clean;
mod regions_flush;
mod regions_lock;
pub mod status;
pub mod table;
pub mod target;
mod unflushed;
mod write;

use std::fmt;
use std::rc::Rc;

use crate::disk::DiskError;
use legs::Failure;

/// What an administrator should hear about. Targets do not log; whoever made the mirror listens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Every region is in sync.
    InSync,
    /// A leg had its first error of a kind since everything was in sync.
    LegFailed {
        /// Its place in the table, from 0.
        leg: usize,
        /// Its disk.
        disk: Rc<str>,
        /// What failed.
        failure: Failure,
        /// How.
        error: DiskError,
    },
    /// The log could not be read or written.
    LogFailed(Option<DiskError>),
    /// Writes are held until the mirror is suspended or its legs are changed.
    WritesHeld,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::InSync => write!(f, "all legs are in sync"),
            Event::LegFailed { leg, disk, failure, error } => {
                let what = match failure {
                    Failure::Write => "does not have all writes any more",
                    Failure::Flush => "could not be flushed",
                    Failure::Sync => "could not be recovered or recovered from",
                    Failure::Read => "could not be read everywhere",
                };
                write!(f, "leg {leg} ({disk}) {what}: {error}")
            }
            Event::LogFailed(Some(error)) => write!(f, "the dirty log failed: {error}"),
            Event::LogFailed(None) => {
                write!(f, "the dirty log has an unknown version: nothing in it is believed")
            }
            Event::WritesHeld => {
                write!(
                    f,
                    "writes are held because not all legs or not the log can be written: replace \
                     what failed"
                )
            }
        }
    }
}
