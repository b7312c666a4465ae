//! A device that carries an origin: the snapshots of a device of the same process, whose users need
//! no other device.
//!
//! Rules held here: I5 for the device's users, from the moment when a snapshot joins; and I9 for a
//! snapshot that has left, as long as the device exists and no longer. Each check returns the
//! violation instead of panicking, so that mutants can be run with it.

use std::cell::Cell;
use std::rc::Rc;

use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Errno, Memory};
use dm_targets::linear::target::Linear;
use dm_targets::mutant::Mutant;
use dm_targets::request::{Request, RequestKind};
use dm_targets::snapshot::losses::Loss;
use dm_targets::snapshot::merge::{Bounds, Merge};
use dm_targets::snapshot::target::Snapshot;
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};

use crate::origins::{CHUNK, Fixture, NEW, SIZE, exceptions, parts};
use crate::pattern;
use crate::told::carry_out;

/// The mutants that the checks detect.
pub const MUTANTS: [Mutant; 5] = [
    Mutant::UsersPassOrigin,
    Mutant::WrittenPastMerge,
    Mutant::CarriesTooEarly,
    Mutant::CarriedDiscards,
    Mutant::CarriedKeyKept,
];

/// The device, and its snapshot.
const LOWER: u32 = 0;
const UPPER: u32 = 10;

/// A range of a disk as a device.
fn lower(fixture: &Fixture, disk: usize) -> Rc<Device> {
    let linear = Linear::new(fixture.origins[disk].disk(), Sector(0), Sectors(SIZE));
    let target = Target::Linear(Rc::new(linear));
    fixture.add(LOWER, fixture.group.hold(OpenTarget { target, events: Rc::default() }))
}

/// Adds a snapshot of the device on a COW.
fn upper(fixture: &Fixture, cow: usize) -> Rc<Device> {
    let (group, losses) = (fixture.group.clone(), fixture.world.losses()[cow].clone());
    let cow = fixture.cows[cow].disk();
    let opened = fixture.run(async move {
        let origin = group.carry(LOWER, Fixture::key(LOWER as usize), "lower").await.unwrap();
        let mut parts = parts(&group, origin.disk(), &cow, losses);
        parts.copy = origin.copy();
        let target = Target::Snapshot(Snapshot::open(parts).await.unwrap());
        group.hold(OpenTarget { target, events: Rc::default() })
    });
    fixture.add(UPPER, opened)
}

/// A user of the device writes.
fn users_write() -> Result<(), String> {
    let fixture = Fixture::new();
    let device = lower(&fixture, 0);
    fixture.write(LOWER)?;
    let before = fixture.ask(&device, RequestKind::Read, NEW)?;
    let snapshot = upper(&fixture, 0);
    fixture.ask(&device, RequestKind::Write { fua: true }, NEW + 1)?;
    if fixture.ask(&device, RequestKind::Read, NEW)? != pattern::payload(NEW + 1, 0, CHUNK) {
        return Err("its user does not read what was written".into());
    }
    if fixture.ask(&snapshot, RequestKind::Read, NEW)? != before {
        return Err("the snapshot shows what was written later".into());
    }
    (exceptions(&snapshot) == 1).then_some(()).ok_or_else(|| "it is not in the store".into())
}

/// A write of a user is under way when the device begins to carry an origin.
fn write_under_way() -> Result<(), String> {
    let fixture = Fixture::new();
    let device = lower(&fixture, 0);
    let payload = fixture.world.host.add_payload(pattern::payload(NEW, 0, CHUNK));
    let kind = RequestKind::Write { fua: false };
    let (sector, count) = (Sector(0), Sectors(CHUNK));
    let request = Request { kind, sector, count, memory: Memory::payload(payload) };
    let (written, carried) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let done = written.clone();
    let host = fixture.world.host.clone();
    fixture
        .world
        .executor
        .spawn(async move { done.set(carry_out(&host, &*device, &request).await.is_ok()) });
    fixture.world.executor.run_ready();
    let (group, done) = (fixture.group.clone(), carried.clone());
    fixture.world.executor.spawn(async move {
        done.set(group.carry(LOWER, Fixture::key(0), "lower").await.is_ok());
    });
    fixture.world.executor.run_ready();
    if carried.get() && !written.get() {
        return Err("a snapshot could join while a write passes its origin".into());
    }
    fixture.world.run(10_000);
    (carried.get() && written.get()).then_some(()).ok_or_else(|| "it does not end".into())
}

