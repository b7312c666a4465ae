//! What a live mirror is told: comparisons, repairs, other legs, another table.

use std::os::unix::net::UnixStream;
use std::rc::Rc;

use dm_targets::mirror::compare::Difference;
use dm_targets::mirror::legs::LegSet;
use dm_targets::mirror::target::{LegParts, Mirror};
use dm_targets::table::{Leg, LegHealth, Mirror as Table, TargetParams};
use dm_targets::units::Sectors;
use serde_json::json;

use super::mirror::identity;
use crate::data::{Caller, Family, Left, Served};
use crate::failure::Reason;
use crate::protocol::Answer;
use crate::server::control::Server;
use crate::server::devices::{Entry, LegRef, no_device};
use crate::storage::content;
use crate::storage::word::leg_of;
use crate::storage::{Access, Claim, DiskId, OpenDisk};
use crate::ublk::device;

/// Differing ranges that a comparison reports; whoever has more needs a recovery, not a list.
const MAX_DIFFERENCES: usize = 10_000;

const MESSAGES: &str =
    "check, repair LEG, replace LEG DEV[:OFFSET], add-leg DEV[:OFFSET], remove-leg LEG, recover, throttle PERCENT";

impl Server {
    /// Carries out a message that is done soon; the others are answered aside.
    pub(in crate::server) fn message(&mut self, id: u32, words: &[String]) -> Result<Answer, Reason> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match *words {
            ["replace", leg, disk] => {
                let (at, new) = (self.leg(id, leg)?, new_leg(disk)?);
                let opened = self.open_leg(id, &new, Some(at))?;
                let (identity, disk, offset) = (identity(&opened, &new), opened.id, new.offset);
                self.on_mirror(id, move |family, mirror| async move {
                    let parts = LegParts { disk: family.disk(opened), offset, identity };
                    mirror.replace_leg(at, parts).await.map_err(|error| error.to_string())
                })?;
                self.change_legs(id, Some((&new.device.clone(), disk)), |legs| legs[at] = new)?;
            }
            ["add-leg", disk] => {
                let new = new_leg(disk)?;
                let opened = self.open_leg(id, &new, None)?;
                let (identity, disk, offset) = (identity(&opened, &new), opened.id, new.offset);
                self.on_mirror(id, move |family, mirror| async move {
                    let parts = LegParts { disk: family.disk(opened), offset, identity };
                    mirror.add_leg(parts).await.map_err(|error| error.to_string())
                })?;
                self.change_legs(id, Some((&new.device.clone(), disk)), |legs| legs.push(new))?;
            }
            ["remove-leg", leg] => {
                let at = self.leg(id, leg)?;
                self.on_mirror(id, move |_, mirror| async move {
                    mirror.remove_leg(at).await.map_err(|error| error.to_string())
                })?;
                self.change_legs(id, None, |legs| drop(legs.remove(at)))?;
            }
            ["recover"] => self.on_mirror(id, move |_, mirror| async move {
                mirror.recover_again();
                Ok(())
            })?,
            ["throttle", percent] => {
                let percent = percent.parse::<u32>().ok().filter(|percent| (1..=100).contains(percent));
                let percent = percent.ok_or_else(|| "throttle: a percentage from 1 to 100 is wanted".to_owned())?;
                self.on_mirror(id, move |_, mirror| async move {
                    mirror.set_throttle(percent);
                    Ok(())
                })?;
            }
            ["replace" | "add-leg" | "remove-leg" | "recover" | "throttle", ..] => {
                let text = words.join(" ");
                return Err(format!("message '{text}': a word is missing or too many; a mirror takes {MESSAGES}"));
            }
            _ => return Err(format!("message '{}': unknown; a mirror takes {MESSAGES}", words.join(" "))),
        }
        Ok(Answer::Lines(Vec::new()))
    }

    /// The legs of a mirror, or why there are none.
    fn legs(&self, id: u32) -> Result<Vec<LegRef>, Reason> {
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        entry.legs().ok_or_else(|| format!("/dev/ublkb{id}: only a mirror takes messages"))
    }

    fn leg(&self, id: u32, word: &str) -> Result<usize, Reason> {
        let legs = self.legs(id)?;
        find_leg(&legs, word).ok_or_else(|| not_a_leg(&legs, id, word))
    }

    fn open_leg(&mut self, id: u32, leg: &Leg, place: Option<usize>) -> Result<OpenDisk, Reason> {
        self.refuse_circle_of_leg(id, &leg.device, place)?;
        // A leg that was away and has come back takes its own place, and is claimed already.
        let known = std::fs::metadata(&leg.device).ok().and_then(|metadata| DiskId::of(&metadata));
        let legs = self.legs(id)?;
        let own = place.and_then(|at| legs.get(at)).is_some_and(|old| old.disk.is_some() && old.disk == known);
        let claim = if own { Claim::Shared } else { Claim::Exclusive };
        let disk = OpenDisk::open(&leg.device, Access::ReadWrite, claim).map_err(|error| error.to_string())?;
        let below = device::params(&[&disk.limits], true, Sectors(0), false, None);
        self.refuse_unfit(id, &below).map_err(|why| format!("{}: {why}", leg.device))?;
        self.refuse_other_content(id, &disk, leg)?;
        Ok(disk)
    }

    /// Refuses a disk that holds something other than the mirror's own content, which a former leg has.
    fn refuse_other_content(&self, id: u32, disk: &OpenDisk, leg: &Leg) -> Result<(), Reason> {
        let found = content::of(disk)?.filter(|_| leg.offset.0 == 0);
        let Some(found) = found else { return Ok(()) };
        let alive = move |family: Rc<Family>| async move {
            let mirror = mirror_of(&family, id)?;
            Ok::<_, Reason>(mirror.legs().iter().map(|leg| leg.health == LegHealth::Alive).collect::<Vec<_>>())
        };
        let alive = self.family.call(alive).map_err(|error| error.to_string())??;
        let Some(mirror) = self.devices.get(&id).and_then(Entry::mirror) else { return Ok(()) };
        let mut others = mirror.legs.iter().zip(alive).filter(|(other, alive)| *alive && other.offset.0 == 0);
        let same = others.any(|(other, _)| {
            let other = OpenDisk::open(&other.device, Access::ReadOnly, Claim::Shared).ok();
            other.and_then(|other| content::of(&other).ok().flatten()) == Some(found)
        });
        if same {
            return Ok(());
        }
        let (path, name, offset) = (&leg.device, found.name, found.offset);
        Err(format!("{path}: holds {name} (at byte {offset}), which recovery would destroy; wipe it first"))
    }

    fn on_mirror<F: Future<Output = Result<(), String>> + 'static>(
        &self,
        id: u32,
        job: impl FnOnce(Rc<Family>, Rc<Mirror>) -> F + Send + 'static,
    ) -> Result<(), Reason> {
        let run = move |family: Rc<Family>| async move {
            let mirror = mirror_of(&family, id)?;
            job(family, mirror).await
        };
        self.family.call(run).map_err(|error| error.to_string())?
    }

    /// Notes other legs, so that list, table and the next server know them; `new` is the word and the disk of one that has
    /// come.
    fn change_legs(
        &mut self,
        id: u32,
        new: Option<(&str, DiskId)>,
        change: impl FnOnce(&mut Vec<Leg>),
    ) -> Result<(), Reason> {
        if let Some(entry) = self.devices.get_mut(&id) {
            if let TargetParams::Mirror(Table { legs, .. }) = &mut entry.spec.table.params {
                change(legs);
            }
            if let Some((word, disk)) = new {
                entry.deps.insert(word, disk);
            }
        }
        self.publish();
        self.record(None).map_err(|why| {
            format!("done, but the state file still tells of the old legs: {why}; do it again when there is room")
        })
    }
}

