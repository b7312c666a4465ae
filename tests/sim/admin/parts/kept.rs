//! What nobody takes: the parts of devices whose state file cannot be read.

use super::*;

/// Nothing else tells of the parts that the devices in a state file have.
#[test]
pub fn no_part_is_taken_while_a_state_file_cannot_be_read() {
    let (mut town, low, _) = two_families();
    town.site.files(|files| files.spoil(MIRROR, true));
    let unread = |why: &str| {
        let parts = ["mirror-a.json: damaged", "remove the file", "--force"];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    };
    let taking = "0 4 linear /a 4";
    unread(&add(&mut town, THIRD, taking, Shared).unwrap_err());
    // In the same family as well.
    unread(&add(&mut town, LINES, taking, Shared).unwrap_err());
    let put = |town: &mut Town, lines: &str, flags| {
        let spec = spec(lines, flags);
        town.ask(LINES, Command::Load { device: low, spec }).unwrap();
        town.ask(LINES, Command::Resume { device: low }).map(drop)
    };
    unread(&put(&mut town, taking, Shared).unwrap_err());
    let bytes = Some(5 * 512);
    unread(&town.ask(LINES, Command::Resize { device: low, bytes }).unwrap_err());
    // What a device has already stays its own, and what it has claimed.
    put(&mut town, LOW, Shared).unwrap();
    put(&mut town, "0 2 linear /a 0\n2 2 linear /c 0", Flags::None).unwrap_err();
    assert_eq!(recover(&mut town, LINES), [""; 0]);
    add(&mut town, "o", "0 4 snapshot-origin /c", Flags::None).unwrap();
    // By force, in this family and in another.
    put(&mut town, taking, Both).unwrap();
    add(&mut town, LINES, "0 2 linear /a 0", Both).unwrap();
    add(&mut town, THIRD, "0 1 linear /a 2", Both).unwrap();
    // Not what is known to be another one's.
    let why = put(&mut town, "0 4 linear /a 2", Both).unwrap_err();
    assert!(why.contains("/a: it is a disk of"), "{why}");
}
