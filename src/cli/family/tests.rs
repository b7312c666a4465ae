//! Tests of the search for a family among the state files.

use super::*;
use crate::protocol::DeviceSpec;

fn mirror(name: &str, legs: [u32; 2], disks: &[u32]) -> DeviceState {
    let line = format!("0 64 mirror core 1 16 2 /d/{} 0 /d/{} 0", legs[0], legs[1]);
    let disks = disks.iter().map(|minor| (7, *minor)).collect();
    DeviceState { disks, ..DeviceState::of_line(0, name, &line) }
}

fn state(devices: Vec<DeviceState>) -> Option<State> {
    Some(State::new("boot".to_owned(), devices))
}

fn disk(minor: u32) -> DiskId {
    DiskId::Block { major: 7, minor }
}

/// `/d/N` is the disk 7:N; other paths do not resolve.
fn find(path: &Path) -> Result<DiskId, ()> {
    let minor = path.strip_prefix("/d").ok().and_then(|minor| minor.to_str()?.parse().ok());
    minor.filter(|minor| *minor < 90).map(disk).ok_or(())
}

fn key(states: &[(&str, Option<State>)], minor: u32) -> String {
    key_among(states, &format!("mirror-block-7-{minor}"), disk(minor), find, |_| true)
}

#[test]
fn a_mirror_joins_the_server_that_has_its_first_leg() {
    assert_eq!(key(&[], 1), "mirror-block-7-1");
    let has_it = [("mirror-block-7-1", state(vec![mirror("m", [1, 2], &[1, 2])]))];
    assert_eq!(key(&has_it, 1), "mirror-block-7-1");
    // A server that has just started is asked, and so is one whose state cannot be read.
    assert_eq!(key(&[("mirror-block-7-1", None)], 1), "mirror-block-7-1");
    assert_eq!(key(&[("mirror-block-7-1", state(vec![]))], 1), "mirror-block-7-1");
}

#[test]
fn a_disk_that_a_mirror_no_longer_has_is_free_for_another() {
    // The first leg was replaced; its number is still recorded.
    let freed = ("mirror-block-7-1", state(vec![mirror("m", [3, 2], &[1, 2, 3])]));
    assert_eq!(key(std::slice::from_ref(&freed), 1), "mirror-block-7-1-2");
    let second = ("mirror-block-7-1-2", state(vec![mirror("n", [1, 4], &[1, 4])]));
    assert_eq!(
        key(&[freed.clone(), second.clone()], 1),
        "mirror-block-7-1-2",
        "who has it is asked"
    );
    assert_eq!(key(&[second], 1), "mirror-block-7-1-2", "the first one has ended meanwhile");
    // The first leg of the second mirror was replaced as well.
    let second = ("mirror-block-7-1-2", state(vec![mirror("n", [5, 4], &[1, 4, 5])]));
    assert_eq!(key(&[freed, second], 1), "mirror-block-7-1-3");
    // The family of another disk does not count, although its name starts the same.
    let other = ("mirror-block-7-11", state(vec![mirror("m", [1, 2], &[1, 2])]));
    assert_eq!(key(&[other], 1), "mirror-block-7-1");
}

#[test]
fn a_mirror_beside_another_one_has_a_server_of_its_own() {
    let states = [("mirror-block-7-1", state(vec![mirror("m", [1, 2], &[1, 2])]))];
    let beside = |table: &Table| {
        let joins = |state: &State| takes_another(state, table);
        key_among(&states, "mirror-block-7-1", disk(1), find, joins)
    };
    assert_eq!(beside(&mirror("n", [1, 2], &[]).spec.table), "mirror-block-7-1-2");
    let linear = DeviceSpec::of_line("0 64 linear /d/1 64").table;
    assert_eq!(beside(&linear), "mirror-block-7-1-2");
    let spec = DeviceSpec::of_line("0 64 linear /d/1 0");
    let lines = DeviceState { spec, ..mirror("l", [1, 2], &[1]) };
    let lines = state(vec![lines]).unwrap();
    assert!(takes_another(&lines, &linear));
    assert!(!takes_another(&lines, &mirror("n", [1, 2], &[]).spec.table));
}