fn new_leg(word: &str) -> Result<Leg, Reason> {
    leg_of(word).map_err(|failure| failure.message)
}

/// A leg by its path or by its place, counted from 0. Another path of the same disk will do, if one leg alone is on that.
fn find_leg(legs: &[LegRef], word: &str) -> Option<usize> {
    let by_path = legs.iter().position(|leg| leg.path == word);
    by_path.or_else(|| word.parse().ok().filter(|at| *at < legs.len())).or_else(|| by_disk(legs, word))
}

fn by_disk(legs: &[LegRef], word: &str) -> Option<usize> {
    let id = DiskId::of(&std::fs::metadata(word).ok()?)?;
    let mut places = legs.iter().enumerate().filter(|(_, leg)| leg.disk == Some(id)).map(|(at, _)| at);
    places.next().filter(|_| places.next().is_none())
}

fn not_a_leg(legs: &[LegRef], id: u32, word: &str) -> Reason {
    let legs: Vec<_> = legs.iter().enumerate().map(|(at, leg)| format!("{at} ({})", leg.path)).collect();
    format!("{word}: not a leg of /dev/ublkb{id}, which has legs {}", legs.join(", "))
}

fn mirror_of(family: &Family, id: u32) -> Result<Rc<Mirror>, Reason> {
    match family.devices.borrow().get(&id).map(|device| device.served()) {
        Some(Served::Mirror(mirror)) => Ok(mirror),
        Some(_) => Err(format!("/dev/ublkb{id}: only a mirror takes messages")),
        None => Err(no_device(id)),
    }
}

