//! Judges the images that survived a crash of a mirror: with the log's bits as a kernel reads them,
//! and with the code under test.

mod take_over;

use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Host, Memory};
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::Mirror;
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::disk::DiskConfig;
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::units::{Sector, Sectors};

use super::fixture::{Setup, Slot, disks, parts};
use crate::model::{Model, Moment};
use crate::pattern;

pub use take_over::{Left, judge_take_over};

/// The result of judging images.
pub struct Judged {
    /// What the mirror shows.
    pub shown: Vec<SectorData>,
}

/// Judges images: legs and log. Legs are the same where the log says so; every read returns allowed
/// content, before recovery and after it, and the same content each time; recovery makes all legs
/// the same and the log clean; and opening once more changes nothing. The log applies to the legs
/// at the places `told`, not to a leg that left before. With `lenient` nothing is promised, and
/// nothing is judged.
pub fn judge(
    setup: &Setup,
    images: &[Image],
    model: Option<(&Model, Moment)>,
    told: &[usize],
    lenient: bool,
) -> Result<Judged, String> {
    if lenient {
        return Ok(Judged {
            shown: images[0].sectors[..usize::try_from(setup.sectors).unwrap()].to_vec(),
        });
    }
    // A log in memory is gone, so no leg may be trusted, whatever was given when the mirror was
    // made.
    let initial = if setup.log { setup.initial } else { InitialSync::FromLog };
    let setup = &Setup { initial, ..setup.clone() };
    if setup.log {
        same_where_clean(setup, images, told)?;
    }
    let (shown, after) = recover(setup, images)?;
    if let Some((model, moment)) = model {
        model.origin.judge(0, &shown, moment)?;
    }
    let (again, last) = recover(setup, &after)?;
    if again != shown {
        return Err("opening a second time shows something else".into());
    }
    if last != after {
        return Err("opening a second time changes the disks".into());
    }
    Ok(Judged { shown })
}

/// Judges images of a mirror that has been in use, with the legs in another order: its log on a
/// disk knows which of them are up to date.
pub fn judge_turned(
    setup: &Setup,
    images: &[Image],
    (model, moment): (&Model, Moment),
) -> Result<(), String> {
    let (mut turned, mut images) = (setup.clone(), images.to_vec());
    turned.identities[..setup.legs].reverse();
    images[..setup.legs].reverse();
    let turning = |why| format!("with the legs in another order: {why}");
    let (shown, _) = recover(&turned, &images).map_err(turning)?;
    model.origin.judge(0, &shown, moment).map_err(turning)
}