/// A snapshot has left, and the device changes; or it ends, and another one gets its number.
fn after_a_departure(ends: bool) -> Result<(), String> {
    let fixture = Fixture::new();
    lower(&fixture, 0);
    upper(&fixture, 0);
    fixture.remove(UPPER);
    if ends {
        fixture.remove(LOWER);
        if fixture.group.origin(Fixture::key(0)).is_some() {
            return Err("the origin stays when its device has ended".into());
        }
        lower(&fixture, 1);
        upper(&fixture, 1);
    }
    fixture.write(LOWER)?;
    match (fixture.world.losses()[0].recorded(), ends) {
        (Some(Loss::OriginChanged), false) | (None, true) => Ok(()),
        (_, false) => Err("the device has changed, and the snapshot still looks right".into()),
        (_, true) => Err("another device has changed, and the snapshot counts as lost".into()),
    }
}

/// A user of the device discards, before, beside and after a snapshot.
fn discards() -> Result<(), String> {
    let fixture = Fixture::new();
    let device = lower(&fixture, 0);
    let discard = || {
        let (kind, memory) = (RequestKind::Discard, Memory::None);
        let request = Request { kind, sector: Sector(0), count: Sectors(CHUNK), memory };
        let device = device.clone();
        fixture.run(async move { device.pass(&request).await }).map_err(|error| error.errno())
    };
    discard().map_err(|error| format!("before: {error:?}"))?;
    fixture.write(LOWER)?;
    let before = fixture.ask(&device, RequestKind::Read, NEW)?;
    let snapshot = upper(&fixture, 0);
    if discard() != Err(Errno::EOPNOTSUPP) {
        return Err("what the snapshot needs is discarded".into());
    }
    for shows in [&device, &snapshot] {
        if fixture.ask(shows, RequestKind::Read, NEW)? != before {
            return Err("a discard that was refused has changed something".into());
        }
    }
    fixture.remove(UPPER);
    discard().map_err(|error| format!("after: {error:?}"))?;
    let lost = fixture.world.losses()[0].recorded();
    (lost == Some(Loss::OriginChanged)).then_some(()).ok_or_else(|| format!("lost: {lost:?}"))
}

/// A snapshot is merged into the origin that the device carries, through a device of that origin:
/// what the device's own users write would pass the merge.
fn users_write_beside_a_merge() -> Result<(), String> {
    let fixture = Fixture::new();
    let device = lower(&fixture, 0);
    fixture.write(LOWER)?;
    let snapshot = upper(&fixture, 0);
    let kind = RequestKind::Write { fua: true };
    fixture.ask(&snapshot, kind, NEW + 1)?;
    fixture.remove(UPPER);
    let (group, losses) = (fixture.group.clone(), fixture.world.losses()[0].clone());
    let cow = fixture.cows[0].disk();
    let opened = fixture.run(async move {
        let origin = group.origin(Fixture::key(LOWER as usize)).unwrap();
        let mut parts = parts(&group, origin.disk(), &cow, losses);
        parts.copy = origin.copy();
        let merge = Merge::open(parts, &origin, Bounds::default()).await.unwrap();
        merge.pause();
        group.hold(OpenTarget { target: Target::Merge(merge), events: Rc::default() })
    });
    let carrier = fixture.group.device(LOWER).and_then(|device| device.carried());
    let found = fixture.group.carrier_of(&carrier.ok_or("it carries nothing")?);
    found.filter(|found| Rc::ptr_eq(found, &device)).ok_or("another device carries it")?;
    let merge = fixture.add(UPPER, opened);
    let read = |device: &Rc<Device>| fixture.ask(device, RequestKind::Read, NEW);
    if read(&merge)? != pattern::payload(NEW + 1, 0, CHUNK) {
        return Err("the device of the merge does not show the snapshot".into());
    }
    let drained = device.clone();
    fixture.run(async move { drained.drain_users().await });
    if fixture.ask(&device, kind, NEW + 2).is_ok() {
        return Err("a write passes the merge".into());
    }
    read(&device)?;
    fixture.remove(UPPER);
    fixture.ask(&device, kind, NEW + 2).map(drop)
}

