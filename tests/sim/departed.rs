//! A snapshot that has left under an earlier server: the next server knows that before the origin
//! changes.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Host, Memory};
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::losses::Loss;
use dm_targets::snapshot::origin::Origin;
use dm_targets::units::{Sector, Sectors};

use crate::pattern;
use crate::stack::{self, Left, Setup};

/// An origin that is opened alone, after its first snapshot has left and its server has died.
pub fn origin_of_a_later_server() -> Result<(), String> {
    let setup = Setup { discards: true, ..Setup::small() };
    let left = Left::images(&setup.created_images()?);
    let world = stack::world(&setup, &left, 0, Schedule::InOrder, true, Trace::default());
    let host: Rc<dyn Host> = world.host.clone();
    let copy = copy::Client::new(&world.executor, &host, None).ok_or("no memory")?;
    let origin = Origin::new(world.disks()[0].disk(), copy.clone());
    let record = world.losses()[0].clone();
    origin.restore_departed(record.clone(), Loss::OriginChanged);
    let before = world.disks()[0].visible();
    handle(&world, &origin, RequestKind::Read)?;
    handle(&world, &origin, RequestKind::Flush)?;
    if record.recorded().is_some() {
        return Err("it is recorded as lost, and nothing has changed".into());
    }
    record.set_full(true);
    if handle(&world, &origin, RequestKind::Write { fua: false }).is_ok()
        || world.disks()[0].visible() != before
    {
        return Err(
            "the origin has changed, and that makes a snapshot wrong without a record".into()
        );
    }
    record.set_full(false);
    handle(&world, &origin, RequestKind::Write { fua: false })?;
    if record.recorded() != Some(Loss::OriginChanged) {
        return Err("the origin has changed, and the snapshot that left still looks right".into());
    }
    world.executor.spawn(async move { copy.destroy().await });
    world.executor.run_ready();
    Ok(())
}

fn handle(world: &World, origin: &Rc<Origin>, kind: RequestKind) -> Result<(), String> {
    let payload = world.host.add_payload(pattern::payload(pattern::PREPARED, 0, 2));
    let count = if kind == RequestKind::Flush { Sectors(0) } else { Sectors(2) };
    let request = Request { kind, sector: Sector(0), count, memory: Memory::payload(payload) };
    let result: Rc<RefCell<Option<Result<(), String>>>> = Rc::default();
    let (slot, origin) = (result.clone(), origin.clone());
    world.executor.spawn(async move {
        let outcome = origin.handle(&request).await;
        *slot.borrow_mut() = Some(outcome.map_err(|error| error.to_string()));
    });
    world.executor.run_ready();
    world.host.take_payload(payload);
    result.borrow_mut().take().ok_or("a request does not end")?
}

#[test]
fn a_later_server_records_a_snapshot_that_left_before_the_origin_changes() {
    origin_of_a_later_server().unwrap();
}
