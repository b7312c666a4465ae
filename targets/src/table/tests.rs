//! Lines that the kernel accepts and refuses, and that printed lines parse to the same table.

use proptest::prelude::*;

use super::*;
use crate::mirror::table::{InitialSync, Leg, MirrorLog};
use crate::snapshot::table::StoreType;
use crate::units::{ChunkSize, Sector};

fn reprinted(text: &str) -> String {
    match Table::parse(text) {
        Ok(line) => line.to_string(),
        Err(error) => panic!("{text}: {error}"),
    }
}

#[test]
fn lines_in_the_kernels_form_are_printed_as_they_were() {
    for text in [
        "0 8192 snapshot 254:0 254:1 P 16",
        "0 8192 snapshot 254:0 254:1 PO 0",
        "0 1 snapshot 254:0 254:1 N 2097152",
        "0 8192 snapshot 254:0 254:1 P 8 1 discard_zeroes_cow",
        "0 8192 snapshot 254:0 254:1 P 8 2 discard_zeroes_cow discard_passdown_origin",
        "0 8192 snapshot-merge 254:0 254:1 PO 8",
        "0 8192 snapshot-origin 254:0",
        "0 8192 linear 254:0 0",
        "0 8192 linear 254:0 18014398509473791",
        "0 8192 error",
        "0 8192 zero",
        "0 8192 mirror core 1 1024 2 1:2 0 254:0 0",
        "0 8192 mirror core 2 1024 nosync 2 1:2 0 254:0 0 2 handle_errors keep_log",
        "0 8192 mirror disk 3 1:1 1024 nosync 2 1:2 0 254:0 0",
        "0 8192 mirror disk 2 1:1 8192 2 1:2 0 254:0 16 1 handle_errors",
        "0 8192 mirror disk 3 1:1 2 sync 9 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0",
    ] {
        assert_eq!(reprinted(text), text);
    }
}

#[test]
fn the_kernels_leniencies_are_kept() {
    for (text, printed) in [
        ("  0\t8192\nsnapshot  a   b p 16  ", "0 8192 snapshot a b P 16"),
        ("0 8192 snapshot a b po 16", "0 8192 snapshot a b PO 16"),
        ("0 8192 snapshot a b pOverflow 16", "0 8192 snapshot a b PO 16"),
        ("0 8192 snapshot a b nxyz 16", "0 8192 snapshot a b N 16"),
        ("0 8192 snapshot a b no 16", "0 8192 snapshot a b NO 16"),
        ("0 8192 snapshot a b nobody 16", "0 8192 snapshot a b N 16"),
        ("0 8192 snapshot a b P 16 0", "0 8192 snapshot a b P 16"),
        ("0 8192 snapshot a b P 16 0 whatever", "0 8192 snapshot a b P 16"),
        (
            "0 8192 snapshot a b P 16 1 Discard_Zeroes_COW more",
            "0 8192 snapshot a b P 16 1 discard_zeroes_cow",
        ),
        (
            "0 8 snapshot a b P 8 2 discard_zeroes_cow discard_zeroes_cow",
            "0 8 snapshot a b P 8 1 discard_zeroes_cow",
        ),
        (
            "0 8 snapshot a b P 8 2 discard_passdown_origin discard_zeroes_cow",
            "0 8 snapshot a b P 8 2 discard_zeroes_cow discard_passdown_origin",
        ),
        ("0 8 snapshot-origin /dev/my\\ disk", "0 8 snapshot-origin /dev/my\\ disk"),
        ("0 8 snapshot-origin a\\b\\\\c\\", "0 8 snapshot-origin ab\\\\c\\\\"),
        ("0 8 mirror core 1 2 2 a 0 b 0 0", "0 8 mirror core 1 2 2 a 0 b 0"),
        (
            "0 8 mirror core 1 2 2 a 0 b 0 2 keep_log handle_errors",
            "0 8 mirror core 1 2 2 a 0 b 0 2 handle_errors keep_log",
        ),
    ] {
        assert_eq!(reprinted(text), printed, "{text}");
    }
}

