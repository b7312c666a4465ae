//! Which claims of a leg record are trusted.

use super::*;

fn state(legs: &[(u64, bool)], in_sync: bool) -> LegState {
    let leg = |(identity, source): &(u64, bool)| KnownLeg {
        identity: *identity,
        name: String::new(),
        source: *source,
    };
    LegState { legs: legs.iter().map(leg).collect(), in_sync, log_works: false }
}

fn taken_over(state: &LegState, identities: &[u64]) -> Result<(InitialSync, u16), OpenError> {
    let past = Past::TakenOver(Some(state.clone()));
    let begun = begin(&past, InitialSync::NoSync, None, false, identities)?;
    Ok((begun.initial, begun.sources.unwrap_or_default().0))
}

#[test]
fn a_server_that_takes_over_believes_the_record_alone() {
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
    assert_eq!(
        begin(&nothing, InitialSync::NoSync, None, false, &[1, 2]),
        Err(OpenError::NoSource)
    );
    let named = begin(&nothing, InitialSync::NoSync, Some(1), false, &[1, 2]);
    assert_eq!(
        named.map(|begun| (begun.initial, begun.sources)),
        Ok((InitialSync::Sync, Some(LegSet(0b10))))
    );
    let reload = Past::Replaced(Some(one));
    assert_eq!(begin(&reload, InitialSync::NoSync, None, false, &[1, 9]), Err(OpenError::NoSource));
    let named = begin(&reload, InitialSync::Sync, Some(1), false, &[1, 9]);
    assert_eq!(named.map(|begun| begun.sources), Ok(Some(LegSet(0b10))));
}

#[test]
fn another_table_keeps_what_is_known_and_is_believed_in_what_is_not() {
    let one = Past::Replaced(Some(state(&[(1, false), (2, true)], false)));
    let begun = |initial, identities: &[u64]| begin(&one, initial, None, false, identities);
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
    assert_eq!(begun(InitialSync::FromLog, &[8, 9]).map(|it| it.sources), Ok(None));
}

#[test]
fn a_log_on_a_disk_knows_best_as_long_as_it_has_every_mark() {
    let works = LegState { log_works: true, ..state(&[(1, false), (2, true)], false) };
    let begun = |past: &Past| begin(past, InitialSync::Sync, None, true, &[1, 2]);
    let from_log = Beginning { initial: InitialSync::FromLog, sources: None, named: false };
    assert_eq!(begun(&Past::TakenOver(None)), Ok(from_log));
    assert_eq!(begun(&Past::TakenOver(Some(works.clone()))), Ok(from_log));
    let failed = Past::TakenOver(Some(LegState { log_works: false, ..works }));
    assert_eq!(
        begun(&failed).map(|it| (it.initial, it.sources)),
        Ok((InitialSync::Sync, Some(LegSet(0b10))))
    );
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
