//! What an image was recognised as.

use super::log::Log;
use super::store::Store;

/// What an image was recognised as, with what `dump` needs to read it again.
pub(super) enum Content<'a> {
    /// A snapshot's exception store.
    Store(Store<'a>),
    /// A mirror's dirty log.
    Log(Log<'a>),
    /// Nothing beyond the report can be read.
    Nothing,
}
