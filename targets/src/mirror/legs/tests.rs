//! The kernel's tables row by row, and that there is always an up-to-date leg to read and copy
//! from.

use super::super::read_balance::STREAM_SLACK;
use super::*;
use crate::units::{Sector, Sectors};

fn legs(count: usize, handle_errors: bool, keep_log: bool) -> Legs {
    let mut legs = Legs::new(count, handle_errors, keep_log, LegSet::default(), None);
    assert!(legs.all_in_sync());
    legs
}

#[test]
fn letters_show_the_worst_that_happened() {
    use LegHealth::{Alive, Dead, FlushFailed, ReadFailed, SyncFailed};
    let mut legs = legs(2, true, false);
    assert_eq!(legs.health(1), Alive);
    for (failure, letter) in [
        (Failure::Read, ReadFailed),
        (Failure::Sync, SyncFailed),
        (Failure::Read, SyncFailed),
        (Failure::Write, Dead),
        (Failure::Sync, Dead),
        (Failure::Flush, FlushFailed),
        (Failure::Write, FlushFailed),
    ] {
        legs.fail(1, failure);
        assert_eq!(legs.health(1), letter);
    }
    assert_eq!(legs.totals(1), ErrorCounts { reads: 2, writes: 2, flushes: 1, syncs: 2 });
    legs.miss(LegSet::one(1));
    assert!(legs.all_in_sync() && !legs.all_in_sync());
    assert_eq!(
        (legs.health(1), legs.totals(1).syncs),
        (Alive, 2),
        "letters are forgotten, totals are not"
    );
}

#[test]
fn the_first_error_of_each_kind_is_news() {
    let mut legs = legs(2, true, false);
    let news: Vec<bool> = [Failure::Read, Failure::Read, Failure::Write, Failure::Read]
        .map(|failure| legs.fail(0, failure))
        .into();
    assert_eq!(news, [true, false, true, false]);
}

/// Spec 4.3: the result of a write that failed on some legs, for each combination of features.
#[test]
fn verdicts_follow_the_table() {
    for (handle_errors, keep_log) in [(false, false), (true, false), (true, true)] {
        for log_failed in [false, true] {
            for kept in [false, true] {
                for failed in 0..4_u16 {
                    let mut legs = legs(2, handle_errors, keep_log);
                    for leg in LegSet(failed).iter() {
                        legs.fail(leg, Failure::Write);
                    }
                    let expected = if failed == 3 || keep_log && log_failed {
                        Verdict::Fail
                    } else if handle_errors && !keep_log {
                        Verdict::Hold
                    } else if kept {
                        Verdict::Succeed
                    } else {
                        // The kernel would acknowledge a write that only a leg has which is never
                        // read.
                        Verdict::Fail
                    };
                    assert_eq!(legs.verdict(log_failed, kept), expected);
                    assert_eq!(legs.holds_out_of_sync(), failed > 0 && handle_errors && !keep_log);
                }
            }
        }
    }
}

#[test]
fn a_leg_that_missed_something_is_neither_source_nor_default_nor_read() {
    let mut legs = legs(3, false, false);
    legs.fail(0, Failure::Write);
    assert!(legs.miss(LegSet::one(0)));
    assert_eq!(
        (legs.default_leg(), legs.sources(), legs.stale()),
        (1, LegSet(0b110), LegSet(0b001))
    );
    for _ in 0..10 {
        assert!(legs.pick(Sector(0), LegSet::default()).is_some_and(|leg| leg != 0));
    }
    assert_eq!(legs.pick(Sector(0), LegSet(0b110)), None);
    assert_eq!(legs.pick_source(LegSet::default()), Some(1));
    assert_eq!(legs.pick_source(LegSet(0b010)), Some(2), "another source holds the same");
    assert_eq!(legs.pick_source(LegSet(0b110)), None);
    legs.fail(1, Failure::Write);
    assert!(legs.miss(LegSet::one(1)));
    assert_eq!((legs.default_leg(), legs.sources()), (2, LegSet(0b100)));
    legs.fail(2, Failure::Write);
    assert!(!legs.miss(LegSet::one(2)), "no source leg has it");
    assert_eq!((legs.default_leg(), legs.sources()), (2, LegSet(0b100)), "the last source stays");
}

#[test]
fn sources_that_all_failed_may_differ_so_one_is_left() {
    let mut legs = legs(3, false, false);
    for leg in 0..3 {
        legs.fail(leg, Failure::Write);
    }
    assert!(!legs.miss(legs.all()));
    assert_eq!(legs.sources(), LegSet::one(legs.default_leg()));
    assert_eq!(legs.stale(), legs.all().without(legs.sources()));
}

#[test]
fn read_errors_move_the_default_leg_but_leave_it_a_source() {
    for handle_errors in [false, true] {
        let mut legs = legs(2, handle_errors, false);
        legs.fail(0, Failure::Read);
        assert_eq!((legs.default_leg(), legs.sources()), (1, LegSet(0b11)));
        legs.fail(1, Failure::Read);
        assert_eq!(legs.default_leg(), 1);
        assert!(
            legs.pick(Sector(0), LegSet::default()).is_some(),
            "each may still have what the other has not"
        );
        let first = legs.pick(Sector(0), LegSet::default()).unwrap();
        assert_eq!(legs.pick(Sector(0), LegSet::one(first)), Some(1 - first));
    }
}

#[test]
fn while_it_is_unknown_which_leg_is_right_the_default_does_not_change() {
    let mut legs = Legs::new(2, true, false, LegSet::default(), None);
    assert_eq!((legs.sources(), legs.stale()), (LegSet(0b01), LegSet(0)));
    legs.fail(0, Failure::Sync);
    assert_eq!(legs.default_leg(), 0);
    legs.fail(0, Failure::Write);
    assert!(!legs.miss(LegSet::one(0)));
    assert_eq!(legs.default_leg(), 0);
}

