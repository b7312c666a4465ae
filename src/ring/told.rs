//! Completions that are told: with the user data that the operation or command was sent with, and
//! without a future that waits for them.
//!
//! They are collected while a round is reaped, for the thread to take before it runs its tasks.

use dm_targets::disk::UserData;
use io_uring::squeue;

use super::Ring;
use super::inner::TOLD;

impl Ring {
    /// Sends a command whose completion is told with this data, which has [`TOLD`].
    #[inline]
    pub fn command_with(&self, entry: squeue::Entry, data: UserData) {
        debug_assert!(data.0 & TOLD != 0);
        self.inner.push(entry.user_data(data.0));
    }

    /// Whether a completion has not been taken.
    pub fn has_told(&self) -> bool {
        !self.inner.told.borrow().is_empty()
    }

    /// Takes the completions that have not been taken, each with its data and its result: an
    /// operation's is negative for an error, a command's is the kernel's. `told` must be empty; its
    /// memory is used for the next ones. Returns whether there are any.
    pub fn take_told(&self, told: &mut Vec<(UserData, i32)>) -> bool {
        std::mem::swap(&mut *self.inner.told.borrow_mut(), told);
        !told.is_empty()
    }
}
