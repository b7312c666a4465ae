//! Tests of [`crash`](super): what a loss of power may leave.

use super::*;
use crate::units::Sectors;

fn data(value: u8) -> SectorData {
    SectorData::new(&[value])
}

fn first_bytes(image: &Image) -> Vec<u8> {
    image.sectors.iter().map(|data| data.bytes()[0]).collect()
}

fn all(media: &Media, in_flight: &[(Sector, &[SectorData])]) -> Vec<Vec<u8>> {
    let space = media.crash_space(CrashKind::Power, 1, in_flight.iter().copied());
    let mut images: Vec<_> =
        (0..space.combinations()).map(|n| first_bytes(&space.combination(n))).collect();
    images.sort();
    images.dedup();
    images
}

#[test]
fn a_unit_shows_its_durable_content_or_any_later_write() {
    let mut media = Media::new(Image::zeroes(Sectors(2)));
    media.write(Sector(0), &[data(1), data(1)], false);
    let mark = media.mark();
    media.write(Sector(0), &[data(2)], false);
    assert_eq!(all(&media, &[]), [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]);
    media.flush(mark);
    assert_eq!(
        all(&media, &[]),
        [[1, 1], [2, 1]],
        "only what completed before the flush started is durable"
    );
    let flying = [data(3)];
    assert_eq!(all(&media, &[(Sector(1), &flying)]), [[1, 1], [1, 3], [2, 1], [2, 3]]);
}

#[test]
fn a_durable_write_replaces_older_unflushed_ones() {
    let mut media = Media::new(Image::zeroes(Sectors(2)));
    media.write(Sector(0), &[data(1), data(1)], false);
    media.write(Sector(0), &[data(2)], true);
    assert_eq!(all(&media, &[]), [[2, 0], [2, 1]]);
    media.write(Sector(0), &[data(3)], false);
    media.flush(0);
    assert_eq!(
        all(&media, &[]),
        [[2, 0], [2, 1], [3, 0], [3, 1]],
        "a flush from before changes nothing"
    );
    media.flush(media.mark());
    assert_eq!(all(&media, &[]), [[3, 1]]);
}

#[test]
fn a_dead_process_leaves_what_completed() {
    let mut media = Media::new(Image::zeroes(Sectors(1)));
    media.write(Sector(0), &[data(1)], false);
    let space = media.crash_space(CrashKind::Process, 1, std::iter::empty());
    assert_eq!((space.combinations(), first_bytes(&space.combination(0))), (1, vec![1]));
}

#[test]
fn sampled_survivors_are_among_the_enumerated() {
    let mut media = Media::new(Image::zeroes(Sectors(4)));
    media.write(Sector(0), &[data(1), data(1), data(1)], false);
    media.write(Sector(1), &[data(2), data(2)], false);
    let space = media.crash_space(CrashKind::Power, 1, std::iter::empty());
    let legal = all(&media, &[]);
    assert_eq!(space.combinations(), 2 * 3 * 3);
    let spaces = [space];
    let mut seen: Vec<_> = (0..100)
        .flat_map(|seed| survivors(&spaces, 5, &mut Rng::new(seed)))
        .map(|images| first_bytes(&images[0]))
        .collect();
    seen.sort();
    seen.dedup();
    assert!(seen.iter().all(|image| legal.contains(image)));
    assert!(seen.len() > legal.len() / 2, "{} of {}", seen.len(), legal.len());
}
