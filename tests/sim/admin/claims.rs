//! A disk that is a mirror's already is not taken for it a second time, claimed or not, under any
//! of its names.

use super::foreign_disks::add_as;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef};

/// The disks of the two legs, and a third one.
const LEGS: [usize; 2] = [3, 4];
const OTHER: usize = 5;

/// A mirror whose first leg is not claimed: it had another user when the mirror was added by force.
fn town() -> Town {
    let mut town = Town::new(1, true);
    town.site.disks[LEGS[0]].claim.set(Some(u32::MAX));
    add_as(&mut town, What::Mirror, true, false).unwrap();
    town.site.disks[LEGS[0]].claim.set(None);
    town
}

pub(super) fn tell(town: &mut Town, message: &str) -> Result<(), String> {
    let mirror = &town.state("mirror-a").unwrap()[0];
    let device = DeviceRef { id: mirror.id, cookie: mirror.cookie };
    let words = message.split(' ').map(str::to_owned).collect();
    town.ask("mirror-a", Command::Message { device, words, named: Vec::new() }).map(drop)
}

#[test]
fn a_leg_is_not_added_again_though_nothing_claims_it() {
    for message in ["add-leg /a", "replace 1 /a"] {
        let why = tell(&mut town(), message).unwrap_err();
        assert!(why.contains("it is leg 0 of the mirror already (/a)"), "{message}: {why}");
    }
}

#[test]
fn a_leg_is_not_added_again_under_another_name() {
    for message in ["add-leg /c", "replace 1 /c"] {
        let mut town = town();
        town.site.disks[OTHER].same_as.set(Some(LEGS[0]));
        let why = tell(&mut town, message).unwrap_err();
        assert!(why.contains("it is leg 0 of the mirror already (/a)"), "{message}: {why}");
    }
}

/// A leg that another user shares takes its own place again, and is shared as before.
#[test]
fn a_leg_takes_its_own_place() {
    tell(&mut town(), "replace 0 /a").unwrap();
    tell(&mut town(), "replace 1 /b").unwrap();
}

#[test]
#[cfg(feature = "mutants")]
fn a_leg_that_is_added_twice_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::LegTwice));
    let added = tell(&mut town(), "add-leg /a");
    mutant::set(None);
    added.unwrap();
}
