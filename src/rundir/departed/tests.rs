//! Which disk a departure is of, and when it ends.

use dm_targets::snapshot::format::StoreId;

use super::*;
use crate::protocol::{DeviceSpec, Which};
use crate::rundir::lost::LostStore;
use dm_targets::snapshot::losses::LossRecord;
use dm_targets::units::{Sector, Sectors};

fn departure(id: u8, name: &str, origin: &str) -> Departure {
    let store = Which::Id(StoreId([id; 16]));
    let (names, former) = (vec![name.to_owned()], String::new());
    let cow = Cow { store, names, former, number: 7, origin: origin.to_owned() };
    let place = Place::default();
    Departure { cow, mark_failed: false, origin_number: 3, place, unmerged: None, made_of: None }
}

fn disk(name: &str, number: u64) -> KnownDisk {
    KnownDisk { name: name.to_owned(), number, ..KnownDisk::default() }
}

fn rundir() -> (tempfile::TempDir, RunDir) {
    let dir = tempfile::tempdir().unwrap();
    let rundir = RunDir::trusted(dir.path().to_owned());
    (dir, rundir)
}

#[test]
fn a_departure_is_found_by_its_origin_and_by_no_other() {
    let (_dir, rundir) = rundir();
    let (named, nameless) = (departure(1, "wwid a", "wwid o"), departure(2, "wwid b", ""));
    for departure in [&named, &nameless] {
        rundir.write_departure("block-1-2", departure).unwrap();
    }
    let found = |key, origin, number| rundir.departures(key, &disk(origin, number), &[]).unwrap();
    assert_eq!(found("block-1-2", "", 3).len(), 2, "what has no name is what has the number");
    assert_eq!(
        found("block-8-8", "wwid o", 9),
        std::slice::from_ref(&named),
        "attached anew, by its name"
    );
    assert_eq!(found("block-1-2", "wwid p", 3), [nameless], "another disk at the same place");
    assert_eq!(found("block-1-2", "", 4), [], "another disk at the same place, without a name");
    assert_eq!(found("block-1-3", "", 3).len(), 2, "the same disk, in another family");
    let unnumbered = Departure { origin_number: 0, ..departure(3, "wwid c", "") };
    rundir.write_departure("block-1-2", &unnumbered).unwrap();
    assert_eq!(found("block-1-2", "", 0), [unnumbered], "of the family that it has left");
    assert_eq!(found("block-1-3", "", 0), []);
}

#[test]
fn a_store_that_has_left_another_origin_is_found_by_its_cow() {
    let (_dir, rundir) = rundir();
    let (one, other) = (departure(1, "wwid a", ""), departure(2, "wwid a", ""));
    rundir.write_departure("k", &one).unwrap();
    assert!(rundir.left_another(&one.cow, 4).unwrap());
    assert!(!rundir.left_another(&one.cow, 3).unwrap(), "the same origin");
    assert!(!rundir.left_another(&other.cow, 4).unwrap(), "another store");
}

#[test]
fn records_of_stores_are_written_though_the_directory_was_removed() {
    let (dir, rundir) = rundir();
    let one = departure(1, "wwid a", "wwid o");
    for _ in 0..2 {
        std::fs::remove_dir_all(dir.path()).unwrap();
        rundir.write_departure("k", &one).unwrap();
    }
    assert_eq!(
        rundir.departures("k", &disk("wwid o", 3), &[]).unwrap(),
        std::slice::from_ref(&one)
    );
    std::fs::remove_dir_all(dir.path()).unwrap();
    LostStore::of(&rundir, one.cow.clone()).record(one.loss()).unwrap();
    assert!(LostStore::of(&rundir, one.cow).found(false).unwrap().is_some());
}

#[test]
fn a_departure_ends_when_its_cow_is_used_again_or_recorded_as_lost() {
    let (_dir, rundir) = rundir();
    let (one, two) = (departure(1, "wwid a", "wwid o"), departure(2, "wwid b", "wwid o"));
    for departure in [&one, &two] {
        rundir.write_departure("k", departure).unwrap();
    }
    rundir.forget_departure(&departure(2, "wwid a", "").cow).unwrap();
    assert_eq!(
        rundir.departures("k", &disk("wwid o", 3), &[]).unwrap().len(),
        2,
        "another store, on another disk"
    );
    rundir.forget_departure(&Cow { number: 9, ..one.cow }).unwrap();
    assert_eq!(
        rundir.departures("k", &disk("wwid o", 3), &[]).unwrap(),
        std::slice::from_ref(&two)
    );
    LostStore::of(&rundir, two.cow.clone()).record(two.loss()).unwrap();
    assert_eq!(rundir.departures("k", &disk("wwid o", 3), &[]).unwrap(), []);
}

#[test]
fn a_departure_ends_when_its_store_is_gone_from_the_disk() {
    let (_dir, rundir) = rundir();
    let [old, elsewhere] =
        [(1, "wwid a"), (2, "wwid b")].map(|(id, name)| departure(id, name, "wwid o"));
    let attached_before = departure(3, "wwid a", "wwid o");
    let attached_before =
        Departure { cow: Cow { number: 6, ..attached_before.cow.clone() }, ..attached_before };
    let all = [&old, &elsewhere, &attached_before];
    all.iter().for_each(|departure| rundir.write_departure("k", departure).unwrap());
    let tidied = |cow: Cow, here: bool| {
        LostStore::of(&rundir, cow).tidy(here);
        rundir.departures("k", &disk("wwid o", 3), &[]).unwrap()
    };
    let new = departure(4, "wwid a", "wwid o").cow;
    assert_eq!(tidied(old.cow.clone(), true).len(), 3, "the same store");
    assert_eq!(tidied(Cow { number: 0, ..new.clone() }, true).len(), 3, "no certain disk");
    let left = tidied(new.clone(), true);
    assert!(left.len() == 2 && left.contains(&elsewhere) && left.contains(&attached_before));
    // The disk was wiped; the id is the next store's.
    rundir.write_departure("k", &old).unwrap();
    assert_eq!(tidied(new, false).len(), 2);
}

