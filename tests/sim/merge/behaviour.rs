//! What a merge does and refuses, one event at a time.

use std::num::NonZeroU64;
use std::rc::Rc;

use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::Memory;
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::format::Record;
use dm_targets::snapshot::journal::Journaled;
use dm_targets::snapshot::losses::Loss;
use dm_targets::snapshot::merge::Phase;
use dm_targets::snapshot::merge_fault::MergeFault;
use dm_targets::snapshot::origin::Origin;
use dm_targets::target::Target;
use dm_targets::units::{Chunk, CowChunk, Sector, Sectors};

use super::cases::{chunks, images, plan};
use super::family::{Family, Ground, Plan, Slot, read_all, run, spawn_open};
use super::oracle::{closed, merge_view};
use crate::pattern;
use crate::stack::{self, Left};

/// More steps than any of these tests needs.
const STEPS: usize = 100_000;

/// A family on disks that complete operations in order.
pub struct Bench {
    pub plan: Plan,
    pub world: World,
    pub family: Rc<Family>,
}

pub fn world_of(plan: &Plan, left: &Left) -> World {
    stack::world(&plan.setup, left, 0, Schedule::InOrder, false, Trace::recording())
}

impl Bench {
    /// OpenTarget, and nothing merged: the merge is paused in the step in which it is opened.
    pub fn paused(plan: &Plan, left: &Left) -> Bench {
        let bench = Bench::on(plan, world_of(plan, left));
        bench.family.merge.pause();
        bench
    }

    /// On a world's disks.
    pub fn on(plan: &Plan, world: World) -> Bench {
        let opening = spawn_open(&world, plan);
        let family = loop {
            if let Some(opened) = opening.borrow_mut().take() {
                break opened.unwrap();
            }
            world.step(false);
        };
        Bench { plan: plan.clone(), world, family }
    }

    /// Starts a request to the device.
    pub fn start(&self, kind: RequestKind, sector: u64, count: u64) -> Slot<Result<(), String>> {
        self.ask(0, kind, sector, count)
    }

    /// Starts a request.
    pub fn ask(
        &self,
        device: usize,
        kind: RequestKind,
        sector: u64,
        count: u64,
    ) -> Slot<Result<(), String>> {
        let bytes = match kind {
            RequestKind::Write { .. } => pattern::payload(pattern::FIRST_WRITE, sector, count),
            _ => vec![0; usize::try_from(count * 512).unwrap()],
        };
        let payload = self.world.host.add_payload(bytes);
        let request = Request {
            kind,
            sector: Sector(sector),
            count: Sectors(count),
            memory: Memory::payload(payload),
        };
        let (slot, family): (Slot<_>, _) = (Rc::default(), self.family.clone());
        let result = slot.clone();
        self.world.executor.spawn(async move {
            *result.borrow_mut() = Some(family.handle(device, request).await)
        });
        slot
    }

    /// Starts a write.
    pub fn write(&self, sector: u64, count: u64) -> Slot<Result<(), String>> {
        self.start(RequestKind::Write { fua: false }, sector, count)
    }

    fn status(&self) -> String {
        self.family.merge.status().to_string()
    }

    pub fn finish(self) {
        self.end().unwrap();
    }

    /// Ends the family; its disks stay as they are.
    pub fn end(self) -> Result<(Plan, World), String> {
        closed(&self.world, self.family)?;
        Ok((self.plan, self.world))
    }
}

/// Ten records in batches of three.
pub fn small() -> (Plan, Left) {
    let plan = plan(22, &[1, 2], 3);
    let left = Left::images(&images(&plan, &chunks(1, 0..10)));
    (plan, left)
}

#[test]
fn an_origin_has_one_merge_at_a_time() {
    let (plan, left) = small();
    let world = world_of(&plan, &left);
    let ground = Ground::of(&world, &plan);
    let origin = Origin::new(ground.disks[0].clone(), ground.copy.clone());
    let open = || {
        let (ground, origin) = (ground.clone(), origin.clone());
        let opened = run(&world, async move { ground.open_merge(&origin, &Rc::default()).await });
        opened.unwrap()
    };
    let first = open().unwrap();
    let refused = open().err().unwrap();
    assert!(refused.contains("origin: another snapshot is being merged"), "{refused}");
    drop(first);
    assert!(open().is_ok(), "the first one is gone");
}