#[test]
fn a_linear_device_that_has_moved_leaves_its_first_disk_to_others() {
    let linear = |line: &str, disks: &[u32]| {
        let mut device = mirror("l", [1, 2], disks);
        device.spec = DeviceSpec::of_line(line);
        device
    };
    let on = |line: &str, minor: u32| {
        key(&[("mirror-block-7-1", state(vec![linear(line, &[minor])]))], 1)
    };
    assert_eq!(on("0 64 linear /d/1 0", 1), "mirror-block-7-1");
    assert_eq!(on("0 8 zero\n8 8 linear /d/1 0", 1), "mirror-block-7-1");
    assert_eq!(on("0 64 linear /d/2 0", 2), "mirror-block-7-1-2");
    // An origin's family keeps its name: it is the origin's own.
    assert_eq!(on("0 64 snapshot-origin /d/2", 2), "mirror-block-7-1");
}

#[test]
fn an_origin_is_where_its_table_is() {
    let on = |line: &str, disks: &[u32]| {
        let mut device = mirror("d", [1, 2], disks);
        device.spec = DeviceSpec::of_line(line);
        state(vec![device])
    };
    let of_origin =
        |states: &[(&str, Option<State>)]| key_of_origin(states, "block-7-1", disk(1), find);
    assert_eq!(of_origin(&[]), "block-7-1");
    let loaded = ("linear-block-7-1", on("0 64 snapshot-origin /d/1", &[1]));
    assert_eq!(of_origin(std::slice::from_ref(&loaded)), "linear-block-7-1");
    let other = ("linear-block-7-2", on("0 64 snapshot-origin /d/2", &[2]));
    assert_eq!(of_origin(std::slice::from_ref(&other)), "block-7-1", "of another disk");
    let linear = ("linear-block-7-1", on("0 64 linear /d/1 0", &[1]));
    assert_eq!(of_origin(std::slice::from_ref(&linear)), "block-7-1", "no origin");
    let without = ("block-7-1", on("0 64 error", &[]));
    let states = [without, loaded.clone()];
    assert_eq!(of_origin(&states), "linear-block-7-1", "its own device has left it");
    let own = ("block-7-1", on("0 64 snapshot-origin /d/1", &[1]));
    assert_eq!(of_origin(&[loaded, own]), "block-7-1", "its own family first");
    // And ranges where an origin was.
    let states = [("block-7-1", on("0 64 linear /d/1 0", &[1]))];
    let of_lines = |base: &str| key_among(&states, base, disk(1), find, |_| true);
    assert_eq!(of_lines("linear-block-7-1"), "block-7-1");
    assert_eq!(of_lines("mirror-block-7-1"), "mirror-block-7-1", "a mirror is alone");
}

#[test]
fn a_leg_that_cannot_be_found_may_be_any() {
    let gone = ("mirror-block-7-1", state(vec![mirror("m", [99, 2], &[1, 2])]));
    assert_eq!(key(std::slice::from_ref(&gone), 1), "mirror-block-7-1");
}

#[test]
fn a_mirror_is_its_commands_own_after_its_legs_were_changed() {
    let own = |base: &str, name: &str, legs: [u32; 2]| {
        let states = [("mirror-block-7-1", state(vec![mirror("m", [3, 2], &[1, 2, 3])]))];
        let wanted = mirror(name, legs, &[]).spec.table;
        let (name, in_part) = (Some(name), false);
        let wanted = Wanted { table: &wanted, in_part, beside: None, name, own_name: name };
        own_among(&states, &wanted, base).map(|(key, _)| key.to_owned())
    };
    let family = Some("mirror-block-7-1".to_owned());
    assert_eq!(own("mirror-block-7-1", "m", [1, 2]), family, "by the legs that it was made with");
    assert_eq!(own("mirror-block-7-3", "m", [3, 2]), family, "by those that it has now");
    assert_eq!(
        own("mirror-block-7-5", "m", [5, 6]),
        None,
        "a mirror of other disks is another one"
    );
    assert_eq!(own("mirror-block-7-1", "n", [1, 2]), None);
}
