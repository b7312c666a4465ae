//! `wait`: for the next event of a device, or until a mirror is in sync.

use std::thread::sleep;
use std::time::Duration;

use dm_targets::units::Sectors;
use serde_json::json;

use super::client::{Answer, ask, must_answer, open_rundir, other_answer, select};
use super::json;
use super::results::{self, Named};
use super::terminal::{print, progress_bar};
use crate::failure::Failure;
use crate::protocol::{Command, LegObject, Reply};

/// How often a recovery is polled: the bar moves, and the load on the server is negligible.
const LOOK: Duration = Duration::from_millis(250);

/// Reads an event counter.
pub(super) fn event_number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("an event counter is a number up to {}", u32::MAX))
}

/// Waits for the next event.
pub(super) fn event(word: &str, events: Option<u32>) -> Result<(), Failure> {
    let Answer { device, reply } = ask(word, |device| Command::Wait { device, events })?;
    match reply {
        Reply::Events(count) if json::is_on() => {
            results::show(|| json!({ "device": device, "event_nr": count }))
        }
        Reply::Events(count) => print(&count.to_string()),
        _ => Err(other_answer()),
    }
}

/// What keeps a mirror from getting in sync: no region is, as long as one of its legs has failed.
fn failed_legs(legs: &[LegObject]) -> String {
    let failed: Vec<&str> =
        legs.iter().filter(|leg| leg.health == Some('D')).map(|leg| leg.path.as_str()).collect();
    match failed.is_empty() {
        true => String::new(),
        false => format!(
            "; failed: {}: replace or remove it (`message replace`, `message remove-leg`)",
            failed.join(", ")
        ),
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
        must_answer(&device)?;
        let known = device.object.mirror().and_then(|mirror| {
            Some((mirror, mirror.regions?, mirror.in_sync_regions?, mirror.region_size_bytes))
        });
        let Some((mirror, regions, in_sync, region)) = known else {
            let why = match device.object.mirror() {
                Some(_) => format!("its server has died; `ublk-dm recover {word}` starts another"),
                None => "not a mirror".to_owned(),
            };
            return Err(format!("{word}: {why}").into());
        };
        let bar = bar.get_or_insert_with(|| progress_bar(Sectors::from_bytes(regions * region)));
        bar.set_position(in_sync * region);
        if in_sync == regions {
            bar.finish_and_clear();
            let device = Named::of(&device);
            return results::show(|| json!({ "device": device, "in_sync_regions": in_sync }));
        }
        if mirror.recovery.is_none() {
            bar.abandon();
            let left = regions - in_sync;
            return Err(format!(
                "{word}: recovery has ended and {left} of {regions} regions are not in sync{}",
                failed_legs(&mirror.legs)
            )
            .into());
        }
        sleep(LOOK);
    }
}
