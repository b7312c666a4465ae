//! Copy-on-write snapshots: the `snapshot` and `snapshot-origin` targets.
//!
//! # The protocol
//!
//! A snapshot shows the origin as it was when the snapshot was made. In its COW device it keeps the
//! old content of chunks that the origin has overwritten since, and the new content of chunks
//! written through the snapshot itself; an *exception* maps a chunk of the origin to a chunk of the
//! COW.
//!
//! A **write to the origin** first asks every snapshot
//! ([`exceptions::Exceptions::before_origin_write`]). Where a chunk has no exception one is
//! allocated; one read of the origin then feeds the COWs of all snapshots that lack the chunk. When
//! the data has been written, each snapshot's *committer* makes the record durable: flush, then
//! area write with FUA, for everything that is ready at that moment and in the order of allocation.
//! The write then asks again, and goes to the origin only when all snapshots let it pass: every
//! snapshot has a durable record (I5), and no snapshot read of the old chunk is still in flight to
//! the origin (I4). What every snapshot has is remembered (`preserved`), so that writing it again
//! asks no snapshot, however many there are.
//!
//! A **write to a snapshot** goes to the COW chunk if there is one. Otherwise a chunk is allocated,
//! the new data is written straight to it, the part of the chunk that the write does not cover is
//! copied beside it, and the record is committed; only then is the write acknowledged (I10). The
//! kernel copies the whole chunk first and writes the new data last; since the COW chunk is
//! invisible before its record, both orders show the same, and this one saves a write.
//!
//! A snapshot write without FUA does not wait for its record if the record can be *journaled*, in
//! memory that outlives the process: the device reports a volatile cache, so its users flush where
//! they must not lose anything, and a flush waits for all records. The snapshot shows the chunk
//! from then on. Records that a server journaled and could no longer commit are committed by the
//! next one before it serves. Writes of the origin always wait for the record: without it the
//! snapshot would show the origin's new data after a loss of power, which is neither what was
//! written nor what was there before.
//!
//! A **read of a snapshot** goes to the COW where there is an exception and to the origin where
//! there is none, and in the latter case is tracked until it has completed.
//!
//! When a chunk cannot be kept (the COW is full, a disk failed) the snapshot becomes invalid: its
//! committer makes the mark on disk durable, and only then do the waiting writes continue (I9). If
//! the mark cannot be written the loss is recorded elsewhere; if it cannot be recorded either,
//! those writes fail ([`losses`]). The same holds for a snapshot that has left its origin: the
//! origin's next write first records that the snapshot is no longer valid. A snapshot write that
//! finds the COW full may instead leave the snapshot readable (`Overflow`).
//!
//! # Example
//!
//! A snapshot on disks in memory: it shows the origin as it was when the snapshot joined.
//!
//! ```
//! use std::rc::Rc;
//! use dm_targets::copy;
//! use dm_targets::disk::{Host, Memory};
//! use dm_targets::exec::Executor;
//! use dm_targets::ram::{Ram, RamDisk};
//! use dm_targets::request::{Request, RequestKind};
//! use dm_targets::snapshot::losses::{Loss, LossRecord};
//! use dm_targets::snapshot::origin::Origin;
//! use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
//! use dm_targets::units::{ChunkSize, Sector, Sectors};
//!
//! /// Records that a snapshot is no longer right where its COW cannot be marked: these always can.
//! struct NoLosses;
//!
//! impl LossRecord for NoLosses {
//!     fn cow(&self) -> &[String] {
//!         &[]
//!     }
//!
//!     fn record(&self, _: Loss) -> Result<(), String> {
//!         Err("there is no record".into())
//!     }
//! }
//!
//! let (ram, executor) = (Ram::new(), Executor::new());
//! let host: Rc<dyn Host> = ram.clone();
//! let disk = |name: &str| RamDisk::new(&ram, Sectors(1024), RamDisk::LIMITS).handle(name);
//! let [origin, cow] = ["origin", "cow"].map(disk);
//! let copy = copy::Client::new(&executor, &host, None).unwrap();
//! let (written, read) = (ram.add_payload(vec![7; 512]), ram.add_payload(vec![7; 512]));
//!
//! let runner = executor.clone();
//! ram.run(&executor, async move {
//!     let origin = Origin::new(origin, copy.clone());
//!     let parts = Parts {
//!         executor: &runner,
//!         host: &host,
//!         copy: &copy,
//!         origin: origin.disk(),
//!         cow: &cow,
//!         chunk_size: ChunkSize::from_sectors(8),
//!         persistent: true,
//!         overwrite: false,
//!         ownership: None,
//!         lost: false,
//!         losses: Rc::new(NoLosses),
//!         len: None,
//!         options: Options {
//!             on_full: OnFull::Invalidate,
//!             discard_zeroes_cow: false,
//!             discard_passdown_origin: false,
//!         },
//!         journal: None,
//!         listener: Rc::new(|event| println!("{event}")),
//!     };
//!     let snapshot = Snapshot::open(parts).await.unwrap();
//!     snapshot.activate(&runner).await.unwrap();
//!     origin.join(snapshot.clone()).await;
//!
//!     let request = |kind, payload| {
//!         Request { kind, sector: Sector(9), count: Sectors(1), memory: Memory::payload(payload) }
//!     };
//!     origin.handle(&request(RequestKind::Write { fua: false }, written)).await.unwrap();
//!     snapshot.handle(&request(RequestKind::Read, read)).await.unwrap();
//!     assert_eq!(snapshot.exceptions(), 1);
//!     origin.leave(&snapshot);
//!     snapshot.close().await.unwrap();
//! })
//! .unwrap();
//! assert_eq!(ram.take_payload(read), Some(vec![0; 512]), "what stood there before the write");
//! ```
//!
//! # Modules
//!
//! [`exceptions`] with `journaled` decides, from the state in [`mapping`], `reads` and `recording`;
//! `preserved` remembers what needs no decision; [`mod@format`] knows the bytes. All of these are
//! pure. [`merge`] with its files is the `snapshot-merge` target, which removes records again.
//! [`store`] with `store_load` and `store_write` makes records durable, [`journal`] holds them
//! until then, [`target`] and [`origin`] with `origin_gate` carry requests out: `direct` those that
//! are one operation, `read` and `write` all others. All targets of a group run on one thread, so
//! state is borrowed, never locked, and never borrowed across an await.

