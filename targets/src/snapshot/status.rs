//! A snapshot's status line in the kernel's form: what monitoring and LVM parse. Pure.
//!
//! These are the arguments; `0 LENGTH TARGET ` stands before them. `snapshot-origin` has none.

use std::fmt;

use super::format::Usage;

/// The values of a snapshot's status line, also of one that is being merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The snapshot can be used.
    pub valid: bool,
    /// A merge has failed.
    pub merge_failed: bool,
    /// The COW is full and the snapshot refuses writes.
    pub overflowed: bool,
    /// What the store uses; a merge is finished when `allocated` equals `metadata`.
    pub usage: Usage,
}

/// The first condition that holds decides, in the kernel's order.
impl fmt::Display for SnapshotStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.valid {
            f.write_str("Invalid")
        } else if self.merge_failed {
            f.write_str("Merge failed")
        } else if self.overflowed {
            f.write_str("Overflow")
        } else {
            write!(f, "{}/{} {}", self.usage.allocated, self.usage.total, self.usage.metadata)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Sectors;

    #[test]
    fn status_lines_are_the_kernels() {
        let usage = Usage { allocated: Sectors(32), total: Sectors(32768), metadata: Sectors(16) };
        let mut status =
            SnapshotStatus { valid: true, merge_failed: false, overflowed: false, usage };
        assert_eq!(status.to_string(), "32/32768 16");
        status.overflowed = true;
        assert_eq!(status.to_string(), "Overflow");
        status.merge_failed = true;
        assert_eq!(status.to_string(), "Merge failed");
        status.valid = false;
        assert_eq!(status.to_string(), "Invalid");
    }
}
