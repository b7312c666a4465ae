//! The dirty log byte for byte: headers left by kernels and LVM, and the result of opening them.

use super::super::leg_flags::{LegFlags, identity_of};
use super::*;

/// A log as it is on disk, and the result of opening it.
struct Log {
    layout: Layout,
    header: [u8; HEADER_BYTES],
    bits: Bits,
    tail: Vec<u8>,
}

impl Log {
    fn decode(regions: u64, block_bytes: u32, image: &[u8]) -> Log {
        let layout = Layout { regions, block_bytes };
        let tail = vec![0; to_index(layout.len().bytes() - layout.used_bytes())];
        let mut log =
            Log { layout, header: [0; HEADER_BYTES], bits: Bits::zeroes(regions).unwrap(), tail };
        let len = to_index(layout.len().bytes());
        layout.decode(0, &image[..len], &mut log.header, &mut log.bits, &mut log.tail);
        log
    }

    fn encode(&self) -> Vec<u8> {
        let mut image = vec![0xCC; to_index(self.layout.len().bytes())];
        self.layout.encode(0, &self.header, Some(&self.bits), &self.tail, &mut image);
        image
    }

    fn resume(&mut self, initial: InitialSync) -> Resumed {
        resume(&mut self.header, &mut self.bits, true, initial)
    }
}

fn image(magic: u32, version: u32, regions: u64, fill: u8, bits: &[u8]) -> Vec<u8> {
    let mut image = vec![fill; 4096];
    image[..16].copy_from_slice(&Words { magic, version, regions }.encode());
    image[HEADER_BYTES..HEADER_BYTES + bits.len()].copy_from_slice(bits);
    image
}

/// The bits of the first regions after opening a log, and its first 16 bytes.
fn opened(image: &[u8], regions: u64, initial: InitialSync) -> (Vec<u64>, String, Resumed) {
    let mut log = Log::decode(regions, 512, image);
    let resumed = log.resume(initial);
    let zeroes = (0..regions).filter(|region| !log.bits.get(*region)).collect();
    let words = log.encode()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    (zeroes, words, resumed)
}

const HEALTHY: Resumed = Resumed { failed: false, fresh: false };

