//! The command line: verbs, flags and their help, in one place. Spelling here is a contract with
//! users' scripts.

mod add;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::journal::Journal;
pub use add::{Add, Common, Created, Loaded, Mirror, OnFull, Snapshot, Store};

/// Block snapshots and mirrors: device-mapper's targets, served from user space on ublk
#[derive(Parser)]
#[command(name = "ublk-dm", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// Say more on stderr; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Add a device and print its path
    #[command(subcommand)]
    Add(Add),
    /// Add a device from a device-mapper table line and print its path
    ///
    /// Targets are `snapshot ORIGIN COW P|PO|N CHUNK`, `snapshot-origin DEV`,
    /// `mirror LOG_TYPE COUNT LOG_ARGS... LEGS (DEV OFFSET)...`, and `linear DEV OFFSET`: the
    /// sectors of a disk from OFFSET on. A disk is a path or MAJ:MIN; lengths, offsets and chunks
    /// are in sectors of 512 bytes.
    Create {
        /// Name of the device
        name: String,
        /// The line: `0 LENGTH TARGET ARGS`
        #[arg(long, value_name = "LINE", conflicts_with = "file")]
        table: Option<String>,
        /// A file that holds the line; - or nothing for stdin
        file: Option<PathBuf>,
        #[command(flatten)]
        options: Created,
    },
    /// Delete devices
    ///
    /// An origin ends before its snapshots. A snapshot that is deleted while its origin is mounted
    /// is over: its COW is marked invalid. One whose origin is not in use can be added again as
    /// long as the origin has not been written.
    Del {
        /// Name, ublk id or /dev/ublkbN
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        devices: Vec<String>,
        /// Every device
        #[arg(long)]
        all: bool,
        /// Also devices that are mounted or in use, or whose server has died; what uses them gets
        /// I/O errors. What a server that died had acknowledged and not recorded yet is put on the
        /// COW
        #[arg(long)]
        force: bool,
    },
    /// List all devices
    List {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print device-mapper status lines
    Status {
        /// Name, ublk id or /dev/ublkbN; all if none is given
        devices: Vec<String>,
        /// As one JSON object per device
        #[arg(long)]
        json: bool,
    },
    /// Print device-mapper table lines
    Table {
        /// Name, ublk id or /dev/ublkbN; all if none is given
        devices: Vec<String>,
    },
    /// Hold a device's I/O back and wait for what is in flight
    Suspend {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// Requests that the target holds go back and wait for the next table, instead of failing
        #[arg(long)]
        noflush: bool,
    },
    /// Let a suspended device's I/O go on, through the table that was loaded if there is one. A
    /// device that runs is suspended for that moment; if the new table cannot be put in place, the
    /// old one goes on
    Resume {
        /// Name, ublk id or /dev/ublkbN
        device: String,
    },
    /// Give a device another table, which its next resume puts in place
    Load {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// The line: `0 LENGTH TARGET ARGS`
        #[arg(long, value_name = "LINE")]
        table: String,
        #[command(flatten)]
        options: Loaded,
    },
    /// Tell a device's target something
    ///
    /// A mirror understands: `check` (compare the legs, one JSON object per range that differs),
    /// `repair LEG` (take that leg as right wherever they differ), `replace LEG DEV[:OFFSET]`,
    /// `add-leg DEV[:OFFSET]`, `remove-leg LEG`, `recover` (try again what could not be copied),
    /// and `throttle PERCENT` (the share of the time in which recovery may have I/O in flight). LEG
    /// is a path, or a number: legs are counted from 0, here and in every message about them.
    #[command(verbatim_doc_comment)]
    Message {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// The message
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Wait for a device's next event and print the count of its events
    Wait {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// Return at once if there have been others than so many
        /// [default: as many as there are now]
        event_nr: Option<u32>,
        /// Wait until all regions of a mirror are in sync, with a progress bar on a terminal
        #[arg(long, conflicts_with = "event_nr")]
        in_sync: bool,
    },
    /// Take over devices whose server has died. Queued I/O resumes; no acknowledged write is lost
    Recover {
        /// Name, ublk id or /dev/ublkbN
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        devices: Vec<String>,
        /// Every such device
        #[arg(long)]
        all: bool,
        /// Stay in the foreground and serve, for service managers: the devices of one dead server,
        /// or none of them if one that is named cannot be served. One that a living server has left
        /// out is taken over by that and watched over
        #[arg(long, conflicts_with = "all")]
        foreground: bool,
        /// For a mirror: the leg that has everything; all others are copied from it. Needed if none
        /// is known to be right
        #[arg(long, value_name = "DEV", conflicts_with = "all")]
        source: Option<PathBuf>,
    },
    /// Copy a disk, or a part of one, to up to eight others
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
        /// Result as one JSON object
        #[arg(long)]
        json: bool,
        /// Also overwrite disks that are in use
        #[arg(long)]
        force: bool,
    },
    /// Make disks, or parts of them, read as zeroes
    Zero {
        /// What to zero: DEV, or DEV:START+LEN
        #[arg(long, value_name = "DEV[:START+LEN]", required = true)]
        to: Vec<String>,
        /// Result as one JSON object
        #[arg(long)]
        json: bool,
        /// Also overwrite disks that are in use
        #[arg(long)]
        force: bool,
    },
    /// Judge a COW device or dirty log, offline; never writes. Exit code 3 if it is bad
    Check {
        /// The COW device, log device or an image of one
        path: PathBuf,
        /// The origin, to check that the COW's records lie on it
        #[arg(long, value_name = "DEV")]
        origin: Option<PathBuf>,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show everything in a COW device or dirty log, offline; never writes
    Dump {
        /// The COW device, log device or an image of one
        path: PathBuf,
        /// The origin, to check that the COW's records lie on it
        #[arg(long, value_name = "DEV")]
        origin: Option<PathBuf>,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Decide about acknowledged writes that a dead server has left and that no COW could be found
    /// for
    #[command(subcommand)]
    Journal(Journal),
    /// Show what this kernel's ublk driver can do
    Features {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Serve a family of devices (started by `add`)
    #[command(hide = true)]
    Serve {
        /// The family's name
        key: String,
    },
    /// Delete the device of a dead server (started by whoever must not wait for that)
    #[command(hide = true)]
    DeleteDevice {
        /// Its number
        id: u32,
        /// Its cookie
        cookie: u64,
    },
    /// Read a disk's first block (started by whoever must not wait for that)
    #[command(hide = true)]
    AskDisk {
        /// The disk's path
        disk: PathBuf,
    },
}

impl Verb {
    /// Whether this process is to become a server.
    pub fn serves(&self) -> bool {
        match self {
            Verb::Serve { .. } => true,
            Verb::Recover { foreground, .. } => *foreground,
            Verb::Add(add) => add.common().foreground,
            _ => false,
        }
    }
}
