//! `wait`: for the next event of a device, or until a mirror is in sync.

use std::thread::sleep;
use std::time::Duration;

use dm_targets::units::Sectors;
use serde_json::Value;

use super::client::{ask, open_rundir, other_answer, select};
use super::terminal::{print, progress_bar};
use crate::failure::Failure;
use crate::protocol::{Command, Reply};

/// How often a recovery is polled: the bar moves, and the load on the server is negligible.
const LOOK: Duration = Duration::from_millis(250);

/// Waits for the next event.
pub(super) fn event(word: &str, events: Option<u32>) -> Result<(), Failure> {
    match ask(word, |device| Command::Wait { device, events })? {
        Reply::Events(count) => print(&count.to_string()),
        _ => Err(other_answer()),
    }
}

/// Waits until a mirror is in sync. Fails if recovery has ended before that.
pub(super) fn in_sync(word: &str) -> Result<(), Failure> {
    let words = [word.to_owned()];
    let rundir = open_rundir()?;
    let mut bar = None;
    let mut first = None;
    loop {
        let device = select(&rundir, &words)?.remove(0);
        if *first.get_or_insert(device.device()) != device.device() {
            return Err(device.device().replaced());
        }
        let mirror = &device.json["mirror"];
        let number = |key: &str| mirror[key].as_u64();
        let (Some(regions), Some(in_sync), Some(region)) =
            (number("regions"), number("in_sync_regions"), number("region_size_bytes"))
        else {
            return Err(format!("{word}: not a mirror with a living server").into());
        };
        let bar = bar.get_or_insert_with(|| progress_bar(Sectors::from_bytes(regions * region)));
        bar.set_position(in_sync * region);
        if in_sync == regions {
            bar.finish_and_clear();
            return Ok(());
        }
        if mirror["recovery"] == Value::Null {
            bar.abandon();
            let left = regions - in_sync;
            return Err(format!(
                "{word}: recovery has ended and {left} of {regions} regions are not in sync"
            )
            .into());
        }
        sleep(LOOK);
    }
}
