//! The origin of a store: a store that was made for another origin is refused and left unchanged,
//! unless the user overrides that.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Errno, Host, Memory};
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher, SimDisk};
use dm_targets::sim::image::Image;
use dm_targets::sim::losses::SimLosses;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::format::identity::IDENTITY_END;
use dm_targets::snapshot::format::{Header, Identity, StoreId};
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::store::Ownership;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::units::{ChunkSize, Sector, Sectors};

use crate::pattern;

fn whose(store: u8, origin: &str, adopt: bool) -> Option<Ownership> {
    Some(Ownership { store: StoreId([store; 16]), origin: origin.into(), adopt })
}

/// What happens to an open snapshot.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    /// Its device is not added.
    Unmake,
    /// A copy to the COW fails, which makes it invalid.
    Invalidate,
}

/// Opens a snapshot and ends it; returns the COW's content then.
fn used(cow: &Image, ownership: Option<Ownership>, then: Then) -> Result<Image, String> {
    used_with(cow, ownership, then, true)
}

/// Nothing but what a table without features says.
const OPTIONS: Options = Options {
    on_full: OnFull::Overflow,
    discard_zeroes_cow: false,
    discard_passdown_origin: false,
};

/// The same; with `overwrite` also a COW that holds something else is taken.
fn used_with(
    cow: &Image,
    ownership: Option<Ownership>,
    then: Then,
    overwrite: bool,
) -> Result<Image, String> {
    let mut world = World::new(0, Schedule::InOrder, Trace::default());
    let config = DiskConfig { immediate: true, ..DiskConfig::default() };
    let image = Image::from_fn(Sectors(16), |at| pattern::sector(pattern::ORIGIN, at));
    let (origin, cow_disk) =
        (world.add_disk("origin", config, image), world.add_disk("cow", config, cow.clone()));
    let host: Rc<dyn Host> = world.host.clone();
    let copy = copy::Client::new(&world.executor, &host, None).unwrap();
    let payload = world.host.add_payload(pattern::payload(9, 0, 2));
    let result: Rc<RefCell<Option<Result<(), String>>>> = Rc::default();
    let (slot, executor, faulty) = (result.clone(), world.executor.clone(), cow_disk.clone());
    world.executor.spawn(async move {
        let origin = Origin::new(origin.disk(), copy.clone());
        let parts = Parts {
            executor: &executor,
            host: &host,
            copy: &copy,
            origin: origin.disk(),
            cow: &faulty.disk(),
            chunk_size: ChunkSize::from_sectors(2),
            persistent: true,
            overwrite,
            ownership: ownership.as_ref(),
            lost: false,
            losses: Rc::new(SimLosses::of("cow", None)),
            len: None,
            options: OPTIONS,
            journal: None,
            listener: Rc::new(|_| {}),
        };
        let done = match Snapshot::open(parts).await {
            Err(error) => Err(error.to_string()),
            Ok(snapshot) => {
                snapshot.activate(&executor).await.unwrap();
                if then == Then::Invalidate {
                    fail_a_write(&snapshot, &faulty, Memory::payload(payload)).await;
                }
                snapshot.close().await.unwrap();
                if then == Then::Unmake {
                    snapshot.store().unmake().await.unwrap();
                }
                Ok(())
            }
        };
        copy.destroy().await;
        *slot.borrow_mut() = Some(done);
    });
    world.run(10_000);
    world.host.take_payload(payload);
    let done = result.borrow_mut().take().unwrap();
    done.map(|()| cow_disk.visible())
}

/// A write to the snapshot fails, because its COW does.
async fn fail_a_write(snapshot: &Snapshot, cow: &SimDisk, memory: Memory) {
    let matcher = Matcher::all(Class::Write);
    cow.inject(Fault { matcher, skip: 0, times: 1, errno: Errno::EIO });
    let kind = RequestKind::Write { fua: true };
    let request = Request { kind, sector: Sector(0), count: Sectors(2), memory };
    assert!(snapshot.handle(&request).await.is_err());
}

fn identity(cow: &Image) -> Option<Identity> {
    Identity::decode(&cow.read(Sector(0), Sectors(1)))
}

#[test]
pub fn a_store_is_used_with_the_origin_that_it_was_made_for() {
    let blank = Image::zeroes(Sectors(40));
    let made = used(&blank, whose(1, "serial A", false), Then::Close).unwrap();
    assert_eq!(identity(&made), Some(Identity::new(StoreId([1; 16]), 16, "serial A")));
    for overwrite in [false, true] {
        let refused = used_with(&made, whose(2, "serial B", false), Then::Close, overwrite);
        let refused = refused.unwrap_err();
        assert!(refused.contains("serial A") && refused.contains("--other-origin"), "{refused}");
    }
    for ownership in
        [whose(2, "serial A", false), whose(2, "", false), whose(2, "serial A", true), None]
    {
        assert_eq!(used(&made, ownership, Then::Close).as_ref(), Ok(&made), "nothing is written");
    }
    let adopted = used(&made, whose(2, "serial B", true), Then::Close).unwrap();
    assert_eq!(
        identity(&adopted),
        Some(Identity::new(StoreId([1; 16]), 16, "serial B")),
        "the store is the same"
    );
    assert_eq!(adopted.sectors[1..], made.sectors[1..]);
    assert_eq!(
        used(&made, whose(2, "serial B", true), Then::Unmake).as_ref(),
        Ok(&made),
        "a failed add"
    );
}

#[test]
fn a_store_of_the_kernels_has_no_identity_and_is_accepted() {
    let mut kernels = Image::zeroes(Sectors(40));
    let header = Header::new(ChunkSize::from_sectors(2).unwrap(), true).encode();
    let mut block = [0; 512];
    block[..header.len()].copy_from_slice(&header);
    kernels.write(Sector(0), &block);
    assert_eq!(used(&kernels, whose(1, "serial A", false), Then::Close).as_ref(), Ok(&kernels));
    assert_eq!(IDENTITY_END, block.len());
}

/// The mark preserves the identity, and an invalid store of another origin is refused as well.
#[test]
fn an_invalid_store_is_still_its_origins() {
    let blank = Image::zeroes(Sectors(40));
    let made = used(&blank, whose(1, "serial A", false), Then::Invalidate).unwrap();
    assert_eq!(identity(&made).unwrap().origin, "serial A");
    assert_eq!(made.read(Sector(0), Sectors(1))[4..8], [0; 4], "marked");
    assert!(used(&made, whose(2, "serial B", false), Then::Close).is_err());
    let adopted = used(&made, whose(2, "serial B", true), Then::Close).unwrap();
    assert_eq!(adopted, made, "it is not made valid by the way");
}