#[test]
fn what_was_remembered_decides_where_to_recover_from() {
    let remembered = |stale, source: Option<usize>| {
        let legs = Legs::new(3, true, false, LegSet(stale), source.map(LegSet::one));
        (legs.default_leg(), legs.sources().0, legs.stale().0)
    };
    assert_eq!(remembered(0b000, None), (0, 0b001, 0b000));
    assert_eq!(remembered(0b001, None), (1, 0b010, 0b001));
    assert_eq!(remembered(0b011, None), (2, 0b100, 0b011));
    assert_eq!(remembered(0b000, Some(0)), (0, 0b001, 0b000));
    assert_eq!(remembered(0b000, Some(2)), (2, 0b100, 0b011), "and must be remembered itself");
    assert_eq!(remembered(0b001, Some(0)), (0, 0b001, 0b110), "the administrator knows better");
}

#[test]
fn the_log_never_names_only_legs_that_were_not_flushed() {
    // Leg 2 was the only one up to date; the others have just been recovered from it.
    let mut legs = Legs::new(3, false, false, LegSet(0b011), None);
    assert_eq!(legs.to_remember(), Some(LegSet(0b011)));
    legs.all_in_sync();
    assert_eq!(
        (legs.stale(), legs.to_remember()),
        (LegSet(0), Some(LegSet(0b011))),
        "not flushed yet"
    );
    legs.miss(LegSet::one(2));
    assert_eq!(
        (legs.sources(), legs.to_remember()),
        (LegSet(0b011), None),
        "they must be flushed first"
    );
    legs.mark_flushed(LegSet(0b010));
    assert_eq!(legs.to_remember(), Some(LegSet(0b101)));
    legs.mark_flushed(LegSet(0b101));
    assert_eq!(legs.to_remember(), Some(LegSet(0b100)), "only sources count");
    // Before a leg has missed a write: the next log may be opened with the legs in another order.
    let fresh = Legs::new(3, false, false, LegSet(0), None);
    assert_eq!(fresh.to_remember(), Some(LegSet(0b110)));
}

#[test]
fn legs_come_and_go() {
    let mut three = legs(3, true, false);
    assert!(three.renew(0));
    assert_eq!(
        (three.default_leg(), three.sources(), three.stale()),
        (1, LegSet(0b110), LegSet(0b001))
    );
    assert!(three.renew(3), "a fourth");
    assert_eq!(
        (three.count(), three.sources(), three.stale()),
        (4, LegSet(0b0110), LegSet(0b1001))
    );
    assert!(three.remove(0));
    assert_eq!(
        (three.default_leg(), three.sources(), three.stale()),
        (0, LegSet(0b011), LegSet(0b100))
    );
    assert!(three.remove(0));
    assert_eq!(
        (three.default_leg(), three.sources(), three.stale()),
        (0, LegSet(0b01), LegSet(0b10))
    );
    assert!(!three.remove(0) && !three.renew(0), "the only right one stays");
}

fn shares(legs: &mut Legs, reads: usize, latency_ms: impl Fn(usize) -> u64) -> Vec<usize> {
    let mut shares = vec![0; legs.count()];
    for read in 0..reads {
        let sector = Sector(1000 + read as u64 * 1000);
        let leg = legs.pick(sector, LegSet::default()).unwrap();
        legs.begin_read(leg, sector, Sectors(8));
        legs.end_read(leg, latency_ms(leg));
        shares[leg] += 1;
    }
    shares
}

#[test]
fn random_reads_are_spread_and_a_slow_leg_loses_most() {
    let mut even = legs(3, true, false);
    assert_eq!(shares(&mut even, 300, |_| 0), [100, 100, 100]);
    let slow = shares(&mut even, 3000, |leg| if leg == 1 { 20 } else { 0 });
    assert!(slow[1] > 0 && slow[1] < 150, "{slow:?}");
    let again = shares(&mut even, 9000, |_| 0);
    assert!(again[1] > 2000, "a leg that is fast again gets its share back: {again:?}");
}

#[test]
fn the_shortest_queue_is_taken_and_streams_stay_together() {
    let mut two = legs(2, true, false);
    let mut in_flight = [0; 2];
    for read in 0..20 {
        let leg = two.pick(Sector(read * 1000), LegSet::default()).unwrap();
        two.begin_read(leg, Sector(read * 1000), Sectors(8));
        in_flight[leg] += 1;
    }
    assert_eq!(in_flight, [10, 10]);
    (0..10).for_each(|_| two.end_read(1, 0));
    assert_eq!(two.pick(Sector(50_000), LegSet::default()), Some(1));
    let mut two = legs(2, true, false);
    let mut places = [Vec::new(), Vec::new()];
    for step in 0..50 {
        for (stream, start) in [(0, 8_u64), (1, 100_000)] {
            let sector = Sector(start + step * 8);
            let leg = two.pick(sector, LegSet::default()).unwrap();
            two.begin_read(leg, sector, Sectors(8));
            two.end_read(leg, 0);
            places[stream].push(leg);
        }
    }
    assert!(places.iter().all(|legs| legs.iter().all(|leg| *leg == legs[0])), "{places:?}");
    assert_ne!(places[0][0], places[1][0]);
}

#[test]
fn a_stream_leaves_a_leg_that_is_much_busier() {
    let mut two = legs(2, true, false);
    two.begin_read(0, Sector(0), Sectors(8));
    (0..STREAM_SLACK).for_each(|_| two.begin_read(0, Sector(999), Sectors(0)));
    assert_eq!(two.pick(Sector(8), LegSet::default()), Some(1));
}
