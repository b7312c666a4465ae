//! What `ublk-dm --help`, the manual pages and the completions say of `dmsetup`. Its words are read
//! by the room's own grammar.

use clap::Args;

/// Do what dmsetup does, with its own words, output and exit codes, for devices of ublk-dm
///
/// For scripts that were written for dmsetup: create, load (reload), suspend, resume, clear,
/// rename, remove, remove_all, wipe_table, status, table, info, deps, ls, message, wait, targets,
/// version and their options. Also under the name `udmsetup`. docs/dmsetup.md says what is
/// different.
#[derive(Args)]
pub struct Dmsetup {
    /// What dmsetup is given: a command, its options, and devices
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<std::ffi::OsString>,
    #[command(flatten)]
    pub text: crate::cli::args::text::OnlyText,
}
