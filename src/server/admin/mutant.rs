//! Deliberate faults of the administrator: each breaks one of its rules, so that the simulator can
//! show that it would notice. Without the feature `mutants` the command [`is`] is the constant
//! `false` and nothing of this is left.

/// The rules that can be broken, named after what is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A device is taken for ours by its number alone.
    NumberTrusted,
    /// A server that ends deletes a snapshot whose origin is in use.
    SnapshotBeforeOrigin,
    /// A mirror that is taken over forgets which leg was right.
    SourceForgotten,
    /// What a device loses in its end is not told.
    LastCommitIgnored,
    /// A suspend that is taken back resumes what was suspended before.
    ResumedUnasked,
    /// A table that cannot take the old one's place leaves none.
    HalfLoadForgotten,
    /// The first device that cannot be taken over ends the recovery of all.
    StopAtFirst,
    /// A snapshot that is left out is not taken for lost when its origin is served.
    LeftOutNotLost,
    /// That it is lost stands in the state file alone, which is of one boot.
    LeftOutNotNoted,
    /// That it is lost is written down after the origin has been started.
    LostAfterStart,
    /// A lost snapshot is deleted before its loss is on record.
    DeletedBeforeRecord,
    /// A snapshot that another program has deleted is forgotten.
    GoneForgotten,
    /// A lost snapshot is forgotten that could be neither marked nor recorded.
    OwedForgotten,
    /// The snapshot of a dead server is deleted, and its origin's next server does not know.
    LeftBehindForgotten,
    /// That a device is suspended is not on record.
    SuspendNotRecorded,
    /// The state file does not tell of a device before it has been started.
    StateAfterStart,
    /// A device that is gone stays in the state file, or one that has come is missing there.
    StateNotSaved,
    /// The device of a command whose client has left stays.
    AddNotTakenBack,
    /// A device that the kernel has not started is taken for live.
    NotStartedIsLive,
    /// The files of devices that could not be taken over are removed with their server.
    LeftOutFilesRemoved,
    /// A device in use is deleted without force.
    UseIgnored,
    /// A mirror's write that depends on the record of its legs does not wait for it.
    LegRecordIgnored,
    /// The state file goes on telling of the old legs.
    LegsNotRecorded,
    /// A disk is taken for the one that stood at its path before.
    StrangerBelieved,
    /// A disk of a device without a server is taken by another family.
    WaitingDisksFree,
    /// A disk that does not answer is waited for.
    SilentDiskAwaited,
    /// A suspend that was given up stays when its disk answers.
    SuspendedLate,
    /// The COW of a device that waits for its server is given to another one.
    LeftOutCowTaken,
}

#[cfg(all(test, feature = "mutants"))]
impl Mutant {
    /// Those that need a disk that hangs, which lives that are made up do not have.
    pub const OF_HANGS: [Mutant; 2] = [Mutant::SilentDiskAwaited, Mutant::SuspendedLate];

    /// All others.
    pub const ALL: [Mutant; 26] = [
        Mutant::NumberTrusted,
        Mutant::SnapshotBeforeOrigin,
        Mutant::SourceForgotten,
        Mutant::LastCommitIgnored,
        Mutant::ResumedUnasked,
        Mutant::HalfLoadForgotten,
        Mutant::StopAtFirst,
        Mutant::LeftOutNotLost,
        Mutant::LeftOutNotNoted,
        Mutant::LostAfterStart,
        Mutant::DeletedBeforeRecord,
        Mutant::GoneForgotten,
        Mutant::OwedForgotten,
        Mutant::LeftBehindForgotten,
        Mutant::SuspendNotRecorded,
        Mutant::StateAfterStart,
        Mutant::StateNotSaved,
        Mutant::AddNotTakenBack,
        Mutant::NotStartedIsLive,
        Mutant::LeftOutFilesRemoved,
        Mutant::UseIgnored,
        Mutant::LegRecordIgnored,
        Mutant::LegsNotRecorded,
        Mutant::StrangerBelieved,
        Mutant::WaitingDisksFree,
        Mutant::LeftOutCowTaken,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks one rule on this thread from now on, or none.
#[cfg(all(test, feature = "mutants"))]
pub fn set(mutant: Option<Mutant>) {
    ACTIVE.with(|active| active.set(mutant));
}

/// Whether a rule is to be broken.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    ACTIVE.with(|active| active.get() == Some(mutant))
}

/// Whether a rule is to be broken: never, in the program that people run.
#[cfg(not(feature = "mutants"))]
pub const fn is(_: Mutant) -> bool {
    false
}
