//! The code under test, put together as a server does it: an origin with other snapshots, and then
//! the merge into it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Disk, Host, Memory};
use dm_targets::exec::Executor;
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::host::SimHost;
use dm_targets::sim::image::SectorData;
use dm_targets::sim::journal::SimJournal;
use dm_targets::sim::losses::SimLosses;
use dm_targets::sim::world::World;
use dm_targets::snapshot::Event;
use dm_targets::snapshot::format::StoreId;
use dm_targets::snapshot::journal::Journal;
use dm_targets::snapshot::merge::{Bounds, Merge};
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::store::Ownership;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sector, Sectors};

use crate::stack::{Setup, SnapSetup};
use crate::told::carry_out;

/// A family with a merge: the first snapshot of the set-up is the one that is merged, the device 0
/// is the merge, and the device N the snapshot N of the set-up's.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its disks.
    pub setup: Setup,
    /// The number of snapshots, at the end of the list, that join later.
    pub late: usize,
    /// Records of a batch.
    pub records: usize,
    /// The device's length, if it is not the origin's.
    pub len: Option<u64>,
    /// Stores and origin say whose they are.
    pub owned: bool,
}

/// A running family.
pub struct Family {
    pub origin: Rc<Origin>,
    pub merge: Rc<Merge>,
    /// The other snapshots; late ones after they have joined.
    pub snaps: RefCell<Vec<Option<Rc<Snapshot>>>>,
    left: RefCell<Vec<usize>>,
    pub events: Rc<RefCell<Vec<Event>>>,
    joining: Cell<usize>,
    ground: Ground,
}

/// The disks of a family.
#[derive(Clone)]
pub struct Ground {
    pub executor: Executor,
    pub host: Rc<dyn Host>,
    machine: Rc<SimHost>,
    pub disks: Vec<Disk>,
    pub kept: Vec<(Rc<SimJournal>, Rc<SimLosses>)>,
    pub copy: copy::Client,
    pub merge_copy: copy::Client,
    pub plan: Plan,
    ownership: Ownership,
}

impl Ground {
    /// On the disks of a world.
    pub fn of(world: &World, plan: &Plan) -> Ground {
        let (executor, host): (_, Rc<dyn Host>) = (world.executor.clone(), world.host.clone());
        let client = || copy::Client::new(&executor, &host, None).expect("a machine has memory");
        let (copy, merge_copy) = (client(), client());
        let disks = world.disks().iter().map(|disk| disk.disk()).collect();
        let kept = world.journals().iter().cloned().zip(world.losses().iter().cloned()).collect();
        let (store, origin) = (StoreId([7; 16]), "origin".to_owned());
        let ownership = Ownership { store, origin, adopt: false };
        let (machine, plan) = (world.host.clone(), plan.clone());
        Ground { executor, host, machine, disks, kept, copy, merge_copy, plan, ownership }
    }

    /// The parts of a snapshot.
    fn parts<'a>(
        &'a self,
        origin: &'a Rc<Origin>,
        number: usize,
        events: &Rc<RefCell<Vec<Event>>>,
    ) -> Parts<'a> {
        let SnapSetup { chunk, on_full, .. } = self.plan.setup.snaps[number];
        let (journal, losses) = self.kept[number].clone();
        let heard = events.clone();
        let discards = self.plan.setup.discards && number > 0;
        Parts {
            executor: &self.executor,
            host: &self.host,
            copy: if number == 0 { &self.merge_copy } else { &self.copy },
            origin: origin.disk(),
            cow: &self.disks[number + 1],
            chunk_size: ChunkSize::from_sectors(chunk),
            persistent: true,
            overwrite: false,
            ownership: self.plan.owned.then_some(&self.ownership),
            lost: losses.recorded().is_some(),
            losses,
            len: self.plan.len.filter(|_| number == 0).map(Sectors),
            options: Options {
                on_full: if number == 0 { OnFull::Invalidate } else { on_full },
                discard_zeroes_cow: discards,
                discard_passdown_origin: discards,
            },
            journal: self.plan.setup.journal.then_some(journal as Rc<dyn Journal>),
            listener: Rc::new(move |event| heard.borrow_mut().push(event)),
        }
    }

    /// Opens a merge of the first COW.
    pub async fn open_merge(
        &self,
        origin: &Rc<Origin>,
        events: &Rc<RefCell<Vec<Event>>>,
    ) -> Result<Rc<Merge>, String> {
        let bounds = Bounds { records: self.plan.records, ..Bounds::default() };
        let merge = Merge::open(self.parts(origin, 0, events), origin, bounds).await;
        merge.map_err(|error| format!("open refused: {error}"))
    }

    async fn join(&self, origin: &Rc<Origin>, number: usize) -> Result<Rc<Snapshot>, String> {
        let events = Rc::default();
        let snap = Snapshot::open(self.parts(origin, number, &events)).await;
        let snap = snap.map_err(|error| format!("open refused: {error}"))?;
        snap.activate(&self.executor).await.map_err(|error| format!("activation: {error}"))?;
        origin.join(snap.clone()).await;
        Ok(snap)
    }

    /// Ends the parts that every family has.
    pub async fn close(&self) {
        self.copy.destroy().await;
        self.merge_copy.destroy().await;
    }
}

