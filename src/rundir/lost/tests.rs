//! Lost stores are found by each of their names, and by nothing else.

use super::*;
use crate::protocol::KnownDisk;
use crate::rundir::departed::Departure;

fn rundir() -> (tempfile::TempDir, RunDir) {
    let dir = tempfile::tempdir().unwrap();
    let rundir = RunDir::trusted(dir.path().to_owned());
    (dir, rundir)
}

const ONE: Which = Which::Id(StoreId([1; 16]));
const TWO: Which = Which::Id(StoreId([2; 16]));

fn cow(store: Which, name: &str) -> Cow {
    let names = vec![name.to_owned()];
    Cow { store, names, former: String::new(), number: 7, origin: "wwid o".to_owned() }
}

fn is_lost(rundir: &RunDir, cow: Cow) -> bool {
    LostStore::of(rundir, cow).found(false).unwrap().is_some()
}

fn files(rundir: &RunDir) -> usize {
    fs::read_dir(&rundir.path).unwrap().count()
}

#[test]
fn a_store_with_an_id_is_lost_on_every_disk_and_path() {
    for loss in [Loss::MarkFailed, Loss::OriginChanged] {
        let (_dir, rundir) = rundir();
        assert!(!is_lost(&rundir, cow(ONE, "/a")));
        LostStore::of(&rundir, cow(ONE, "/a")).record(loss).unwrap();
        for name in ["/a", "/b", "wwid 1"] {
            assert!(is_lost(&rundir, cow(ONE, name)), "{name}");
            assert!(
                is_lost(&rundir, Cow { origin: "wwid p".to_owned(), ..cow(ONE, name) }),
                "whatever is said of its origin"
            );
            assert!(!is_lost(&rundir, cow(TWO, name)), "{name}: another store");
            assert!(!is_lost(&rundir, cow(Which::WithoutId, name)), "{name}: another store");
        }
    }
}

#[test]
fn a_loss_of_a_copy_is_that_of_no_store_with_a_device_elsewhere() {
    let (_dir, rundir) = rundir();
    let named = |name: &str, number| Cow { number, ..cow(ONE, name) };
    let found =
        |cow: &Cow, again| LostStore::of(&rundir, cow.clone()).found(again).unwrap().is_some();
    LostStore::of(&rundir, named("wwid 1", 7)).record(Loss::OriginChanged).unwrap();
    for (here, again) in [
        (named("wwid 1", 7), true),
        (named("wwid 1", 8), true),
        (named("path /dev/a", 7), true),
        (named("path /dev/a", 0), true),
        (named("wwid 1", 7), false),
        (named("wwid 2", 8), false),
    ] {
        assert!(found(&here, again), "{here:?}, {again}");
    }
    let copy = named("wwid 2", 8);
    for here in [copy.clone(), named("wwid 2", 0), named("path /dev/a", 8)] {
        assert!(!found(&here, true), "{here:?} was not lost there");
    }
    let of_other = Cow { origin: "wwid p".to_owned(), ..copy.clone() };
    assert!(!found(&of_other, false), "the copy is of another origin");
    let origin = KnownDisk::default();
    rundir.write_departure("k", &Departure::of(copy.clone(), false, &origin, None)).unwrap();
    assert!(!found(&copy, false), "it has left on its own disk");
    // Each is on record by itself.
    LostStore::of(&rundir, copy.clone()).record(Loss::OriginChanged).unwrap();
    assert_eq!(files(&rundir), 2);
    assert!(found(&copy, true) && found(&named("wwid 1", 7), true));
    LostStore::of(&rundir, copy.clone()).joins();
    assert!(!found(&copy, true) && found(&named("wwid 1", 7), true));
    LostStore::of(&rundir, named("wwid 1", 7)).record(Loss::MarkFailed).unwrap();
    LostStore::of(&rundir, named("wwid 1", 7)).joins();
    assert!(found(&named("wwid 1", 7), true), "it is invalid, whoever joins");
}

