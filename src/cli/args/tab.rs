//! The verbs of the tab file with their flags, and what their help says of the file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

/// What a tab file looks like.
const FORMAT: &str = "\
/etc/ublk-dm.tab, and the files *.tab in /etc/ublk-dm.tab.d, have one device on each line:

    # NAME  \"TABLE LINE\" [\"TABLE LINE\"...]  [OPTIONS]
    mon  \"0 1000215216 snapshot /dev/disk/by-id/nvme-DATA /dev/disk/by-id/nvme-COW PO 32\"
    srv  \"0 1000215216 snapshot-origin /dev/disk/by-id/nvme-DATA\"  timeout=60

A disk is an absolute path, or a device of ublk-dm: NAME or /dev/ublk-dm/NAME. The options are \
separated by commas: noauto, nofail, _netdev, x-initrd.attach, timeout=SECONDS (default 30), \
id=N, uuid=UUID, \
read-only, force, shared, source=DEV, beside=DEV, other-origin, no-recovery, \
on-server-death=wait|fail, \
queues=N, depth=N, no-zero-copy. Unknown ones are ignored, with a warning; those that begin \
with x- silently. UBLK_DM_TAB names another file (and directory, with .d).";

/// The longest time that disks are waited for: a day.
const MAX_TIMEOUT_S: u64 = 24 * 60 * 60;

#[derive(Subcommand)]
pub enum Tab {
    /// Bring up devices of the tab file, in the right order, and print their paths
    ///
    /// A device comes after those that it stands on, and the device of an origin after the
    /// snapshots of that. Disks that are not there are waited for. A device that is up already is
    /// left alone, and one whose server has died gets a new one (as by `recover`). A mirror whose
    /// log is on a disk is brought up without a leg that is not there, if the log knows the others
    /// as up to date; a warning has the command that puts a disk in its place.
    ///
    /// With --foreground the command stays, for service managers, until the device is deleted. It
    /// fails if the device's server dies; the next start recovers the device then. SIGTERM deletes
    /// the device, unless it is in use, or a snapshot that its origin would be written without: the
    /// device then stays with its server, and the command fails.
    #[command(after_help = FORMAT)]
    Up(Up),
    /// Delete devices of the tab file, as `del` does; those that are not up are done
    Down(Down),
    /// Write what runs now to the tab file, for `up` after the next start of the machine
    ///
    /// The line of a device is replaced or added; its options, all other lines and the comments
    /// stay as they are. Disks are named by links in /dev/disk/by-id where there are any, or as the
    /// device was made with.
    #[command(after_help = FORMAT)]
    Save(Save),
    /// Write systemd's units for the devices of the tab file
    ///
    /// systemd runs this as `ublk-dm-generator` before it starts any unit, and at each
    /// `systemctl daemon-reload`; see systemd.generator(7). A device NAME gets
    /// `ublk-dm@NAME.service`.
    SystemdGenerator(Generator),
}

#[derive(Args)]
pub struct Generator {
    /// The directory for the units
    pub normal: PathBuf,
    /// Directories that systemd names as well; nothing is written to them
    #[arg(num_args = 2, value_names = ["EARLY", "LATE"])]
    pub others: Vec<PathBuf>,
    #[command(flatten)]
    pub text: super::text::OnlyText,
}

/// The words of the command line: a link to the program with the name of a generator is the verb.
pub fn words(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.collect();
    let called_as = words.first().and_then(|first| Path::new(first).file_name());
    if called_as.is_some_and(|name| name == "ublk-dm-generator") {
        words.insert(1, "systemd-generator".into());
    }
    words
}

#[derive(Args)]
pub struct Up {
    /// Names of devices of the tab file; what they stand on is brought up as well, and the
    /// snapshots of what is written
    #[arg(conflicts_with = "all")]
    pub names: Vec<String>,
    /// All devices of the tab file but those with `noauto`
    #[arg(long)]
    pub all: bool,
    /// How long disks that are not there are waited for, whatever the lines say
    #[arg(long, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(0..=MAX_TIMEOUT_S))]
    pub timeout: Option<u64>,
    /// Stay in the foreground and watch the one device that is named
    #[arg(long, conflicts_with = "all")]
    pub foreground: bool,
}

#[derive(Args)]
pub struct Down {
    /// Names of devices of the tab file
    #[arg(conflicts_with = "all")]
    pub names: Vec<String>,
    /// All devices of the tab file
    #[arg(long)]
    pub all: bool,
}

#[derive(Args)]
pub struct Save {
    /// Names of devices; all if none is given. `-` is --stdout
    pub names: Vec<String>,
    /// Print the lines instead of writing them
    #[arg(long)]
    pub stdout: bool,
}
