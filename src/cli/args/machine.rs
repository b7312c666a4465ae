//! Verbs about the machine rather than one device: what is wrong with it, and what dead servers
//! have left.

use clap::{Args, Subcommand};

/// Verbs about the machine.
#[derive(Subcommand)]
pub enum Machine {
    /// Look for what is wrong, and say what mends it
    ///
    /// Examines the kernel and its driver, io_uring, limits, udev, the run directory, every server
    /// and device, stores and acknowledged writes that dead servers have left, and the tab file:
    /// a snapshot that is not up while its origin is written is lost. Prints one line for each
    /// finding, `problem` or `advice`, and below it the command that mends it. Changes nothing
    /// without --fix. Exit code 3 if there is a problem.
    Doctor(Doctor),
    /// Delete what dead servers have left and no server can take over
    ///
    /// Devices that were never started, or have no disk any more, and that no file knows of;
    /// devices whose files were removed and whose server has died, unless they are in use; and the
    /// files of servers none of whose devices exists. Devices that wait for a server stay:
    /// `recover` takes them over. Prints what it has deleted.
    Reap,
}

/// The flags of `doctor`.
#[derive(Args)]
pub struct Doctor {
    /// Also do what mends without loss: load the driver, recover devices, bring up snapshots of
    /// the tab file, and what `reap` does; then look again
    #[arg(long)]
    pub fix: bool,
}
