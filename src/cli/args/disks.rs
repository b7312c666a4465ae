//! Verbs that work on disks and images themselves: no server, and no ublk.

use std::path::PathBuf;

use clap::Subcommand;

/// Verbs that work on disks.
#[derive(Subcommand)]
pub enum OnDisks {
    /// Copy a disk, or a part of one, to up to eight other disks
    ///
    /// The destinations are overwritten without confirmation; disks that are in use are refused.
    /// START and LEN are in bytes or with a unit: 1MiB, 8s.
    Copy {
        /// Source: DEV, or DEV:START+LEN
        #[arg(long, value_name = "DEV[:START+LEN]")]
        from: String,
        /// Destination: DEV, or DEV:START
        #[arg(long, value_name = "DEV[:START]", required = true)]
        to: Vec<String>,
        /// Share of the time during which I/O may be in flight
        #[arg(
            long,
            value_name = "PERCENT",
            default_value_t = 100,
            value_parser = clap::value_parser!(u32).range(1..=100)
        )]
        throttle: u32,
        /// Also overwrite disks that are in use
        #[arg(long)]
        force: bool,
    },
    /// Make disks, or parts of them, read as zeroes
    ///
    /// Disks that are in use are refused. START and LEN are in bytes or with a unit: 4096, 8s.
    Zero {
        /// The range to zero: DEV, or DEV:START+LEN
        #[arg(long, value_name = "DEV[:START+LEN]", required = true)]
        to: Vec<String>,
        /// Also overwrite disks that are in use
        #[arg(long)]
        force: bool,
    },
    /// Check a COW device or dirty log offline; never writes. Exit code 3 if it is bad
    Check {
        /// The COW device, log device or an image of one
        path: PathBuf,
        /// The origin, to check that the COW's records are within its size, and that the store was
        /// made for it
        #[arg(long, value_name = "DEV")]
        origin: Option<PathBuf>,
    },
    /// Show the content of a COW device or dirty log offline; never writes
    ///
    /// Exits with 3, as `check` does, if it holds neither or violates the format.
    Dump {
        /// The COW device, log device or an image of one
        path: PathBuf,
        /// The origin, to check that the COW's records are within its size, and that the store was
        /// made for it
        #[arg(long, value_name = "DEV")]
        origin: Option<PathBuf>,
    },
}
