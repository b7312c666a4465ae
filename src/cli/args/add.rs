//! The flags of `add`, `create` and `load`: what a device is made of and how it is served.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use dm_targets::words::parse_size;

use crate::protocol::refuse_odd_uuid;

/// What a disk is, wherever a device is made of one.
pub(super) const DISKS: &str = "DEV is a path, or the name of a device of ublk-dm: a word without \
                                a slash. ./NAME is a file.";

impl Add {
    /// The options that every device has.
    pub fn common(&self) -> &Common {
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
    /// Take the name only: `load` gives the device its table, and `resume` makes it and prints its
    /// path. Until then it has no size, no /dev/ublkbN and no server
    #[arg(long, conflicts_with_all = ["table", "file", "force", "shared", "source"])]
    pub notable: bool,
    /// A name for programs, of up to 128 characters, that no other device has and that stays
    #[arg(long, value_parser = parse_uuid)]
    pub uuid: Option<String>,
    /// The N of /dev/ublkbN [default: the first free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=MAX_ID))]
    pub id: Option<u32>,
    /// Make the device read-only
    #[arg(long)]
    pub read_only: bool,
    /// The device ends with its server instead of waiting for another one
    #[arg(long)]
    pub no_recovery: bool,
    /// What requests do while the device has no server
    #[arg(long, value_enum, default_value_t, conflicts_with = "no_recovery")]
    pub on_server_death: OnServerDeath,
    /// Serve the device in the server of this device of ublk-dm, so that a mirror or a table over
    /// both is served there as well. For tables of linear, error and zero
    #[arg(long, value_name = "DEV", conflicts_with = "notable")]
    pub beside: Option<PathBuf>,
    #[command(flatten)]
    pub loaded: Loaded,
}

/// What a table line does not say of its disks.
#[derive(Args)]
pub struct Loaded {
    /// Use disks that are mounted, in use or hold other data. A COW or a log is never shared: one
    /// that is mounted or in use is refused, other data on it is overwritten, and a snapshot on it
    /// continues. With `load`: also leave a mirror for a leg that is not in sync or has failed
    #[arg(long)]
    pub force: bool,
    /// Do not claim the disks: device-mapper, and devices of other servers that have this flag, may
    /// use other parts of them. Refused where the parts of two devices overlap, and for a disk that
    /// is mounted, swap, or claimed by anybody else. A COW or a log is claimed nevertheless
    #[arg(long)]
    pub shared: bool,
    /// For a mirror: the leg to recover the others from
    /// [default: the first one that is not known to have failed]
    #[arg(long, value_name = "DEV")]
    pub source: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Add {
    /// A writable point-in-time copy of a disk
    #[command(after_help = DISKS)]
    Snapshot(Snapshot),
    /// The write path of a disk that has snapshots: use the device it prints instead of the disk
    #[command(after_help = DISKS)]
    Origin(Origin),
    /// The same data on two to nine disks
    #[command(after_help = DISKS)]
    Mirror(Mirror),
}

#[derive(Args)]
pub struct Mirror {
    /// A disk for the data, at least two: a block device or regular file, from OFFSET on if given
    #[arg(long = "leg", value_name = "DEV[:OFFSET]", required = true)]
    pub legs: Vec<String>,
    /// Where the dirty log is kept: `core` is memory, which does not survive a restart of the
    /// machine; every leg but one is then rewritten at the next start
    #[arg(long, value_name = "core|DEV", default_value = "core")]
    pub log: String,
    /// Unit of the dirty log and of recovery, a power of two [default: 512 KiB]. A log on a disk is
    /// used again with the size that it has
    #[arg(long, value_name = "SIZE", value_parser = parse_size_arg)]
    pub region_size: Option<u64>,
    /// Assume that the legs differ: recover everything from one leg
    #[arg(long, conflicts_with = "nosync")]
    pub sync: bool,
    /// Assume that the legs are equal
    #[arg(long)]
    pub nosync: bool,
    /// Hold a write that did not reach every leg until the mirror is repaired (suspend, load,
    /// resume), instead of continuing with the remaining legs
    #[arg(long)]
    pub handle_errors: bool,
    /// With --handle-errors: continue with the remaining legs as long as the log works
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
    /// The disk to take a snapshot of: a block device or regular file. A mirror or a linear device
    /// of ublk-dm may be in use, and is served together with its snapshots
    #[arg(long, value_name = "DEV")]
    pub origin: PathBuf,
    /// Where changed chunks are kept: a block device or regular file. If a snapshot is on it
    /// already, that one continues; for a new one, zero the first 4096 bytes (`zero --to
    /// DEV:0+4096`)
    #[arg(long, value_name = "DEV")]
    pub cow: PathBuf,
    /// Unit of copying, a power of two up to 1 GiB. A store that is on the COW already keeps its
    /// own [default: 16 KiB, or the disks' block size if that is larger]
    #[arg(long, value_name = "SIZE", value_parser = parse_size_arg)]
    pub chunk_size: Option<u64>,
    /// Whether the snapshot outlives the server
    #[arg(long, value_enum, default_value_t = Store::Persistent)]
    pub store: Store,
    /// What a write to the snapshot does when the COW is full
    #[arg(long, value_enum, default_value_t = OnFull::Overflow)]
    pub on_full: OnFull,
    /// Accept discards: a discard of whole chunks writes zeroes to the COW
    #[arg(long)]
    pub discard_zeroes_cow: bool,
    /// Add the device although its COW is marked invalid: all I/O on the device fails
    #[arg(long)]
    pub allow_invalid: bool,
    /// Pass discards on to the origin as well
    #[arg(long, requires = "discard_zeroes_cow")]
    pub discard_passdown_origin: bool,
    /// Use a store that was made for another origin, if both names are of the same disk, or one
    /// that was not there while its origin was in use, if nothing was written. The store belongs to
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
    /// A name for programs, of up to 128 characters, that no other device has and that stays
    #[arg(long, value_parser = parse_uuid)]
    pub uuid: Option<String>,
    /// The N of /dev/ublkbN [default: the first free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=MAX_ID))]
    pub id: Option<u32>,
    /// Hardware queues
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_QUEUES,
        value_parser = clap::value_parser!(u16).range(1..=64)
    )]
    pub queues: u16,
    /// Requests in flight per queue
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_DEPTH,
        value_parser = clap::value_parser!(u16).range(1..=4096)
    )]
    pub depth: u16,
    /// Make the device read-only
    #[arg(long)]
    pub read_only: bool,
    /// Stay in the foreground and serve, for service managers. Started again with the same --name
    /// after it was killed, the command takes its devices over, or none if the named device cannot
    /// be served. If the family already has a server, the command watches the device instead, and
    /// SIGTERM deletes the device; if the device is in use, the command fails and the device stays
    #[arg(long)]
    pub foreground: bool,
    /// Copy request data even where the kernel supports zero copy
    #[arg(long)]
    pub no_zero_copy: bool,
    /// The device ends with its server instead of waiting for another one
    #[arg(long)]
    pub no_recovery: bool,
    /// What requests do while the device has no server
    #[arg(long, value_enum, default_value_t, conflicts_with = "no_recovery")]
    pub on_server_death: OnServerDeath,
    /// Use disks that are mounted, in use or hold other data. A COW or a log is never shared: one
    /// that is mounted or in use is refused, other data on it is overwritten, and a snapshot on it
    /// continues
    #[arg(long)]
    pub force: bool,
    /// Do not claim the disks: device-mapper, and devices of other servers that have this flag, may
    /// use other parts of them. Refused where the parts of two devices overlap, and for a disk that
    /// is mounted, swap, or claimed by anybody else. A COW or a log is claimed nevertheless
    #[arg(long)]
    pub shared: bool,
    /// The device whose server it is to have; a flag of `create`.
    #[arg(skip)]
    pub beside: Option<PathBuf>,
}

