//! Devices that grow while they are used, with an end of the server or of the power at every step,
//! and what is refused.
//!
//! Rules held here: users never see a length that is not on record; whatever happens, the next
//! server shows the recorded length, and that is the old or the new one; a snapshot keeps its
//! content while its origin grows; and what is refused has changed nothing.

use dm_targets::disk::Backend;
use dm_targets::request::RequestKind;
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::units::{Sector, Sectors};

use super::kernel::Control;
use super::model;
use super::process::Process;
use super::town::{Broken, SECTORS, Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};
use crate::server::admin::mutant::{self, Mutant};

/// Sectors of the disks that have grown.
pub(super) const LONG: usize = 2 * SECTORS;
const SNAP: What = What::Snap(0);
/// A device that grows, and the places of the disks that it needs for that.
pub(super) type Kind = (What, &'static [usize]);
const KINDS: [Kind; 4] =
    [(What::Lines, &[3]), (What::Origin, &[0]), (SNAP, &[0]), (What::Mirror, &[3, 4])];

fn value_at(sector: usize) -> u32 {
    500 + u32::try_from(sector).unwrap()
}

/// A disk that has grown; `leg`: what its legs have in the new part differs.
pub(super) fn long_image(leg: u32) -> Image {
    let value = |at| value_at(at) + if at < SECTORS { 0 } else { 100 * leg };
    let sectors = (0..LONG).map(|at| SectorData::new(&model::sector(value(at))));
    Image { sectors: sectors.collect() }
}

/// A device on disks that are longer; an origin has a snapshot.
pub(super) fn town((what, disks): Kind) -> Town {
    let mut town = Town::new(1, true);
    for (leg, disk) in (0..).zip(disks) {
        town.site.put(*disk, long_image(leg));
    }
    if what == SNAP {
        town.add(What::Origin).unwrap();
    }
    town.add(what).unwrap();
    if what == What::Origin {
        town.add(SNAP).unwrap();
    }
    town
}

pub(super) fn resize(town: &mut Town, what: What, sectors: Option<usize>) -> Result<(), String> {
    let device = town.devices[&what].device();
    let bytes = sectors.map(|sectors| sectors as u64 * 512);
    match town.ask(what.key(), Command::Resize { device, bytes })? {
        Reply::Done => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// The length of a device as the kernel shows it.
fn shown(town: &Town, what: What) -> Option<u64> {
    let id = town.devices.get(&what)?.id;
    let kernel = town.site.kernel.borrow();
    Some(kernel.devices.get(&id)?.params.dev_sectors)
}

fn recorded(town: &Town, what: What) -> Result<u64, Broken> {
    let cookie = town.devices[&what].cookie;
    let state = town.state(what.key())?;
    let device = state.iter().find(|device| device.cookie == cookie);
    Ok(device.ok_or("it is not on record")?.spec.table.len.0)
}

/// Reads sectors of a device; `Err`: it does not answer, or fails.
fn read(town: &mut Town, what: What, sector: usize, count: usize) -> Result<Vec<u32>, Broken> {
    let pending = town.send(what, RequestKind::Read, sector, vec![0xEE; count * 512]);
    let pending = pending.ok_or("it does not answer")?;
    let result = pending.result.borrow().clone();
    town.strike(&pending);
    let bytes = town.site.take_payload(pending.payload);
    match result {
        Some(Ok(())) => Ok(model::values(&bytes)),
        other => Err(format!("a read of {count} sectors at {sector} ends with {other:?}")),
    }
}

fn write(town: &mut Town, what: What, sector: usize, value: u32) -> Result<(), Broken> {
    let kind = RequestKind::Write { fua: true };
    let pending = town.send(what, kind, sector, model::sector(value));
    let pending = pending.ok_or("it does not answer")?;
    let result = pending.result.borrow().clone();
    town.strike(&pending);
    match result {
        Some(Ok(())) => Ok(()),
        other => Err(format!("a write at {sector} ends with {other:?}")),
    }
}

/// Users never see more than is on record, nor more than the disk has.
fn judge_lengths(town: &Town, what: What) -> Result<(), Broken> {
    let Some(shown) = shown(town, what) else { return Ok(()) };
    let recorded = recorded(town, what)?;
    if shown > recorded {
        return Err(format!("users see {shown} sectors, and {recorded} are on record"));
    }
    if ![SECTORS as u64, LONG as u64].contains(&recorded) {
        return Err(format!("{recorded} sectors are on record"));
    }
    Ok(())
}

/// Everything that users see has the content that it should have, and can be written.
pub(super) fn judge(town: &mut Town, what: What) -> Result<(), Broken> {
    let (shown, recorded) = (shown(town, what).ok_or("it is gone")?, recorded(town, what)?);
    if shown != recorded {
        return Err(format!("users see {shown} sectors, and {recorded} are on record at the end"));
    }
    let shown = usize::try_from(shown).unwrap();
    let expected: Vec<_> = (0..shown).map(value_at).collect();
    let seen = read(town, what, 0, shown)?;
    if seen != expected {
        return Err(format!("{seen:?} instead of {expected:?}"));
    }
    write(town, what, shown - 1, 77)?;
    if read(town, what, shown - 1, 1)? != [77] {
        return Err("its last sector cannot be written".to_owned());
    }
    if what == What::Origin {
        let seen = read(town, SNAP, 0, SECTORS)?;
        if seen != expected[..SECTORS] {
            return Err(format!("the snapshot shows {seen:?}"));
        }
    }
    if what == What::Mirror {
        let process = town.processes.get(what.key()).ok_or("no server")?;
        drop(town.site.run(&process.executor, || false));
        let leg = |disk: usize| model::values(&visible(town, disk)[..shown * 512]);
        if leg(3) != leg(4) {
            return Err(format!("the legs have {:?} and {:?}", leg(3), leg(4)));
        }
    }
    Ok(())
}

fn visible(town: &Town, disk: usize) -> Vec<u8> {
    let image = town.site.disks[disk].disk.borrow().visible();
    image.read(Sector(0), image.size())
}

/// The next server takes the devices over.
fn recover(town: &mut Town, what: What) -> Result<(), Broken> {
    let state = town.left(what.key())?;
    let process = Process::start(&town.site, what.key()).ok_or("no server")?;
    town.processes.insert(what.key(), process);
    match town.ask(what.key(), Command::Recover(state)) {
        Ok(Reply::Recovered { problems, .. }) if problems.is_empty() => Ok(()),
        _ if town.site.is_dead() => Ok(()),
        other => Err(format!("not recovered: {other:?}")),
    }
}

/// A device grows, with a crash at one change, and another one so many changes later, if any;
/// returns how many changes there were.
fn live(kind: Kind, crash: Option<(u64, Option<u64>)>) -> (u64, Result<(), Broken>) {
    let (mut town, what) = (town(kind), kind.0);
    let changes = |town: &Town| town.site.shared.lock().unwrap().changes;
    let first = changes(&town);
    town.site.shared.lock().unwrap().crash_at = crash.map(|(at, _)| first + at);
    let resized = resize(&mut town, what, None);
    let mut again = crash.and_then(|(_, again)| again);
    let mut judged = Ok(());
    while town.site.is_dead() && judged.is_ok() {
        judged = judge_lengths(&town, what);
        town.crash(false);
        let now = changes(&town);
        town.site.shared.lock().unwrap().crash_at = again.take().map(|later| now + later);
        judged = judged.and_then(|()| recover(&mut town, what));
    }
    let changes = changes(&town) - first;
    town.site.shared.lock().unwrap().crash_at = None;
    let judged = judged.and_then(|()| match (crash, resized) {
        (None, resized) => resized.and_then(|()| judge(&mut town, what)),
        (Some(_), _) => judge(&mut town, what),
    });
    let told =
        |why| format!("{what:?}: {why}\n{}", town.log.clone().unwrap_or_default().join("\n"));
    (changes, judged.map_err(told))
}

/// All kinds of devices, with every crash and every second one.
fn explore() -> Result<u64, String> {
    let mut states = 0;
    for kind in KINDS {
        let (changes, judged) = live(kind, None);
        judged?;
        for at in 1..=changes {
            for again in std::iter::once(None).chain((1..30).map(Some)) {
                live(kind, Some((at, again))).1.map_err(|why| format!("{at}, {again:?}: {why}"))?;
                states += 1;
            }
        }
    }
    Ok(states)
}

#[test]
fn a_device_grows_whenever_its_server_dies() {
    match explore() {
        Ok(states) => println!("{states} states of devices that grow"),
        Err(why) => panic!("{why}"),
    }
}

/// A device that its server did not grow, for this reason; it is as it was.
pub(super) fn refused(
    town: &mut Town,
    what: What,
    sectors: Option<usize>,
    words: &str,
) -> Result<(), Broken> {
    let before = (shown(town, what), town.state(what.key())?);
    let Err(why) = resize(town, what, sectors) else { return Err("it is resized".to_owned()) };
    if !why.contains(words) || !why.contains("not resized") {
        return Err(why);
    }
    if before != (shown(town, what), town.state(what.key())?) {
        return Err(format!("it is refused, and changed: {why}"));
    }
    Ok(())
}

fn lengths_that_are_refused() -> Result<(), Broken> {
    for kind in KINDS {
        let (mut town, what) = (town(kind), kind.0);
        refused(&mut town, what, Some(SECTORS - 1), "cannot shrink")?;
        refused(&mut town, what, Some(LONG + 1), "there is room for 8192 bytes")?;
        let device = town.devices[&what].device();
        let odd = Command::Resize { device, bytes: Some(LONG as u64 * 512 - 1) };
        let why = town.ask(what.key(), odd).err().ok_or("an odd size")?;
        assert!(why.contains("not a multiple of its block size of 512"), "{why}");
        resize(&mut town, what, Some(SECTORS))?;
        assert_eq!(shown(&town, what), Some(SECTORS as u64), "the size that it has");
        resize(&mut town, what, Some(SECTORS + 2))?;
        assert_eq!(recorded(&town, what)?, SECTORS as u64 + 2);
        // The disk grows below.
        for disk in kind.1 {
            town.site.disks[*disk].disk.borrow().grow(Sectors(LONG as u64 + 4));
        }
        resize(&mut town, what, None)?;
        assert_eq!(recorded(&town, what)?, LONG as u64 + 4);
        assert_eq!(read(&mut town, what, LONG + 3, 1)?, [0]);
    }
    Ok(())
}

#[test]
fn a_device_neither_shrinks_nor_grows_beyond_its_disk() {
    lengths_that_are_refused().unwrap();
}

#[test]
fn broken_rules_of_growth_are_noticed() {
    for mutant in Mutant::OF_GROWTH {
        mutant::set(Some(mutant));
        let explored = explore().and_then(|_| lengths_that_are_refused());
        mutant::set(None);
        assert!(explored.is_err(), "{mutant:?} is not noticed");
    }
}

#[test]
fn a_device_that_is_not_running_with_its_own_table_is_not_resized() {
    for kind in KINDS {
        let (mut town, what) = (town(kind), kind.0);
        town.suspend(what).unwrap();
        refused(&mut town, what, None, "it is suspended").unwrap();
        town.resume(what).unwrap();
        // A snapshot takes no other table.
        if what != SNAP {
            let device = town.devices[&what].device();
            let load = Command::Load { device, spec: Town::spec(what) };
            town.ask(what.key(), load).unwrap();
            refused(&mut town, what, None, "a table is loaded for it").unwrap();
            town.resume(what).unwrap();
        }
        resize(&mut town, what, None).unwrap();
        judge(&mut town, what).unwrap();
    }
    // One that waits for a server.
    let mut town = town((What::Origin, &[0]));
    town.kill("o");
    town.attach(1, false);
    drop(town.recover());
    let why = resize(&mut town, SNAP, None).unwrap_err();
    assert!(why.contains("waits for a server"), "{why}");
}

#[test]
fn what_has_no_disk_that_could_grow_is_not_resized() {
    for (lines, why) in [
        ("0 8 error", "it has no disk"),
        ("0 8 zero", "it has no disk"),
        ("0 4 linear /a 0\n4 4 linear /b 0", "its table has several lines"),
    ] {
        let mut town = town((What::Lines, &[3]));
        let device = town.devices[&What::Lines].device();
        let table = dm_targets::table::Table::parse_table(lines).unwrap();
        let spec = DeviceSpec { table, ..Town::spec(What::Lines) };
        town.ask("lines", Command::Load { device, spec }).unwrap();
        town.resume(What::Lines).unwrap();
        refused(&mut town, What::Lines, None, why).unwrap();
    }
}

/// A kernel that cannot resize, one that refuses, and a run directory without room: the device is
/// as it was, and so is its record.
#[test]
fn a_device_that_cannot_be_resized_is_as_it_was() {
    for kind in KINDS {
        let (mut town, what) = (town(kind), kind.0);
        town.site.kernel.borrow_mut().is_old = true;
        refused(&mut town, what, None, "Linux 6.16").unwrap();
        town.site.kernel.borrow_mut().is_old = false;
        // The first request asks for the size that it has.
        for accepted in [0, 1] {
            town.site.kernel.borrow_mut().denied = vec![(Control::Resize, accepted)];
            refused(&mut town, what, None, "Resize").unwrap();
        }
        town.site.shared.lock().unwrap().full = true;
        refused(&mut town, what, None, "cannot be recorded").unwrap();
        town.site.shared.lock().unwrap().full = false;
        resize(&mut town, what, None).unwrap();
        judge(&mut town, what).unwrap();
    }
}

/// A disk that has other users may have something behind the device's end.
#[test]
fn a_shared_disk_is_not_filled_unasked() {
    let mut town = town((What::Lines, &[3]));
    let spec = DeviceSpec { force: true, ..Town::spec(What::Lines) };
    town.ask("lines", Command::Add { name: None, id: None, spec }).unwrap();
    refused(&mut town, What::Lines, None, "used by others").unwrap();
    resize(&mut town, What::Lines, Some(LONG)).unwrap();
    assert_eq!(town.site.disks[3].disk.borrow().size(), Sectors(LONG as u64));
}

#[test]
fn a_merge_is_not_resized() {
    let mut town = town((What::Origin, &[0]));
    town.load_table(true).unwrap();
    town.suspend(What::Origin).unwrap();
    town.resume(What::Origin).unwrap();
    refused(&mut town, What::Origin, None, "a snapshot is being merged into it").unwrap();
}

/// The shorter one of a snapshot and its origin's device is the one that can grow.
#[test]
fn a_merge_of_two_lengths_names_the_device_to_resize() {
    for (longer, shorter) in [(What::Origin, SNAP), (SNAP, What::Origin)] {
        let mut town = town((What::Origin, &[0]));
        resize(&mut town, longer, None).unwrap();
        let why = town.merge(SNAP, false).unwrap_err();
        let name = town.recorded(shorter).unwrap().name;
        assert!(why.contains(&format!("`ublk-dm resize {name}`")), "{shorter:?}: {why}");
        resize(&mut town, shorter, None).unwrap();
        town.merge(SNAP, false).unwrap();
    }
}

/// A snapshot that has grown is as long as its origin's device again, and can be merged.
#[test]
fn a_snapshot_that_has_grown_can_be_merged() {
    let mut town = town((What::Origin, &[0]));
    write(&mut town, SNAP, 3, 7).unwrap();
    resize(&mut town, What::Origin, None).unwrap();
    let why = town.merge(SNAP, false).unwrap_err();
    assert!(why.contains("not as long as its origin's device"), "{why}");
    resize(&mut town, SNAP, None).unwrap();
    write(&mut town, What::Origin, LONG - 1, 8).unwrap();
    town.merge(SNAP, false).unwrap();
    let process = &town.processes["o"];
    drop(town.site.run(&process.executor, || false));
    let mut expected: Vec<_> = (0..LONG).map(value_at).collect();
    expected[3] = 7;
    assert_eq!(read(&mut town, What::Origin, 0, LONG), Ok(expected));
}
