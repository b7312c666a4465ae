//! Which claims of a leg record are trusted.

use super::super::beginning::{Beginning, begin};
use super::super::leg_claims::Claims;
use super::super::table::InitialSync;
use super::*;

/// The identity of the disk with the log.
const LOG: u64 = 77;

fn state(legs: &[(u64, bool)], in_sync: bool) -> LegState {
    let leg = |(identity, source): &(u64, bool)| KnownLeg {
        identity: *identity,
        number: 0,
        name: String::new(),
        source: *source,
    };
    let legs = legs.iter().map(leg).collect();
    LegState { legs, in_sync, was_in_sync: true, ..LegState::default() }
}

fn taken_over(state: &LegState, identities: &[u64]) -> Result<(InitialSync, u16), OpenError> {
    let past = Past::TakenOver(Some(state.clone()));
    let begun = begin(&past, InitialSync::NoSync, None, None, identities)?;
    Ok((begun.initial, begun.sources.unwrap_or_default().0))
}

#[test]
fn a_server_that_takes_over_trusts_the_record_alone() {
    let all = state(&[(1, true), (2, true)], true);
    assert_eq!(taken_over(&all, &[1, 2]), Ok((InitialSync::NoSync, 0b11)));
    assert_eq!(taken_over(&all, &[2, 1]), Ok((InitialSync::NoSync, 0b11)));
    // A leg that is not in the record counts as empty.
    assert_eq!(taken_over(&all, &[9, 1]), Ok((InitialSync::Sync, 0b10)));
    assert_eq!(taken_over(&all, &[1, 2, 9]), Ok((InitialSync::Sync, 0b011)));
    assert_eq!(
        taken_over(&state(&[(1, true), (2, true)], false), &[1, 2]),
        Ok((InitialSync::Sync, 0b11))
    );
    assert_eq!(
        taken_over(&state(&[(1, false), (2, true)], false), &[1, 2]),
        Ok((InitialSync::Sync, 0b10))
    );
}

#[test]
fn where_no_leg_is_known_to_be_right_none_is_chosen() {
    let one = state(&[(1, false), (2, true)], false);
    assert_eq!(taken_over(&one, &[1, 9]), Err(OpenError::NoSource));
    let nothing = Past::TakenOver(None);
    assert_eq!(begin(&nothing, InitialSync::NoSync, None, None, &[1, 2]), Err(OpenError::NoSource));
    let named = begin(&nothing, InitialSync::NoSync, Some(1), None, &[1, 2]);
    assert_eq!(
        named.map(|begun| (begun.initial, begun.sources)),
        Ok((InitialSync::Sync, Some(LegSet(0b10))))
    );
    let reload = Past::Replaced(Some(one));
    assert_eq!(begin(&reload, InitialSync::NoSync, None, None, &[1, 9]), Err(OpenError::NoSource));
    let named = begin(&reload, InitialSync::Sync, Some(1), None, &[1, 9]);
    assert_eq!(named.map(|begun| begun.sources), Ok(Some(LegSet(0b10))));
}

#[test]
fn another_table_keeps_what_is_known_and_is_trusted_in_what_is_not() {
    let one = Past::Replaced(Some(state(&[(1, false), (2, true)], false)));
    let begun = |initial, identities: &[u64]| begin(&one, initial, None, None, identities);
    for initial in [InitialSync::FromLog, InitialSync::Sync] {
        assert_eq!(
            begun(initial, &[1, 2]).map(|it| (it.initial, it.sources)),
            Ok((initial, Some(LegSet(0b10))))
        );
    }
    // `nosync` claims that the legs are equal, but one of them is known to be stale.
    let equal = begun(InitialSync::NoSync, &[1, 2]);
    assert_eq!(
        equal.map(|it| (it.initial, it.sources)),
        Ok((InitialSync::Sync, Some(LegSet(0b10))))
    );
    assert_eq!(begun(InitialSync::NoSync, &[2, 9]).map(|it| it.initial), Ok(InitialSync::NoSync));
    assert_eq!(begun(InitialSync::FromLog, &[8, 9]), Err(OpenError::NoSource));
    assert_eq!(begun(InitialSync::NoSync, &[8, 9]), Err(OpenError::NoSource));
}

#[test]
fn a_log_on_a_disk_knows_nothing_of_a_table_that_did_not_have_it() {
    let core = Past::Replaced(Some(state(&[(1, false), (2, true)], false)));
    let begun = begin(&core, InitialSync::FromLog, None, Some(LOG), &[1, 2]);
    assert_eq!(
        begun.map(|it| (it.initial, it.sources)),
        Ok((InitialSync::Sync, Some(LegSet(0b10))))
    );
    let found = begin(&core, InitialSync::FromLog, None, Some(LOG), &[1, 9]);
    assert_eq!(found, Err(OpenError::NoSource));
}