impl Family {
    /// Opens everything: the other snapshots first, so that the merge finds them.
    pub async fn open(ground: Ground) -> Result<Family, String> {
        let origin = Origin::new(ground.disks[0].clone(), ground.copy.clone());
        let setup = &ground.plan.setup;
        let mut snaps: Vec<Option<Rc<Snapshot>>> = Vec::new();
        let mut failed = None;
        for number in 1..setup.snaps.len() {
            let late = number + ground.plan.late >= setup.snaps.len();
            if late || failed.is_some() {
                snaps.push(None);
                continue;
            }
            match ground.join(&origin, number).await {
                Ok(snap) => snaps.push(Some(snap)),
                Err(error) => {
                    failed = Some(error);
                    snaps.push(None);
                }
            }
        }
        let events = Rc::default();
        let merge = match failed {
            Some(error) => Err(error),
            None => ground.open_merge(&origin, &events).await,
        };
        let merge = match merge {
            Ok(merge) => match merge.activate(&ground.executor).await {
                Ok(()) => Ok(merge),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error),
        };
        match merge {
            Ok(merge) => Ok(Family {
                origin,
                merge,
                snaps: RefCell::new(snaps),
                left: RefCell::default(),
                events,
                joining: Cell::new(0),
                ground,
            }),
            Err(error) => {
                for snap in snaps.into_iter().flatten() {
                    origin.leave(&snap);
                    drop(snap.close().await);
                }
                ground.close().await;
                Err(error)
            }
        }
    }

    /// A snapshot of the family, if it has joined.
    pub fn snap(&self, device: usize) -> Option<Rc<Snapshot>> {
        self.snaps.borrow()[device - 1].clone()
    }

    /// Carries a request out.
    pub async fn handle(self: Rc<Self>, device: usize, request: Request) -> Result<(), String> {
        let target = match device.checked_sub(1) {
            None => Target::Merge(self.merge.clone()),
            Some(_) => match self.snap(device) {
                Some(snap) => Target::Snapshot(snap),
                None => return Err("it is not there".into()),
            },
        };
        let result = carry_out(&self.ground.machine, &target, &request).await;
        result.map_err(|error| error.to_string())
    }

    /// A late snapshot joins; `joined` is called in the moment when it has.
    pub fn join(
        self: Rc<Self>,
        device: usize,
        joined: impl FnOnce(),
    ) -> impl Future<Output = Result<(), String>> {
        self.joining.set(self.joining.get() + 1);
        async move {
            let snap = self.ground.join(&self.origin, device).await;
            if let Ok(snap) = &snap {
                self.snaps.borrow_mut()[device - 1] = Some(snap.clone());
                joined();
            }
            self.joining.set(self.joining.get() - 1);
            snap.map(drop)
        }
    }

    /// Whether a snapshot is joining the family.
    pub fn is_joining(&self) -> bool {
        self.joining.get() > 0
    }

    /// Another snapshot leaves. None of its requests may be in flight.
    pub async fn leave(self: Rc<Self>, device: usize) {
        let Some(snap) = self.snap(device) else { return };
        if self.left.borrow().contains(&device) {
            return;
        }
        self.left.borrow_mut().push(device);
        self.origin.leave(&snap);
        drop(snap.close().await);
    }

    /// Ends everything, the merge first: it changes the origin.
    pub async fn close(self: Rc<Self>) -> Result<(), String> {
        self.merge.close().await.map_err(|cause| cause.to_string())?;
        for device in 1..self.ground.plan.setup.snaps.len() {
            self.clone().leave(device).await;
        }
        self.ground.close().await;
        Ok(())
    }
}

/// The place of a task's result.
pub type Slot<T> = Rc<RefCell<Option<T>>>;

/// Starts opening a family in a world.
pub fn spawn_open(world: &World, plan: &Plan) -> Slot<Result<Rc<Family>, String>> {
    let (ground, slot) = (Ground::of(world, plan), Rc::new(RefCell::new(None)));
    let result = slot.clone();
    world.executor.spawn(async move {
        let opened = Family::open(ground).await;
        *result.borrow_mut() = Some(opened.map(Rc::new));
    });
    slot
}

/// Runs a task to its end in a world without other requests.
pub fn run<T: 'static>(
    world: &World,
    task: impl Future<Output = T> + 'static,
) -> Result<T, String> {
    let (slot, steps): (Slot<T>, usize) = (Rc::default(), 100_000);
    let result = slot.clone();
    world.executor.spawn(async move { *result.borrow_mut() = Some(task.await) });
    for _ in 0..steps {
        if let Some(result) = slot.borrow_mut().take() {
            return Ok(result);
        }
        world.step(false);
    }
    Err("it does not end".into())
}

/// What a device shows.
pub fn read_all(
    world: &World,
    family: &Rc<Family>,
    device: usize,
) -> Result<Vec<SectorData>, String> {
    let sectors = family.ground.plan.setup.origin_sectors;
    let payload = world.host.add_payload(vec![0; usize::try_from(sectors * 512).unwrap()]);
    let request = Request {
        kind: RequestKind::Read,
        sector: Sector(0),
        count: Sectors(sectors),
        memory: Memory::payload(payload),
    };
    let outcome = run(world, family.clone().handle(device, request));
    let bytes = world.host.take_payload(payload);
    outcome?.map(|()| bytes.chunks(512).map(SectorData::new).collect())
}