#[test]
fn the_status_line_goes_down_to_that_of_an_empty_store() {
    // 35 records in areas of 32.
    let plan = plan(40, &[1], 1);
    let left = Left::images(&images(&plan, &chunks(1, 0..35)));
    let bench = Bench::on(&plan, world_of(&plan, &left));
    let mut lines = vec![bench.status()];
    while bench.family.merge.phase() == Phase::Merging {
        bench.world.step(false);
        if lines.last() != Some(&bench.status()) {
            lines.push(bench.status());
        }
    }
    let used: Vec<&str> = lines.iter().map(|line| line.split('/').next().unwrap()).collect();
    assert_eq!(used[..5], ["38", "37", "36", "35", "33"], "{lines:?}");
    assert_eq!(lines.first().unwrap(), "38/48 3");
    assert_eq!(lines.last().unwrap(), "2/48 2");
    assert_eq!(bench.family.merge.progress().merged, Sectors(35));
    bench.finish();
}

#[test]
fn many_chunks_take_one_flush_and_one_commit() {
    let plan = plan(400, &[2], 1024);
    let scattered = chunks(2, (0..64).map(|number| 3 * number));
    let left = Left::images(&images(&plan, &scattered));
    let bench = Bench::on(&plan, world_of(&plan, &left));
    let (before, mut most) = (bench.family.merge.commits(), 0);
    while bench.family.merge.phase() == Phase::Merging {
        bench.world.step(false);
        most = most.max(bench.world.disks()[0].in_flight());
    }
    let flushes = bench.family.origin.disk().counters().flushes;
    assert_eq!(flushes, 1);
    assert_eq!(bench.family.merge.commits() - before, 2, "an area of two blocks");
    assert!(most >= 8, "{most} copies in flight together");
    bench.finish();
}

#[test]
fn a_write_waits_for_its_own_batch_only() {
    let (plan, left) = small();
    let bench = Bench::paused(&plan, &left);
    // Records 9, 8, 7 are the batch; their copy does not end.
    bench.world.disks()[0].hold(Matcher { class: Class::Write, first: 7, end: 10 });
    bench.family.merge.unpause();
    assert!(bench.world.run(STEPS));
    let writes = [9, 6, 15].map(|sector| bench.write(sector, 1));
    assert!(bench.world.run(STEPS));
    let ended = writes.each_ref().map(|slot| slot.borrow().is_some());
    assert_eq!(ended, [false, true, true], "in the batch, on the COW, on the origin");
    bench.world.disks()[0].release();
    assert!(bench.world.run(STEPS));
    assert_eq!(*writes[0].borrow(), Some(Ok(())));
    bench.finish();
}

#[test]
fn a_discard_changes_nothing() {
    let (plan, left) = small();
    let bench = Bench::paused(&plan, &left);
    let before = read_all(&bench.world, &bench.family, 0).unwrap();
    let discard = bench.start(RequestKind::Discard, 0, 20);
    assert!(bench.world.run(STEPS));
    assert_eq!(*discard.borrow(), Some(Ok(())));
    assert_eq!(read_all(&bench.world, &bench.family, 0).unwrap(), before);
    bench.finish();
}

#[test]
fn a_rate_holds_and_can_be_lifted() {
    let (mut plan, left) = small();
    plan.records = 1;
    let bench = Bench::paused(&plan, &left);
    let left_at_first = bench.family.merge.progress().left.0;
    bench.family.merge.set_rate(NonZeroU64::new(512));
    bench.family.merge.unpause();
    let begun_ms = now_ms(&bench);
    while bench.family.merge.progress().left.0 > left_at_first - 5 {
        bench.world.step(false);
    }
    let took_ms = now_ms(&bench) - begun_ms;
    assert!((4000..6000).contains(&took_ms), "5 sectors at one a second took {took_ms} ms");
    bench.family.merge.set_rate(None);
    let lifted_ms = now_ms(&bench);
    while bench.family.merge.phase() == Phase::Merging {
        bench.world.step(false);
    }
    assert_eq!(now_ms(&bench), lifted_ms, "it does not wait for the rate that there was");
    bench.finish();
}

fn now_ms(bench: &Bench) -> u64 {
    use dm_targets::disk::Host;
    bench.world.host.now_ms()
}

#[test]
fn a_suspended_device_merges_nothing() {
    let (mut plan, left) = small();
    plan.records = 1;
    let bench = Bench::on(&plan, world_of(&plan, &left));
    let target = Target::Merge(bench.family.merge.clone());
    let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
    let suspended = device.clone();
    run(&bench.world, async move { suspended.suspend(false).await }).unwrap().unwrap();
    let (left, writes) = (bench.family.merge.progress().left, bench.world.disks()[0].writes());
    assert!(bench.world.run(STEPS) && left.0 > 0);
    assert_eq!(bench.world.disks()[0].writes(), writes);
    let resumed = device.clone();
    run(&bench.world, async move { resumed.resume(true).await }).unwrap();
    assert!(bench.world.run(STEPS));
    let size = device.target().size();
    assert_eq!((bench.family.merge.phase(), size), (Phase::Done, Some(Sectors(22))));
    drop(device);
    bench.finish();
}

