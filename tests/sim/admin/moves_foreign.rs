//! Mirrors that take the place of one with other disks, or of ranges: without the data, or not
//! there at all.

use super::moves_refused::{put, read, rest, spec, town, write};
use super::town::Town;
use crate::protocol::DeviceSpec;

const LOGGED: &str = "0 8 mirror disk 2 /c0 2 2 /a 0 /b 0";
/// A mirror without any of the data of a linear device on `/a`.
const FOREIGN: &str = "0 8 mirror core 1 2 2 /b 0 /c 0";
const CORE: &str = "0 8 mirror core 1 2 2 /a 0 /b 0";

/// A device on a mirror in sync.
fn mirrored(table: &str) -> Town {
    let mut town = town();
    put(&mut town, spec(table)).unwrap();
    rest(&town);
    town
}

/// None of the new legs has the device's data, whatever the log or the table's words say.
#[test]
fn a_mirror_of_other_disks_does_not_take_the_place_of_one() {
    for (old, new) in [
        (LOGGED, "disk 2 /c0 2"),
        (LOGGED, "disk 3 /c0 2 sync"),
        (LOGGED, "disk 3 /c0 2 nosync"),
        (LOGGED, "core 1 2"),
        (CORE, "core 1 2"),
        (CORE, "core 2 2 nosync"),
    ] {
        let table = format!("0 8 mirror {new} 2 /c 0 /c1 0");
        let mut town = mirrored(old);
        let why = put(&mut town, spec(&table)).unwrap_err();
        let parts = ["no leg is known to be up to date", "--source", "continues to run"];
        assert!(parts.iter().all(|part| why.contains(part)), "{table}: {why}");
        assert_eq!(read(&mut town), 7, "{table}");
        write(&mut town, 9);
        // Who names a source wants what is on it.
        put(&mut town, DeviceSpec { source: Some(0), force: true, ..spec(&table) }).unwrap();
        rest(&town);
        assert_ne!(read(&mut town), 9, "{table}");
    }
}

/// A leg of the old mirror has gone as well: it could not be opened again.
#[test]
fn a_mirror_is_not_closed_for_one_whose_disk_is_not_there() {
    let mut town = mirrored(LOGGED);
    town.site.disks[4].there.set(false);
    for table in ["0 8 mirror disk 2 /c1 2 2 /a 0 /b 0", "0 8 mirror core 1 2 2 /a 0 /absent 0"] {
        let why = put(&mut town, spec(table)).unwrap_err();
        let parts = ["there is no such device or file", "the old table is still in place"];
        assert!(parts.iter().all(|part| why.contains(part)), "{table}: {why}");
        assert_eq!(read(&mut town), 7, "{table}");
    }
    put(&mut town, spec("0 8 linear /a 0")).unwrap();
    assert_eq!(read(&mut town), 7);
}

#[cfg(feature = "mutants")]
#[test]
fn broken_rules_of_other_disks_are_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    use dm_targets::mutant as targets;
    let lives = |life: fn()| std::panic::catch_unwind(life).is_ok();
    targets::set(Some(targets::Mutant::ForeignLegsReplace));
    let replaced = lives(a_mirror_of_other_disks_does_not_take_the_place_of_one);
    targets::set(None);
    mutant::set(Some(Mutant::ClosedForMissing));
    let closed = lives(a_mirror_is_not_closed_for_one_whose_disk_is_not_there);
    mutant::set(None);
    assert!(!replaced && !closed, "replaced: {replaced}, closed: {closed}");
}

/// No leg has any data of the device: which one is right is not guessed.
#[test]
fn a_mirror_without_the_data_needs_a_source() {
    let old = "0 8 linear /a 0";
    for mirror in [FOREIGN, "0 8 mirror core 2 2 nosync 2 /b 0 /c 0"] {
        let mut town = town();
        put(&mut town, spec(old)).unwrap();
        let why = put(&mut town, spec(mirror)).unwrap_err();
        let parts = ["/a: the device's data are on it", "--source", "continues to run"];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
        assert_eq!(read(&mut town), 7);
    }
    for asked in [DeviceSpec { source: Some(1), ..spec(FOREIGN) }, forced(FOREIGN)] {
        let mut town = town();
        put(&mut town, spec(old)).unwrap();
        put(&mut town, asked).unwrap();
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_leg_that_is_guessed_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::NoLegWithData));
    let lived = std::panic::catch_unwind(a_mirror_without_the_data_needs_a_source);
    mutant::set(None);
    assert!(lived.is_err());
}

fn forced(line: &str) -> DeviceSpec {
    DeviceSpec { force: true, ..spec(line) }
}
