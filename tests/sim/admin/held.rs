//! The owner of an opened target: what it drops is closed, and no disk that hangs keeps the owner.

use std::rc::Rc;

use dm_targets::device::OpenTarget;
use dm_targets::disk::DiskKey;
use dm_targets::target::Target;

use super::machine::SimMachine;
use super::thread::{SimHandle, SimThread};
use super::town::Town;
use crate::failure::Reason;
use crate::server::admin::held::Held;
use crate::server::admin::machine::{Machine, Thread, ThreadHandle};

const KEY: DiskKey = DiskKey(0, 0);

struct Fixture {
    town: Town,
    /// Its tasks end with it.
    _machine: SimMachine,
    handle: SimHandle,
}

impl Fixture {
    fn new() -> Fixture {
        let town = Town::new(0, false);
        let machine = SimMachine::start(&town.site, "o", 1).unwrap();
        let handle = machine.handle();
        Fixture { town, _machine: machine, handle }
    }

    fn hang(&self, hangs: bool) {
        self.town.site.disks[0].hangs.set(hangs);
    }

    /// Whether something has the target open: an origin goes with its last user.
    fn is_open(&self) -> bool {
        let look = |thread: Rc<SimThread>| async move {
            thread.group().forget_unused_origins();
            thread.group().origin(KEY).is_some()
        };
        self.handle.call(look).unwrap()
    }

    /// Everything that can happen happens.
    fn come_to_rest(&self) {
        drop(self.town.site.run(&self.handle.executor, || false));
    }
}

/// Opens an origin; `asks` its disk first.
async fn open(thread: Rc<SimThread>, asks: bool) -> Result<(OpenTarget, ()), Reason> {
    let disk = thread.site.disks[0].disk.borrow().disk();
    if asks {
        disk.flush().await.map_err(|error| error.to_string())?;
    }
    let origin = thread.group().origin_or(KEY, || disk);
    Ok((OpenTarget { target: Target::Origin(origin), events: Rc::default() }, ()))
}

async fn flush(_: Rc<SimThread>, opened: OpenTarget) {
    if let Target::Origin(origin) = &opened.target {
        drop(origin.disk().flush().await);
    }
}

fn opened(fixture: &Fixture) -> Held<SimHandle> {
    let held = Held::new(fixture.handle.clone());
    fixture.handle.call(held.opening(|thread| open(thread, false))).unwrap().unwrap();
    assert!(fixture.is_open());
    held
}

#[test]
fn a_target_is_closed_with_its_owner_or_its_last_job() {
    let fixture = Fixture::new();
    let held = opened(&fixture);
    fixture.handle.call(held.job(flush)).unwrap();
    assert!(fixture.is_open());
    drop(held);
    assert!(!fixture.is_open());
    let held = opened(&fixture);
    fixture.handle.call(held.last_job(flush)).unwrap();
    assert!(!fixture.is_open());
}

#[test]
fn a_target_that_cannot_be_opened_keeps_no_owner() {
    let fixture = Fixture::new();
    let held = Held::new(fixture.handle.clone());
    let open = |_: Rc<SimThread>| async { Err::<(OpenTarget, ()), Reason>("no".into()) };
    assert!(fixture.handle.call(held.opening(open)).unwrap().is_err());
    drop(held);
    assert!(!fixture.is_open());
}

/// Waiting for the disk here would make it answer.
#[test]
fn an_owner_waits_for_no_job_that_hangs() {
    let fixture = Fixture::new();
    for last in [false, true] {
        let held = opened(&fixture);
        fixture.hang(true);
        if last {
            fixture.handle.begin(held.last_job(flush));
            fixture.come_to_rest();
        } else {
            fixture.handle.begin(held.job(flush));
            fixture.come_to_rest();
            drop(held);
        }
        assert!(fixture.town.site.disks[0].hangs.get(), "it was waited for");
        assert!(last || fixture.is_open(), "it is closed under a job");
        fixture.hang(false);
        fixture.come_to_rest();
        assert!(!fixture.is_open(), "last {last}: it stays open");
    }
}

#[test]
fn a_target_that_is_opened_too_late_is_closed() {
    let fixture = Fixture::new();
    let held = Held::new(fixture.handle.clone());
    fixture.hang(true);
    let late = fixture.handle.begin(held.opening(|thread| open(thread, true)));
    fixture.come_to_rest();
    drop(held);
    assert!(fixture.town.site.disks[0].hangs.get() && late.borrow().is_none());
    fixture.hang(false);
    fixture.come_to_rest();
    assert!(late.borrow().is_some() && !fixture.is_open());
}
