//! The command line: verbs, flags and their help, in one place. Spelling here is a contract with
//! users' scripts.

mod add;
mod disks;
pub mod examples;
mod machine;
mod merge;
mod monitor;
mod rename;
mod tab;
pub mod text;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::internal::Internal;
use super::journal::Journal;
use super::list::List;
use super::metrics::Metrics;
use super::pages::Pages;
pub use add::{Add, Common, Created, Loaded, Mirror, OnFull, OnServerDeath, Snapshot, Store};
pub use disks::OnDisks;
pub use machine::{Doctor, Machine};
pub use merge::Merge;
pub use monitor::Monitor;
pub use rename::Rename;
pub use tab::{Tab, Up, words};

/// What a size is, wherever one is given.
const UNITS: &str = "SIZE, BYTES, OFFSET, START and LEN are in bytes, or with a unit: KiB, MiB, \
                     GiB or TiB (also k, m, g, t), or s for sectors of 512 bytes.";

/// Block snapshots and mirrors: device-mapper's targets, served from user space on ublk
#[derive(Parser)]
#[command(name = "ublk-dm", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = UNITS)]
pub struct Cli {
    /// Print more to stderr; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print only errors to stderr
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print results as JSON objects, one a line, and errors likewise on stderr (docs/json.md)
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Add a device and print its path
    #[command(subcommand)]
    Add(Add),
    /// Add a device from a device-mapper table and print its path
    ///
    /// Targets are `snapshot ORIGIN COW P|PO|N CHUNK`, `snapshot-origin DEV`,
    /// `snapshot-merge ORIGIN COW P|PO CHUNK` (the snapshot flows back into its origin),
    /// `mirror LOG_TYPE COUNT LOG_ARGS... LEGS (DEV OFFSET)...`, `linear DEV OFFSET` (the sectors
    /// of a disk from OFFSET on), `error` (all I/O fails), and `zero` (reads are zeroes, writes
    /// change nothing). A disk is a path, the name of a device, or MAJ:MIN; lengths, offsets and
    /// chunks are in sectors of 512 bytes. A table of several lines can have `linear`, `error` and
    /// `zero`; each line starts where the one before ends.
    #[command(after_help = add::DISKS)]
    Create {
        /// Name of the device
        name: String,
        /// A line, `START LENGTH TARGET ARGS`; once for each line of the table
        #[arg(long, value_name = "LINE", conflicts_with = "file")]
        table: Vec<String>,
        /// A file with the table; - or none for stdin
        file: Option<PathBuf>,
        #[command(flatten)]
        options: Created,
    },
    /// Delete devices
    ///
    /// Devices that are named together are deleted in the right order: an origin before its
    /// snapshots, so that these can be added again. Deleting a snapshot while its origin is mounted
    /// invalidates its COW. A snapshot whose origin is not in use can be added again as long as the
    /// origin has not been written. Lost data is reported on stderr.
    Del {
        /// Name, ublk id or /dev/ublkbN
        #[arg(conflicts_with = "all")]
        devices: Vec<String>,
        /// All devices
        #[arg(long)]
        all: bool,
        /// Also delete devices that are mounted or in use, or whose server has died; their users
        /// get I/O errors. Writes that a dead server had acknowledged but not recorded are recorded
        /// on the COW
        #[arg(long)]
        force: bool,
    },
    /// List all devices
    ///
    /// HEALTH is `ok`, or what needs attention: `degraded` and `recovering` (a mirror), `full`,
    /// `stalled`, `overflow` and `invalid` (a snapshot), `merging`, `merge-paused`,
    /// `merge-stopped`, `merge-deferred`, `suspended`, `quiesced` (its server is gone, I/O waits
    /// for `recover`), `failing` (the same, but I/O fails), `dead`, `hangs` (its server does not
    /// answer) or `no-table`. No word in a line has a space in it, and what is not known is `-`.
    List(List),
    /// Print metrics of all devices for Prometheus, or serve them
    ///
    /// Counters of requests, bytes, copies, commits and errors; histograms of how long requests
    /// take; sizes; how much of a COW is used; what a merge or a recovery has left; the state of
    /// each leg; the state and the health of each device (docs/metrics.md has them all).
    Metrics(Metrics),
    /// Print the events of all devices as they happen
    ///
    /// An event is a snapshot that is invalid, full or merged, a leg that has failed or a mirror
    /// that is recovered, a last commit that failed, and so on: docs/events.md has the list. The
    /// program of --exec is run for each, with the event and the device's name as its arguments and
    /// UBLK_DM_EVENT, _DEVICE, _PRIORITY, _TIME, _DISK, _LEG, _PERCENT and _MESSAGE in its
    /// environment; events that happen meanwhile wait. The journal has the events as well
    /// (`journalctl -t ublk-dm UBLK_DM_EVENT=invalid`).
    Monitor(Monitor),
    /// Print device-mapper status lines
    Status {
        /// Name, ublk id or /dev/ublkbN; all if none is given
        devices: Vec<String>,
    },
    /// Print device-mapper table lines
    Table {
        /// Name, ublk id or /dev/ublkbN; all if none is given
        devices: Vec<String>,
        /// Print the tables that are loaded, which the next `resume` puts in place
        #[arg(long)]
        inactive: bool,
    },
    /// Hold back a device's I/O and wait for the requests in flight
    Suspend {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// Requeue the requests that the target holds, for the next table, instead of failing them
        #[arg(long)]
        noflush: bool,
    },
    /// Resume a suspended device's I/O, with the loaded table if there is one. A running device is
    /// suspended while its table is replaced; if the new table cannot be used, the old one stays,
    /// and the new one is no longer loaded. Makes the device of a `create --notable`, and prints
    /// its path
    Resume {
        /// Name, ublk id or /dev/ublkbN
        device: String,
    },
    /// Load another table for a device; its next resume puts the table in place
    ///
    /// Any table can be replaced by any other of the same length, with these exceptions: a merge
    /// begins and ends with the table of its origin, and a mirror's and a snapshot's table do not
    /// replace each other (`error` can be put in between). An origin that has snapshots gets no
    /// table that writes to a disk. A snapshot whose table is replaced leaves its origin, as by
    /// `del`; one with the same origin and COW takes over the live store. A mirror over the disk of
    /// a linear device, and then a linear table over the mirror's other leg, move the device's data
    /// to that leg: the mirror is recovered from the leg that has the data, and `resume` refuses to
    /// leave it for a leg that is not in sync or has failed.
    ///
    /// Disks are opened and judged by `resume`: a path may lead to nothing before. Names of devices
    /// are looked up now.
    #[command(after_help = add::DISKS)]
    Load {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// A line, `START LENGTH TARGET ARGS`; once for each line of the table
        #[arg(long, value_name = "LINE", required = true)]
        table: Vec<String>,
        #[command(flatten)]
        options: Loaded,
    },
    /// Drop the table that is loaded for a device; done if none is
    Clear {
        /// Name, ublk id or /dev/ublkbN
        device: String,
    },
    /// Make a device longer while it is in use
    ///
    /// A `linear` device, an origin's, a snapshot's and a mirror grow as far as the disks below
    /// them have grown; no device can shrink. Snapshots of an origin that grows keep their size. A
    /// snapshot's device grows up to the size of its origin, and shows in the new part what the
    /// origin has there at this moment. The new regions of a mirror are recovered. A file system is
    /// then grown with its own tool. Needs Linux 6.16 or later.
    Resize {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// The new size, in bytes or with a unit: 10GiB, 2048s
        /// [default: all that the disks below have]
        #[arg(value_name = "SIZE", value_parser = dm_targets::words::parse_size)]
        size: Option<u64>,
    },
    #[command(flatten)]
    Rename(Rename),
    /// Merge a snapshot into its origin, whose device shows the snapshot from the first moment on
    ///
    /// The origin needs a device (`add origin`); the snapshot's device ends (unless with --keep).
    /// Returns when the merge has begun: the server continues it, and when all of the snapshot is
    /// on the origin it makes the device a plain origin again; the COW is empty then and can be
    /// used again. A server that dies is replaced with `recover`, which continues the merge.
    /// Refused while the origin is mounted: a file system on it would see its content change;
    /// --defer leaves the merge to the origin's next activation then.
    Merge(Merge),
    /// Send a message to a device's target
    ///
    /// The messages of a mirror are: `check` (compare the legs; prints one JSON object per range
    /// that differs; exit code 3 if there is one), `repair LEG` (copy that leg to the others
    /// wherever they differ), `replace LEG DEV[:OFFSET]`, `add-leg DEV[:OFFSET]`,
    /// `remove-leg LEG`, `recover` (retry the regions that could not be copied), and
    /// `throttle PERCENT` (the share of the time in which recovery may have I/O in flight). LEG is
    /// a disk or a number: legs are counted from 0, here and in every message about them.
    /// `replace` and `add-leg` refuse a disk with other content: wipe it with `zero` first.
    #[command(verbatim_doc_comment, after_help = add::DISKS)]
    Message {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// The message
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Wait for a device's next event and print its event counter
    Wait {
        /// Name, ublk id or /dev/ublkbN
        device: String,
        /// Return immediately if the event counter differs from EVENT_NR
        /// [default: the current counter]
        #[arg(value_parser = super::wait::event_number)]
        event_nr: Option<u32>,
        /// Wait until all regions of a mirror are in sync, with a progress bar on a terminal
        #[arg(long, conflicts_with = "event_nr")]
        in_sync: bool,
    },
    /// Take over devices whose server has died. Queued I/O resumes; no acknowledged write is lost
    Recover {
        /// Name, ublk id or /dev/ublkbN
        #[arg(conflicts_with = "all")]
        devices: Vec<String>,
        /// All devices whose server has died
        #[arg(long)]
        all: bool,
        /// Stay in the foreground and serve the devices, for service managers. All must have had
        /// the same server; if a named device cannot be served, none is. A device that a living
        /// server has left out is taken over by that server, and this command watches the device
        #[arg(long, conflicts_with = "all")]
        foreground: bool,
        /// For a mirror: the leg that is up to date; all other legs are copied from it. Required if
        /// no leg is known to be up to date
        #[arg(long, value_name = "DEV", conflicts_with = "all")]
        source: Option<PathBuf>,
    },
    /// Have this program take the place of the servers that run now, under devices in use
    ///
    /// For each family of the named devices: a server of this program starts, the old one leaves
    /// its devices, and the new one takes them over, with their queued I/O. No request fails and
    /// none is lost; how long I/O was held is printed for each device. If the new server cannot
    /// take over all of them, the old program does again, and the exit code is 1. Suspended devices
    /// stay suspended; merges and the recovery of mirrors go on.
    ///
    /// Refused, before anything is done: devices that were added with --no-recovery or
    /// `--on-server-death fail` (their requests would fail in between), transient snapshots,
    /// devices with a disk that cannot be opened, and servers in the foreground, whose service is
    /// to be restarted instead.
    Upgrade {
        /// Name, ublk id or /dev/ublkbN
        #[arg(conflicts_with = "all")]
        devices: Vec<String>,
        /// All devices
        #[arg(long)]
        all: bool,
    },
    #[command(flatten)]
    Tab(Tab),
    #[command(flatten)]
    OnDisks(OnDisks),
    /// List, use or discard acknowledged writes of dead servers whose COW was not found
    #[command(subcommand)]
    Journal(Journal),
    /// Show the features of this kernel's ublk driver
    Features,
    Dmsetup(super::dmsetup::entry::Dmsetup),
    #[command(flatten)]
    Machine(Machine),
    #[command(flatten)]
    Pages(Pages),
    #[command(flatten)]
    Internal(Internal),
}

/// The command line with its examples, for help and parsing.
pub fn command() -> Command {
    examples::added(Cli::command(), "")
}

/// Reads a command line.
///
/// # Errors
/// It is wrong, or asks for help.
pub fn parse(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut matches = command().try_get_matches_from(words)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command()))
}

impl Verb {
    /// Whether this process is to become a server.
    pub fn serves(&self) -> bool {
        match self {
            Verb::Internal(what) => what.serves(),
            Verb::Recover { foreground, .. } => *foreground,
            Verb::Add(add) => add.common().foreground,
            _ => false,
        }
    }

    /// The name of a verb that has no object to print: what it prints is a text by nature.
    pub fn prints_text(&self) -> Option<&'static str> {
        match self {
            Verb::Metrics(_) => Some("metrics"),
            Verb::Dmsetup(_) => Some("dmsetup"),
            Verb::Tab(Tab::SystemdGenerator(_)) => Some("systemd-generator"),
            Verb::Pages(Pages::Completions { .. }) => Some("completions"),
            Verb::Pages(Pages::Man { .. }) => Some("man"),
            _ => None,
        }
    }
}
