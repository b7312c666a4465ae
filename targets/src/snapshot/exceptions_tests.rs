//! The states of a chunk, one after the other.

use super::*;

fn record(old: u64, new: u64) -> Record {
    Record { old: Chunk(old), new: CowChunk(new) }
}

#[test]
fn a_chunk_goes_from_origin_to_pending_to_complete() {
    let mut state = Exceptions::new(Health::Valid);
    assert_eq!(state.before_origin_write(Chunk(5)), OriginStep::CopyOut);
    assert_eq!(state.before_snapshot_write(Chunk(5)), WriteStep::Create);
    let id = state.begin(record(5, 2));
    assert_eq!(state.before_snapshot_read(Chunk(5)), ReadStep::Origin);
    assert_eq!(state.before_origin_write(Chunk(5)), OriginStep::Wait(id));
    assert_eq!(state.before_snapshot_write(Chunk(5)), WriteStep::Wait(id));
    let mut ready = Vec::new();
    state.ready(9, &mut ready).unwrap();
    assert!(ready.is_empty());
    state.copied(id, true);
    state.ready(9, &mut ready).unwrap();
    assert_eq!(ready, [record(5, 2)]);
    state.publish();
    assert!(!state.is_pending(id));
    assert_eq!(state.before_snapshot_read(Chunk(5)), ReadStep::Cow(CowChunk(2)));
    assert_eq!(state.before_origin_write(Chunk(5)), OriginStep::Pass);
    assert_eq!(state.before_snapshot_write(Chunk(5)), WriteStep::Redirect(CowChunk(2)));
}

#[test]
fn commits_follow_the_order_of_allocation() {
    let mut state = Exceptions::new(Health::Valid);
    let ids: Vec<_> = (0..3).map(|chunk| state.begin(record(chunk, chunk + 2))).collect();
    let mut ready = Vec::new();
    state.copied(ids[2], true);
    state.copied(ids[1], true);
    state.ready(9, &mut ready).unwrap();
    assert!(ready.is_empty(), "the oldest is not there yet");
    state.copied(ids[0], true);
    state.ready(2, &mut ready).unwrap();
    assert_eq!(ready, [record(0, 2), record(1, 3)]);
}

#[test]
fn origin_writes_wait_for_reads_that_began_before_the_exception() {
    let mut state = Exceptions::new(Health::Valid);
    let read = state.track_read(Chunk(4), Chunk(6));
    let id = state.begin(record(5, 2));
    state.copied(id, true);
    state.publish();
    assert_eq!(state.before_origin_write(Chunk(5)), OriginStep::WaitReads);
    state.untrack_read(read);
    assert_eq!(state.before_origin_write(Chunk(5)), OriginStep::Pass);
}

#[test]
fn a_failed_copy_ends_in_invalidation_and_frees_everyone() {
    let mut state = Exceptions::new(Health::Valid);
    let first = state.begin(record(0, 2));
    let second = state.begin(record(1, 3));
    state.copied(first, false);
    assert_eq!(state.ready(9, &mut Vec::new()), Err(CopyFailed));
    assert!(state.begin_invalidation());
    assert!(!state.begin_invalidation(), "only one writes the mark");
    assert_eq!(state.before_origin_write(Chunk(7)), OriginStep::WaitInvalid);
    assert_eq!(state.before_snapshot_read(Chunk(7)), ReadStep::Fail);
    state.invalidate(true);
    assert!(!state.is_pending(second));
    state.copied(second, true);
    assert_eq!(state.before_origin_write(Chunk(1)), OriginStep::Pass);
    assert_eq!(state.before_snapshot_write(Chunk(1)), WriteStep::Fail);
}

#[test]
fn a_journaled_exception_is_shown_and_recorded_when_a_task_waits_for_it() {
    let mut state = Exceptions::new(Health::Valid);
    let (first, second) = (state.begin(record(5, 2)), state.begin(record(6, 3)));
    assert_eq!(state.journal(second), Some(record(6, 3)));
    assert_eq!(state.before_snapshot_read(Chunk(6)), ReadStep::Cow(CowChunk(3)));
    assert_eq!(state.before_snapshot_write(Chunk(6)), WriteStep::Redirect(CowChunk(3)));
    assert_eq!(state.before_origin_write(Chunk(6)), OriginStep::Wait(second));
    assert!(state.is_shown(second) && !state.is_shown(first));
    let mut ready = Vec::new();
    state.journal(first).unwrap();
    state.ready(9, &mut ready).unwrap();
    assert!(ready.is_empty(), "no task waits");
    let to = state.want_journaled().unwrap();
    state.ready(9, &mut ready).unwrap();
    assert_eq!(ready, [record(5, 2), record(6, 3)], "in the order of allocation");
    state.publish();
    assert!(!state.is_recorded(to));
    state.publish();
    assert!(state.is_recorded(to) && state.want_journaled().is_none());
    assert_eq!(state.before_origin_write(Chunk(6)), OriginStep::Pass);
}

#[test]
fn a_record_behind_journaled_ones_takes_them_along_and_many_are_due() {
    let mut state = Exceptions::new(Health::Valid);
    let journaled = state.begin(record(1, 2));
    let other = state.begin(record(2, 3));
    state.journal(journaled).unwrap();
    state.copied(other, true);
    let mut ready = Vec::new();
    state.ready(9, &mut ready).unwrap();
    assert_eq!(ready, [record(1, 2), record(2, 3)]);
    state.publish();
    state.publish();
    for chunk in 10..10 + super::super::recording::MANY as u64 {
        assert!(!state.journaled_is_due());
        let id = state.begin(record(chunk, chunk));
        state.journal(id).unwrap();
    }
    assert!(state.journaled_is_due());
}

#[test]
fn nothing_is_journaled_for_a_snapshot_that_is_not_kept() {
    let mut state = Exceptions::new(Health::Valid);
    let (early, late) = (state.begin(record(1, 2)), state.begin(record(2, 3)));
    state.journal(early).unwrap();
    let to = state.want_journaled().unwrap();
    state.begin_invalidation();
    assert_eq!(state.journal(late), None);
    assert!(state.is_recorded(to), "no task waits for a record that is never written");
    state.invalidate(true);
    assert_eq!((state.journaled(), state.journal(early)), (0, None));
}
