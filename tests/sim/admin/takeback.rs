//! A snapshot that was never reported to a user, on a COW with other content: the COW is restored,
//! and wherever the restoration ends, its content is not taken for a store that was never made.

use dm_targets::sim::image::Image;
use dm_targets::snapshot::format::MAGIC;
use dm_targets::units::{Sector, Sectors};

use super::model;
use super::process::Process;
use super::town::{CHUNK, SECTORS, Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};

/// The slot of the COW.
pub(super) const COW: usize = 1;

/// Why the snapshot was not reported.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The client has left before the answer.
    Left,
    /// The client could not print the reply.
    Asked,
}

/// The other devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Beside {
    Nothing,
    Origin,
    /// The origin is in use: a departing snapshot is marked.
    UsedOrigin,
}

pub(super) fn known() -> Image {
    let mut image = Image::zeroes(Sectors(24));
    let bytes: Vec<u8> = (0..24).flat_map(|at| model::sector(500 + at)).collect();
    image.write(Sector(0), &bytes);
    image
}

pub(super) fn town(beside: Beside) -> Town {
    let mut town = Town::new(0, false);
    town.site.put(COW, known());
    match beside {
        Beside::Nothing => {
            let process = Process::start(&town.site, "o").unwrap();
            town.processes.insert("o", process);
        }
        Beside::Origin | Beside::UsedOrigin => {
            town.add(What::Origin).unwrap();
            town.set_use(What::Origin, beside == Beside::UsedOrigin);
        }
    }
    town
}

pub(super) fn cow(town: &Town) -> Image {
    town.site.disks[COW].disk.borrow().visible()
}

pub(super) fn add(town: &mut Town) -> Result<DeviceRef, String> {
    let spec = DeviceSpec { force: true, ..Town::spec(What::Snap(0)) };
    match town.ask("o", Command::Add { name: None, id: None, spec })? {
        Reply::Added { device, .. } => Ok(device),
        _ => Err("another answer".to_owned()),
    }
}

pub(super) fn take_back(town: &mut Town, device: DeviceRef) -> Result<Option<String>, String> {
    match town.ask("o", Command::TakeBack { device })? {
        Reply::TakenBack { note } => Ok(note),
        _ => Err("another answer".to_owned()),
    }
}

fn come_and_go(town: &mut Town, way: Way) -> Result<(), String> {
    town.client_leaves = way == Way::Left;
    match (add(town), way) {
        (Ok(device), Way::Asked) => take_back(town, device).map(drop),
        (Err(why), Way::Left) if why == "interrupted" => Ok(()),
        (added, _) => Err(format!("{added:?}")),
    }
}

/// Content that `add` refuses without --force; a store that `add` refuses; or an empty store.
fn is_harmless(cow: &Image) -> bool {
    let head = cow.read(Sector(0), Sectors(1));
    let area = cow.read(Sector(CHUNK), Sectors(CHUNK));
    if head.starts_with(&MAGIC.to_le_bytes()) {
        return head[4..8] == [0; 4] || area.iter().all(|byte| *byte == 0);
    }
    head == known().read(Sector(0), Sectors(1))
}

#[test]
fn a_cow_is_as_it_was_when_no_client_was_told() {
    for way in [Way::Left, Way::Asked] {
        for beside in [Beside::Nothing, Beside::Origin, Beside::UsedOrigin] {
            let mut town = town(beside);
            let done = come_and_go(&mut town, way);
            assert!(done.is_ok(), "{way:?} {beside:?}: {done:?}");
            assert!(cow(&town) == known(), "{way:?} {beside:?}: the COW has changed");
            town.write(What::Origin, 0);
            assert!(
                town.site.files(|files| files.tells_of_no_cow()),
                "{way:?} {beside:?}: a store that is gone is told of"
            );
        }
    }
}

#[test]
fn a_cow_is_harmless_wherever_it_ends() {
    for way in [Way::Left, Way::Asked] {
        for beside in [Beside::Nothing, Beside::Origin, Beside::UsedOrigin] {
            for power in [false, true] {
                let mut at = 0;
                loop {
                    at += 1;
                    let mut town = town(beside);
                    {
                        let mut shared = town.site.shared.lock().unwrap();
                        shared.crash_at = Some(shared.changes + at);
                    }
                    let done = come_and_go(&mut town, way);
                    if !town.site.is_dead() {
                        assert!(at > 10 && done.is_ok(), "{done:?} after {at} steps");
                        break;
                    }
                    town.crash(power);
                    assert!(
                        is_harmless(&cow(&town)),
                        "{way:?} {beside:?}, power {power}, step {at}"
                    );
                }
            }
        }
    }
}

#[test]
fn copied_chunks_are_told_of() {
    let mut town = town(Beside::UsedOrigin);
    let device = add(&mut town).unwrap();
    town.write(What::Origin, SECTORS - 1);
    let note = take_back(&mut town, device).unwrap().unwrap();
    assert!(
        note.contains("is restored, but chunks have been copied") && note.contains("/c0"),
        "{note}"
    );
    let (now, start) = (cow(&town), Sectors(2 * CHUNK));
    assert!(
        now.read(Sector(0), start) == known().read(Sector(0), start),
        "what the store has overwritten"
    );
    assert!(now != known(), "what was copied");
}

#[test]
fn the_next_command_confirms_a_device() {
    let mut town = town(Beside::Origin);
    let device = add(&mut town).unwrap();
    town.suspend(What::Origin).unwrap();
    let note = take_back(&mut town, device).unwrap().unwrap();
    assert!(note.contains("/c0, it stays"), "{note}");
    assert!(cow(&town).read(Sector(0), Sectors(1)).starts_with(&MAGIC.to_le_bytes()));
}
