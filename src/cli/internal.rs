//! Verbs that no user types: what processes of this program, and udev's rule, ask of it.

use std::process::ExitCode;

use clap::Subcommand;

use super::terminal;
use super::udev;
use crate::failure::Failure;
use crate::server::process;
use crate::ublk::apart;

/// What another process asks.
#[derive(Subcommand)]
pub enum Internal {
    /// Serve a family of devices (started by `add`)
    #[command(hide = true)]
    Serve {
        /// The family's name
        key: String,
        /// Listen when the process that has started this one writes a line
        #[arg(long)]
        standby: bool,
    },
    /// Delete the device of a dead server (started by processes that must not wait for it)
    #[command(hide = true)]
    DeleteDevice {
        /// Its number
        id: u32,
        /// Its cookie
        cookie: u64,
    },
    /// Print what udev's rule needs to know of a block device (started by udev)
    #[command(hide = true)]
    UdevProperties {
        /// The kernel's name of the device or of a partition of it
        device: String,
    },
}

impl Internal {
    /// Whether this process is to become a server.
    pub fn serves(&self) -> bool {
        matches!(self, Internal::Serve { .. })
    }
}

/// Does it.
pub(super) fn run(what: Internal) -> Result<ExitCode, Failure> {
    match what {
        Internal::Serve { key, standby } => process::serve(&key, standby),
        Internal::DeleteDevice { id, cookie } => delete_device(id, cookie),
        Internal::UdevProperties { device } => {
            udev::properties(&device).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Deletes a device for the process that started this one, and reads its stdout.
fn delete_device(id: u32, cookie: u64) -> Result<ExitCode, Failure> {
    let Err(why) = apart::delete_now(id, cookie) else { return Ok(ExitCode::SUCCESS) };
    terminal::print(&why.written())?;
    Ok(ExitCode::FAILURE)
}
