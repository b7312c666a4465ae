//! An `add` that is undone while its COW hangs, or while the kernel does not delete its device:
//! what a new store has overwritten is put back all the same, and no other command waits for it.

use super::kernel::Control;
use super::silent::{answer, process};
use super::takeback::{Beside, COW, add, cow, known, take_back, town};
use super::town::{Town, What};
use crate::protocol::Command;
use crate::server::admin::Ending;

/// Why it is undone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    /// The kernel does not start the device.
    Refused,
    /// Its client has left.
    Left,
    /// Its client could not pass the answer on.
    Asked,
}

pub(super) const WAYS: [Way; 3] = [Way::Refused, Way::Left, Way::Asked];
const BESIDE: [Beside; 3] = [Beside::Nothing, Beside::Origin, Beside::UsedOrigin];

/// Has an `add` undone whose COW hangs after so many operations, or does not hang.
fn undo(way: Way, beside: Beside, operations: u32) -> (Town, Result<(), String>) {
    let mut town = town(beside);
    town.site.gives_up.set(true);
    let device = if way == Way::Asked { Some(add(&mut town).unwrap()) } else { None };
    town.site.disks[COW].hangs_after.set(Some(operations));
    if way == Way::Refused {
        town.deny(Control::Start, 0);
    }
    town.client_leaves = way == Way::Left;
    let done = match device {
        Some(device) => take_back(&mut town, device).map(drop),
        None => add(&mut town).map(drop),
    };
    town.site.kernel.borrow_mut().denied.clear();
    if !town.site.disks[COW].hangs.get() {
        town.site.disks[COW].hangs_after.set(None);
    }
    (town, done)
}

/// All operations after which the COW hangs while an `add` is undone, or begun.
fn each_hang(mut judge: impl FnMut(&str, &mut Town, Result<(), String>)) {
    for way in WAYS {
        for beside in BESIDE {
            let mut at = 0;
            loop {
                let (mut town, done) = undo(way, beside, at);
                let hangs = town.site.disks[COW].hangs.get();
                judge(&format!("{way:?} {beside:?} {at}"), &mut town, done);
                if !hangs {
                    break;
                }
                at += 1;
            }
            assert!(at > 2, "{way:?} {beside:?}: it hangs {at} times");
        }
    }
}

#[test]
pub(super) fn a_cow_that_hangs_is_put_back_when_it_answers() {
    each_hang(|which, town, done| {
        let has_origin = town.has(What::Origin);
        if town.site.disks[COW].hangs.get() {
            assert!(done.is_err(), "{which}");
            if has_origin {
                town.suspend(What::Origin).unwrap();
                town.resume(What::Origin).unwrap();
            }
            if town.processes.contains_key("o") {
                answer(town, "/c0", What::Origin);
            }
        }
        assert!(cow(town) == known(), "{which}: {done:?}: the COW has changed");
        assert_eq!(town.site.kernel.borrow().devices.len(), usize::from(has_origin), "{which}");
        assert_eq!(town.state("o").unwrap().len(), usize::from(has_origin), "{which}");
        let is_idle = town.processes.get("o").is_none_or(|process| process.admin.is_idle());
        assert_eq!(is_idle, !has_origin, "{which}");
        if has_origin {
            town.set_use(What::Origin, false);
            add(town).unwrap();
        }
    });
}

/// What is left is on record, and the server has failed.
#[test]
fn a_server_that_ends_before_an_add_is_undone_says_so() {
    each_hang(|which, town, _| {
        if !town.site.disks[COW].hangs.get() || !town.processes.contains_key("o") {
            return;
        }
        town.set_use(What::Origin, false);
        town.ask("o", Command::Shutdown).unwrap();
        if !town.processes.contains_key("o") {
            return;
        }
        let admin = &process(town, What::Origin).admin;
        assert!(admin.ending() == Ending::Leaves, "{which}");
        assert!(admin.is_idle() || admin.has_lost(), "{which}: it ends well");
        let told: Vec<u32> = town.state("o").unwrap().iter().map(|device| device.id).collect();
        let there: Vec<u32> = town.site.kernel.borrow().devices.keys().copied().collect();
        assert_eq!(told, there, "{which}");
    });
}

#[test]
pub(super) fn a_cow_is_put_back_though_the_kernel_keeps_its_device() {
    for way in WAYS {
        let mut town = town(Beside::Origin);
        let device = if way == Way::Asked { Some(add(&mut town).unwrap()) } else { None };
        if way == Way::Refused {
            town.deny(Control::Start, 0);
        }
        town.deny(Control::Delete, 0);
        town.client_leaves = way == Way::Left;
        let why = match device {
            Some(device) => take_back(&mut town, device).map(drop),
            None => add(&mut town).map(drop),
        };
        let why = why.unwrap_err();
        assert!(way == Way::Left || why.contains("Delete: "), "{why}");
        assert!(cow(&town) == known(), "{way:?}: the COW has changed");
        assert_eq!(town.state("o").unwrap().len(), 1, "{way:?}: it has no server");
    }
}