/// Whether a message takes as long as its disks.
pub(in crate::server) fn takes_long(words: &[String]) -> bool {
    matches!(words.first().map(String::as_str), Some("check" | "repair"))
}

/// Compares the legs, or makes them equal.
pub(in crate::server) fn compare_or_repair(
    family: &Caller,
    connection: &UnixStream,
    id: u32,
    words: &[String],
    legs: &[LegRef],
) -> Result<Answer, Reason> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let lines = match *words {
        ["check"] => family
            .call_for(connection, move |family, left| async move { compare(&*mirror_of(&family, id)?, &left).await }),
        ["repair", word] => {
            let leg = find_leg(legs, word).ok_or_else(|| not_a_leg(legs, id, word))?;
            family.call_for(connection, move |family, left| async move {
                let mirror = mirror_of(&family, id)?;
                let repaired = mirror.repair_until(leg, || left.is_set()).await;
                repaired.map(|_| Vec::new()).map_err(|error| error.to_string())
            })
        }
        _ => return Err(format!("message {:?}: a mirror takes {MESSAGES}", words.join(" "))),
    };
    lines.map_err(|error| error.to_string())?.map(Answer::Lines)
}

/// One line for each range in which the legs differ.
async fn compare(mirror: &Mirror, left: &Left) -> Result<Vec<String>, Reason> {
    let mut found: Vec<Difference> = Vec::new();
    let mut more = 0_usize;
    let compared = mirror.compare_until(
        || left.is_set(),
        |difference| {
            if let Some(last) = found.last_mut().filter(|last| continues(last, &difference)) {
                last.count.0 += difference.count.0;
            } else if found.len() < MAX_DIFFERENCES {
                found.push(difference);
            } else {
                more += 1;
            }
        },
    );
    compared.await.map_err(|error| error.to_string())?;
    let legs = mirror.legs();
    let names = |set: LegSet| set.iter().filter_map(|leg| Some(legs.get(leg)?.name.to_string())).collect::<Vec<_>>();
    let line = |difference: &Difference| {
        json!({
            "start_bytes": difference.sector.bytes(),
            "len_bytes": difference.count.bytes(),
            "legs": names(difference.differing),
            "unreadable": names(difference.unreadable),
            "in_sync": difference.in_sync,
        })
        .to_string()
    };
    let mut lines: Vec<String> = found.iter().map(line).collect();
    if more > 0 {
        lines.push(json!({ "more_ranges": more }).to_string());
    }
    Ok(lines)
}

fn continues(last: &Difference, next: &Difference) -> bool {
    last.sector.plus(last.count) == next.sector
        && (last.differing, last.unreadable, last.in_sync) == (next.differing, next.unreadable, next.in_sync)
}
