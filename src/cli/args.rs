//! The command line: verbs, flags and their help, in one place. Spelling here is a contract with users' scripts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dm_targets::table::parse_size;

use super::journal::Journal;

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
    /// An origin ends before its snapshots. A snapshot that is deleted while its origin is mounted is over: its COW is marked
    /// invalid. One whose origin is not in use can be added again as long as the origin has not been written.
    Del {
        /// Name, ublk id or /dev/ublkbN
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        devices: Vec<String>,
        /// Every device
        #[arg(long)]
        all: bool,
        /// Also devices that are mounted or in use, or whose server has died; what uses them gets I/O errors. What a server
        /// that died had acknowledged and not recorded yet is put on the COW
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
    /// Let a suspended device's I/O go on, through the table that was loaded if there is one. A device that runs is
    /// suspended for that moment; if the new table cannot be put in place, the old one goes on
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
    /// A mirror understands: `check` (compare the legs, one JSON object per range that differs), `repair LEG` (take that leg
    /// as right wherever they differ), `replace LEG DEV[:OFFSET]`, `add-leg DEV[:OFFSET]`, `remove-leg LEG`, `recover`
    /// (try again what could not be copied), and `throttle PERCENT` (the share of the time in which recovery may have I/O in
    /// flight). LEG is a path, or a number: legs are counted from 0, here and in every message about them.
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
        /// Return at once if there have been others than so many [default: as many as there are now]
        event_nr: Option<u32>,
        /// Wait until all regions of a mirror are in sync, with a progress bar on a terminal
        #[arg(long, conflicts_with = "event_nr")]
        in_sync: bool,
    },
    /// Take over devices whose server has died; I/O that waits goes on, and what was acknowledged is there
    Recover {
        /// Name, ublk id or /dev/ublkbN
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        devices: Vec<String>,
        /// Every such device
        #[arg(long)]
        all: bool,
        /// Stay in the foreground and serve, for service managers: the devices of one dead server
        #[arg(long, conflicts_with = "all")]
        foreground: bool,
        /// For a mirror: the leg that has everything; all others are copied from it. Needed if none is known to be right
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
        #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
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
    /// Decide about acknowledged writes that a dead server has left and that no COW could be found for
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
}

impl Verb {
    /// Whether this process is to be a server.
    pub fn serves(&self) -> bool {
        match self {
            Verb::Serve { .. } => true,
            Verb::Recover { foreground, .. } => *foreground,
            Verb::Add(add) => add.common().foreground,
            _ => false,
        }
    }
}

impl Add {
    fn common(&self) -> &Common {
        match self {
            Add::Snapshot(add) => &add.common,
            Add::Origin(add) => &add.common,
            Add::Mirror(add) => &add.common,
        }
    }
}

/// What a table line does not say of a device.
#[derive(Args)]
pub struct Created {
    /// The N of /dev/ublkbN [default: the first free one]
    #[arg(long, value_name = "N")]
    pub id: Option<u32>,
    /// The device cannot be written
    #[arg(long)]
    pub read_only: bool,
    /// The device dies with its server instead of waiting for another one
    #[arg(long)]
    pub no_recovery: bool,
    #[command(flatten)]
    pub loaded: Loaded,
}

