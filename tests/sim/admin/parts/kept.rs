//! What nobody takes: the parts of devices whose state file cannot be read, and
//! what a mirror has that is replaced by another one.

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

/// A mirror shares what the one shares that it replaces, and claims what that one claims.
#[test]
pub fn a_mirror_shares_the_disks_that_the_former_one_shares() {
    let put = |town: &mut Town, device, lines: &str, flags| {
        let spec = DeviceSpec { source: Some(0), ..spec(lines, flags) };
        town.ask(MIRROR, Command::Load { device, spec }).unwrap();
        town.ask(MIRROR, Command::Resume { device }).map(drop)
    };
    let unclaimed = |town: &Town| {
        let known = first(town, MIRROR).known;
        known.into_values().map(|known| known.unclaimed).collect::<Vec<_>>()
    };
    for flags in [Flags::None, Force, Shared] {
        let mut town = town();
        let device = add(&mut town, MIRROR, "0 2 mirror core 1 2 2 /a 0 /b 0", Shared).unwrap();
        mapped(&town, Some(Other::Mapped));
        put(&mut town, device, "0 2 mirror core 1 2 2 /a 4 /c 4", flags).unwrap();
        assert_eq!(unclaimed(&town), [true, matches!(flags, Shared)]);
        assert_eq!(recover(&mut town, MIRROR), [""; 0]);
        add(&mut town, THIRD, "0 2 linear /b 4", Shared).unwrap();
        let lines = "0 2 mirror core 1 2 3 /a 4 /c 4 /b 4";
        let why = put(&mut town, device, lines, Shared).unwrap_err();
        assert!(why.contains("/b: it is a disk of"), "{why}");
        let mut town = self::town();
        let device = add(&mut town, MIRROR, "0 2 mirror core 1 2 2 /a 0 /b 0", Flags::None);
        let lines = "0 2 mirror core 1 2 2 /a 4 /c 4";
        put(&mut town, device.unwrap(), lines, flags).unwrap();
        assert_eq!(unclaimed(&town), [false, matches!(flags, Shared)]);
        assert!(is_claimed(&town));
    }
}

/// The same for the disks that a mirror has claimed: it is closed before the new one is opened.
#[test]
pub fn a_disk_is_not_free_before_its_mirror_has_been_left() {
    let (mut between, mut said) = (0, Vec::new());
    for (operations, flags) in (0..8).flat_map(|at| [(at, Shared), (at, Flags::None)]) {
        let mut town = town();
        town.site.gives_up.set(true);
        let lines = "0 2 mirror core 1 2 2 /a 0 /c0 0";
        let device = add(&mut town, MIRROR, lines, Flags::None).unwrap();
        let force = matches!(flags, Shared);
        let spec = spec("0 2 mirror disk 2 /c 2 2 /b 4 /c1 4", if force { Both } else { Force });
        let spec = DeviceSpec { source: Some(0), ..spec };
        town.ask(MIRROR, Command::Load { device, spec }).unwrap();
        town.site.disks[LOG].hangs_after.set(Some(operations));
        let resumed = town.ask(MIRROR, Command::Resume { device }).map(drop);
        let taken = add(&mut town, THIRD, "0 2 linear /a 4", flags);
        said.push(format!("{resumed:?}"));
        match resumed {
            Ok(()) => assert!(taken.is_ok(), "{operations}: {taken:?}"),
            Err(why) => {
                between += u32::from(why.contains("between two tables"));
                assert!(taken.is_err(), "{operations}: {taken:?} although {why}");
            }
        }
    }
    assert!(between > 0, "{said:#?}");
}