/// Where the log has a one the legs must be the same. Read as a kernel would, independently of the
/// code under test.
fn same_where_clean(setup: &Setup, images: &[Image], told: &[usize]) -> Result<(), String> {
    let log = &images[setup.legs];
    let bytes = log.read(Sector(0), log.size());
    if bytes[..4] != [0x72, 0x52, 0x69, 0x4d] {
        return Ok(());
    }
    let known = u64::from(u32::from_le_bytes(bytes[8..12].try_into().unwrap()));
    for region in 0..setup.regions().min(known) {
        let clean = bytes[usize::try_from(1024 + region / 8).unwrap()] >> (region % 8) & 1 == 1;
        let end = ((region + 1) * setup.region).min(setup.sectors);
        for at in (region * setup.region..end).filter(|_| clean) {
            let at = usize::try_from(at).unwrap();
            let first = told[0];
            for leg in told[1..].iter().copied() {
                if images[leg].sectors[at] != images[first].sectors[at] {
                    let (one, other) = (
                        pattern::describe(&images[first].sectors[at]),
                        pattern::describe(&images[leg].sectors[at]),
                    );
                    return Err(format!(
                        "I7: region {region} is clean, but sector {at} is {one} on leg {first} and \
                         {other} on leg {leg}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Opens images with the real code, reads, recovers, reads again, and closes.
fn recover(setup: &Setup, images: &[Image]) -> Result<(Vec<SectorData>, Vec<Image>), String> {
    let mut world = World::new(0, Schedule::InOrder, Trace::default());
    for image in images {
        world.add_disk("disk", DiskConfig { immediate: true, ..setup.disk }, image.clone());
    }
    let host: Rc<dyn Host> = world.host.clone();
    let copy =
        copy::Client::new(&world.executor, &host, None).ok_or("no memory for a copy client")?;
    let opened: Slot<Result<Rc<Mirror>, String>> = Rc::default();
    let (slot, setup_of, disks) = (opened.clone(), setup.clone(), disks(&world));
    let of_mirror = copy.clone();
    world.executor.spawn(async move {
        let config = parts(&setup_of, &host, &of_mirror, disks);
        let mirror = Mirror::open(config).await.map_err(|error| error.to_string());
        *slot.borrow_mut() = Some(mirror);
    });
    world.executor.run_ready();
    let mirror = opened.borrow_mut().take().ok_or("opening does not end")??;
    // Not active yet, so nothing is recovered: regions out of sync must read the same each time.
    let before = read_all(&world, &mirror, setup.sectors)?;
    for _ in 0..setup.legs {
        if read_all(&world, &mirror, setup.sectors)? != before {
            return Err("before recovery a second read shows something else".into());
        }
    }
    let (active, executor) = (mirror.clone(), world.executor.clone());
    world.executor.spawn(async move { active.activate(&executor).await.unwrap() });
    world.executor.run_ready();
    let status = mirror.status();
    if status.in_sync_regions != status.regions {
        return Err(format!("recovery ends at {}/{}", status.in_sync_regions, status.regions));
    }
    if read_all(&world, &mirror, setup.sectors)? != before {
        return Err("after recovery a read shows something else than before".into());
    }
    let closing = mirror.clone();
    world.executor.spawn(async move {
        closing.close().await;
        copy.destroy().await;
    });
    world.executor.run_ready();
    drop(mirror);
    if (world.executor.live(), world.host.lent()) != (0, 0) {
        return Err("closing leaves tasks or buffers".into());
    }
    let after: Vec<Image> = world.disks().iter().map(|disk| disk.visible()).collect();
    let length = usize::try_from(setup.sectors).unwrap();
    if (1..setup.legs).any(|leg| after[leg].sectors[..length] != after[0].sectors[..length]) {
        return Err("after recovery the legs differ".into());
    }
    if setup.log {
        all_clean(setup, &after[setup.legs])?;
    }
    Ok((before, after))
}

fn all_clean(setup: &Setup, log: &Image) -> Result<(), String> {
    let bytes = log.read(Sector(0), Sectors(3.min(log.size().0)));
    // What stands behind the bits is not the log's.
    let end = 1024 + usize::try_from(setup.regions().div_ceil(64) * 8).unwrap();
    let bits = &bytes[1024..end.min(bytes.len())];
    let ones: u64 = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
    if ones != setup.regions() && setup.regions() <= 512 * 8 {
        return Err(format!(
            "after recovery and closing {ones} of {} regions are clean",
            setup.regions()
        ));
    }
    if bytes[16..40].starts_with(b"dmlegs") && bytes[24..32] != [0; 8] {
        return Err("after recovery a leg is still remembered as stale".into());
    }
    Ok(())
}

fn read_all(world: &World, mirror: &Rc<Mirror>, sectors: u64) -> Result<Vec<SectorData>, String> {
    let payload = world.host.add_payload(vec![0; usize::try_from(sectors * 512).unwrap()]);
    let request = Request {
        kind: RequestKind::Read,
        sector: Sector(0),
        count: Sectors(sectors),
        memory: Memory::payload(payload),
    };
    let (result, mirror) = (Slot::default(), mirror.clone());
    let slot: Slot<Result<(), String>> = Rc::clone(&result);
    world.executor.spawn(async move {
        let outcome = mirror.handle(&request).await;
        *slot.borrow_mut() = Some(outcome.map_err(|error| error.to_string()));
    });
    world.executor.run_ready();
    let outcome = result.borrow_mut().take().ok_or("a read does not end")?;
    let bytes = world.host.take_payload(payload);
    outcome.map(|()| bytes.chunks(512).map(SectorData::new).collect())
}