#[test]
fn one_that_cannot_be_read_keeps_the_origin_away() {
    let (dir, rundir) = rundir();
    fs::write(dir.path().join("cow-1.departed"), "{").unwrap();
    let why = rundir.departures("k", &disk("", 0), &[]).unwrap_err().to_string();
    assert!(why.contains("cow-1.departed: damaged"), "{why}");
}

#[test]
fn a_departure_is_found_by_the_bytes_of_its_origin() {
    let (_dir, rundir) = rundir();
    let at = |on: &str, start, end| Place { on: on.to_owned(), start, end };
    let on = |name: &str, place| KnownDisk { place, ..disk(name, 9) };
    // A loop device in the middle of a file.
    let place = at("file 1 2 3", 4096, 8192);
    let one = Departure { place, ..departure(1, "wwid a", "file 3-2+4096 /o +4096") };
    rundir.write_departure("k", &one).unwrap();
    let found = |disk: &KnownDisk, parts: &[Part]| {
        !rundir.departures("other", disk, parts).unwrap().is_empty()
    };
    let file = on("file 3-2 /o", at("file 1 2 3", 0, u64::MAX));
    assert!(found(&file, &[]), "its file");
    for (start, len, meets) in [(0, 8, false), (7, 2, true), (8, 1, true), (16, 1 << 54, false)] {
        let part = (Sector(start), Sectors(len));
        assert_eq!(found(&file, &[part]), meets, "{len} sectors of the file from {start}");
        assert_eq!(found(&file, &[(Sector(0), Sectors(1)), part]), meets);
    }
    assert!(!found(&on("", at("file 1 2 4", 0, u64::MAX)), &[]), "another file");
    assert!(!found(&on("", at("file 1 2 3", 8192, u64::MAX)), &[]), "what is behind it");
    assert!(!found(&on("", Place::default()), &[]), "a disk of which nothing is known");
    // A partition, and its disk, attached again.
    let place = at("block 8:0 5", 512, 1024);
    let part = Departure { place, ..departure(2, "wwid b", "wwid o start 1") };
    rundir.write_departure("k", &part).unwrap();
    assert!(found(&on("wwid o", at("block 8:16 9", 0, u64::MAX)), &[]));
    assert!(!found(&on("wwid o start 2", at("block 8:16 9", 1024, 2048)), &[]));
    assert!(!found(&on("wwid o start 2", at("block 8:0 5", 1024, 2048)), &[]));
}

#[test]
fn a_place_says_nothing_in_another_boot() {
    let (dir, rundir) = rundir();
    let place = Place { on: "block 8:0 5".to_owned(), start: 0, end: u64::MAX };
    let disk = KnownDisk { place: place.clone(), ..disk("", 4) };
    let one = Departure { place, ..departure(1, "wwid a", "") };
    rundir.write_departure("k", &one).unwrap();
    assert_eq!(rundir.departures("k", &disk, &[]).unwrap(), [one]);
    let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&boot_id().unwrap(), "another")).unwrap();
    assert_eq!(rundir.departures("k", &disk, &[]).unwrap(), []);
}

#[test]
fn a_departure_of_an_earlier_version_has_no_place() {
    let (dir, rundir) = rundir();
    rundir.write_departure("k", &departure(1, "wwid a", "wwid o")).unwrap();
    let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut content: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    content["departure"].as_object_mut().unwrap().remove("place").unwrap();
    fs::write(&path, content.to_string()).unwrap();
    let found = |disk| rundir.departures("other", &disk, &[]).unwrap().len();
    assert_eq!((found(disk("wwid o", 8)), found(disk("", 3)), found(disk("", 4))), (1, 1, 0));
}

#[test]
fn a_deleted_device_is_another_one_when_its_disks_are_written() {
    let (dir, rundir) = rundir();
    let place = Place { on: "block 8:0 5".to_owned(), start: 0, end: u64::MAX };
    let disk = KnownDisk { place, ..disk("wwid d", 4) };
    let known = [("/a".to_owned(), disk.clone())].into_iter().collect();
    let made_of = MadeOf::of(&DeviceSpec::of_line("0 8 linear /a 16"), &known);
    assert!(made_of.is_some());
    let one = Departure { made_of, ..departure(1, "wwid a", "") };
    rundir.write_departure("k", &one).unwrap();
    let of_gone = || rundir.departures_of_gone().unwrap();
    assert_eq!(rundir.departures("k", &disk, &[]).unwrap(), [], "the disk was not the origin");
    rundir.part_from_gone(&disk, &[(Sector(0), Sectors(16))]).unwrap();
    assert_eq!(of_gone(), std::slice::from_ref(&one), "what is before its part");
    // If it cannot be recorded, what was on record still is.
    let file = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let blocked = file.with_extension("departed-new");
    fs::create_dir(&blocked).unwrap();
    rundir.part_from_gone(&disk, &[]).unwrap_err();
    fs::remove_dir(&blocked).unwrap();
    assert_eq!(of_gone(), std::slice::from_ref(&one));
    rundir.part_from_gone(&disk, &[(Sector(23), Sectors(1))]).unwrap();
    assert_eq!(of_gone(), []);
    assert!(rundir.left_another(&one.cow, 9).unwrap(), "the snapshot itself is not lost");
    assert!(fs::read_to_string(&file).unwrap().contains("\"key\": \"k\""));
}
