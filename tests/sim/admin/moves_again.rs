//! A mirror takes the place of one with the same legs again, after other disks.

use dm_targets::sim::image::Image;

use super::moves_refused::{put, rest, spec, town, write};
use super::town::Town;

fn logged(region: u64) -> String {
    format!("0 8 mirror disk 2 /c0 {region} 2 /a 0 /b 0")
}

fn image(town: &Town, disk: usize) -> Image {
    town.site.disks[disk].disk.borrow().visible()
}

/// The device's data are on none of the legs, so that none is named as the source.
#[test]
fn an_old_log_is_not_trusted_in_the_place_of_another_disk() {
    let mut town = town();
    for table in [&logged(2), "0 8 linear /c 0", "0 8 linear /b 0"] {
        put(&mut town, spec(table)).unwrap();
        rest(&town);
    }
    write(&mut town, 9);
    for table in ["0 8 linear /c 0", &logged(2)] {
        put(&mut town, spec(table)).unwrap();
        rest(&town);
    }
    assert_eq!(image(&town, 3), image(&town, 4), "the log calls them equal");
}

#[cfg(feature = "mutants")]
#[test]
fn broken_rules_of_the_same_legs_are_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    let lives = |mutant: Mutant, life: fn()| {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(life).is_ok();
        mutant::set(None);
        lived
    };
    assert!(!lives(Mutant::OldLogTrusted, an_old_log_is_not_trusted_in_the_place_of_another_disk));
}