/// What a table line does not say of its disks.
#[derive(Args)]
pub struct Loaded {
    /// Use disks that are mounted or hold something else
    #[arg(long)]
    pub force: bool,
    /// For a mirror: the leg to recover the others from [default: the first one that is not known to have failed]
    #[arg(long, value_name = "DEV")]
    pub source: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Add {
    /// A writable point-in-time copy of a disk
    Snapshot(Snapshot),
    /// The write path of a disk that has snapshots: use the device it prints instead of the disk
    Origin(Origin),
    /// The same data on two to nine disks
    Mirror(Mirror),
}

#[derive(Args)]
pub struct Mirror {
    /// A disk to keep the data on, at least two: a block device or regular file, from an offset if one is given
    #[arg(long = "leg", value_name = "DEV[:OFFSET]", required = true)]
    pub legs: Vec<String>,
    /// Where to note which regions may differ: `core` is memory, which is gone with the server's machine; every leg but one
    /// is then written anew at the next start
    #[arg(long, value_name = "core|DEV", default_value = "core")]
    pub log: String,
    /// Unit of noting and recovery, a power of two [default: 512 KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size_arg)]
    pub region_size: Option<u64>,
    /// Believe nothing about the legs: all is recovered from one
    #[arg(long, conflicts_with = "nosync")]
    pub sync: bool,
    /// Believe that the legs are equal
    #[arg(long)]
    pub nosync: bool,
    /// A write that did not reach every leg waits until the mirror has been mended (suspend, load, resume), instead of
    /// going on with the legs that are left
    #[arg(long)]
    pub handle_errors: bool,
    /// With --handle-errors: go on with the legs that are left as long as the log works
    #[arg(long, requires = "handle_errors")]
    pub keep_log: bool,
    /// The leg to recover the others from [default: the first one that has not failed]
    #[arg(long, value_name = "DEV")]
    pub source: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Snapshot {
    /// The disk to take a snapshot of: a block device or regular file
    #[arg(long, value_name = "DEV")]
    pub origin: PathBuf,
    /// Where changed chunks are kept: a block device or regular file
    #[arg(long, value_name = "DEV")]
    pub cow: PathBuf,
    /// Unit of copying, a power of two up to 1 GiB [default: what the COW has, or 16 KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size_arg)]
    pub chunk_size: Option<u64>,
    /// Whether the snapshot outlives the server
    #[arg(long, value_enum, default_value_t = Store::Persistent)]
    pub store: Store,
    /// What a write to the snapshot does when the COW is full
    #[arg(long, value_enum, default_value_t = OnFull::Overflow)]
    pub on_full: OnFull,
    /// Accept discards: those of whole chunks write zeroes to the COW
    #[arg(long)]
    pub discard_zeroes_cow: bool,
    /// Add the device although the COW says that its snapshot is invalid: all I/O on it fails
    #[arg(long)]
    pub allow_invalid: bool,
    /// Pass discards on to the origin as well
    #[arg(long, requires = "discard_zeroes_cow")]
    pub discard_passdown_origin: bool,
    /// Use a store that says that it was made for another origin: if this is the same disk under another name. It belongs to
    /// this origin from then on
    #[arg(long)]
    pub other_origin: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Origin {
    /// The disk: a block device or regular file
    #[arg(long, value_name = "DEV")]
    pub origin: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Common {
    /// Name of the device [default: target and id]
    #[arg(long)]
    pub name: Option<String>,
    /// The N of /dev/ublkbN [default: the first free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=MAX_ID))]
    pub id: Option<u32>,
    /// Hardware queues
    #[arg(long, value_name = "N", default_value_t = DEFAULT_QUEUES, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// Requests in flight per queue
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DEPTH, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub depth: u16,
    /// The device cannot be written
    #[arg(long)]
    pub read_only: bool,
    /// Stay in the foreground and serve, for service managers. Started again after its death with the same --name, takes
    /// its devices over; a device of a server that runs already is watched over instead, and deleted by SIGTERM
    #[arg(long)]
    pub foreground: bool,
    /// Copy request data even where the kernel could lend its pages
    #[arg(long)]
    pub no_zero_copy: bool,
    /// The device dies with its server instead of waiting for another one
    #[arg(long)]
    pub no_recovery: bool,
    /// Use disks that are mounted or hold something else
    #[arg(long)]
    pub force: bool,
}

impl Common {
    /// The defaults, under a name.
    pub fn named(name: String) -> Common {
        Common { name: Some(name), ..Common::unnamed() }
    }

    /// The defaults.
    pub fn unnamed() -> Common {
        Common {
            name: None,
            id: None,
            queues: DEFAULT_QUEUES,
            depth: DEFAULT_DEPTH,
            read_only: false,
            foreground: false,
            no_zero_copy: false,
            no_recovery: false,
            force: false,
        }
    }
}

/// The largest number of a ublk device: the kernel makes a disk's minor number of it, which has 20 bits.
const MAX_ID: i64 = (1 << 20) - 1;
/// One queue serves a family's devices from one thread; more only spread the kernel's side.
const DEFAULT_QUEUES: u16 = 1;
/// Requests in flight per queue: what block devices commonly have.
const DEFAULT_DEPTH: u16 = 128;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// Exceptions are kept on the COW device
    Persistent,
    /// Exceptions are kept in memory
    Transient,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFull {
    /// The snapshot becomes invalid
    Invalidate,
    /// The write fails; what is there stays readable
    Overflow,
}

fn parse_size_arg(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}
