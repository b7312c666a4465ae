//! The copy engine and dm-io on simulated disks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Client, Flags, Outcome, Part, SLICE_SECTORS};
use crate::disk::{Buffer, Errno, Host, Memory};
use crate::io::{self, IoOp, IoRegion, Refused};
use crate::sim::disk::{Class, DiskConfig, Fault, Matcher, SimDisk, Trace};
use crate::sim::image::{Image, SectorData};
use crate::sim::world::{Schedule, World};
use crate::units::{Sector, Sectors};

/// More than eight slices, so that every slot of a job is used again.
const LEN: u64 = 10_000;

struct Fixture {
    world: World,
    client: Client,
    disks: Vec<Rc<SimDisk>>,
}

/// A source with different content in each sector, and empty destinations.
fn fixture(destinations: usize) -> Fixture {
    let mut world = World::new(1, Schedule::InOrder, Trace::default());
    let content = |sector: u64| SectorData::new(&sector.to_le_bytes().repeat(64));
    let mut disks =
        vec![world.add_disk("from", DiskConfig::default(), Image::from_fn(Sectors(LEN), content))];
    for index in 0..destinations {
        disks.push(world.add_disk(
            &format!("to{index}"),
            DiskConfig::default(),
            Image::zeroes(Sectors(LEN)),
        ));
    }
    let host: Rc<dyn Host> = world.host.clone();
    let client = Client::new(&world.executor, &host, None).unwrap();
    Fixture { world, client, disks }
}

impl Fixture {
    fn region(&self, disk: usize) -> IoRegion {
        IoRegion { disk: self.disks[disk].disk(), sector: Sector(0), count: Sectors(LEN) }
    }

    fn copy(&self) -> Outcome {
        let (client, from) = (self.client.clone(), self.region(0));
        let to: Vec<IoRegion> = (1..self.disks.len()).map(|disk| self.region(disk)).collect();
        let result: Rc<RefCell<Option<Outcome>>> = Rc::default();
        let slot = result.clone();
        self.world.executor.spawn(async move {
            let outcome =
                client.copy(&from, &to, Flags { independent: true, ..Flags::default() }).await;
            *slot.borrow_mut() = Some(outcome);
        });
        self.world.run(100_000);
        result.borrow_mut().take().unwrap()
    }

    fn content(&self, disk: usize) -> Vec<u8> {
        self.disks[disk].visible().read(Sector(0), Sectors(LEN))
    }
}

fn fail(disk: &SimDisk, class: Class, sector: u64) {
    let matcher = Matcher { class, first: sector, end: sector + 1 };
    disk.inject(Fault { matcher, skip: 0, times: 1, errno: Errno::EIO });
}

#[test]
fn one_read_feeds_every_destination() {
    let fixture = fixture(3);
    let outcome = fixture.copy();
    assert!(outcome.is_ok() && outcome.written == Sectors(LEN));
    for disk in 1..=3 {
        assert!(fixture.content(disk) == fixture.content(0));
    }
    assert_eq!(
        fixture.client.moved(),
        Sectors(LEN),
        "each sector was dealt with once, not once per destination"
    );
}

#[test]
fn an_error_on_one_destination_is_its_own() {
    let fixture = fixture(3);
    fail(&fixture.disks[2], Class::Write, 3000);
    let outcome = fixture.copy();
    assert_eq!((outcome.read_err, outcome.write_err), (false, 0b010));
    // The slice around sector 3000 is not on all of them.
    assert_eq!(outcome.written, Sectors(LEN - SLICE_SECTORS));
    assert!(fixture.content(1) == fixture.content(0) && fixture.content(3) == fixture.content(0));
}

#[test]
fn a_read_error_is_told_apart() {
    let fixture = fixture(1);
    fail(&fixture.disks[0], Class::Read, 3000);
    let outcome = fixture.copy();
    assert!(outcome.read_err && outcome.first_error.is_some_and(|error| error.errno == Errno::EIO));
    assert_eq!(outcome.written, Sectors(LEN - SLICE_SECTORS));
}

