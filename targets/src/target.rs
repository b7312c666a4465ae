//! The one file that names all targets, with device-mapper's verbs: map, activate, suspend, resume,
//! close.
//!
//! A new target is its folder and an arm in each function here. A target's parameters are in its
//! table ([`crate::table`]); its displayed state is in its status.

pub mod remap;

use std::rc::Rc;

use crate::disk::{Disk, Limits};
use crate::error::target::Error;
use crate::exec::Executor;
use crate::linear::target::Linear;
use crate::mirror::target::Mirror;
use crate::mutant::{self, Mutant};
use crate::request::{Request, TargetError};
use crate::segments::target::{NO_DISK, Segments};
use crate::snapshot::Cause;
use crate::snapshot::merge::Merge;
use crate::snapshot::origin::Origin;
use crate::snapshot::target::Snapshot;
use crate::units::Sectors;
use crate::zero::target::Zero;

/// What a device does with its requests.
#[derive(Clone)]
pub enum Target {
    /// A snapshot.
    Snapshot(Rc<Snapshot>),
    /// The origin of snapshots.
    Origin(Rc<Origin>),
    /// An origin into which one of its snapshots is merged.
    Merge(Rc<Merge>),
    /// A mirror.
    Mirror(Rc<Mirror>),
    /// A range of a disk.
    Linear(Rc<Linear>),
    /// A range that fails.
    Error(Rc<Error>),
    /// A range of zeroes.
    Zero(Rc<Zero>),
    /// Several ranges, side by side.
    Segments(Rc<Segments>),
    /// A suspended device between two targets.
    Nothing,
}

impl Target {
    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    pub async fn map(&self, request: &Request) -> Result<(), TargetError> {
        match self {
            Target::Snapshot(snapshot) => snapshot.handle(request).await,
            Target::Origin(origin) => origin.handle(request).await,
            Target::Merge(merge) => merge.handle(request).await,
            Target::Mirror(mirror) => mirror.handle(request).await,
            Target::Linear(linear) => linear.handle(request).await,
            Target::Error(error) => error.handle(request),
            Target::Zero(zero) => zero.handle(request).await,
            Target::Segments(segments) => segments.handle(request).await,
            Target::Nothing => Err(TargetError::Requeue),
        }
    }

    /// The length of the target; `None` between two targets.
    pub fn size(&self) -> Option<Sectors> {
        match self {
            Target::Snapshot(snapshot) => Some(snapshot.len()),
            Target::Origin(origin) => Some(origin.disk().size()),
            Target::Merge(merge) => Some(merge.len()),
            Target::Mirror(mirror) => Some(mirror.len()),
            Target::Linear(linear) => Some(linear.size()),
            Target::Error(error) => Some(error.size()),
            Target::Zero(zero) => Some(zero.size()),
            Target::Segments(segments) => Some(segments.size()),
            Target::Nothing => None,
        }
    }

