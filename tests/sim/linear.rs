//! Linear devices on a simulated disk: the place of each write, the sectors beside the range,
//! errors, and flushes.
//!
//! Rules held here: nothing outside the range is touched, and I10. Each check returns the violation
//! instead of panicking, so that mutants can be run with it.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Errno, Memory};
use dm_targets::linear::target::Linear;
use dm_targets::mutant::Mutant;
use dm_targets::request::{Request, RequestKind, TargetError};
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher, SimDisk};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};

use crate::pattern;
use crate::told::carry_out;

/// The disk's size, and the device's place on it.
const DISK: u64 = 40;
const START: u64 = 16;
const LEN: u64 = 12;
/// The writer of the disk, and the writer of the device.
const OLD: u32 = pattern::PREPARED;
const NEW: u32 = pattern::FIRST_WRITE;
/// More steps than any request takes.
const STEPS: usize = 1000;

/// Each rule, with the check that shows a violation.
pub const MUTANTS: [Mutant; 5] = [
    Mutant::LinearOffsetDropped,
    Mutant::LinearUnbounded,
    Mutant::LinearFlushDropped,
    Mutant::LinearFuaDropped,
    Mutant::RemappedPastGate,
];

struct Fixture {
    world: World,
    disk: Rc<SimDisk>,
    device: Rc<Device>,
}

impl Fixture {
    fn new() -> Fixture {
        let mut world = World::new(crate::seed_base(), Schedule::InOrder, Trace::default());
        let config = DiskConfig { max_discard: Sectors(DISK), ..DiskConfig::default() };
        let image = Image::from_fn(Sectors(DISK), |at| pattern::sector(OLD, at));
        let disk = world.add_disk("disk", config, image);
        let target = Target::Linear(Rc::new(Linear::new(disk.disk(), Sector(START), Sectors(LEN))));
        let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
        Fixture { world, disk, device }
    }

    /// One request to its end, with the memory that it leaves.
    fn ask(
        &self,
        kind: RequestKind,
        sector: u64,
        count: u64,
    ) -> (Result<(), TargetError>, Vec<u8>) {
        let data = match kind {
            RequestKind::Write { .. } => pattern::payload(NEW, sector, count),
            _ => vec![0; usize::try_from(count * 512).unwrap()],
        };
        let payload = self.world.host.add_payload(data);
        let request = Request {
            kind,
            sector: Sector(sector),
            count: Sectors(count),
            memory: Memory::payload(payload),
        };
        let (device, slot) = (self.device.clone(), Rc::new(RefCell::new(None)));
        let (done, host) = (slot.clone(), self.world.host.clone());
        self.world.executor.spawn(async move {
            *done.borrow_mut() = Some(carry_out(&host, &*device, &request).await)
        });
        assert!(self.world.run(STEPS), "a request does not end");
        let result = slot.borrow_mut().take();
        (result.expect("a request has no result"), self.world.host.take_payload(payload))
    }

    fn write(&self, sector: u64, count: u64) -> Result<(), TargetError> {
        self.ask(RequestKind::Write { fua: false }, sector, count).0
    }

    /// The disk's content after a write to the device.
    fn expected(sector: u64, count: u64) -> Image {
        let mut image = Image::from_fn(Sectors(DISK), |at| pattern::sector(OLD, at));
        image.write(Sector(START + sector), &pattern::payload(NEW, sector, count));
        image
    }

