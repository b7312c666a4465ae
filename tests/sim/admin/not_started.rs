//! Devices that the kernel does not start again for the server that has taken them over.

use super::Step::{self, *};
use super::town::{Town, What};
use crate::ublk::DeviceState as DiskState;
use dm_targets::sim::disk::Class;

const O: What = What::Origin;
const S: What = What::Snap(0);

/// Stories in which the kernel does not start devices that are taken over, and is asked again.
pub(super) fn stories() -> Vec<Vec<Step>> {
    vec![
        vec![Add(S), Add(O), Kill("o"), Refuse(2), Recover, Mend, Recover, Write(O, 2)],
        vec![
            Add(O),
            Add(S),
            Kill("o"),
            Attach(1, false),
            Refuse(1),
            Recover,
            Attach(1, true),
            Recover,
            Write(O, 2),
        ],
        vec![
            Add(What::Mirror),
            Suspend(What::Mirror),
            Kill("mirror-a"),
            Refuse(1),
            Recover,
            Terminate("mirror-a"),
            Recover,
        ],
    ]
}

fn dead_family() -> Town {
    let mut town = Town::new(1, true);
    town.add(O).unwrap();
    town.add(S).unwrap();
    town.write(S, 1);
    town.kill("o");
    town
}

fn is_live(town: &Town, what: What) -> bool {
    town.site.kernel.borrow().devices[&town.devices[&what].id].info.state == DiskState::Live
}

#[test]
fn what_the_kernel_does_not_start_is_started_by_the_next_recover() {
    let mut town = dead_family();
    town.refuse_to_start(3);
    let why = town.recover().unwrap_err();
    for name in ["snap", "origin"] {
        let said = why.contains(&format!("; the device waits, and `ublk-dm recover {name}"));
        assert!(said && why.contains("not recovered"), "{why}");
    }
    town.write(O, 3);
    assert!(!is_live(&town, O) && !is_live(&town, S));
    // The snapshot alone is refused once more, and the error names it.
    let why = town.recover().unwrap_err();
    assert!(why.contains("snap") && !why.contains("origin"), "{why}");
    assert!(is_live(&town, O) && !is_live(&town, S));
    // It has joined its origin, although its users wait.
    assert_eq!(town.recover(), Ok(()));
    town.collect_replies();
    assert!(town.in_flight.is_empty(), "the origin's write waits");
    assert_eq!(town.judge(S), Ok(()));
    assert!(matches!(town.read(S), Some(Ok(_))));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn one_that_is_deleted_while_it_waits_is_gone() {
    let mut town = dead_family();
    town.refuse_to_start(1);
    town.recover().unwrap_err();
    assert!(!is_live(&town, S));
    assert_eq!(town.del(S, false), Ok(()));
    assert!(town.state("o").is_ok_and(|devices| devices.len() == 1));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_suspended_snapshot_whose_cow_fails_is_taken_over_by_the_next_recover() {
    for class in [Class::Write, Class::Flush, Class::Read] {
        for skip in 0..6 {
            let mut town = Town::new(1, true);
            town.add(O).unwrap();
            town.add(S).unwrap();
            town.write(S, 1);
            town.suspend(S).unwrap();
            town.kill("o");
            town.fail(1, class, skip);
            let first = town.recover();
            town.mend();
            let again = town.recover();
            let said = again.as_ref().err().is_none_or(|why| why.contains("is invalid"));
            assert!(said, "{class:?} {skip}: {first:?}, {again:?}");
            assert!(is_live(&town, S), "{class:?} {skip}: {first:?}, {again:?}");
            assert!(town.read(S).is_none(), "{class:?} {skip}: it is not suspended any more");
            assert_eq!(town.end(), Ok(()), "{class:?} {skip}");
        }
    }
}