#[test]
fn a_log_on_a_disk_knows_best_as_long_as_it_has_every_mark() {
    let works = LegState { log_works: true, log: LOG, ..state(&[(1, false), (2, true)], false) };
    let begun = |past: &Past| begin(past, InitialSync::Sync, None, Some(LOG), &[1, 2]);
    let (initial, sources) = (InitialSync::FromLog, None);
    let from_log = Beginning { initial, sources, named: false, by_log: false, unequal: false };
    assert_eq!(begun(&Past::TakenOver(None)), Err(OpenError::NoSource), "or it has not");
    // Where the log has marks, any leg will do that the record has as a source.
    let with_sources = Beginning { sources: Some(LegSet::one(1)), unequal: true, ..from_log };
    assert_eq!(begun(&Past::TakenOver(Some(works.clone()))), Ok(with_sources));
    let failed = Past::TakenOver(Some(LegState { log_works: false, ..works }));
    assert_eq!(
        begun(&failed).map(|it| (it.initial, it.sources)),
        Ok((InitialSync::Sync, Some(LegSet(0b10))))
    );
}

#[test]
fn a_log_on_another_disk_knows_nothing_of_what_the_first_one_marked() {
    let works = LegState { log_works: true, log: LOG, ..state(&[(1, false), (2, true)], false) };
    let begun = |past: Past, log| {
        let begun = begin(&past, InitialSync::FromLog, None, Some(log), &[1, 2])?;
        Ok::<_, OpenError>((begun.initial, begun.sources.map(|sources| sources.0)))
    };
    for past in [Past::Replaced, Past::TakenOver] {
        // The log does not say which legs are sources before it has been in sync.
        let sources = Some(0b10);
        assert_eq!(begun(past(Some(works.clone())), LOG), Ok((InitialSync::FromLog, sources)));
        let other = begun(past(Some(works.clone())), LOG + 1);
        assert_eq!(other, Ok((InitialSync::Sync, Some(0b10))));
        // A record of an earlier version does not name the log.
        let unnamed = LegState { log: NO_IDENTITY, ..works.clone() };
        assert_eq!(begun(past(Some(unnamed)), LOG), Ok((InitialSync::FromLog, sources)));
    }
}

#[test]
fn a_named_source_is_copied_as_a_whole() {
    let left = state(&[(1, false), (2, true)], false);
    let (sync, nosync) = (InitialSync::Sync, InitialSync::NoSync);
    let begun = |past: &Past, initial| {
        begin(past, initial, Some(1), Some(LOG), &[1, 2]).map(|it| (it.initial, it.named))
    };
    for past in [Past::None, Past::Ended(left.clone()), Past::Replaced(Some(left.clone()))] {
        assert_eq!(begun(&past, InitialSync::FromLog), Ok((sync, true)), "{past:?}");
        let expected = if past.state().is_some() { sync } else { nosync };
        assert_eq!(begun(&past, nosync), Ok((expected, true)), "{past:?}");
    }
}

#[test]
fn claims_may_be_less_than_the_truth_and_never_more() {
    let claims =
        |sources, in_sync, log_works| Claims { sources: LegSet(sources), in_sync, log_works };
    let truth = claims(0b011, false, true);
    assert!(!truth.exceed(truth) && !claims(0b001, false, false).exceed(truth));
    assert!(claims(0b111, false, true).exceed(truth) && claims(0b100, false, false).exceed(truth));
    assert!(claims(0b011, true, true).exceed(truth));
    assert!(claims(0b001, false, true).exceed(claims(0b001, false, false)));
    assert_eq!(
        claims(0b001, true, false).or(claims(0b010, false, true)),
        claims(0b011, true, true)
    );
}

#[test]
fn a_stale_leg_of_an_ended_mirror_is_no_source() {
    let ended = state(&[(1, false), (2, true), (3, false)], false);
    let begun = |initial, log: bool, identities: &[u64]| {
        let log = log.then_some(LOG);
        let begun = begin(&Past::Ended(ended.clone()), initial, None, log, identities)?;
        Ok((begun.initial, begun.sources.map(|sources| sources.0)))
    };
    let (from_log, sync, nosync) = (InitialSync::FromLog, InitialSync::Sync, InitialSync::NoSync);
    // In any order, with other partners, and whatever the user believes of the legs. If the first
    // one is stale, the user must say whether that is still so.
    for initial in [from_log, sync, nosync] {
        assert_eq!(begun(initial, false, &[2, 1]), Ok((sync, Some(0b01))));
        for alone in [&[1, 2][..], &[3, 9, 2], &[1, 9], &[1, 3], &[9, 2], &[9, 1, 2]] {
            assert_eq!(begun(initial, false, alone), Err(OpenError::NoSource), "{alone:?}");
        }
        assert_eq!(begun(initial, false, &[2, 9]), Ok((initial, None)));
        assert_eq!(begun(initial, false, &[8, 9]), Ok((initial, None)));
    }
    assert_eq!(begun(from_log, true, &[1, 2]), Ok((from_log, Some(0b10))));
    assert_eq!(begun(from_log, true, &[3, 9, 2]), Ok((from_log, Some(0b100))));
    assert_eq!(begun(sync, true, &[1, 2]), Err(OpenError::NoSource));
    // An `add` that its user has interrupted, and gives again in another order.
    let begun_only = LegState { was_in_sync: false, ..ended.clone() };
    assert_eq!(begun_only.choose(&[1, 2], true), Err(OpenError::NoSource));
    assert_eq!(begun_only.choose(&[2, 1], true), Ok(Some(0)));
    let named = begin(&Past::Ended(ended), from_log, Some(0), None, &[1, 2]).unwrap();
    assert_eq!((named.sources, named.named), (Some(LegSet::one(0)), true));
}

