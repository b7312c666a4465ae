//! Failures of the data path: its errors are typed, and here each gets a kind.

use dm_targets::disk::DiskError;
use dm_targets::mirror::change_legs::ChangeError;
use dm_targets::mirror::compare::CheckError;
use dm_targets::mirror::target::OpenError;
use dm_targets::snapshot::store::StoreError;
use dm_targets::words::TableError;

use super::{Failure, Kind};

/// The kind of a failed allocation.
const NO_MEMORY: Kind = Kind::System { errno: libc::ENOMEM };

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Failure {
        let why = Failure::new(of_disk(&error), error.to_string());
        why.of_disk(&*error.disk).at_sector(error.sector.0)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let kind = match &error {
            StoreError::Disk(error) => of_disk(error),
            StoreError::NoMemory => NO_MEMORY,
            _ => Kind::Refused,
        };
        let why = Failure::new(kind, error.to_string());
        match &error {
            StoreError::Disk(error) => why.of_disk(&*error.disk).at_sector(error.sector.0),
            StoreError::Header(disk, _)
            | StoreError::Record(disk, _)
            | StoreError::TooSmall { disk, .. }
            | StoreError::ReadOnly(disk)
            | StoreError::Journaled { disk, .. }
            | StoreError::OtherOrigin { disk, .. }
            | StoreError::Merge(disk, _)
            | StoreError::HalfMerged { cow: disk, .. }
            | StoreError::BehindOrigin { origin: disk, .. } => why.of_disk(&**disk),
            StoreError::ChunkBelowBlock { .. } | StoreError::NoMemory => why,
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        Failure::new(of_open(&error), error.to_string())
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Failure {
        let kind = match &error {
            ChangeError::Unfit(error) => of_open(error),
            ChangeError::LastSource(..) => Kind::Refused,
            ChangeError::Busy => Kind::InUse,
            _ => Kind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Failure {
        let kind = match &error {
            CheckError::NoMemory => NO_MEMORY,
            CheckError::NoSuchLeg(_) => Kind::NotFound,
            CheckError::NotRight(..) => Kind::Refused,
            _ => Kind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Failure {
        Failure::new(Kind::Refused, error.to_string())
    }
}

fn of_disk(error: &DiskError) -> Kind {
    Kind::System { errno: error.errno.0 }
}

fn of_open(error: &OpenError) -> Kind {
    match error {
        OpenError::NoMemory => NO_MEMORY,
        OpenError::NoSuchLeg(_) => Kind::NotFound,
        _ => Kind::Refused,
    }
}
