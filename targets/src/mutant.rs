//! Deliberate faults: each breaks one ordering rule, so that the tests can show that they detect
//! it.
//!
//! Without the feature `sim` the function [`is`] is the constant `false` and none of this is in the
//! program.

/// The rules that can be broken, named after what is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mutant {
    /// I1: the area is written without flushing the copied data before it.
    NoFlushBeforeArea,
    /// I1, I10: the area write is not durable when it completes.
    NoFua,
    /// I2: the area is filled first and its successor zeroed afterwards.
    NextAreaLate,
    /// A new store gets its header before its first area is zero.
    HeaderBeforeArea,
    /// A store is unmade while its header still says that it is valid.
    UnmadeWhileValid,
    /// Bytes behind the terminator are kept on open.
    StaleTailKept,
    /// I3: exceptions are committed as their copies complete.
    OutOfOrder,
    /// I4: an origin write does not wait for snapshot reads of the old chunk.
    ReadsIgnored,
    /// I5: an origin write is let through when the copy is there but not its record.
    OriginBeforeCommit,
    /// I10: a snapshot write is acknowledged before its record.
    AckBeforeRecord,
    /// I10: a snapshot write is acknowledged although its record was given up, because the mark is
    /// being made again.
    GivenUpAcknowledged,
    /// I5: a first write is not decided again when the record of its chunk is there.
    FirstDecidedOnce,
    /// I9: the origin write is let through before the snapshot is durably invalid.
    InvalidMarkLate,
    /// The last slot of an area is used although the COW has no room for the next area.
    FullAreaWithoutSuccessor,
    /// A snapshot joins while writes and discards of the origin are in flight.
    JoinAmongWrites,
    /// I5: what all snapshots had still counts as preserved when another has joined.
    JoinKeepsPreserved,
    /// I5: a chunk counts as preserved while a write of it still waits.
    PreservedEarly,
    /// The part of a chunk that a partial write does not cover is not copied.
    PartialNotCopied,
    /// I10: a record is not journaled before its write is acknowledged.
    NotJournaled,
    /// I5: an origin write does not wait for a record that is only journaled.
    JournaledNotAwaited,
    /// A flush completes before the journaled records are durable.
    FlushLeavesJournal,
    /// A write with FUA completes before the record of its chunk is durable.
    FuaLeavesJournal,
    /// A flush or a write with FUA succeeds although acknowledged writes are lost with the
    /// snapshot.
    LossNotTold,
    /// I9: the origin changes after a snapshot has left, without a record that its store is no
    /// longer valid.
    LeftForgotten,
    /// I9: a snapshot that has left under an earlier server is unknown to the next, which changes
    /// the origin.
    DepartedNotRestored,
    /// I9: snapshots that left an origin that no device needs any more are unknown to the next
    /// origin of its disk.
    DepartedGoWithOrigin,
    /// I5: a snapshot is served whose origin is gone, so no write is preserved for it.
    ServedWithoutOrigin,
    /// I9: a store whose invalid mark cannot be written is not recorded as lost.
    LossForgotten,
    /// I10: a snapshot closes without an error although its last commit has failed.
    LastCommitIgnored,
    /// The records that a server has journaled are forgotten by the next.
    JournalNotTakenOver,
    /// A COW file that finds no space on its file system counts as a broken disk.
    NoSpaceInvalidates,
    /// A journal is taken over although the COW has got records since that are not in the journal.
    JournalOverForeign,
    /// I7: legs are written before the mark of their region is durable.
    LegBeforeMark,
    /// I7: a write without a task takes a region that has no mark for one that needs none.
    ReadyWithoutMark,
    /// A request without a task reaches the target of a suspended device.
    RemappedPastGate,
    /// I7: marks are written without FUA.
    MarkNotDurable,
    /// I7: a region becomes clean without a flush of the legs.
    CleanWithoutFlush,
    /// I7: a region becomes clean while a write to it is in flight.
    CleanInFlight,
    /// A completed write makes a region that is out of sync clean.
    NoSyncBecomesClean,
    /// Regions are recovered from a leg that is not the default leg.
    WrongSource,
    /// A leg that missed something is forgotten when the mirror is closed or dies.
    StaleForgotten,
    /// With `handle_errors` a write that a leg missed is acknowledged.
    AckThoughMissed,
    /// Writes do not wait for the recovery of their region.
    RecoveringNotHeld,
    /// Reads of a region that is out of sync are spread over the legs.
    OutOfSyncReadsSpread,
    /// A write that a leg missed leaves its region in sync.
    MissedStaysInSync,
    /// A leg is no longer remembered as stale although its data was not flushed.
    StaleClearedEarly,
    /// Legs are changed while writes are in flight.
    ChangeAmongWrites,
    /// The log's record of changed legs is not durable when the change is acknowledged.
    ChangeNotDurable,
    /// A new leg is taken to be in sync where the old ones were.
    NewLegInSync,
    /// The log names a new leg before all regions in the log are out of sync.
    NamedBeforeCleared,
    /// A log that could not be cleared gets the mirror's header nevertheless.
    UnclearedNamed,
    /// The flags of a log are believed that another program has used since.
    OtherUserUnseen,
    /// After a take-over in the first recovery only the source is read, also where all is copied.
    FirstRecoveryForgotten,
    /// When a leg is removed the others are in sync in the log while it still names that one.
    TrustedBeforeNamed,
    /// The log has a new leg under the identity of the one that it replaces.
    OldIdentityKept,
    /// The log names its legs only while one of them is stale.
    LegsNotNamed,
    /// The log names its legs only once one of them has missed a write, or they are changed.
    LegsNamedLate,
    /// A mirror starts without a leg although its log does not say that the others are up to date.
    AbsentUntold,
    /// Where a leg is not there, only one of the others gets what is written.
    OthersNotSources,
    /// A leg that is unknown to the log counts as in sync where the log says so of others.
    ForeignLegsTrusted,
    /// A leg is removed although no other is known to have everything durably.
    UnflushedSource,
    /// When a leg is removed the others count as the same without being flushed.
    RemainingUnflushed,
    /// When a leg is removed the others count as the same although one of them is wrong.
    RemainingNotRight,
    /// The record of the legs does not say which of them are sources.
    SourceForgotten,
    /// An error of a read or of recovery counts as a missed write.
    ReadErrorIsMiss,
    /// A difference between legs after a discard is not recorded.
    DiscardNotRecorded,
    /// I10: a write is acknowledged before the record of the legs says which of them have it.
    AckBeforeLegState,
    /// A running mirror forgets what is in flight when it is resumed.
    ResumedWhileRunning,
    /// A suspend fails the held writes while it can still be given up.
    HeldFailEarly,
    /// Data written to a leg before a failed flush of it counts as present.
    UnflushedTrusted,
    /// A flush succeeds although another one, started before its end, has failed on the same leg.
    FailedFlushOvertaken,
    /// A flush of a disk that is a device does not reach the device.
    StackKeepsFlush,
    /// FUA of a write to a disk that is a device does not reach the device.
    StackDropsFua,
    /// I6: an operation on a disk that is a device completes before the device's request.
    StackAcksEarly,
    /// I5: the users of a device that carries an origin pass it.
    UsersPassOrigin,
    /// Users write to a device while a snapshot is merged into the origin that it carries.
    WrittenPastMerge,
    /// I5: a device carries an origin while requests of its users are under way past it.
    CarriesTooEarly,
    /// A device that carries an origin suspends its target before it holds the origin's operations.
    HeldFromBelow,
    /// I5: a discard of a device that carries an origin asks no snapshot.
    CarriedDiscards,
    /// Snapshots that left an origin over a device count for the next device with its number.
    CarriedKeyKept,
    /// A region is in sync after a copy during which a leg could not be flushed.
    CopyThoughFlushFailed,
    /// I8: a merge removes records and flushes the origin afterwards.
    MergeRemovesFirst,
    /// I8: a merge removes records although a flush of the origin has failed since their copy.
    MergeTrustsFlush,
    /// A record that a merge removes is not durably gone when its chunk counts as on the origin.
    MergeRemovesSoftly,
    /// A batch is merged while a write of one of its chunks is in flight to the COW.
    MergeAmongWrites,
    /// I5: other snapshots are asked when a batch begins, and not those that join before it is
    /// copied.
    MergeAsksEarly,
    /// After a failed commit a merge continues from its own memory, where the records are gone.
    MergeTrustsBuffer,
    /// A held write goes to the origin before the records are removed.
    MergeLetsHeldGo,
    /// A chunk whose record may be gone is written on the COW alone.
    MergeDoubtfulOnCow,
    /// A chunk that is being merged is read from the origin.
    MergeShowsEarly,
    /// I10: a flush of an origin that is being merged does not reach the COW.
    MergeFlushesOrigin,
    /// I10: a flush succeeds although one of the merge's own has failed since the last.
    MergeHidesFlush,
    /// Blocks of records are removed from the first one of a batch on.
    MergeRemovesForward,
    /// I8: a merge removes records although a write of the origin with FUA has failed since their
    /// copy, and with it a flush.
    MergeTrustsFua,
    /// A merge copies what stands on the COW behind the snapshot's end.
    MergeWritesBehindEnd,
    /// A merge starts on records that only the COW's cache holds.
    MergeKeepsCache,
    /// After a failed commit all records that are missing count as merged.
    MergeTrustsShorter,
    /// A merge starts although its origin was written after it was opened.
    MergeIntoChanged,
    /// An origin has a device of its own while a snapshot is merged into it.
    MergeBesideOrigin,
    /// The COW does not say that a merge has begun.
    MergeNotMarked,
    /// A discard of the only other snapshot reaches the origin while a merge runs.
    MergeDiscardsOrigin,
    /// A linear device starts where its disk starts.
    LinearOffsetDropped,
    /// A linear device reaches beyond its end, into what follows it on the disk.
    LinearUnbounded,
    /// I10: the end of a mirror erases what ended ones have left of other legs.
    EndedLegsErased,
    /// I10: a mirror counts all legs of ended ones as its former ones.
    EndedLegsTakenOver,
    /// I10: the record of an ended mirror alone chooses another source than the first leg.
    EndedLegsTrusted,
    /// I10: a log on one disk is trusted for what another one had marked.
    OtherLogTrusted,
    /// I10: a source whose first flush under a new server fails stays one.
    FirstFlushForgiven,
    /// I10: a log that is left still says what was true of the legs then.
    LeftLogUntold,
    /// I10: a mirror is replaced by one whose legs have none of its data.
    ForeignLegsReplace,
    /// I10: a log that cannot be written is left without a word.
    DeadLogLeft,
    /// I10: `nosync` makes legs valid that the log has as stale, or does not have.
    LogOverridden,
    /// I10: with a new log, an unknown first leg is copied over one that is up to date.
    UnknownFirst,
    /// I10: a log of another time than the record's is trusted for the legs that it has.
    OldLogBelieved,
    /// I10: an old copy of the log is trusted for a leg that is recorded as stale.
    OldCopyBelieved,
    /// I10: what a log calls in sync is not copied from a source that the user has named.
    NamedByLog,
    /// I10: in the place of a mirror that was never in sync, the first leg is the source.
    LegsTurnedRound,
    /// I10: the log does not say which leg is the source before a leg has missed a write.
    FirstSourceUnnamed,
    /// The bits of a log are used for regions of another size.
    RegionSizeUnasked,
    /// A log has the size of its new regions before the bits of the old ones are cleared.
    SizedBeforeCleared,
    /// I10: a server that takes over without the record of the legs trusts the log.
    LostRecordForgiven,
    /// I10: a server that takes over with a log on disk copies from one of the sources alone.
    OtherSourcesForgotten,
    /// I10: sources that may differ after the death of a server are not made equal.
    UnequalUncopied,
    /// I10: a log names a mirror's legs before one of its sources has been flushed.
    SourceUnflushed,
    /// I10: a linear device completes a flush by itself.
    LinearFlushDropped,
    /// I10: a linear device's writes with FUA are durable only after a flush.
    LinearFuaDropped,
    /// A request that crosses the border of a segment goes to the first segment as a whole.
    SegmentBorderIgnored,
    /// Each piece of a request has the beginning of its data.
    SegmentDataFromStart,
    /// Only the last piece of a request can fail.
    SegmentErrorDropped,
    /// I10: a flush reaches one disk of a table with several.
    SegmentFlushesOne,
    /// A segment without data acknowledges writes.
    ErrorAcksWrites,
    /// A read of zeroes leaves in memory what was there.
    ZeroLeavesMemory,
    /// I10: what a table has acknowledged is not flushed before another one replaces it.
    SuspendLeavesUnflushed,
    /// A snapshot may be longer than its origin.
    SnapshotBehindOrigin,
    /// A store that was made for another origin is used as it is.
    OtherOriginTaken,
    /// The status of a snapshot has the size that its COW had at the last allocation.
    GrowthNotSeen,
    /// A request begins any number of a mirror's regions at once.
    SpanUnbounded,
    /// The new regions of a mirror that grows count as in sync.
    GrownInSync,
    /// The last region of a mirror, which was shorter than the others, stays in sync as it grows.
    GrownTailTrusted,
    /// The log counts the new regions of a mirror before their bits are durable.
    GrownHeaderEarly,
    /// A snapshot joins its origin, and an earlier loss of it stays on record.
    JoinedStillLost,
    /// What a device without a disk was written counts for its next table.
    ZeroesHaveData,
    /// A snapshot grows over chunks that are on its COW already.
    GrownOverChunks,
    /// A snapshot grows while writes of its origin are in flight.
    GrownAmongWrites,
}

#[cfg(any(test, feature = "sim"))]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Breaks one rule on this thread from now on, or none.
    pub fn set(mutant: Option<Mutant>) {
        ACTIVE.with(|active| active.set(mutant));
    }

    /// Whether a rule is to be broken.
    pub fn is(mutant: Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }
}

#[cfg(any(test, feature = "sim"))]
pub use switch::{is, set};

#[cfg(any(test, feature = "sim"))]
impl Mutant {
    /// Mutants that a test of the server names on its command line.
    const NAMED: [Mutant; 9] = [
        Mutant::NoFlushBeforeArea,
        Mutant::NoFua,
        Mutant::OriginBeforeCommit,
        Mutant::HeaderBeforeArea,
        Mutant::NextAreaLate,
        Mutant::ReadsIgnored,
        Mutant::NotJournaled,
        Mutant::JournaledNotAwaited,
        Mutant::FlushLeavesJournal,
    ];

    /// The mutant with this name, as written in this file.
    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::NAMED.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}

/// Whether a rule is to be broken: never, in a released program.
#[cfg(not(any(test, feature = "sim")))]
pub const fn is(_: Mutant) -> bool {
    false
}