fn unknown_to(past: &Past, identity: u64, fresh: bool, stale: u16) -> bool {
    let log = FoundLog { identity, fresh, doubtful: false, stale: LegSet(stale) };
    past.is_unknown_to_log(log, &[1, 2])
}

#[test]
fn a_log_of_another_time_does_not_overrule_an_ended_mirror() {
    let ended = |log_works| {
        Past::Ended(LegState { log_works, log: LOG, ..state(&[(1, false), (2, true)], false) })
    };
    let unknown = |log_works, fresh, stale| unknown_to(&ended(log_works), LOG, fresh, stale);
    assert!(unknown(false, false, 0) && unknown(false, true, 0) && unknown(true, true, 0));
    assert!(!unknown(true, false, 0b01));
    assert!(unknown(true, false, 0), "a copy from before the leg missed writes");
    let recovering = LegState { log: LOG, ..state(&[(1, false), (2, true)], false) };
    let recovering = Past::Ended(LegState { was_in_sync: false, log_works: true, ..recovering });
    assert!(!unknown_to(&recovering, LOG, false, 0), "it has marks until it has been in sync");
    // It has the leg as stale, and no marks of what was written since.
    assert!(unknown(false, false, 0b01));
    assert!(unknown_to(&ended(true), LOG + 1, false, 0), "the log of another disk");
    assert!(unknown_to(&ended(true), LOG + 1, false, 0b01));
    // It was left for another table, whatever is recorded since.
    assert!(unknown(true, false, 0b11) && unknown(false, false, 0b11));
}

#[test]
fn the_end_of_a_mirror_says_nothing_of_the_legs_of_others() {
    let left = state(&[(1, false), (2, false), (3, true)], false);
    let ended = |legs: &[(u64, bool)]| left.clone().outdated_by(&state(legs, true));
    assert_eq!(ended(&[(8, true), (9, true)]), Some(left.clone()));
    let rest = state(&[(2, false), (3, true)], false);
    assert_eq!(ended(&[(9, true), (1, true)]), Some(rest));
    assert_eq!(ended(&[(3, true)]), Some(state(&[(1, false), (2, false)], false)));
    assert_eq!(ended(&[(1, true), (2, true)]), None);
}

#[test]
fn a_mirror_has_the_former_legs_of_the_ones_that_it_continues() {
    let (left, other) =
        (state(&[(1, false), (2, true), (3, true)], false), state(&[(4, false), (5, true)], false));
    let ended = [left, other];
    let all = LegState::joined(ended.clone()).unwrap();
    let former = |ids: &[u64], source| {
        let former = all.clone().continuing(&ended, ids, source).former(ids);
        former.into_iter().map(|leg| leg.identity).collect::<Vec<_>>()
    };
    assert_eq!(former(&[2, 1], Some(2)), [3]);
    assert_eq!(former(&[9, 2], Some(9)), []);
    assert_eq!(former(&[1, 9], Some(1)), [], "a stale leg begins another line");
    assert_eq!(former(&[2, 5], Some(2)), [1, 3], "the other's legs stay the other's");
    assert_eq!(former(&[5, 2], Some(5)), [4]);
    // A log decides which.
    assert_eq!(former(&[9, 2], None), [1, 3]);
    assert_eq!(former(&[9, 4], None), []);
}

#[test]
fn states_of_ended_mirrors_are_joined_and_a_leg_that_left_is_not_a_source() {
    let both = LegState::joined([
        state(&[(1, true), (2, false)], false),
        state(&[(3, true), (1, false)], false),
    ]);
    let expected = state(&[(1, false), (2, false), (3, true)], false);
    assert_eq!(both, Some(expected.clone()));
    assert_eq!(LegState::joined([]), None);
    assert_eq!(expected.former(&[3, 2]), state(&[(1, false)], false).legs);
    assert_eq!(expected.former(&[2]), state(&[(1, false), (3, false)], false).legs);
    let mut former = Vec::new();
    let left = |identity| KnownLeg { identity, number: 0, name: String::new(), source: true };
    (0..=MAX_FORMER as u64).for_each(|leg| remember_former(&mut former, left(leg)));
    remember_former(&mut former, left(7));
    assert_eq!((former.len(), former.last().unwrap().identity), (MAX_FORMER, 7));
    assert!(former.iter().all(|leg| leg.identity != 0 && !leg.source));
}
