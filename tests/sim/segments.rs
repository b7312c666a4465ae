//! Tables of several lines on simulated disks, against a model that knows for each sector of the
//! device what it is: every request at every place, errors on one side of a border, and losses of
//! power.
//!
//! Rules held here: nothing but the requested sectors is touched, and I10. Each check returns the
//! violation instead of panicking, so that mutants can be run with it.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Disk, Errno, Memory};
use dm_targets::error::target::Error;
use dm_targets::linear::target::Linear;
use dm_targets::mutant::Mutant;
use dm_targets::request::{Request, RequestKind, TargetError};
use dm_targets::segments::target::{Segment, Segments};
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher, SimDisk};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};
use dm_targets::zero::target::Zero;

use crate::pattern;
use crate::told::carry_out;

/// The size of each disk.
const DISK: u64 = 24;
/// The device's length.
const LEN: u64 = 20;
/// The writer of the disks, and the writer of the device.
const OLD: u32 = pattern::PREPARED;
const NEW: u32 = pattern::FIRST_WRITE;
/// More steps than any request takes.
const STEPS: usize = 1000;

/// Each rule, with the check that shows a violation.
pub const MUTANTS: [Mutant; 7] = [
    Mutant::SegmentBorderIgnored,
    Mutant::SegmentDataFromStart,
    Mutant::SegmentErrorDropped,
    Mutant::SegmentFlushesOne,
    Mutant::ErrorAcksWrites,
    Mutant::ZeroLeavesMemory,
    Mutant::SuspendLeavesUnflushed,
];

/// What the lines are: the length, and the disk with the offset on it.
#[derive(Clone, Copy)]
enum Line {
    Linear(u64, usize, u64),
    Error(u64),
    Zero(u64),
}

/// Two disks, one of them twice and the other way round, with what is not on any between them.
const LINES: [Line; 6] = [
    Line::Linear(4, 0, 10),
    Line::Linear(3, 1, 2),
    Line::Zero(4),
    Line::Linear(5, 0, 1),
    Line::Error(3),
    Line::Linear(1, 1, 20),
];

/// What a sector of the device is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Disk(usize, u64),
    Error,
    Zero,
}

fn place(sector: u64) -> Place {
    let mut start = 0;
    for line in LINES {
        let (Line::Linear(len, ..) | Line::Error(len) | Line::Zero(len)) = line;
        if sector < start + len {
            return match line {
                Line::Linear(_, disk, offset) => Place::Disk(disk, offset + sector - start),
                Line::Error(_) => Place::Error,
                Line::Zero(_) => Place::Zero,
            };
        }
        start += len;
    }
    panic!("sector {sector} is beyond the device");
}

struct Fixture {
    world: World,
    disks: [Rc<SimDisk>; 2],
    device: Rc<Device>,
}

fn old() -> Image {
    Image::from_fn(Sectors(DISK), |at| pattern::sector(OLD, at))
}