#[test]
fn refusals_name_the_argument() {
    for (text, reason) in [
        ("", "start is missing"),
        ("x", "start \"x\": not a decimal number"),
        ("8 8 snapshot-origin a", "start 8: "),
        ("0", "length is missing"),
        ("0 -8 snapshot-origin a", "length \"-8\": not a decimal number"),
        ("0 0 snapshot-origin a", "length 0: must be"),
        ("0 18014398509481984 snapshot-origin a", "length 18014398509481984: must be"),
        ("0 99999999999999999999 snapshot-origin a", "length \"99999999999999999999\": too large"),
        ("0 8", "target is missing"),
        ("0 8 striped 2 8 a 0 b 0", "target \"striped\": unknown; the targets are"),
        ("0 8 linear", "linear: device is missing"),
        ("0 8 linear a", "linear: offset is missing"),
        ("0 8 linear a -1", "linear: offset \"-1\": not a decimal number"),
        ("0 8 linear a 8s", "linear: offset \"8s\": not a decimal number"),
        ("0 8 linear a 0 0", "linear: \"0\" is one argument too many"),
        (
            "0 8 linear a 18014398509481976",
            "linear: offset 18014398509481976: the device would end",
        ),
        (
            "0 8 linear a 18446744073709551615",
            "linear: offset 18446744073709551615: the device would end",
        ),
        ("0 8 error 0", "error: \"0\" is one argument too many"),
        ("0 8 zero a", "zero: \"a\" is one argument too many"),
        ("0 8 linear a 18446744073709551616", "linear: offset \"18446744073709551616\": too large"),
        ("0 8 snapshot-origin", "snapshot-origin: origin device is missing"),
        ("0 8 snapshot-origin a b", "snapshot-origin: \"b\" is one argument too many"),
        ("0 8 snapshot a b P", "snapshot: needs at least 4 arguments"),
        ("0 8 snapshot a b Pz 8", "snapshot: type \"Pz\": must be"),
        ("0 8 snapshot a b persistent 8", "snapshot: type \"persistent\": must be"),
        ("0 8 snapshot a b X 8", "snapshot: type \"X\": must be"),
        ("0 8 snapshot a b P 12", "snapshot: chunk size 12: must be a power of two"),
        ("0 8 snapshot a b P 4194304", "snapshot: chunk size 4194304: must be a power of two"),
        ("0 8 snapshot a b P 8k", "snapshot: chunk size \"8k\": not a decimal number"),
        ("0 8 snapshot a b P 4294967296", "snapshot: chunk size \"4294967296\": too large"),
        ("0 8 snapshot a b N 0", "snapshot: a transient store (N) needs a chunk size"),
        ("0 8 snapshot a a P 8", "snapshot: origin and COW are the same device"),
        ("0 8 snapshot a b P 8 3 x y z", "snapshot: feature count 3: at most 2"),
        ("0 8 snapshot a b P 8 2 discard_zeroes_cow", "snapshot: feature count 2, but 1 follow"),
        ("0 8 snapshot a b P 8 one", "snapshot: feature count \"one\": not a decimal number"),
        ("0 8 snapshot a b P 8 1 fast", "snapshot: feature \"fast\" is unknown"),
        ("0 8 snapshot a b Q 7 1 fast", "snapshot: feature \"fast\" is unknown"),
        (
            "0 8 snapshot a b P 8 1 discard_passdown_origin",
            "snapshot: feature discard_passdown_origin needs",
        ),
        ("0 8 snapshot-merge a b N 8", "snapshot-merge: a transient store (N) cannot be merged"),
    ] {
        let error = Table::parse(text).expect_err(text).to_string();
        assert!(error.starts_with(reason), "{text}: {error}");
        assert!(!error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn mirror_refusals_name_the_argument() {
    for (arguments, reason) in [
        ("", "log type is missing"),
        ("userspace 1 2", "log type \"userspace\": must be core or disk"),
        ("core 0", "0 arguments for a core log"),
        ("core 4294967295 8", "4294967295 arguments for a core log"),
        ("core 3 8 sync block_on_error 2 a 0 b 0", "3 arguments for a core log"),
        (
            "core 2 8 block_on_error 2 a 0 b 0",
            "log argument block_on_error is now the feature handle_errors",
        ),
        ("core 2 8 Sync 2 a 0 b 0", "log argument \"Sync\": must be sync or nosync"),
        ("disk 1 8 2 a 0 b 0", "1 arguments for a disk log"),
        ("disk 2 1:1", "region size is missing"),
        ("core 1 1 2 a 0 b 0", "region size 1: must be a power of two"),
        ("core 1 1000 2 a 0 b 0", "region size 1000: must be a power of two"),
        (
            "core 1 16384 2 a 0 b 0",
            "region size 16384: must be a power of two from 2 sectors to the length, 8192",
        ),
        ("core 1 8 1 a 0", "1 leg: must be 2 to 9"),
        ("core 1 8 10 a 0", "10 legs: must be 2 to 9"),
        ("core 1 8 2 a 0 b", "offset of leg 1 is missing"),
        ("core 1 8 2 a 0 b -1", "offset of leg 1 \"-1\": not a decimal number"),
        ("core 1 8 2 a 0 b 18446744073709551615", "offset 18446744073709551615 of leg 1: "),
        ("core 1 8 2 a 0 b 0 1 keep_log", "feature keep_log needs handle_errors"),
        ("core 1 8 2 a 0 b 0 1 Handle_Errors", "feature \"Handle_Errors\" is unknown"),
        ("core 1 8 2 a 0 b 0 1 handle_errors more", "\"more\" is one argument too many"),
        ("core 1 8 2 a 0 b 0 2 handle_errors", "feature count 2, but 1 follow"),
    ] {
        let error =
            Table::parse(&format!("0 8192 mirror {arguments}")).expect_err(arguments).to_string();
        assert!(error.starts_with(&format!("mirror: {reason}")), "{arguments}: {error}");
    }
    let huge =
        Table::parse("0 8589934593 mirror core 1 2 2 a 0 b 0").expect_err("too many regions");
    assert_eq!(huge.to_string(), "mirror: region size 2: makes more than 4294967295 regions");
}

#[test]
fn comments_and_empty_lines_are_skipped() {
    let table = "# the data volume\n\n0 8192 snapshot-origin 254:0\n";
    assert_eq!(Table::parse_table(table).unwrap().to_string(), "0 8192 snapshot-origin 254:0");
    assert_eq!(Table::parse_table("#\n").unwrap_err().to_string(), "the table is empty");
    let table = "# two disks\r\n 0 8 linear a 8 \r\n\n#\n\t8 16 error\n";
    let table = Table::parse_table(table).unwrap();
    assert_eq!(
        (table.len, table.to_string().as_str()),
        (Sectors(24), "0 8 linear a 8\n8 16 error")
    );
}

/// Device words with all characters that must be quoted.
fn device() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9]{1,3}:[0-9]{1,3}", "/dev/[a-z0-9]{1,8}", "[^\u{0}]{1,8}", "[ \\\\\t\na]{1,6}"]
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let store = any::<(bool, bool)>().prop_map(|(persistent, overflow)| match persistent {
        true => StoreType::Persistent { overflow },
        false => StoreType::Transient { overflow },
    });
    let chunk = prop::option::of(0_u32..=21);
    (device(), device(), store, chunk, 0..3_u8).prop_filter_map(
        "same device or no chunk size",
        |parts| {
            let (origin, cow, store, chunk, features) = parts;
            let chunk_size = chunk.and_then(|shift| ChunkSize::from_sectors(1 << shift));
            let (discard_zeroes_cow, discard_passdown_origin) = (features > 0, features > 1);
            let snapshot = Snapshot {
                origin,
                cow,
                store,
                chunk_size,
                discard_zeroes_cow,
                discard_passdown_origin,
            };
            snapshot.check(false).is_ok().then_some(snapshot)
        },
    )
}

fn mirror(len: Sectors) -> impl Strategy<Value = Mirror> {
    let log =
        prop_oneof![Just(MirrorLog::Core), device().prop_map(|device| MirrorLog::Disk { device })];
    let sync =
        prop_oneof![Just(InitialSync::FromLog), Just(InitialSync::Sync), Just(InitialSync::NoSync)];
    let leg = (device(), 0..1_u64 << 40)
        .prop_map(|(device, offset)| Leg { device, offset: Sector(offset) });
    let legs = prop::collection::vec(leg, 2..=9);
    (log, 1..32_u32, sync, legs, 0..3_u8).prop_filter_map("regions do not fit", move |parts| {
        let (log, shift, initial_sync, legs, features) = parts;
        let (handle_errors, keep_log) = (features > 0, features > 1);
        let mirror = Mirror {
            log,
            region_size: Sectors(1 << shift),
            initial_sync,
            legs,
            handle_errors,
            keep_log,
        };
        mirror.check(len).is_ok().then_some(mirror)
    })
}

fn line() -> impl Strategy<Value = Table> {
    let params = |len: Sectors| {
        prop_oneof![
            snapshot().prop_map(TargetParams::Snapshot),
            snapshot().prop_filter_map("transient", |snapshot| {
                snapshot.check(true).is_ok().then_some(TargetParams::SnapshotMerge(snapshot))
            }),
            device().prop_map(|origin| TargetParams::SnapshotOrigin { origin }),
            mirror(len).prop_map(TargetParams::Mirror),
            (device(), 0..1_u64 << 40).prop_map(|(device, offset)| TargetParams::Linear(Linear {
                device,
                offset: Sector(offset)
            })),
            Just(TargetParams::Error),
            Just(TargetParams::Zero),
        ]
    };
    (12..40_u32, any::<u64>()).prop_flat_map(move |(bits, random)| {
        let len = Sectors(random % (1 << bits) + 1 + (1 << bits));
        params(len).prop_map(move |params| Table { len, params })
    })
}

/// A table of several lines.
fn several() -> impl Strategy<Value = Table> {
    let linear = (device(), 0..1_u64 << 40).prop_map(|(device, offset)| {
        SegmentParams::Linear(Linear { device, offset: Sector(offset) })
    });
    let params = prop_oneof![linear, Just(SegmentParams::Error), Just(SegmentParams::Zero)];
    let segment =
        (1..1_u64 << 40, params).prop_map(|(len, params)| Segment { len: Sectors(len), params });
    prop::collection::vec(segment, 2..6).prop_map(|segments| {
        let len = Sectors(segments.iter().map(|segment| segment.len.0).sum());
        Table { len, params: TargetParams::Segments(segments) }
    })
}

/// A line with some characters changed, doubled or removed: nearly valid, so it gets further into
/// the parser than random text.
fn damaged() -> impl Strategy<Value = String> {
    let changes =
        prop::collection::vec((any::<prop::sample::Index>(), "[ 0-9a-zA-Z:/\\\\-]{0,3}"), 1..4);
    (prop_oneof![line(), several()], changes).prop_map(|(line, changes)| {
        let mut text: Vec<char> = line.to_string().chars().collect();
        for (at, new) in changes {
            let at = at.index(text.len().max(1)).min(text.len());
            text.splice(at..(at + 1).min(text.len()), new.chars());
        }
        text.into_iter().collect()
    })
}

#[test]
fn a_long_line_takes_one_pass() {
    let long = 1 << 20;
    for text in [
        "9".repeat(long),
        format!("0 8 snapshot {}", "a ".repeat(long)),
        format!("0 8 mirror core 1 {}", "8 ".repeat(long)),
        format!("0 8 mirror core 1 8 {} a 0", "9".repeat(long)),
        format!("0 8 snapshot a b P {}", "\\".repeat(long)),
        "\n".repeat(long),
    ] {
        let error = Table::parse_table(&text).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| !error.contains('\n')), "{}", &text[..20]);
    }
}