mod commit;
pub(crate) mod direct;
mod ending;
pub mod exceptions;
pub(crate) mod first;
pub mod format;
mod grow;
pub mod journal;
mod journaled;
mod limits;
pub mod losses;
pub mod mapping;
pub mod merge;
mod merge_check;
mod merge_claim;
pub mod merge_fault;
mod merge_pace;
mod merge_request;
mod merge_run;
mod merge_state;
mod merge_tail;
mod no_space;
pub mod origin;
mod origin_direct;
mod origin_first;
mod origin_flush;
mod origin_gate;
mod origin_join;
mod parts;
mod preserved;
mod ranges;
mod read;
mod reads;
mod recording;
mod state;
pub mod status;
pub mod store;
mod store_error;
mod store_load;
mod store_open;
mod store_undo;
mod store_write;
pub mod table;
pub mod target;
mod write;

use std::fmt;

use crate::disk::DiskError;
use merge_fault::MergeFault;

/// Events for an administrator. Targets do not log; the creator of the snapshot listens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The snapshot can no longer be used, and why.
    Invalidated(Cause),
    /// The invalid mark could not be written: the COW still looks valid and must not be used.
    /// Whether the loss could be recorded elsewhere and, if not, why.
    MarkFailed(DiskError, Result<(), String>),
    /// The COW is full; the snapshot can be read and no longer written.
    Overflowed,
    /// How many per cent of the COW are in use.
    Filling(u8),
    /// All of the snapshot has been merged into its origin.
    Merged,
    /// The merge has stopped before its end.
    MergeFailed(MergeFault),
}

/// Why a snapshot became invalid.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The COW is full.
    Full,
    /// A chunk could not be copied.
    Copy(DiskError),
    /// Records could not be written.
    Commit(DiskError),
    /// It left an origin that is in use.
    Left,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Full => write!(f, "its COW is full"),
            Cause::Copy(error) => write!(f, "copying a chunk failed: {error}"),
            Cause::Commit(error) => write!(f, "writing its exceptions failed: {error}"),
            Cause::Left => write!(f, "it was deleted while its origin was in use"),
        }
    }
}

impl Cause {
    /// Why a chunk could not be copied.
    fn of_copy(error: DiskError) -> Cause {
        if error.errno.is_no_space() { Cause::Full } else { Cause::Copy(error) }
    }

    /// Why records could not be written.
    fn of_commit(error: DiskError) -> Cause {
        if error.errno.is_no_space() { Cause::Full } else { Cause::Commit(error) }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Invalidated(cause) => write!(f, "snapshot invalidated: {cause}"),
            Event::MarkFailed(error, Ok(())) => write!(
                f,
                "could not mark the COW invalid on disk, it must not be used again: {error}; the \
                 loss is recorded in the run directory"
            ),
            Event::MarkFailed(error, Err(why)) => write!(
                f,
                "could not mark the COW invalid on disk: {error}; nor could the loss be recorded \
                 in the run directory: {why}; writes to the origin fail until one of the two \
                 succeeds"
            ),
            Event::Overflowed => {
                write!(f, "COW is full: the snapshot can still be read, new writes to it fail")
            }
            Event::Filling(percent) => write!(f, "COW is {percent} % full"),
            Event::Merged => write!(f, "merge complete: the origin holds the snapshot's content"),
            Event::MergeFailed(fault) => write!(
                f,
                "merge failed: {fault}; the device still shows the snapshot, and the remaining \
                 exceptions stay on the COW"
            ),
        }
    }
}