/// The violation that a check finds.
pub fn fault() -> Option<String> {
    let checks = users_write().and_then(|()| write_under_way()).and_then(|()| discards());
    let checks = checks.and_then(|()| users_write_beside_a_merge());
    let checks = checks.and_then(|()| after_a_departure(false));
    checks.and_then(|()| after_a_departure(true)).err()
}

#[test]
fn snapshots_of_a_device_keep_what_its_users_overwrite() {
    users_write().unwrap();
}

#[test]
fn nobody_writes_past_a_merge() {
    users_write_beside_a_merge().unwrap();
}

#[test]
fn a_device_discards_what_no_snapshot_needs() {
    discards().unwrap();
}

#[test]
fn a_device_carries_an_origin_when_no_request_passes_it() {
    write_under_way().unwrap();
}

#[test]
fn what_has_left_is_lost_with_the_next_change_of_the_same_device() {
    after_a_departure(false).unwrap();
    after_a_departure(true).unwrap();
}

#[test]
fn a_suspended_device_holds_its_users_and_its_snapshots() {
    let fixture = Fixture::new();
    let device = lower(&fixture, 0);
    let snapshot = upper(&fixture, 0);
    let suspended = device.clone();
    fixture.run(async move { suspended.suspend(false).await }).unwrap();
    let done = Rc::new(Cell::new(0));
    for (device, kind) in
        [(&device, RequestKind::Write { fua: false }), (&snapshot, RequestKind::Read)]
    {
        let payload = fixture.world.host.add_payload(pattern::payload(NEW, 0, CHUNK));
        let (sector, count) = (Sector(0), Sectors(CHUNK));
        let request = Request { kind, sector, count, memory: Memory::payload(payload) };
        let (device, done) = (device.clone(), done.clone());
        let host = fixture.world.host.clone();
        fixture.world.executor.spawn(async move {
            carry_out(&host, &*device, &request).await.unwrap();
            done.set(done.get() + 1);
        });
    }
    fixture.world.run(10_000);
    assert_eq!(done.get(), 0);
    let held = fixture.group.oldest_carried();
    assert!(matches!(&held[..], [(name, _)] if name == "lower"), "the snapshot's read: {held:?}");
    let resumed = device.clone();
    fixture.run(async move { resumed.resume(true).await });
    assert_eq!((done.get(), fixture.group.oldest_carried()), (2, Vec::new()));
    // Its users alone are held: the snapshot can still be read.
    let held = device.clone();
    fixture.run(async move { held.hold_users().await });
    fixture.ask(&snapshot, RequestKind::Read, NEW).unwrap();
    device.release_users();
    fixture.write(LOWER).unwrap();
    fixture.remove(UPPER);
    fixture.remove(LOWER);
}

#[test]
fn nothing_is_left_of_a_device_that_carried_an_origin() {
    let fixture = Fixture::new();
    lower(&fixture, 0);
    let before = fixture.world.executor.live();
    upper(&fixture, 0);
    // By another program: its snapshot is still there, and has errors.
    fixture.remove(LOWER);
    fixture.remove(UPPER);
    fixture.world.run(10_000);
    assert!(fixture.group.oldest_carried().is_empty());
    // The copy client has a task.
    assert_eq!(fixture.world.executor.live(), before + 1);
}
