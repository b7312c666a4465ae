//! The flags of `monitor`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args)]
pub struct Monitor {
    /// Also run this program for each event, one at a time
    #[arg(long, value_name = "PROGRAM")]
    pub exec: Option<PathBuf>,
    /// Begin with the events that are on record, those of deleted devices included
    #[arg(long)]
    pub past: bool,
}
