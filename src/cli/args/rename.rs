//! The words of `rename`.

use clap::Subcommand;

/// The verb.
#[derive(Subcommand)]
pub enum Rename {
    /// Give a device another name, also while it is in use
    ///
    /// The links in /dev follow; a mount stays. `save` renames the device's line in the tab file;
    /// fstab and services that have the old name are their writer's to change.
    Rename {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// The new name
        name: String,
    },
}