#[test]
fn the_kernels_own_logs() {
    let eight = image(MAGIC, 2, 8, 0, &[0xff, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&eight[..16], b"\x72\x52\x69\x4d\x02\0\0\0\x08\0\0\0\0\0\0\0");
    let text = "7252694d020000000800000000000000";
    assert_eq!(opened(&eight, 8, InitialSync::FromLog), (vec![], text.into(), HEALTHY));
    let in_flight = image(MAGIC, 2, 9, 0, &[0xfb, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(opened(&in_flight, 9, InitialSync::FromLog).0, [2]);
    let lost = image(MAGIC, 2, 8, 0, &[0xfe]);
    assert_eq!(opened(&lost, 8, InitialSync::FromLog).0, [0]);
    assert_eq!(opened(&lost, 8, InitialSync::Sync).0, (0..8).collect::<Vec<_>>());
    assert_eq!(opened(&lost, 8, InitialSync::NoSync).0, []);
}

#[test]
fn what_is_written_back_is_what_was_read() {
    for regions in [1, 63, 64, 65, 4096, 8192, 20000] {
        for block_bytes in [512, 4096] {
            let layout = Layout { regions, block_bytes };
            let len = to_index(layout.len().bytes());
            let mut image: Vec<u8> = (0..251_u8).cycle().step_by(7).take(len).collect();
            // Padding is not preserved, so there is none here.
            let used = to_index(layout.used_bytes());
            image[HEADER_BYTES..used].fill(0);
            image[..16].copy_from_slice(&Words { magic: MAGIC, version: 2, regions }.encode());
            image[HEADER_BYTES] = 1;
            let mut log = Log::decode(regions, block_bytes, &image);
            log.resume(InitialSync::FromLog);
            assert_eq!(log.encode(), image, "{regions} regions in blocks of {block_bytes}");
            for start in (0..len).step_by(512) {
                let mut part = vec![0; 512];
                layout.encode(start as u64, &log.header, Some(&log.bits), &log.tail, &mut part);
                assert_eq!(part, image[start..start + 512]);
            }
        }
    }
}

#[test]
fn bits_are_where_the_kernel_looks_for_them() {
    let mut log = Log::decode(130, 512, &vec![0; 4096]);
    for region in 0..130 {
        log.bits.fill_from(0, false);
        log.bits.put(region, true);
        let (byte, bit) = bit_of(RegionIndex(region));
        let image = log.encode();
        assert_eq!(image[to_index(byte)], 1 << bit);
        assert_eq!(image[HEADER_BYTES..].iter().filter(|byte| **byte != 0).count(), 1);
        assert_eq!(log.layout.block_of(RegionIndex(region)), byte / 512);
    }
}

#[test]
fn logs_fresh_from_lvm_are_used_as_they_are() {
    let text = "7252694d020000000900000000000000";
    let zeroes = image(MAGIC, 2, REGIONS_UNKNOWN, 0, &[0; 8]);
    assert_eq!(opened(&zeroes, 9, InitialSync::FromLog), ((0..9).collect(), text.into(), HEALTHY));
    let ones = image(MAGIC, 2, REGIONS_UNKNOWN, 0xff, &[0xff; 8]);
    assert_eq!(opened(&ones, 9, InitialSync::FromLog), (vec![], text.into(), HEALTHY));
    let mut log = Log::decode(9, 512, &ones);
    log.resume(InitialSync::FromLog);
    assert_eq!(
        &log.encode()[HEADER_BYTES..HEADER_BYTES + 8],
        [0xff, 1, 0, 0, 0, 0, 0, 0],
        "padding is cleared"
    );
    for legs in 2..=9 {
        assert_eq!(LegFlags::missed(&log.header, &[0; 9][..legs]), None);
        assert_eq!(LegFlags::missed(&Log::decode(9, 512, &zeroes).header, &[0; 9][..legs]), None);
    }
}

#[test]
fn grown_mirrors_have_new_regions_out_of_sync() {
    let eight = image(MAGIC, 2, 8, 0, &[0xff]);
    assert_eq!(opened(&eight, 70, InitialSync::FromLog).0, (8..70).collect::<Vec<_>>());
    assert_eq!(opened(&eight, 70, InitialSync::NoSync).0, []);
    let shrunk = image(MAGIC, 2, 100, 0, &[0xff; 16]);
    let mut log = Log::decode(65, 512, &shrunk);
    log.resume(InitialSync::FromLog);
    assert_eq!(
        (log.bits.count(), &log.encode()[HEADER_BYTES + 8..HEADER_BYTES + 16]),
        (65, &[1, 0, 0, 0, 0, 0, 0, 0][..])
    );
    let truncated = image(MAGIC, 2, 1 << 32, 0, &[0xff]);
    assert_eq!(
        opened(&truncated, 8, InitialSync::FromLog).0,
        (0..8).collect::<Vec<_>>(),
        "2^32 acts as 0"
    );
    let above = image(MAGIC, 2, (1 << 32) + 3, 0, &[0xff]);
    assert_eq!(opened(&above, 8, InitialSync::FromLog).0, (3..8).collect::<Vec<_>>());
}

#[test]
fn versions_and_foreign_headers() {
    let old = image(MAGIC, 1, 8, 0, &[0x7f]);
    assert_eq!(
        opened(&old, 8, InitialSync::FromLog),
        (vec![7], "7252694d020000000800000000000000".into(), HEALTHY)
    );
    let unknown = image(MAGIC, 7, 8, 0, &[0xff]);
    let failed = Resumed { failed: true, fresh: false };
    let all: Vec<u64> = (0..8).collect();
    let text = "7252694d070000000800000000000000";
    assert_eq!(opened(&unknown, 8, InitialSync::FromLog), (all.clone(), text.into(), failed));
    let fresh = Resumed { failed: false, fresh: true };
    let text = "7252694d020000000800000000000000";
    for magic in [0, 0x7041_6E53] {
        let foreign = image(magic, 7, 8, 0x55, &[0xff]);
        assert_eq!(opened(&foreign, 8, InitialSync::FromLog), (all.clone(), text.into(), fresh));
        assert_eq!(opened(&foreign, 8, InitialSync::NoSync), (vec![], text.into(), fresh));
        let mut log = Log::decode(8, 512, &foreign);
        log.resume(InitialSync::FromLog);
        assert!(
            log.encode()[16..HEADER_BYTES].iter().all(|byte| *byte == 0x55),
            "what is not ours is kept"
        );
    }
    let mut log = Log::decode(8, 512, &unknown);
    let resumed = resume(&mut log.header, &mut log.bits, false, InitialSync::FromLog);
    assert_eq!((resumed, log.bits.count()), (Resumed { failed: true, fresh: true }, 0));
    // With `sync` or `nosync` the version on disk is ignored.
    assert_eq!(opened(&unknown, 8, InitialSync::Sync), (all, text.into(), HEALTHY));
}

#[test]
fn leg_flags_are_trusted_only_whole() {
    let ids: Vec<u64> = (1..=9).collect();
    let mut header = [0x55; HEADER_BYTES];
    LegFlags::encode(&mut header, &ids[..2], 0);
    assert!(header.iter().all(|byte| *byte == 0x55), "nothing to remember leaves no trace");
    for legs in 2..=9 {
        for flags in 1..(1_u16 << legs) - 1 {
            LegFlags::encode(&mut header, &ids[..legs], flags);
            assert_eq!(LegFlags::missed(&header, &ids[..legs]), Some(flags));
            assert_eq!(LegFlags::missed(&header, &[0; 9][..legs]), Some(flags), "by place");
            assert_eq!(LegFlags::missed(&header, &[0; 10][..legs + 1]), Some((2 << legs) - 1));
        }
    }
    for at in 16..16 + LegFlags::BYTES {
        let mut torn = header;
        torn[at] ^= 1;
        assert_eq!(LegFlags::missed(&torn, &ids), None, "byte {at}");
    }
    LegFlags::encode(&mut header, &ids, (1 << 9) - 1);
    let all = Some((1 << 9) - 1);
    assert_eq!(LegFlags::missed(&header, &ids), all, "it was left for another table");
    LegFlags::encode(&mut header, &ids, 0);
    assert_eq!(
        (LegFlags::missed(&header, &ids), LegFlags::names_foreign_legs(&header, &ids)),
        (None, false)
    );
    assert!(
        LegFlags::names_foreign_legs(&header, &[1, 10]),
        "a record that names no stale leg names the others"
    );
    assert!(header[16 + LegFlags::BYTES..].iter().all(|byte| *byte == 0x55));
}

#[test]
fn a_leg_that_missed_something_is_known_wherever_it_stands() {
    let mut header = [0; HEADER_BYTES];
    // the first of the legs 7, 8 and 9 is stale
    LegFlags::encode(&mut header, &[7, 8, 9], 0b001);
    for (legs, stale, foreign_legs) in [
        (&[7, 8, 9][..], Some(0b001), false),
        (&[9, 8, 7], Some(0b100), false),
        (&[8, 7], Some(0b10), false),
        (&[8, 9], None, false),             // the stale leg is gone
        (&[7, 5], Some(0b11), true),        // no leg is known to be up to date
        (&[8, 5], Some(0b10), true),        // an unknown leg counts as empty
        (&[5, 8, 7, 9], Some(0b101), true), //
        (&[4, 5, 6], Some(0b111), true),    // a record of other legs
        (&[4, 5], Some(0b11), true),
    ] {
        let told = (LegFlags::missed(&header, legs), LegFlags::names_foreign_legs(&header, legs));
        assert_eq!(told, (stale, foreign_legs), "{legs:?}");
    }
    LegFlags::encode(&mut header, &[7, 8, 9], 0);
    assert_eq!(LegFlags::missed(&header, &[7, 5]), Some(0b10), "also where all were right");
    assert_eq!(identity_of("a"), identity_of("a"));
    assert_ne!(identity_of("a"), identity_of("b"));
}

#[test]
fn a_record_of_an_earlier_version_is_read_under_its_names() {
    // The first of the legs 17, 18 and 19 is stale; today they are 7, 8 and 9.
    let renamed = [(17, 7), (18, 8), (19, 9)];
    for (names, legs, stale, foreign_legs) in [
        ([17, 18, 19], &[7, 8, 9][..], Some(0b001), false),
        ([17, 18, 19], &[9, 8, 7], Some(0b100), false),
        ([17, 18, 19], &[8, 9], None, false),
        ([17, 18, 19], &[9, 8, 5], Some(0b100), true), // a new leg, not that of its place
        ([7, 8, 9], &[9, 8, 7], Some(0b100), false),
        // A record that knows a leg by its name of today is of today: the others are foreign.
        ([17, 8, 9], &[8, 9, 7], Some(0b100), true),
        // None is known by any name.
        ([27, 28, 29], &[9, 8, 7], Some(0b111), true),
    ] {
        let mut header = [0; HEADER_BYTES];
        LegFlags::encode(&mut header, &names, 0b001);
        LegFlags::rename(&mut header, &renamed, legs);
        let told = (LegFlags::missed(&header, legs), LegFlags::names_foreign_legs(&header, legs));
        assert_eq!(told, (stale, foreign_legs), "{names:?} {legs:?}");
    }
    let mut clean = [0; HEADER_BYTES];
    LegFlags::name(&mut clean, &[17, 18], 0);
    for (legs, source) in [
        (&[7, 8][..], None),
        (&[8, 5], Some(Some(0))),
        (&[5, 8], Some(Some(1))),
        (&[7, 8, 5], Some(Some(0))),
        (&[5, 6], Some(None)), // none is known
    ] {
        let told = LegFlags::source_beside_foreign(&clean, &renamed, legs);
        assert_eq!(told, source, "{legs:?}");
    }
    let mut none = [0; HEADER_BYTES];
    LegFlags::rename(&mut none, &renamed, &[7, 8]);
    assert_eq!(none, [0; HEADER_BYTES]);
}

#[test]
fn the_largest_log_takes_half_a_gibibyte() {
    let layout = Layout { regions: MAX_REGIONS, block_bytes: 4096 };
    assert_eq!(layout.used_bytes(), 1024 + (512 << 20));
    assert_eq!(layout.len().bytes(), (512 << 20) + 4096);
    assert_eq!(Layout { regions: 1, block_bytes: 512 }.len(), Sectors(3));
    assert_eq!(Layout { regions: 1, block_bytes: 4096 }.len(), Sectors(8));
}
