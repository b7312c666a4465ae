//! The flags of `up`, `down` and `save`, and what their help says of the tab file.

use clap::Args;

/// What a tab file looks like.
pub(super) const FORMAT: &str = "\
/etc/ublk-dm.tab, and the files *.tab in /etc/ublk-dm.tab.d, have one device on each line:

    # NAME  \"TABLE LINE\" [\"TABLE LINE\"...]  [OPTIONS]
    mon  \"0 1000215216 snapshot /dev/disk/by-id/nvme-DATA /dev/disk/by-id/nvme-COW PO 32\"
    srv  \"0 1000215216 snapshot-origin /dev/disk/by-id/nvme-DATA\"  timeout=60

A disk is an absolute path, or a device of ublk-dm: NAME or /dev/ublk-dm/NAME. The options are \
separated by commas: noauto, nofail, _netdev, x-initrd.attach, timeout=SECONDS (default 30), \
id=N, read-only, force, shared, source=DEV, beside=DEV, no-recovery, on-server-death=wait|fail, \
queues=N, depth=N, no-zero-copy. Unknown ones are ignored, with a warning; those that begin \
with x- silently. UBLK_DM_TAB names another file (and directory, with .d).";

#[derive(Args)]
pub struct Up {
    /// Names of devices of the tab file; what they stand on is brought up as well, and the
    /// snapshots of what is written
    #[arg(conflicts_with = "all")]
    pub names: Vec<String>,
    /// All devices of the tab file but those with `noauto`
    #[arg(long)]
    pub all: bool,
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