    /// How long the target could be on its disks, whose sizes are read again, and the disk that
    /// sets this limit; `None` if it cannot have another length.
    pub fn room(&self) -> Option<(Sectors, Rc<str>)> {
        match self {
            Target::Origin(origin) => {
                Some((origin.disk().refresh_size(), origin.disk().name().clone()))
            }
            Target::Snapshot(snapshot) => Some(snapshot.room()),
            Target::Linear(linear) => Some((linear.room(), linear.disk().name().clone())),
            Target::Mirror(mirror) => mirror.room(),
            Target::Merge(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => None,
        }
    }

    /// Checks that the target can be so long, which is longer than it is. Nothing is changed.
    ///
    /// # Errors
    /// Why not.
    pub fn check_size(&self, len: Sectors) -> Result<(), String> {
        match self {
            Target::Snapshot(snapshot) => snapshot.check_growth(),
            Target::Mirror(mirror) => mirror.check_size(len).map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }

    /// The first step to another length, before that is on record: a mirror has its new regions
    /// then, and records in its log that they differ. No user has seen them.
    ///
    /// # Errors
    /// Why it cannot have that length, which no user must see.
    pub async fn prepare_size(&self, len: Sectors) -> Result<(), String> {
        match self {
            Target::Mirror(mirror) => mirror.grow(len).await.map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }

    /// What the target can do as a disk of another one; `None` between two targets.
    pub fn limits(&self) -> Option<Limits> {
        match self {
            Target::Snapshot(snapshot) => Some(snapshot.limits()),
            Target::Origin(origin) => Some(origin.limits()),
            Target::Merge(merge) => Some(merge.limits()),
            Target::Mirror(mirror) => Some(mirror.limits()),
            Target::Linear(linear) => Some(linear.limits()),
            Target::Error(_) | Target::Zero(_) => Some(NO_DISK),
            Target::Segments(segments) => Some(segments.limits()),
            Target::Nothing => None,
        }
    }

    /// Writes what the target needs to be used, and starts its tasks.
    ///
    /// # Errors
    /// Why it cannot be used, in one line.
    pub async fn activate(&self, executor: &Executor) -> Result<(), String> {
        match self {
            Target::Snapshot(snapshot) => {
                snapshot.activate(executor).await.map_err(|error| error.to_string())
            }
            Target::Merge(merge) => {
                merge.activate(executor).await.map_err(|error| error.to_string())
            }
            Target::Origin(_)
            | Target::Linear(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => Ok(()),
            Target::Mirror(mirror) => {
                mirror.activate(executor).await.map_err(|error| error.to_string())
            }
        }
    }

    /// Waits until nothing of the target is in flight and its tasks have ended.
    ///
    /// # Errors
    /// What is lost with it.
    pub async fn close(&self) -> Result<(), String> {
        match self {
            Target::Snapshot(snapshot) => {
                snapshot.close().await.map_err(|cause| lost(snapshot, &cause))
            }
            Target::Merge(merge) => {
                let closed = merge.close().await;
                closed.map_err(|cause| format!("COW {}: {cause}", merge.cow().name()))?;
                unflushed(merge.origin())
            }
            Target::Origin(origin) => unflushed(origin),
            Target::Linear(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => Ok(()),
            Target::Mirror(mirror) => {
                mirror.close().await;
                Ok(())
            }
        }
    }

    /// The target fails the requests that it holds, or returns them to the device (`noflush`), and
    /// holds no more of that kind.
    pub(crate) async fn suspend(&self, noflush: bool) {
        match self {
            Target::Mirror(mirror) => mirror.suspend(noflush).await,
            Target::Merge(merge) => merge.suspend().await,
            Target::Snapshot(_)
            | Target::Origin(_)
            | Target::Linear(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => {}
        }
    }

    /// Ends a suspension that waits for a disk, without suspending anything.
    pub(crate) fn give_up(&self) {
        match self {
            Target::Mirror(mirror) => mirror.give_up(),
            Target::Merge(merge) => merge.give_up(),
            _ => {}
        }
    }

    /// Writes what the target has acknowledged where another program looks for it.
    ///
    /// # Errors
    /// What could not be written, and is lost.
    pub(crate) async fn commit_all(&self) -> Result<(), String> {
        match self {
            Target::Snapshot(snapshot) => {
                snapshot.commit_all().await.map_err(|cause| lost(snapshot, &cause))
            }
            // What it has acknowledged is on its disks, as far as they could be flushed. The next
            // table is of the same origin.
            Target::Merge(merge) => unflushed(merge.origin()),
            // Another table may be on other disks, and its users' flushes do not reach these.
            Target::Linear(_) | Target::Segments(_) => self.flush().await,
            Target::Origin(origin) => {
                unflushed(origin)?;
                self.flush().await
            }
            Target::Mirror(_) | Target::Error(_) | Target::Zero(_) | Target::Nothing => Ok(()),
        }
    }

    /// The same for a device that was suspended by an earlier server, which has flushed what its
    /// users had written: the device below may be suspended as well.
    pub(crate) async fn commit_again(&self) -> Result<(), String> {
        match self {
            Target::Linear(_) | Target::Segments(_) => Ok(()),
            Target::Origin(origin) => unflushed(origin),
            _ => self.commit_all().await,
        }
    }

    /// The block size of the device: the largest of its disks'.
    pub fn logical_block_bytes(&self) -> u32 {
        match self {
            Target::Snapshot(snapshot) => snapshot.logical_block_bytes(),
            Target::Origin(origin) => origin.disk().limits().logical_block_bytes,
            Target::Merge(merge) => merge.logical_block_bytes(),
            Target::Mirror(mirror) => mirror.logical_block_bytes(),
            Target::Linear(linear) => linear.disk().limits().logical_block_bytes,
            Target::Segments(segments) => segments.limits().logical_block_bytes,
            Target::Error(_) | Target::Zero(_) | Target::Nothing => 512,
        }
    }

    /// The target takes requests again.
    pub(crate) async fn resume(&self) {
        match self {
            Target::Mirror(mirror) => mirror.resume().await,
            Target::Merge(merge) => merge.resume(),
            Target::Snapshot(_)
            | Target::Origin(_)
            | Target::Linear(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => {}
        }
    }

    /// The open disk of a line of the table, if the line is a range of one; of a mirror's leg; or
    /// of an origin.
    pub fn disk_at(&self, place: usize) -> Option<Disk> {
        match self {
            Target::Origin(origin) => (place == 0).then(|| origin.disk().clone()),
            Target::Linear(linear) => (place == 0).then(|| linear.disk().clone()),
            Target::Segments(segments) => segments.segments().nth(place)?.disk().cloned(),
            Target::Mirror(mirror) => mirror.leg_disk(place),
            _ => None,
        }
    }

    /// Makes durable what ranges of disks, or an origin, have acknowledged.
    async fn flush(&self) -> Result<(), String> {
        if mutant::is(Mutant::SuspendLeavesUnflushed) {
            return Ok(());
        }
        let flushed = match self {
            Target::Linear(linear) => linear.disk().flush().await,
            Target::Segments(segments) => segments.flush().await,
            Target::Origin(origin) => origin.disk().flush().await,
            _ => Ok(()),
        };
        let lost = "acknowledged writes that were not flushed may be lost";
        flushed.map_err(|error| format!("{error}; {lost}"))
    }
}

/// What may be lost because a merge into an origin could not flush it.
fn unflushed(origin: &Origin) -> Result<(), String> {
    origin.unflushed().map_err(|lost| format!("origin {}: {lost}", origin.disk().name()))
}

/// What is lost when the last records of a snapshot cannot be written.
fn lost(snapshot: &Snapshot, cause: &Cause) -> String {
    let cow = snapshot.cow().name();
    format!(
        "COW {cow}: {cause}; acknowledged writes that were not flushed are lost, and the snapshot \
         is invalid"
    )
}
