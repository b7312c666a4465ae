//! A family is taken over while the COW of one of its snapshots can be opened, and not be read.

use dm_targets::sim::disk::Class;

use super::town::{Town, What};
use crate::protocol::{Command, Reply};
use crate::ublk::DeviceState as DiskState;

const O: What = What::Origin;
const BAD: What = What::Snap(0);
const SOUND: What = What::Snap(1);
/// The disk of the bad COW.
const COW: usize = 1;

fn is_live(town: &Town, what: What) -> bool {
    town.site.kernel.borrow().devices[&town.devices[&what].id].info.state == DiskState::Live
}

/// A family whose server has died, added in this order, with a COW that cannot be read: not even
/// when it is opened, or only by the target.
fn dead_family(order: [What; 3], probed: bool) -> Town {
    let mut town = Town::new(1, true);
    order.into_iter().for_each(|what| town.add(what).unwrap());
    for what in [BAD, SOUND] {
        town.write(what, 1);
        town.flush(what);
    }
    town.write(O, 3);
    town.flush(O);
    town.kill("o");
    town.break_down(COW, Class::Read, probed);
    town
}

/// The origin and the sound snapshot come back, and the other one is left out by name.
fn the_others_come_back(order: [What; 3], probed: bool) {
    let case = format!("{order:?}, probed {probed}");
    let mut town = dead_family(order, probed);
    let devices = town.state("o").unwrap();
    let bad = devices.iter().find(|one| one.device() == town.devices[&BAD].device()).unwrap();
    let others = devices.iter().filter(|one| one.device() != bad.device());
    let others: Vec<_> = others.map(|one| one.name.clone()).collect();
    let why = town.recover().expect_err(&case);
    let left_out = format!("{}: not recovered: ", bad.name);
    assert!(why.contains(&left_out) && why.contains("/c0"), "{case}: {why}");
    assert!(why.contains("Input/output error"), "{case}: {why}");
    let named = |name: &String| why.contains(&format!("{name}: "));
    assert!(!others.iter().any(named), "{case}: {others:?}: {why}");
    assert_eq!([O, SOUND, BAD].map(|what| is_live(&town, what)), [true, true, false], "{case}");
    town.collect_replies();
    for what in [O, SOUND] {
        assert!(matches!(town.read(what), Some(Ok(_))), "{case}: {what:?} does not answer");
        assert_eq!(town.judge(what), Ok(()), "{case}");
    }
    // It is left out again as long as the COW cannot be read, alone.
    let command = Command::RecoverLeftOut { devices: vec![bad.device()] };
    let Reply::Recovered { problems, .. } = town.ask("o", command).expect(&case) else {
        panic!("{case}: another reply");
    };
    let named: Vec<_> = problems.iter().map(|one| one.device).collect();
    assert_eq!(named, [Some(bad.device())], "{case}: {problems:?}");
    town.write(O, 5);
    town.write(SOUND, 6);
    assert!(town.in_flight.is_empty(), "{case}: the others wait");
    assert_eq!(town.end(), Ok(()), "{case}");
}

fn all() {
    for order in [[BAD, O, SOUND], [O, SOUND, BAD], [SOUND, BAD, O]] {
        for probed in [false, true] {
            the_others_come_back(order, probed);
        }
    }
}

#[test]
fn a_cow_that_cannot_be_read_keeps_no_other_device_from_coming_back() {
    all();
}

/// What the left-out snapshot shows when its COW can be read again, before its origin has changed.
#[test]
fn it_comes_back_whole_when_its_origin_has_not_changed() {
    for probed in [false, true] {
        let mut town = dead_family([BAD, O, SOUND], probed);
        town.recover().unwrap_err();
        town.mend();
        assert_eq!(town.recover(), Ok(()), "probed {probed}");
        assert!(matches!(town.read(BAD), Some(Ok(_))), "probed {probed}: it is lost");
        assert_eq!(town.judge(BAD), Ok(()), "probed {probed}");
        assert_eq!(town.end(), Ok(()), "probed {probed}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_recovery_that_stops_there_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::StopAtFirst));
    let lived = std::panic::catch_unwind(all);
    mutant::set(None);
    assert!(lived.is_err());
}