#[test]
fn an_invalid_store_leaves_the_origin() {
    let (plan, mut left) = small();
    left.lost = vec![Some(Loss::MarkFailed), None];
    let bench = Bench::on(&plan, world_of(&plan, &left));
    assert_eq!((bench.family.merge.phase(), bench.status()), (Phase::Unusable, "Invalid".into()));
    assert_eq!(read_all(&bench.world, &bench.family, 0).unwrap(), left.images[0].sectors);
    let write = bench.write(3, 2);
    assert!(bench.world.run(STEPS));
    assert_eq!(*write.borrow(), Some(Ok(())));
    let shown = read_all(&bench.world, &bench.family, 1).unwrap();
    assert_eq!(shown, left.images[0].sectors, "other snapshots are kept from it");
    bench.finish();
}

/// Writes that a server had acknowledged and only journaled when it died are part of the snapshot.
#[test]
fn journaled_records_of_a_dead_server_are_merged() {
    let (mut plan, mut left) = small();
    plan.setup.journal = true;
    let record = Record { old: Chunk(15), new: CowChunk(12) };
    left.journals = vec![Journaled { records: vec![record], recorded: 10 }, Journaled::default()];
    left.images[1].sectors[12] = SectorData::new(&pattern::payload(pattern::FIRST_WRITE, 15, 1));
    let bench = Bench::on(&plan, world_of(&plan, &left));
    assert!(bench.world.run(STEPS));
    assert_eq!(bench.family.merge.phase(), Phase::Done);
    let shown = read_all(&bench.world, &bench.family, 0).unwrap();
    assert_eq!(shown[15], pattern::sector(pattern::FIRST_WRITE, 15));
    assert!(
        bench
            .world
            .journals_left(CrashKind::Process)
            .iter()
            .all(|journaled| journaled.records.is_empty())
    );
    bench.finish();
}

/// Another program writes to the COW while it is merged: no copy follows its records, least of all
/// one of the header.
#[test]
fn records_that_another_program_has_changed_are_not_merged() {
    let with_last = |last: (u64, u64)| (0..9).map(|old| (old, old + 2)).chain([last]).collect();
    let variants: [Vec<(u64, u64)>; 5] = [
        vec![],
        vec![(0, 2), (1, 3), (5, 4)],
        vec![(21, 0), (3, 0)],
        with_last((20, 11)),
        with_last((9, 12)),
    ];
    for records in variants {
        let (plan, left) = small();
        let bench = Bench::paused(&plan, &left);
        let before = bench.world.disks()[0].visible();
        let bytes = |(old, new): &(u64, u64)| [old.to_le_bytes(), new.to_le_bytes()].concat();
        let mut area: Vec<u8> = records.iter().flat_map(bytes).collect();
        area.resize(512, 0);
        let (cow, payload) = (bench.world.disks()[1].disk(), bench.world.host.add_payload(area));
        let write = async move {
            cow.write(Sector(1), Sectors(1), Memory::payload(payload), true).await.unwrap();
        };
        run(&bench.world, write).unwrap();
        bench.family.merge.unpause();
        assert!(bench.world.run(STEPS));
        let fault = bench.family.merge.fault();
        assert!(matches!(fault, Some(MergeFault::Changed { .. })), "{records:?}: {fault:?}");
        assert_eq!(bench.status(), "Merge failed");
        assert_eq!(bench.world.disks()[0].visible(), before);
        bench.finish();
    }
}

/// The store that a stopped merge leaves is valid until the origin changes; an empty store always
/// is.
#[test]
fn the_rest_of_a_merge_is_recorded_as_lost_before_its_origin_changes() {
    for done in [false, true] {
        let (plan, left) = small();
        let bench = Bench::paused(&plan, &left);
        if done {
            bench.family.merge.unpause();
            assert!(bench.world.run(STEPS));
        }
        let merge = bench.family.merge.clone();
        run(&bench.world, async move { merge.close().await }).unwrap().unwrap();
        let view = merge_view(&bench.plan, &crash_images(&bench.world));
        assert_eq!(view.unwrap(), read_all(&bench.world, &bench.family, 0).unwrap());
        assert_eq!(bench.world.losses()[0].recorded(), None);
        let (origin, bytes) = (bench.family.origin.clone(), pattern::payload(200, 3, 1));
        let payload = bench.world.host.add_payload(bytes);
        let (kind, memory) = (RequestKind::Write { fua: false }, Memory::payload(payload));
        let request = Request { kind, sector: Sector(3), count: Sectors(1), memory };
        run(&bench.world, async move { origin.handle(&request).await }).unwrap().unwrap();
        let lost = (!done).then_some(Loss::OriginChanged);
        assert_eq!(bench.world.losses()[0].recorded(), lost, "done: {done}");
    }
}

fn crash_images(world: &World) -> Vec<Image> {
    world.disks().iter().map(|disk| disk.visible()).collect()
}
