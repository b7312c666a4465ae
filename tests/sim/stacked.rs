//! Devices on devices: a family whose origin and COWs are mirrors of the same process, whose legs
//! are devices made of ranges, judged as a family on plain disks is. A mirror must keep the same
//! data as a disk, so the model need not know of it; a later life reads its first leg.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Buffer, Disk, DiskError, Errno, Host};
use dm_targets::exec::Executor;
use dm_targets::linear::target::Linear;
use dm_targets::mirror::target::Mirror;
use dm_targets::mutant::{self, Mutant};
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::origin::Origin;
use dm_targets::stack;
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};

use crate::explore::{Case, explore};
use crate::mirror::fixture;
use crate::stack::Setup;
use crate::{exhaustive, scenarios, seeded};

/// Few slots, so that operations also wait for one.
const SLOTS: usize = 3;

/// The mirrors below a family, or none.
#[derive(Default)]
pub struct Mirrors {
    devices: Vec<Rc<Device>>,
    /// A copy client of their own: the family's copies wait for the mirrors' copies.
    copy: Option<copy::Client>,
}

impl Mirrors {
    /// The family's disks: the given disks, or mirrors of two of them each.
    pub async fn below(
        executor: &Executor,
        host: &Rc<dyn Host>,
        disks: Vec<Disk>,
        setup: &Setup,
    ) -> Result<(Vec<Disk>, Mirrors), String> {
        if !setup.mirrored {
            return Ok((disks, Mirrors::default()));
        }
        let copy = copy::Client::new(executor, host, None)
            .ok_or("no memory for the mirrors' copy client")?;
        let (first, second) = disks.split_at(1 + setup.snaps.len());
        let (mut upper, mut devices) = (Vec::new(), Vec::new());
        for (one, two) in first.iter().zip(second) {
            let region = (u64::from(setup.block_bytes) / 512).max(2);
            let of_mirror = fixture::Setup {
                log: false,
                sectors: one.size().0,
                region,
                ..fixture::Setup::small()
            };
            let legs = [one, two].map(|disk| through_range(executor, disk));
            let legs = legs.into_iter().collect::<Option<Vec<_>>>().ok_or("no range")?;
            let parts = fixture::parts(&of_mirror, host, &copy, legs);
            let target =
                Target::Mirror(Mirror::open(parts).await.map_err(|error| error.to_string())?);
            target.activate(executor).await?;
            let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
            let disk = stack::disk(executor, one.name(), &device, SLOTS);
            upper.push(disk.ok_or("a mirror is no disk")?.0);
            devices.push(device);
        }
        Ok((upper, Mirrors { devices, copy: Some(copy) }))
    }

    /// Ends them; nothing may be in flight.
    pub async fn close(&self) {
        for device in &self.devices {
            device.target().close().await.unwrap();
        }
        if let Some(copy) = &self.copy {
            copy.destroy().await;
        }
    }
}

/// A disk through a device that is made of a range of it.
fn through_range(executor: &Executor, disk: &Disk) -> Option<Disk> {
    let target = Target::Linear(Rc::new(Linear::new(disk.clone(), Sector(0), disk.size())));
    let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
    Some(stack::disk(executor, disk.name(), &device, SLOTS)?.0)
}

/// Cases of families on plain disks, on mirrors. Disks that fail are left out: a mirror goes on
/// without them, and its first leg would no longer be what it shows.
fn cases() -> impl Iterator<Item = Case> {
    let families = exhaustive::pairs().step_by(97).chain(seeded::cases().take(8));
    let families = families.chain(
        scenarios::all()
            .into_iter()
            .filter(|(name, _)| *name == "journaled")
            .flat_map(|(_, all)| all),
    );
    families
        .filter(|case| {
            case.faults.is_empty() && case.left.images.len() == 1 + case.setup.snaps.len()
        })
        .map(|mut case| {
            case.setup.mirrored = true;
            // Twice as many disks: what may survive is a sample of more.
            case.cap = case.cap.min(8);
            case
        })
}

#[test]
fn a_family_on_mirrors_keeps_what_one_on_disks_keeps() {
    let (mut states, mut runs) = (0, 0);
    for case in cases() {
        match explore(&case) {
            Ok(judged) => (states, runs) = (states + judged, runs + 1),
            Err(violation) => {
                violation.trace.iter().for_each(|line| println!("{line}"));
                panic!("{:?} seed {}: {}", case.ops, case.seed, violation.fault);
            }
        }
    }
    println!("stacked: runs={runs} states={states}");
    assert!(states > 5000, "only {states} states");
}

#[test]
fn rules_of_a_device_as_a_disk_are_tested() {
    for mutant in [Mutant::StackKeepsFlush, Mutant::StackDropsFua, Mutant::StackAcksEarly] {
        let killed = cases().enumerate().find_map(|(number, case)| {
            mutant::set(Some(mutant));
            let result = catch_unwind(AssertUnwindSafe(|| explore(&case)));
            mutant::set(None);
            match result {
                Ok(Ok(_)) => None,
                Ok(Err(violation)) => Some((number, violation.fault)),
                Err(_) => Some((number, "panics".to_owned())),
            }
        });
        let (number, fault) = killed.unwrap_or_else(|| panic!("mutant {mutant:?} survives"));
        println!("mutant {mutant:?} killed by case {number}: {fault}");
    }
}

#[test]
fn an_error_keeps_its_errno_and_a_suspended_device_holds() {
    let mut world = World::new(0, Schedule::InOrder, Trace::default());
    let lowest = world.add_disk("lowest", DiskConfig::default(), Image::zeroes(Sectors(16)));
    let fault = |class, errno| Fault {
        matcher: Matcher::all(class),
        skip: 0,
        times: 1,
        errno: Errno(errno),
    };
    lowest.inject(fault(Class::Read, 61));
    lowest.inject(fault(Class::Flush, 121));
    let host: Rc<dyn Host> = world.host.clone();
    let copy = copy::Client::new(&world.executor, &host, None).unwrap();
    let target = Target::Origin(Origin::new(lowest.disk(), copy.clone()));
    let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
    let (disk, watch) = stack::disk(&world.executor, "device", &device, 1).unwrap();
    let buffer = Buffer::acquire(&host, 512).unwrap();
    let results: Rc<RefCell<Vec<Result<(), DiskError>>>> = Rc::default();
    let (told, lower) = (results.clone(), device.clone());
    world.executor.spawn(async move {
        let read = |sector| disk.read(Sector(sector), Sectors(1), buffer.at(0));
        let failed = [read(0).await, disk.flush().await];
        told.borrow_mut().extend(failed);
        lower.suspend(false).await.unwrap();
        // More operations than slots, and one whose result is not awaited.
        let (one, two) = (read(1), read(2));
        drop(read(3));
        let held = [one.await, two.await];
        told.borrow_mut().extend(held);
        copy.destroy().await;
    });
    world.run(1000);
    let errors: Vec<_> =
        results.borrow().iter().map(|result| result.as_ref().err().map(|e| e.errno.0)).collect();
    assert_eq!(errors, [Some(61), Some(121)], "what comes to a suspended device waits");
    assert_eq!(watch.oldest(), Some(("device".to_owned(), 3)), "and is known to wait");
    world.executor.spawn(async move { device.resume(true).await });
    world.run(1000);
    assert_eq!(results.borrow()[2..], [Ok(()), Ok(())]);
    drop(results);
    assert_eq!((world.executor.live(), world.host.lent()), (0, 0), "the slots end with the disk");
    assert!(!watch.is_there());
}
