//! Scenarios on regions, each for one rule.

use super::*;

#[test]
fn a_write_waits_for_the_mark_that_covers_all_its_regions() {
    let mut bits = Bits::zeroes(4).unwrap();
    bits.fill_from(0, true);
    let mut regions = Regions::new(bits, true);
    assert_eq!(regions.begin_write(Span::one(RegionIndex(1)), 5, |_| ()), 5);
    regions.end_write(Span::one(RegionIndex(1)), 0);
    assert_eq!(regions.begin_write(Span::one(RegionIndex(1)), 9, |_| ()), 5, "dirty already");
    let span = Span { first: RegionIndex(0), count: 3 };
    let mut marked = Vec::new();
    assert_eq!(regions.begin_write(span, 9, |region| marked.push(region.0)), 9);
    assert_eq!(marked, [0, 2]);
}

#[test]
fn regions_are_cleaned_after_a_delay_or_when_they_are_too_many() {
    let mut bits = Bits::zeroes(10_000).unwrap();
    bits.fill_from(0, true);
    let mut regions = Regions::new(bits, true);
    let write = |regions: &mut Regions, region: u64, now_ms: u64| {
        regions.begin_write(Span::one(RegionIndex(region)), 1, |_| ());
        regions.end_write(Span::one(RegionIndex(region)), now_ms)
    };
    assert!(write(&mut regions, 0, 100).cleaner, "the first one sets the clock");
    assert!(!write(&mut regions, 1, 150).cleaner);
    write(&mut regions, 0, 300);
    assert_eq!(regions.next_idle_ms(500), Some(600));
    let mut taken = Vec::new();
    regions.take_idle(599, 500, 10, &mut taken);
    assert!(taken.is_empty());
    regions.take_idle(650, 500, 10, &mut taken);
    assert_eq!(taken, [RegionIndex(1)], "region 0 was written again at 300");
    assert_eq!(regions.next_idle_ms(500), Some(800));
    regions.finish_cleaning(&taken, |_| ());
    for region in 0..=Regions::MAX_IDLE as u64 {
        write(&mut regions, region, 1000);
    }
    assert_eq!(regions.next_idle_ms(500), Some(0), "too many wait");
    taken.clear();
    regions.take_idle(1000, 500, 10, &mut taken);
    assert_eq!(taken.len(), 1, "cleaned until they are not too many any more");
}

#[test]
fn recovery_gives_each_region_once_and_joins_neighbours() {
    let mut bits = Bits::zeroes(200).unwrap();
    bits.put(70, true);
    let mut regions = Regions::new(bits, true);
    let spans: Vec<Span> = std::iter::from_fn(|| regions.next_recovery(64)).collect();
    let expected = [(0, 64), (64, 6), (71, 64), (135, 64), (199, 1)];
    assert_eq!(spans, expected.map(|(first, count)| Span { first: RegionIndex(first), count }));
    assert!(!regions.has_recovery());
    for span in &spans {
        regions.end_recovery(*span, span.first.0 != 64, 0);
    }
    assert_eq!(
        (regions.in_sync_count(), regions.next_recovery(8)),
        (194, None),
        "a failed region is not tried again"
    );
    regions.search_again(RegionIndex(0));
    assert_eq!(regions.next_recovery(8), Some(Span { first: RegionIndex(64), count: 6 }));
}

#[test]
fn a_region_with_another_holder_is_recovered_when_it_is_released() {
    let mut regions = Regions::new(Bits::zeroes(2).unwrap(), true);
    regions.withhold(RegionIndex(0));
    assert_eq!(regions.next_recovery(8), Some(Span::one(RegionIndex(1))));
    assert_eq!(regions.next_recovery(8), None);
    regions.release(RegionIndex(0), 0);
    assert_eq!(regions.next_recovery(8), Some(Span::one(RegionIndex(0))));
}

#[test]
fn a_search_that_meets_a_copy_that_then_fails_comes_back_to_it() {
    let mut regions = Regions::new(Bits::zeroes(2).unwrap(), true);
    let span = regions.next_recovery(8).unwrap();
    regions.search_again(RegionIndex(0));
    assert_eq!(regions.next_recovery(8), None);
    regions.end_recovery(span, false, 0);
    assert_eq!(regions.next_recovery(8), Some(span));
    regions.end_recovery(span, false, 0);
    assert_eq!(regions.next_recovery(8), None, "once for each search");
}
