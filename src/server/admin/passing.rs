//! A mirror that is between two devices of a server ([`super::passed_on`]).

/// A mirror that was closed for another device.
#[derive(Clone, Copy)]
pub(super) struct Passing {
    /// The suspended device that had it.
    pub(super) from: u32,
    /// A leg that is right.
    pub(super) source: Option<usize>,
}