impl Created {
    /// A name that is taken, with nothing but this.
    pub fn without_table(id: Option<u32>, read_only: bool) -> Created {
        Created {
            uuid: None,
            notable: true,
            id,
            read_only,
            no_recovery: false,
            on_server_death: OnServerDeath::Wait,
            beside: None,
            loaded: Loaded { force: false, shared: false, source: None },
        }
    }
}

impl Common {
    /// The defaults, with a name.
    pub fn named(name: String) -> Common {
        Common { name: Some(name), ..Common::unnamed() }
    }

    /// The defaults.
    pub fn unnamed() -> Common {
        Common {
            name: None,
            uuid: None,
            id: None,
            queues: DEFAULT_QUEUES,
            depth: DEFAULT_DEPTH,
            read_only: false,
            foreground: false,
            no_zero_copy: false,
            no_recovery: false,
            on_server_death: OnServerDeath::Wait,
            force: false,
            shared: false,
            beside: None,
        }
    }
}

/// The largest id of a ublk device: the kernel derives the disk's minor number from it, which has
/// 20 bits.
const MAX_ID: i64 = (1 << 20) - 1;
/// One thread serves all devices of a family; more queues only spread the kernel's work.
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
    /// The write fails; existing data stays readable
    Overflow,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OnServerDeath {
    /// They wait for the next server (`recover`), also those that the last one had
    #[default]
    Wait,
    /// They fail at once, also those that the last one had; `recover` serves the device again, and
    /// `upgrade` is refused. Needs Linux 6.13 or later
    Fail,
}

fn parse_uuid(text: &str) -> Result<String, String> {
    refuse_odd_uuid(text).map(|()| text.to_owned()).map_err(str::to_owned)
}

fn parse_size_arg(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}
