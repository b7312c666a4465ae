//! The flags of `merge`.

use clap::Args;
use dm_targets::words::parse_size;

#[derive(Args)]
pub struct Merge {
    /// The snapshot; once it is being merged, the origin's device or, until it has ended, the
    /// snapshot's name
    #[arg(value_name = "SNAPSHOT")]
    pub device: String,
    /// Wait until the merge has ended, with a progress bar on a terminal. Ctrl-C ends the wait, not
    /// the merge. A merge that has begun is waited for as well
    #[arg(long)]
    pub wait: bool,
    /// Copy at most so many bytes per second (50MiB); 0 for as fast as the disks. Given again, it
    /// changes the rate
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub rate: Option<u64>,
    /// Also merge while the origin's device is mounted, or the snapshot's device is open (but not
    /// mounted)
    #[arg(long)]
    pub force: bool,
    /// While a device of the two is in use, leave the merge to the next activation of the origin:
    /// `add origin`, or `recover` after an end of the server, at which they are unused. --pause
    /// takes that back. --wait does not wait for it. Not with --force
    #[arg(long, conflicts_with = "force")]
    pub defer: bool,
    /// Keep the snapshot: when the merge has ended, its device is a snapshot of the merged origin,
    /// with the same name, options and COW. Until then the device's table is `error`: reads and
    /// writes fail. The device must not be open, not even with --force. Remembered with --defer
    #[arg(long)]
    pub keep: bool,
    /// Let the merge rest, also under later servers. The device can be used meanwhile. A merge that
    /// is left to the next activation (--defer) is taken back. Not with --resume, --wait, --rate,
    /// --force, --defer or --keep
    #[arg(long, conflicts_with_all = ["resume", "wait", "rate", "force", "defer", "keep"])]
    pub pause: bool,
    /// Continue a merge that rests, or that has stopped because of an error; done if it has ended.
    /// Not with --pause, --rate, --force, --defer or --keep
    #[arg(long, conflicts_with_all = ["rate", "force", "defer", "keep"])]
    pub resume: bool,
}
