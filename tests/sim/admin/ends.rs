//! The end of a server that is told to end while nothing can be written down: it leaves no device
//! that the next server would not know of, and comes to its end by itself once it can.

use super::Step::{Add, Full, Terminate, Use};
use super::What::{Origin, Snap};
use super::town::Town;
use super::{Step, act};
use crate::server::admin::Ending;

fn town_after(steps: &[Step]) -> Town {
    let mut town = Town::new(1, true);
    steps.iter().for_each(|step| act(&mut town, *step));
    town
}

#[test]
fn what_is_on_record_already_needs_no_room() {
    let steps = [Add(Origin), Add(Snap(0)), Use(Origin, true), Full(true), Terminate("o")];
    let mut town = town_after(&steps);
    assert!(!town.processes.contains_key("o"), "{:?}", town.log);
    assert!(town.state("o").is_ok_and(|devices| devices.len() == 2));
    act(&mut town, Full(false));
    act(&mut town, Step::Recover);
    assert!(town.end().is_ok(), "{:?}", town.log);
}

#[test]
fn what_is_not_on_record_keeps_the_server() {
    let steps = [Add(Origin), Add(Snap(0)), Add(Snap(1)), Use(Origin, true), Full(true)];
    let mut town = town_after(&steps);
    let deleted = town.del(Snap(1), false);
    assert!(
        deleted.is_err_and(|why| why.contains("deleted, but") && why.contains("not on record"))
    );
    act(&mut town, Terminate("o"));
    let admin = |town: &mut Town| {
        town.processes.get_mut("o").map(|process| {
            process.admin.shut_down().map(|()| process.admin.ending() == Ending::Leaves)
        })
    };
    assert_eq!(admin(&mut town), Some(Ok(false)), "{:?}", town.log);
    // Without another signal.
    act(&mut town, Full(false));
    assert_eq!(admin(&mut town), Some(Ok(true)), "{:?}", town.log);
    assert!(town.state("o").is_ok_and(|devices| devices.len() == 2));
}
