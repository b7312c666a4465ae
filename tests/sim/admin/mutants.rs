//! Which part of the simulation must notice which of the administrator's deliberate faults.

use crate::server::admin::mutant::Mutant;

impl Mutant {
    /// The mutants that need a disk that hangs, or a device that the kernel does not delete, which
    /// generated runs do not have.
    pub const OF_HANGS: [Mutant; 6] = [
        Mutant::SilentDiskAwaited,
        Mutant::SuspendedLate,
        Mutant::LostThoughKept,
        Mutant::KeptNotTried,
        Mutant::UndoneInPart,
        Mutant::UndoForgotten,
    ];

    /// Those of snapshots and origins whose tables are exchanged.
    pub const OF_EXCHANGES: [Mutant; 12] = [
        Mutant::LateNotPutBack,
        Mutant::LateStillLeft,
        Mutant::LeftOutBesideExchange,
        Mutant::RangesUntold,
        Mutant::GrowthUntold,
        Mutant::DepartedByName,
        Mutant::RangesUnseen,
        Mutant::UnmadeForgotten,
        Mutant::SnapshotsLeft,
        Mutant::ReplacedNotRecorded,
        Mutant::OriginOverRanges,
        Mutant::LiveLegsMoved,
    ];
    /// The mutants of devices whose tables are made of ranges.
    pub const OF_LINES: [Mutant; 2] = [Mutant::LinesNotRecorded, Mutant::LinesTakenFirst];

    /// The mutants of devices that grow.
    pub const OF_GROWTH: [Mutant; 3] =
        [Mutant::GrownUnrecorded, Mutant::GrownBeyondDisk, Mutant::GrowthUnfinished];
    /// The mutants of such a device that becomes a mirror, and of a mirror that becomes one.
    pub const OF_MOVES: [Mutant; 3] =
        [Mutant::LegWithDataForgotten, Mutant::LeftUnjudged, Mutant::BegunUnrecorded];

    /// The mutants of disks that are used without a claim.
    pub const OF_PARTS: [Mutant; 11] = [
        Mutant::PartsUncompared,
        Mutant::ForcedForAll,
        Mutant::GrownIntoPart,
        Mutant::PartsLeftAtOnce,
        Mutant::PartOfLegForgotten,
        Mutant::UnclaimedForgotten,
        Mutant::BesideMounted,
        Mutant::BesideUnasked,
        Mutant::UnreadIgnored,
        Mutant::MirrorUnclaimedForgotten,
        Mutant::ClosedLeftAtOnce,
    ];

    /// The mutants that need two commands at the same moment.
    pub const OF_HASTE: [Mutant; 2] = [Mutant::ForcedForAll, Mutant::LegUnannounced];

    /// All other mutants.
    pub const ALL: [Mutant; 32] = [
        Mutant::NumberTrusted,
        Mutant::SnapshotBeforeOrigin,
        Mutant::SourceForgotten,
        Mutant::LastCommitIgnored,
        Mutant::ResumedUnasked,
        Mutant::HalfLoadForgotten,
        Mutant::StopAtFirst,
        Mutant::LeftOutNotLost,
        Mutant::LeftOutNotRecorded,
        Mutant::LostAfterStart,
        Mutant::DeletedBeforeRecord,
        Mutant::GoneForgotten,
        Mutant::OwedForgotten,
        Mutant::LeftBehindForgotten,
        Mutant::LastForgotten,
        Mutant::SuspendNotRecorded,
        Mutant::StateAfterStart,
        Mutant::StateNotSaved,
        Mutant::AddNotTakenBack,
        Mutant::NotStartedIsLive,
        Mutant::LeftOutFilesRemoved,
        Mutant::UseIgnored,
        Mutant::EndedLegsForgotten,
        Mutant::LegsNotRecorded,
        Mutant::ForeignDiskTrusted,
        Mutant::WaitingDisksFree,
        Mutant::LeftOutCowTaken,
        Mutant::LegUnclaimed,
        Mutant::LeavesFirst,
        Mutant::FailedMeanwhile,
        Mutant::TakenOverInPart,
        Mutant::RollBackForgotten,
    ];
}