impl Fixture {
    fn new() -> Fixture {
        let mut world = World::new(crate::seed_base(), Schedule::InOrder, Trace::default());
        let config = DiskConfig { max_discard: Sectors(DISK), ..DiskConfig::default() };
        let disks = ["first", "second"].map(|name| world.add_disk(name, config, old()));
        let quick = DiskConfig { volatile_cache: false, immediate: true, ..config };
        let zeroes = world.add_disk("zeroes", quick, Image::zeroes(Sectors(LEN)));
        let handles: Vec<Disk> = disks.iter().map(|disk| disk.disk()).collect();
        let zeroes = zeroes.disk();
        let segment = |line| match line {
            Line::Linear(len, disk, offset) => {
                let disk: &Disk = &handles[disk];
                Segment::Linear(Linear::new(disk.clone(), Sector(offset), Sectors(len)))
            }
            Line::Error(len) => Segment::Error(Error::new(Sectors(len))),
            Line::Zero(len) => Segment::Zero(Zero::new(zeroes.clone(), Sectors(len))),
        };
        let segments = Segments::new(LINES.into_iter().map(segment).collect());
        let target = Target::Segments(Rc::new(segments));
        let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
        Fixture { world, disks, device }
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
            _ => vec![0xEE; usize::try_from(count * 512).unwrap()],
        };
        let payload = self.world.host.add_payload(data);
        let (sector, count) = (Sector(sector), Sectors(count));
        let request = Request { kind, sector, count, memory: Memory::payload(payload) };
        let (device, slot) = (self.device.clone(), Rc::new(RefCell::new(None)));
        let (done, host) = (slot.clone(), self.world.host.clone());
        self.world.executor.spawn(async move {
            *done.borrow_mut() = Some(carry_out(&host, &*device, &request).await)
        });
        assert!(self.world.run(STEPS), "a request does not end");
        let result = slot.borrow_mut().take();
        (result.expect("a request has no result"), self.world.host.take_payload(payload))
    }

    /// Whether the device can be suspended.
    fn suspend(&self) -> Result<(), String> {
        let (device, slot) = (self.device.clone(), Rc::new(RefCell::new(None)));
        let done = slot.clone();
        self.world
            .executor
            .spawn(async move { *done.borrow_mut() = Some(device.suspend(false).await) });
        assert!(self.world.run(STEPS), "a suspension does not end");
        slot.borrow_mut().take().expect("a suspension has no result")
    }

    /// Whether both disks are as after these writes, whatever a loss of power takes.
    fn survives(&self, written: &[(u64, u64)]) -> bool {
        let expected = expected(written);
        let images = self.world.crash(CrashKind::Power, usize::MAX);
        images.iter().all(|images| images[..2] == expected)
    }
}

