//! Devices, their words and their disks; and a stack for the tests of the room.

use super::*;

/// A device with a table and the number 259:`id`.
pub(in crate::cli::dmsetup) fn one(name: &str, id: u32, table: &str) -> One {
    One {
        name: name.to_owned(),
        uuid: Some(format!("U-{name}")).filter(|_| id == 11),
        id: Some(id),
        number: Some((259, id)),
        is_suspended: false,
        is_read_only: false,
        table: Some(table.to_owned()),
        status: String::new(),
        inactive: None,
        events: id,
        silent: None,
        is_orphan: false,
    }
}

/// A stack: a snapshot of `base` on `cow`, and its origin.
pub(in crate::cli::dmsetup) fn stack() -> All {
    let ones = vec![
        one("base", 10, "0 80 linear 8:0 0"),
        one("cow", 11, "0 8 linear 8:16 0"),
        one("orig", 13, "0 80 snapshot-origin 259:10"),
        one("snap", 12, "0 80 snapshot 259:10 259:11 P 8"),
    ];
    All { ones, problems: Vec::new() }
}

#[test]
fn disks_are_in_the_order_of_device_mapper() {
    for (line, disks) in [
        ("0 80 snapshot 8:0 8:16 P 8", vec![(8, 16), (8, 0)]),
        ("0 80 mirror core 1 8 2 8:0 0 8:16 0", vec![(8, 16), (8, 0)]),
        ("0 80 mirror disk 2 8:32 8 2 8:0 0 8:16 0", vec![(8, 16), (8, 0), (8, 32)]),
        ("0 8 linear 8:0 0\n8 8 zero\n16 8 linear 8:0 64", vec![(8, 0)]),
        ("0 8 linear /a/file 0", vec![]),
        ("0 8 error", vec![]),
    ] {
        assert_eq!(disks_of(line), disks, "{line}");
    }
}

#[test]
fn a_word_is_a_name_or_a_path_of_its_device() {
    let all = stack();
    for word in ["cow", "/dev/mapper/cow", "/dev/ublk-dm/cow", "/dev/ublkb11"] {
        assert_eq!(all.named(word).map(|one| one.id), Some(Some(11)), "{word}");
    }
    for word in ["11", "259:11", "/dev/cow", "/dev/ublkb1", ""] {
        assert!(all.named(word).is_none(), "{word}");
    }
    assert_eq!(all.with_uuid("U-cow").map(|one| one.id), Some(Some(11)));
    assert!(all.with_uuid("U-base").is_none());
    let uppers: Vec<_> = all.above(&all.ones[0]).map(|one| one.name.as_str()).collect();
    assert_eq!(uppers, ["orig", "snap"]);
    assert_eq!((all.opens(&all.ones[0]), all.leaves()), (2, vec![(8, 0), (8, 16)]));
}

#[test]
fn a_line_without_arguments_ends_in_a_space() {
    assert_eq!(Line::of("0 8 error").printed(), "0 8 error ");
    let line = "0 8 snapshot 16/8192 16";
    assert_eq!((Line::of(line).target, Line::of(line).printed()), ("snapshot", line.to_owned()));
    let mut device = one("v", 1, "0 8 error");
    assert_eq!(device.attributes(), "L--w");
    (device.is_read_only, device.is_suspended, device.table) = (true, true, None);
    device.inactive = Some("0 8 zero".to_owned());
    assert_eq!((device.attributes(), device.word()), ("-Isr".to_owned(), "v".to_owned()));
}
