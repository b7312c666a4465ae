//! Why the table of a device is recorded.

/// The reason.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It comes; `force`: its disks are taken although a state file cannot be read.
    New { force: bool },
    /// It could not be replaced, and is put back.
    Again,
}