/// The disks after writes to the device.
fn expected(written: &[(u64, u64)]) -> [Image; 2] {
    let mut disks = [old(), old()];
    for sector in written.iter().flat_map(|(sector, count)| *sector..sector + count) {
        if let Place::Disk(disk, at) = place(sector) {
            disks[disk].write(Sector(at), &pattern::payload(NEW, sector, 1));
        }
    }
    disks
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// All ranges of the device.
fn ranges() -> impl Iterator<Item = (u64, u64)> {
    (0..LEN).flat_map(|sector| (1..=LEN - sector).map(move |count| (sector, count)))
}

fn each_sector_is_where_the_table_says() -> Result<(), String> {
    for (sector, count) in ranges() {
        let fails = (sector..sector + count).any(|sector| place(sector) == Place::Error);
        let fixture = Fixture::new();
        let (result, data) = fixture.ask(RequestKind::Read, sector, count);
        must(result.is_err() == fails, "a read of an error segment succeeds, or another fails")?;
        for (at, seen) in (sector..).zip(data.chunks(512)) {
            let right = match place(at) {
                Place::Disk(_, at) => seen == pattern::payload(OLD, at, 1),
                Place::Zero => seen.iter().all(|byte| *byte == 0),
                Place::Error => seen.iter().all(|byte| *byte == 0xEE),
            };
            must(right, "a read shows another place")?;
        }
        let (result, _) = fixture.ask(RequestKind::Write { fua: false }, sector, count);
        must(result.is_err() == fails, "a write to an error segment succeeds, or another fails")?;
        let disks = [0, 1].map(|disk: usize| fixture.disks[disk].visible());
        must(disks == expected(&[(sector, count)]), "a write lands at another place")?;
        let (result, _) = fixture.ask(RequestKind::Discard, sector, count);
        must(result.is_err() == fails, "a discard of an error segment succeeds, or another fails")?;
    }
    let beyond = Fixture::new();
    for (sector, count) in [(LEN, 1), (LEN - 1, 2), (0, LEN + 1), (u64::MAX, 1)] {
        for kind in [RequestKind::Read, RequestKind::Write { fua: false }, RequestKind::Discard] {
            let error = beyond.ask(kind, sector, count).0.err();
            must(error.is_some_and(|error| error.errno() == Errno::EIO), "it goes beyond the end")?;
        }
    }
    must([0, 1].map(|disk: usize| beyond.disks[disk].visible()) == expected(&[]), "it wrote")
}

/// A request over several borders, one of whose pieces fails.
fn one_failing_piece_fails_the_request() -> Result<(), String> {
    for disk in 0..2 {
        let fixture = Fixture::new();
        let matcher = Matcher::all(Class::Write);
        let fault = Fault { matcher, skip: 0, times: 1, errno: Errno::EREMOTEIO };
        fixture.disks[disk].inject(fault);
        let result = fixture.ask(RequestKind::Write { fua: false }, 2, 4).0;
        let errno = result.err().map(|error| error.errno());
        must(errno == Some(Errno::EREMOTEIO), "the error is another one, or none")?;
        let other = 1 - disk;
        let carried_out = fixture.disks[other].visible() == expected(&[(2, 4)])[other];
        must(carried_out, "a piece is not carried out because another one has failed")?;
        must(fixture.ask(RequestKind::Write { fua: false }, 2, 4).0.is_ok(), "the error stays")?;
    }
    Ok(())
}

fn what_was_flushed_survives_the_power() -> Result<(), String> {
    let all = [(0, 16)];
    let write = |fixture: &Fixture, fua| fixture.ask(RequestKind::Write { fua }, 0, 16).0.is_ok();
    let flushed = Fixture::new();
    must(write(&flushed, false), "a write fails")?;
    must(!flushed.survives(&all), "the disks of this test have no cache")?;
    must(flushed.ask(RequestKind::Flush, 0, 0).0.is_ok(), "a flush fails")?;
    must(flushed.survives(&all), "what was flushed is lost")?;
    let forced = Fixture::new();
    must(write(&forced, true), "a write with FUA fails")?;
    must(forced.survives(&all), "what was written with FUA is lost")?;
    // Another table may be on other disks.
    let suspended = Fixture::new();
    must(write(&suspended, false) && suspended.suspend().is_ok(), "a suspension fails")?;
    must(suspended.survives(&all), "what was acknowledged is lost with its table")?;
    for disk in 0..2 {
        let failing = Fixture::new();
        let fault =
            Fault { matcher: Matcher::all(Class::Flush), skip: 0, times: 1, errno: Errno::EIO };
        failing.disks[disk].inject(fault);
        must(failing.ask(RequestKind::Flush, 0, 0).0.is_err(), "a failed flush is not reported")?;
        failing.disks[disk].inject(fault);
        let why = failing.suspend().err().unwrap_or_default();
        must(why.contains("may be lost"), "a suspension does not say what is lost")?;
    }
    Ok(())
}

/// However many segments a disk has, it is flushed once.
fn a_disk_is_flushed_once() -> Result<(), String> {
    let fixture = Fixture::new();
    let Target::Segments(segments) = fixture.device.target() else {
        return Err("no segments".to_owned());
    };
    must(fixture.ask(RequestKind::Flush, 0, 0).0.is_ok(), "a flush fails")?;
    let flushes = |segment: &Segment| segment.disk().map(|disk| disk.counters().flushes);
    let once = segments.segments().filter_map(flushes).all(|flushes| flushes == 1);
    must(once, "a disk is flushed twice, or not at all")
}

/// The first violation of tables of several lines, if any.
pub fn fault() -> Option<String> {
    let checks = [
        each_sector_is_where_the_table_says,
        one_failing_piece_fails_the_request,
        what_was_flushed_survives_the_power,
        a_disk_is_flushed_once,
    ];
    checks.into_iter().find_map(|check| check().err())
}

#[test]
fn a_table_of_several_lines_is_each_of_them() {
    assert_eq!(each_sector_is_where_the_table_says(), Ok(()));
    assert_eq!(one_failing_piece_fails_the_request(), Ok(()));
}

#[test]
fn a_table_of_several_lines_promises_what_its_disks_do() {
    assert_eq!(what_was_flushed_survives_the_power(), Ok(()));
    assert_eq!(a_disk_is_flushed_once(), Ok(()));
}