    /// Whether a write at sector 0 survives every possible loss of power now, and whether it
    /// survives some.
    fn survives(&self) -> (bool, bool) {
        let images = self.world.crash(CrashKind::Power, usize::MAX);
        let is_there = |disks: &Vec<Image>| disks[0] == Fixture::expected(0, 2);
        (images.iter().all(is_there), images.iter().any(is_there))
    }
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// A suspension waits for requests that are under way without a task, and holds later ones back.
fn a_suspended_device_has_no_request_under_way() -> Result<(), String> {
    let fixture = Fixture::new();
    let ended = Rc::new(RefCell::new(0));
    let write = || {
        let payload = fixture.world.host.add_payload(pattern::payload(NEW, 0, 1));
        let (kind, memory) = (RequestKind::Write { fua: false }, Memory::payload(payload));
        let request = Request { kind, sector: Sector(0), count: Sectors(1), memory };
        let (device, host, ended) =
            (fixture.device.clone(), fixture.world.host.clone(), ended.clone());
        fixture.world.executor.spawn(async move {
            carry_out(&host, &*device, &request).await.expect("its disk has not failed");
            *ended.borrow_mut() += 1;
        });
    };
    fixture.disk.hold(Matcher { class: Class::Write, first: 0, end: DISK });
    write();
    let (suspended, slot) = (fixture.device.clone(), Rc::new(RefCell::new(false)));
    let done = slot.clone();
    fixture.world.executor.spawn(async move {
        suspended.suspend(false).await.expect("it was not given up");
        *done.borrow_mut() = true;
    });
    fixture.world.run(STEPS);
    must(!*slot.borrow(), "a suspension has ended while a request is under way")?;
    fixture.disk.release();
    fixture.world.run(STEPS);
    must(*slot.borrow() && *ended.borrow() == 1, "a suspension does not end")?;
    let before = fixture.disk.writes();
    write();
    fixture.world.run(STEPS);
    must(fixture.disk.writes() == before, "a request has reached a suspended target")?;
    let resumed = fixture.device.clone();
    fixture.world.executor.spawn(async move { resumed.resume(true).await });
    fixture.world.run(STEPS);
    must(*ended.borrow() == 2, "a request that was held back does not end")
}

fn requests_land_at_the_offset() -> Result<(), String> {
    for (sector, count) in [(0, 1), (3, 4), (LEN - 1, 1), (0, LEN)] {
        let fixture = Fixture::new();
        let (result, data) = fixture.ask(RequestKind::Read, sector, count);
        let old = pattern::payload(OLD, START + sector, count);
        must(result.is_ok() && data == old, "a read shows another place of the disk")?;
        must(fixture.write(sector, count).is_ok(), "a write fails")?;
        must(
            fixture.disk.visible() == Fixture::expected(sector, count),
            "a write lands at another place",
        )?;
        let (_, data) = fixture.ask(RequestKind::Read, sector, count);
        must(data == pattern::payload(NEW, sector, count), "what was written is not read")?;
        // The place of a discard shows in the failure of the discard that touches the right
        // sectors.
        let (first, end) = (START + sector, START + sector + count);
        fixture.disk.inject(Fault {
            matcher: Matcher { class: Class::Discard, first, end },
            skip: 0,
            times: 1,
            errno: Errno(121),
        });
        let (result, _) = fixture.ask(RequestKind::Discard, sector, count);
        must(
            result.is_err_and(|error| error.errno() == Errno(121)),
            "a discard goes to another place",
        )?;
        must(fixture.ask(RequestKind::Discard, sector, count).0.is_ok(), "a discard fails")?;
        let neighbours = |image: &Image| {
            (
                image.read(Sector(0), Sectors(START)),
                image.read(Sector(START + LEN), Sectors(DISK - START - LEN)),
            )
        };
        let before = neighbours(&Fixture::expected(sector, count));
        must(neighbours(&fixture.disk.visible()) == before, "a discard takes a neighbour's data")?;
    }
    Ok(())
}

fn nothing_beside_the_range_is_touched() -> Result<(), String> {
    for (sector, count) in [(LEN, 1), (LEN - 1, 2), (0, LEN + 1), (LEN + 5, 1), (u64::MAX, 1)] {
        for kind in [RequestKind::Read, RequestKind::Write { fua: false }, RequestKind::Discard] {
            let fixture = Fixture::new();
            let (result, data) = fixture.ask(kind, sector, count);
            must(
                result.is_err_and(|error| error.errno() == Errno::EIO),
                "a request beyond the end is carried out",
            )?;
            let untouched =
                matches!(kind, RequestKind::Write { .. }) || data.iter().all(|byte| *byte == 0);
            must(untouched, "a neighbour's data was read")?;
            let image = Image::from_fn(Sectors(DISK), |at| pattern::sector(OLD, at));
            must(fixture.disk.visible() == image, "a neighbour's data was changed")?;
        }
    }
    Ok(())
}

fn errors_reach_the_user_as_they_are() -> Result<(), String> {
    for errno in [Errno::EIO, Errno::ENOSPC, Errno::EREMOTEIO, Errno::EOPNOTSUPP] {
        for (class, kind, count) in [
            (Class::Read, RequestKind::Read, 2),
            (Class::Write, RequestKind::Write { fua: false }, 2),
            (Class::WriteFua, RequestKind::Write { fua: true }, 2),
            (Class::Flush, RequestKind::Flush, 0),
            (Class::Discard, RequestKind::Discard, 2),
        ] {
            let fixture = Fixture::new();
            fixture.disk.inject(Fault { matcher: Matcher::all(class), skip: 0, times: 1, errno });
            let failed = fixture.ask(kind, 4, count).0;
            must(
                failed.is_err_and(|error| error.errno() == errno),
                "an error is another one, or none",
            )?;
            must(fixture.ask(kind, 4, count).0.is_ok(), "an error stays")?;
        }
    }
    Ok(())
}

fn what_was_flushed_survives_the_power() -> Result<(), String> {
    let flushed = Fixture::new();
    must(flushed.write(0, 2).is_ok(), "a write fails")?;
    must(flushed.survives() == (false, true), "the disk of this test has no cache")?;
    must(flushed.ask(RequestKind::Flush, 0, 0).0.is_ok(), "a flush fails")?;
    must(flushed.survives() == (true, true), "what was flushed is lost")?;
    let forced = Fixture::new();
    must(forced.ask(RequestKind::Write { fua: true }, 0, 2).0.is_ok(), "a write with FUA fails")?;
    must(forced.survives() == (true, true), "what was written with FUA is lost")
}

/// The first violation of linear devices, if any.
pub fn fault() -> Option<String> {
    let checks = [
        requests_land_at_the_offset,
        a_suspended_device_has_no_request_under_way,
        nothing_beside_the_range_is_touched,
        errors_reach_the_user_as_they_are,
        what_was_flushed_survives_the_power,
    ];
    checks.into_iter().find_map(|check| check().err())
}

#[test]
fn a_linear_device_is_its_range_of_the_disk() {
    assert_eq!(requests_land_at_the_offset(), Ok(()));
    assert_eq!(nothing_beside_the_range_is_touched(), Ok(()));
}

#[test]
fn a_linear_device_promises_what_its_disk_does() {
    assert_eq!(errors_reach_the_user_as_they_are(), Ok(()));
    assert_eq!(what_was_flushed_survives_the_power(), Ok(()));
    assert_eq!(a_suspended_device_has_no_request_under_way(), Ok(()));
}
