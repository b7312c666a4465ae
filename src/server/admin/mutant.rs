//! Deliberate faults of the administrator: each breaks one of its rules, so that the simulator can
//! show that it would notice. Without the feature `mutants` the function [`is`] is the constant
//! `false`, and none of this is compiled in.

/// The rules that can be broken, each named after the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A device is identified by its number alone.
    NumberTrusted,
    /// A server that shuts down deletes a snapshot whose origin is in use.
    SnapshotBeforeOrigin,
    /// A mirror that is taken over forgets which leg was up to date.
    SourceForgotten,
    /// What is lost when a device ends is not reported.
    LastCommitIgnored,
    /// Undoing a suspend resumes a device that was suspended before.
    ResumedUnasked,
    /// A table that cannot replace the old one leaves the device without a table.
    HalfLoadForgotten,
    /// The first device that cannot be taken over ends the recovery of all.
    StopAtFirst,
    /// A snapshot that is left out is not treated as lost when its origin is served.
    LeftOutNotLost,
    /// The loss is recorded in the state file alone, which is valid for one boot.
    LeftOutNotRecorded,
    /// The loss is recorded after the origin has been started.
    LostAfterStart,
    /// A lost snapshot is deleted before its loss is on record.
    DeletedBeforeRecord,
    /// A snapshot that another program has deleted is forgotten.
    GoneForgotten,
    /// A lost snapshot that could be neither marked nor recorded is forgotten.
    OwedForgotten,
    /// The snapshot of a dead server is deleted and its origin's next server does not know.
    LeftBehindForgotten,
    /// The last snapshot of a family is deleted without a record of its departure.
    LastForgotten,
    /// A table of ranges that has replaced another one is not recorded.
    LinesNotRecorded,
    /// A table of ranges that cannot be used ends the old one.
    LinesTakenFirst,
    /// A suspended device that is taken over is flushed, and waits for a suspended one below it.
    FlushedAgain,
    /// A mirror is passed on, and both devices have it on record.
    MirrorOnRecordTwice,
    /// A mirror is passed on without what is known of its legs.
    LegsNotPassedOn,
    /// A mirror is not given back when the device that has taken it is not added.
    MirrorNotGivenBack,
    /// A mirror that replaces a device's ranges is recovered from its first leg, wherever the
    /// device's data are.
    LegWithDataForgotten,
    /// A mirror takes the place of ranges none of whose data is on a leg, and a leg is guessed.
    NoLegWithData,
    /// A mirror is left for a leg that is not known to be right.
    LeftUnjudged,
    /// A mirror is left, and its other legs are not recorded as stale.
    LeftUnrecorded,
    /// The source of a mirror that replaces ranges is recorded after the mirror's table.
    BegunUnrecorded,
    /// A snapshot's new table is not recorded.
    HandedOverUnrecorded,
    /// A snapshot's store is handed over to a table with another COW.
    HandedOverAnywhere,
    /// Ranges of a disk that overlap are shared without force.
    OverlapUnseen,
    /// The second device on a disk has a handle of its own, without a claim.
    BesideUnclaimed,
    /// Parts of a disk are not compared with those of other families.
    PartsUncompared,
    /// What is forced for one disk of a device counts for all of them.
    ForcedForAll,
    /// A device grows into a part of a disk that another family has.
    GrownIntoPart,
    /// The part that a device's old table has is free before the new target is in place.
    PartsLeftAtOnce,
    /// The part of a leg that a message puts into a mirror is not compared.
    PartOfLegForgotten,
    /// The next server claims a disk that others use as well.
    UnclaimedForgotten,
    /// A disk is shared with a mounted file system.
    BesideMounted,
    /// A device without `--shared` joins one that shares its disk.
    BesideUnasked,
    /// A part of a disk is taken while a state file cannot be read.
    UnreadIgnored,
    /// A mirror in the place of another one does not share the disks that that one shares.
    MirrorUnclaimedForgotten,
    /// The disks of a mirror are free when it has been closed for another one.
    ClosedLeftAtOnce,
    /// A device is deleted under its snapshots.
    CarrierEnds,
    /// A command waits for what a suspended device holds.
    HeldAwaited,
    /// A device is deleted, or gets another table, under one that stands on it.
    JoinedEnds,
    /// A device in use becomes a disk of another one.
    JoinedInUse,
    /// A device that has snapshots becomes a disk of another one.
    JoinsCarrier,
    /// A device that is a disk is found by its number alone, or not at all.
    JoinedByNumber,
    /// Others can write to a device that is a disk.
    JoinedWritable,
    /// A device that carries an origin is left to the next server before its snapshots.
    CarrierLeftFirst,
    /// A process that has such a device open is noticed only after its snapshots have ended.
    OpenCarrierUnseen,
    /// The device that carries an origin is found by its number alone.
    CarrierByNumber,
    /// A device is live under a later server without the origin that snapshots have left.
    NotCarriedAgain,
    /// A merge begins below the users of the device that carries the origin.
    MergedUnderUsers,
    /// A merge that is left out counts as lost with the device into which it goes.
    MergeLostByCarrier,
    /// A snapshot is merged and kept, and those that have left it count as valid.
    KeptUnnoticed,
    /// The end of a service deletes a snapshot whose origin goes on.
    RetiredAnyway,
    /// A device is deleted although one on it could not be.
    DeletedBelow,
    /// A device grows into whose origin a snapshot is being merged.
    GrownBelowMerge,
    /// A merge ends the device of its snapshot although that has another table loaded.
    OtherTableEnded,
    /// The node of a device into whose origin a snapshot is merged stays writable.
    MergedWritable,
    /// A change of one origin makes the left-out snapshots of another one invalid.
    OthersLost,
    /// A deleted snapshot of a device is taken for one of the next device on the same disks.
    CarriedAgain,
    /// What has been written to a device that is made again before it knows of its deleted
    /// snapshots goes unnoticed.
    MadeAgainUnlooked,
    /// A mirror that is made again from a leg of the user's choice counts as the old one.
    SourceTakenForSame,
    /// A store is taken for a snapshot of an origin that was in use without it.
    MissedTaken,
    /// The same, if the origin was first written while the store was opened.
    MissedMeanwhile,
    /// Only what the origin's device was written by its users counts.
    MissedBeside,
    /// A store is one that has left the origin properly if that was at the same path.
    MissedByPath,
    /// An origin's device that is left out counts as unwritten.
    MissedLeftOut,
    /// A snapshot of the tab file comes back although it kept nothing when its origin was written.
    MissedEmpty,
    /// What is written to the disks of a deleted device leaves its deleted snapshots as they are.
    MadeOfForgotten,
    /// Requests are carried out that come before a device is started that is taken over.
    UsersBeforeStart,
    /// A device gets another table, and snapshots that have left it count as valid.
    ReplacedUnnoticed,
    /// A table that cannot be used when its disk answers at last stays on record.
    LateNotPutBack,
    /// A snapshot whose COW is marked as invalid late still counts as one that has left.
    LateStillLeft,
    /// An origin's table is replaced although it has snapshots.
    SnapshotsLeft,
    /// A snapshot whose table is replaced is not on record as one that has left.
    ReplacedNotRecorded,
    /// A snapshot that was left out is not lost when its origin gets another device by `load`.
    LeftOutBesideExchange,
    /// Ranges write to a disk, and its deleted snapshots count as valid.
    RangesUntold,
    /// A device grows over the origin of a deleted snapshot, which counts as valid.
    GrowthUntold,
    /// Only the origin itself tells what has left it, not another name of its bytes.
    #[cfg(all(test, feature = "mutants"))]
    DepartedByName,
    /// A store that is on record and was not made when the server died is missed for ever.
    UnmadeForgotten,
    /// The user is not told that a deferred merge is given up with its snapshot's table.
    WishDroppedUntold,
    /// It is forgotten that a merge into an origin has ended.
    MergeEndForgotten,
    /// A snapshot is taken of a disk, without a claim, that a device of the server has as a range.
    RangesUnseen,
    /// An origin takes the place of a range of its disk, of which another device has a part.
    OriginOverRanges,
    /// The record of a mirror that is in use counts as one of a mirror that was left.
    LiveLegsMoved,
    /// A device that carries an origin is taken over, and snapshots that are not count as valid.
    CarrierStartedFirst,
    /// What can change an origin is taken over while a suspended device holds its snapshot's COW.
    HeldCowLost,
    /// A mirror that was closed for another one still has its devices.
    ClosedStillUser,
    /// The suspended state of a device is not recorded.
    SuspendNotRecorded,
    /// A device is recorded in the state file only after it has been started.
    StateAfterStart,
    /// A deleted device stays in the state file, or a new one is missing there.
    StateNotSaved,
    /// The device of an `add` whose client has disconnected stays.
    AddNotTakenBack,
    /// What a new store has overwritten is not restored if the kernel keeps the device.
    UndoneInPart,
    /// An `add` whose undo waits for a disk is not undone when the disk answers.
    UndoForgotten,
    /// A device that the kernel has not started is treated as live.
    NotStartedIsLive,
    /// The files of devices that could not be taken over are removed when the server ends.
    LeftOutFilesRemoved,
    /// A device in use is deleted without force.
    UseIgnored,
    /// A mirror's write that depends on the record of its legs does not wait for it.
    LegRecordIgnored,
    /// The record of a mirror's legs can only be written where the run directory has room.
    #[cfg(all(test, feature = "mutants"))]
    LegsNeedRoom,
    /// A mirror is added without what ended mirrors have left of its legs.
    EndedLegsForgotten,
    /// A mirror gets a leg without what ended mirrors have left of that leg.
    EndedLegTaken,
    /// The record of a mirror's legs that was removed is not missed.
    LegsNotPutBack,
    /// The state file that was removed is not missed by a server that leaves devices.
    StateNotPutBack,
    /// The state file keeps the old legs.
    LegsNotRecorded,
    /// A disk is accepted as the one that was at its path before.
    ForeignDiskTrusted,
    /// A disk of a device without a server is used by another family.
    WaitingDisksFree,
    /// A disk that its device does not share is not claimed again when another disk is shared.
    OwnDiskUnclaimed,
    /// A message and a command at the same moment take one disk under two names.
    LegUnannounced,
    /// A disk that does not answer is waited for.
    SilentDiskAwaited,
    /// A canceled suspend takes effect when its disk answers.
    SuspendedLate,
    /// A device that another program has ended is forgotten though it could not be taken apart.
    LostThoughKept,
    /// A device that another program has ended, and that could not be removed, is not tried again.
    KeptNotTried,
    /// The COW of a device that waits for a server is used for another device.
    LeftOutCowTaken,
    /// A leg that takes its own place again loses its claim.
    LegUnclaimed,
    /// A disk is added as a leg that is one already.
    LegTwice,
    /// Content of one kind counts as the same content.
    ContentByKind,
    /// What a leg with an offset holds is not looked at.
    OffsetUnjudged,
    /// An origin runs on while its snapshot has no target.
    SnapshotLeftBehind,
    /// A merge is taken away before its end.
    MergeTakenAway,
    /// A store that a merge has taken over is given up with the device of its snapshot.
    MergedStoreGivenUp,
    /// A merge closes a snapshot whose exceptions are in memory, and loses them.
    TransientTaken,
    /// A merge ends the device of a snapshot that is mounted.
    MountedMerged,
    /// The content of a mounted origin changes without force.
    MergedUnderMount,
    /// A snapshot that has refused a write is merged.
    OverflowedMerged,
    /// A named source is taken that the log has as stale.
    LogUnasked,
    /// A mirror is closed for one whose disk is not there.
    ClosedForMissing,
    /// A merge that is left to the next activation is not on record.
    DeferredForgotten,
    /// A merge that was left to the next activation begins while its origin is mounted.
    DeferredUnderMount,
    /// The same while a process has its origin open.
    DeferredUnderOpen,
    /// It begins because the server's program is replaced.
    BegunByUpgrade,
    /// It begins although its snapshot may have refused a write under the server before.
    FullMerged,
    /// It begins while the `add` of its origin can still be undone.
    BegunBeforeUndo,
    /// A server that takes a merge over forgets that its snapshot is to be kept.
    KeptWishForgotten,
    /// A kept snapshot's table is in place before that is on record, beside its origin's.
    KeptUnrecorded,
    /// Nothing is preserved for a kept snapshot.
    KeptUnjoined,
    /// The device of a snapshot is kept over a merge while a process has it open.
    OpenKept,
    /// A deferred merge does not keep its snapshot.
    DeferredKeepForgotten,
    /// The snapshot of a device that ends with its server is to be kept over a merge.
    UnrecoverableKept,
    /// A merge that is taken over forgets that it is paused, and its rate.
    MergeOptionsForgotten,
    /// An origin gets its plain table back before that is on record.
    PlainUnrecorded,
    /// An origin is longer than its disk.
    OriginBehindDisk,
    /// A mirror's table that replaces another one begins without the record of the legs.
    SourceNotHandedOn,
    /// The user of an invalid snapshot is not told that it is invalid.
    InvalidNotTold,
    /// The disk of an origin whose merge has not ended is used without its COW.
    UnmergedForgotten,
    /// The `add` of a merge is undone that has begun, without a message.
    UndoneMergeForgotten,
    /// A merge that has come to its end while its device was deleted stays on record.
    EndedMergeOnRecord,
    /// The user of a merge that is lost is told that it can go on.
    LostMergePromised,
    /// Users see the new length of a device before it is on record.
    GrownUnrecorded,
    /// A device grows beyond the end of its disk.
    GrownBeyondDisk,
    /// The next server does not show the length that a device was about to get.
    GrowthUnfinished,
    /// A mirror that replaces ranges trusts its log, which knows nothing of writes to them.
    OldLogTrusted,
    /// I10: a loaded table takes a leg as its source that is on record as stale.
    StaleNamed,
    /// What a mirror knew of its legs is overwritten by the next mirror of the device.
    LeftLegsOverwritten,
    /// The server of an upgraded family leaves its devices before its successor has started.
    LeavesFirst,
    /// It leaves them with a state file that does not describe them.
    LeftOffRecord,
    /// It leaves them although the run directory has no room for what the next server records.
    RoomUnasked,
    /// Requests that wait for the next server end with an error.
    FailedMeanwhile,
    /// The next server takes over those devices that it can.
    TakenOverInPart,
    /// A server that cannot take over is not replaced by the program that has left the devices.
    RollBackForgotten,
    /// A device that a command has named is identified by the number that it had then.
    NamedByNumber,
    /// A device whose requests fail without a server is left to another one.
    FailingUpgraded,
    /// A kernel that cannot fail requests without a server makes them wait instead.
    DeathUnchecked,
    /// A device and a snapshot of it are in two servers.
    ServedApart,
    /// An origin that a failed command has opened stays open.
    OriginKept,
    /// A snapshot is closed for a merge though its store cannot be opened again.
    ClosedUnasked,
    /// A disk is closed that is gone then.
    ClosedForGood,
    /// Devices are left though the next server cannot open their disks.
    LeftUnopenable,
    /// The origin is suspended for the end of a merge that cannot be recorded.
    SuspendedUnrecorded,
    /// The new name of a device is not recorded.
    RenamedUnrecorded,
    /// A device whose new name cannot be recorded has it nevertheless.
    RenamedThoughRefused,
    /// The name of another device is given.
    NameGivenTwice,
    /// The uuid of another device is given.
    UuidGivenTwice,
    /// A merge knows the snapshot that is to be kept by its old name.
    KeptByOldName,
    /// A loss on record is that of each copy of the store, wherever it was recorded.
    LostByCopy,
    /// A store is served that is a copy of one that is served.
    CopyTaken,
    /// A copy of a store that has left its origin is taken for that store.
    MissedByCopy,
    /// A device whose mirror another device has got has shown nothing before its next table.
    PassedOnForgotten,
    /// What was merged last into an origin is known by its name only.
    MergedByName,
    /// A device carries an origin for a snapshot that was refused.
    CarriesForNone,
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks one rule on this thread from now on, or none if `None`.
#[cfg(all(test, feature = "mutants"))]
pub fn set(mutant: Option<Mutant>) {
    ACTIVE.with(|active| active.set(mutant));
}

/// Whether a rule is to be broken.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    ACTIVE.with(|active| active.get() == Some(mutant))
}

/// Whether a rule is to be broken: never without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
pub const fn is(_: Mutant) -> bool {
    false
}