#[test]
fn a_store_without_id_is_lost_under_each_name_of_its_disk() {
    let (_dir, rundir) = rundir();
    let names = vec!["file 5-12 ".to_owned(), "path /a".to_owned()];
    let lost = Cow { names, ..cow(Which::WithoutId, "") };
    LostStore::of(&rundir, lost.clone()).record(Loss::OriginChanged).unwrap();
    assert!(is_lost(&rundir, lost));
    assert!(is_lost(&rundir, cow(Which::WithoutId, "file 5-12 ")), "moved");
    assert!(is_lost(&rundir, cow(Which::WithoutId, "path /a")), "restored");
    assert!(is_lost(&rundir, cow(Which::Unknown, "path /a")), "unreadable");
    assert!(!is_lost(&rundir, cow(ONE, "path /a")), "another store");
    assert!(!is_lost(&rundir, cow(Which::WithoutId, "path /b")));
}

#[test]
fn a_store_of_which_nothing_is_known_is_whichever_is_there() {
    let (_dir, rundir) = rundir();
    let unread = LostStore::of(&rundir, cow(Which::Unknown, "/a"));
    unread.record(Loss::OriginChanged).unwrap();
    for store in [ONE, Which::WithoutId, Which::Unknown] {
        assert!(is_lost(&rundir, cow(store, "/a")), "{store:?}");
    }
    LostStore::of(&rundir, cow(ONE, "/a")).tidy(true);
    assert!(is_lost(&rundir, cow(ONE, "/a")), "it may be this one");
    LostStore::of(&rundir, Cow { number: 8, ..cow(ONE, "/a") }).tidy(false);
    assert_eq!(files(&rundir), 0, "nothing is there that it could be");
}

#[test]
fn another_origin_excuses_a_store_without_id_only_if_it_is_certainly_another() {
    let (_dir, rundir) = rundir();
    let with = |origin: &str| Cow { origin: origin.to_owned(), ..cow(Which::WithoutId, "wwid 1") };
    LostStore::of(&rundir, with("wwid o")).record(Loss::OriginChanged).unwrap();
    for origin in ["wwid o", "", "serial 2", "dm/name x", "file 5-12 /x"] {
        assert!(is_lost(&rundir, with(origin)), "{origin:?}");
    }
    assert!(!is_lost(&rundir, with("wwid p")));
    LostStore::of(&rundir, with("wwid o")).record(Loss::MarkFailed).unwrap();
    assert!(is_lost(&rundir, with("wwid p")), "wrong for any");
    LostStore::of(&rundir, with("wwid o")).record(Loss::OriginChanged).unwrap();
    assert!(is_lost(&rundir, with("wwid p")), "it does not become right");
}

#[test]
fn a_record_goes_only_with_its_store_from_its_own_disk() {
    for (store, other) in [(ONE, TWO), (Which::WithoutId, ONE)] {
        let (_dir, rundir) = rundir();
        LostStore::of(&rundir, cow(store, "/a")).record(Loss::OriginChanged).unwrap();
        // The store is there; a copy is gone; another disk has the name or the number.
        LostStore::of(&rundir, cow(store, "/a")).tidy(true);
        LostStore::of(&rundir, cow(other, "/b")).tidy(false);
        LostStore::of(&rundir, Cow { number: 8, ..cow(other, "/a") }).tidy(false);
        LostStore::of(&rundir, Cow { number: 0, ..cow(other, "/a") }).tidy(true);
        assert!(is_lost(&rundir, cow(store, "/a")), "{store:?}");
        LostStore::of(&rundir, cow(other, "/a")).tidy(true);
        assert_eq!(files(&rundir), 0, "{store:?}");
        LostStore::of(&rundir, cow(store, "/a")).record(Loss::OriginChanged).unwrap();
        LostStore::of(&rundir, cow(other, "/a")).tidy(false);
        assert_eq!(files(&rundir), 0, "{store:?}: wiped");
    }
}

#[test]
fn a_cow_is_the_same_by_its_store_or_its_disk() {
    let (_dir, rundir) = rundir();
    let common = |one: Cow, other: Cow| {
        let [one, other] = [one, other].map(|cow| LostStore::of(&rundir, cow));
        one.cow().iter().any(|name| other.cow().contains(name))
    };
    assert!(common(cow(ONE, "/a"), Cow { number: 8, ..cow(ONE, "/a") }), "attached anew");
    assert!(common(cow(ONE, "/a"), cow(TWO, "/a")), "a new store on the same disk");
    assert!(!common(cow(ONE, "/a"), Cow { number: 8, ..cow(ONE, "/b") }), "a copy");
    assert!(
        !common(cow(ONE, "serial 1"), Cow { number: 8, ..cow(TWO, "serial 1") }),
        "two disks with one name"
    );
    let unnumbered = |store, name| Cow { number: 0, ..cow(store, name) };
    assert!(!common(unnumbered(ONE, "/a"), unnumbered(TWO, "/a")));
    assert!(
        !common(cow(Which::Unknown, "/a"), cow(Which::Unknown, "/a")),
        "a transient store leaves what was there"
    );
}

