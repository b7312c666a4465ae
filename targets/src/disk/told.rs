//! Operations whose completions are told, not polled ([`Completions`](super::Completions)).

use super::{Disk, DiskError, Errno, Memory, Op, OpKind, UserData};
use crate::units::{Sector, Sectors};

impl Disk {
    /// Whether completions of its operations can be told.
    #[inline]
    pub(crate) fn tells(&self) -> bool {
        self.inner.completions.is_some()
    }

    /// Starts an operation whose completion is told; only on a disk that [`Disk::tells`]. One that
    /// violates the contract is not passed on, and completes with `EINVAL`.
    #[inline]
    pub(crate) fn send(
        &self,
        kind: OpKind,
        (sector, count): (Sector, Sectors),
        memory: Memory,
        data: UserData,
    ) {
        let Some(completions) = &self.inner.completions else {
            debug_assert!(false, "{}: completions cannot be told", self.name());
            return;
        };
        let op = Op { kind, sector, count, memory };
        if self.admit(&op) {
            completions.send(op, data);
        } else {
            completions.refuse(data, Errno::EINVAL);
        }
    }

    /// The result of an operation whose completion was told.
    #[inline]
    pub(crate) fn told(
        &self,
        kind: OpKind,
        (sector, count): (Sector, Sectors),
        result: Result<(), Errno>,
    ) -> Result<(), DiskError> {
        result.map_err(|errno| self.error_of(kind, (sector, count), errno))
    }

    /// The error of an operation whose completion was told.
    #[cold]
    pub(crate) fn error_of(
        &self,
        kind: OpKind,
        (sector, count): (Sector, Sectors),
        errno: Errno,
    ) -> DiskError {
        let errno = self.inner.completions.as_ref().map_or(errno, |told| told.errno(errno));
        self.error(kind, sector, count, errno)
    }
}