/// An unreadable sector that only one part needs does not fail its neighbours, which would have
/// been read together with it.
#[test]
fn neighbours_are_read_without_what_cannot_be() {
    let fixture = fixture(2);
    let matcher = Matcher { class: Class::Read, first: 19, end: 20 };
    fixture.disks[0].inject(Fault { matcher, skip: 0, times: 100, errno: Errno::EIO });
    let (client, from) = (fixture.client.clone(), fixture.disks[0].disk());
    let to = [1, 2].map(|disk| fixture.disks[disk].disk());
    let failed: Rc<RefCell<Vec<bool>>> = Rc::default();
    let slot = failed.clone();
    fixture.world.executor.spawn(async move {
        let mut job = client.job();
        // The last part needs the same sectors as the second.
        for (first, count, disk) in [(8, 8, 0), (16, 8, 1), (24, 8, 0), (0, 16, 1), (16, 16, 0)] {
            let (from, count) = (Sector(first), Sectors(count));
            job.parts.push(Part {
                from,
                count,
                to: to[disk].clone(),
                at: Sector(first + 100),
                failed: false,
            });
        }
        client.run_parts(&mut job, &from, Flags { independent: true, ..Flags::default() }).await;
        assert!(job.read_error.is_some());
        *slot.borrow_mut() = job.parts.iter().map(|part| part.failed).collect();
    });
    fixture.world.run(100_000);
    assert_eq!(*failed.borrow(), [false, true, false, false, true]);
    let copied = |disk: usize, first: usize, count: usize| {
        fixture.content(disk)[(first + 100) * 512..][..count * 512]
            == fixture.content(0)[first * 512..][..count * 512]
    };
    assert!(copied(1, 8, 8) && copied(1, 24, 8) && copied(2, 0, 16));
}

#[test]
fn callbacks_come_later_and_one_by_one() {
    let fixture = fixture(1);
    let (calls, inside) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let count = || {
        let (calls, inside) = (calls.clone(), inside.clone());
        move |_: Outcome| {
            assert!(!inside.replace(true), "two callbacks at once");
            calls.set(calls.get() + 1);
            inside.set(false);
        }
    };
    fixture.client.submit_copy(
        fixture.region(0),
        vec![fixture.region(1)],
        Flags::default(),
        count(),
    );
    fixture.client.submit_zero(vec![fixture.region(1)], Flags::default(), count());
    let token = fixture.client.prepare_callback(count());
    assert_eq!(calls.get(), 0, "none inside the call that submits");
    fixture.world.run(100_000);
    assert_eq!(calls.get(), 2);
    let (client, ended) = (fixture.client.clone(), Rc::new(Cell::new(false)));
    let flag = ended.clone();
    fixture.world.executor.spawn(async move {
        client.destroy().await;
        flag.set(true);
    });
    fixture.world.run(100_000);
    assert!(!ended.get(), "a token holds its client");
    token.fire(Outcome::default());
    fixture.world.run(100_000);
    assert_eq!((calls.get(), ended.get()), (3, true));
}

#[test]
fn dm_io_has_a_bit_for_each_region_and_refuses_what_it_must() {
    let fixture = fixture(2);
    fail(&fixture.disks[2], Class::Write, 7);
    let host: Rc<dyn Host> = fixture.world.host.clone();
    let client = io::Client::new(&fixture.world.executor, io::DEFAULT_RESERVE);
    let page = Buffer::acquire(&host, 4096).unwrap();
    page.write(0, &[7; 4096]);
    let memory = Memory::Pages { pages: Rc::new([page]), offset_bytes: 0 };
    let outcomes: Rc<RefCell<Vec<_>>> = Rc::default();
    let regions = vec![fixture.region(1), fixture.region(2)];
    for op in [IoOp::Write { preflush: true, fua: true }, IoOp::Read] {
        let outcomes = outcomes.clone();
        client.start(op, memory.clone(), regions.clone(), move |outcome| {
            outcomes.borrow_mut().push(outcome)
        });
    }
    assert!(outcomes.borrow().is_empty());
    fixture.world.run(100_000);
    let outcomes = outcomes.borrow();
    assert!(outcomes.contains(&Err(Refused::ReadOfMany)));
    let written = outcomes.iter().find_map(|outcome| outcome.as_ref().ok()).unwrap();
    assert_eq!((written.error_bits, written.unsupported_bits), (0b10, 0));
    assert!(fixture.content(1).iter().all(|byte| *byte == 7), "the page is used round and round");
}