#[test]
fn records_of_earlier_versions_are_found_and_go_when_the_disk_is_wiped() {
    let (_dir, rundir) = rundir();
    let now = Cow { former: "/img/cow".to_owned(), ..cow(ONE, "file 5-12 ") };
    let path = LostStore::of(&rundir, now.clone()).of_disk("/img/cow");
    for origin in ["/img/origin", "serial 1 "] {
        let text = format!(r#"{{"cow":"/img/cow","origin":"{origin}","mark_failed":false}}"#);
        fs::write(&path, text).unwrap();
        let found = LostStore::of(&rundir, Cow { origin: "serial 1".to_owned(), ..now.clone() });
        assert!(found.found(false).unwrap().is_some(), "{origin}");
        found.tidy(true);
        assert!(found.found(false).unwrap().is_some(), "{origin}");
        found.tidy(false);
        assert_eq!(files(&rundir), 0);
    }
}

#[test]
fn what_cannot_be_written_or_read_is_said() {
    let (dir, rundir) = rundir();
    let [store, disk] =
        [ONE, Which::WithoutId].map(|store| LostStore::of(&rundir, cow(store, "wwid 1")));
    fs::write(disk.of_disk("wwid 1"), b"{").unwrap();
    for record in [&store, &disk] {
        assert!(record.found(false).unwrap_err().to_string().contains(".lost: damaged"));
    }
    fs::write(store.of_store(StoreId([1; 16])), b"{").unwrap();
    assert!(store.found(false).unwrap().is_some(), "the name of the file says it");
    fs::remove_file(store.of_store(StoreId([1; 16]))).unwrap();
    fs::create_dir(store.of_store(StoreId([1; 16]))).unwrap();
    assert!(store.found(false).is_err());
    fs::remove_file(disk.of_disk("wwid 1")).unwrap();
    fs::create_dir(disk.of_disk("wwid 1")).unwrap();
    for record in [&store, &disk] {
        assert!(record.record(Loss::MarkFailed).unwrap_err().contains(".lost"));
    }
    let path = dir.keep();
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "").unwrap();
    for record in [store, disk] {
        let why = record.record(Loss::MarkFailed).unwrap_err();
        assert!(why.contains(path.to_str().unwrap()), "{why}");
    }
    fs::remove_file(path).unwrap();
}

#[test]
fn a_disk_that_says_nothing_of_itself_is_known_under_another_path_in_the_same_boot() {
    let (_dir, rundir) = rundir();
    LostStore::of(&rundir, cow(Which::WithoutId, "path /dev/vdb"))
        .record(Loss::OriginChanged)
        .unwrap();
    let here = |path: &str, number| Cow { number, ..cow(Which::WithoutId, path) };
    assert!(is_lost(&rundir, here("path /dev/vdc", 7)), "the same disk");
    assert!(!is_lost(&rundir, here("path /dev/vdc", 8)), "another disk");
    assert!(!is_lost(&rundir, here("path /dev/vdc", 0)), "of which nothing is known");
    assert!(!is_lost(&rundir, here("wwid a", 7)), "a disk with a name");
    assert!(is_lost(&rundir, here("path /dev/vdb", 8)), "it may have been attached anew");
    // The store is gone from the disk.
    LostStore::of(&rundir, here("path /dev/vdc", 7)).tidy(false);
    assert!(!is_lost(&rundir, here("path /dev/vdc", 7)));
}

#[test]
fn a_number_of_another_boot_is_no_name_any_more() {
    let (_dir, rundir) = rundir();
    let mut lost = LostStore::of(&rundir, cow(Which::WithoutId, "path /dev/vdb"));
    lost.boot = "an earlier one".to_owned();
    lost.record(Loss::OriginChanged).unwrap();
    assert_eq!(files(&rundir), 2);
    LostStore::of(&rundir, cow(ONE, "wwid a")).tidy(true);
    assert_eq!(files(&rundir), 1, "by the path it is lost in any boot");
    assert!(is_lost(&rundir, cow(Which::WithoutId, "path /dev/vdb")));
}