#[test]
fn a_line_says_which_devices_share_a_server() {
    for (text, prefix, disk, name) in [
        ("0 8 snapshot a b P 8", "", "a", "snap"),
        ("0 8 snapshot-origin a", "", "a", "origin"),
        ("0 8 mirror disk 2 log 2 2 a 0 b 0", "mirror-", "a", "mirror"),
        ("0 8 linear a 8", "linear-", "a", "linear"),
        ("0 8 zero\n8 8 linear a 8\n16 8 linear b 8", "linear-", "a", "linear"),
        ("0 8 error", "linear-", "", "error"),
        ("0 8 zero\n8 8 error", "linear-", "", "linear"),
    ] {
        let params = Table::parse_table(text).unwrap().params;
        let disk = Some(disk).filter(|disk| !disk.is_empty());
        assert_eq!(
            (params.family(), params.short_name()),
            (FamilyKey { disk, prefix }, name),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn a_damaged_line_is_refused_in_one_line_or_means_something(text in damaged()) {
        match Table::parse_table(&text) {
            Ok(line) => prop_assert_eq!(Table::parse_table(&line.to_string()), Ok(line)),
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    }

    #[test]
    fn every_table_survives_printing(table in prop_oneof![line(), several()]) {
        let text = table.to_string();
        prop_assert_eq!(Table::parse_table(&text), Ok(table), "{}", text);
    }

    #[test]
    fn every_line_survives_printing(line in line()) {
        let text = line.to_string();
        prop_assert_eq!(Table::parse(&text), Ok(line), "{}", text);
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        for result in [Table::parse(&text), Table::parse_table(&text)] {
            if let Err(error) = result {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }

    #[test]
    fn texts_made_of_our_words_print_to_what_they_mean(
        words in prop::collection::vec(
            prop_oneof![
                Just("snapshot"), Just("snapshot-merge"), Just("mirror"), Just("linear"),
                Just("core"), Just("disk"), Just("P"),
                Just("N"), Just("sync"), Just("0"), Just("1"), Just("2"), Just("8"),
                Just("1024"), Just("a"), Just("b"),
                Just("18446744073709551615"), Just("handle_errors"), Just("discard_zeroes_cow"),
                Just("\\"),
            ],
            0..14,
        ),
    ) {
        let text = format!("0 8192 {}", words.join(" "));
        match Table::parse(&text) {
            Ok(line) => prop_assert_eq!(Table::parse(&line.to_string()), Ok(line)),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}
