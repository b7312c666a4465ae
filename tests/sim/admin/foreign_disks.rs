//! Other disks at the paths of those that a dead server's devices are made of.

use dm_targets::sim::image::Image;
use dm_targets::units::{Sector, Sectors};

use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec};

/// The disks of the machine, by their places: origin, COW, a leg.
const DISKS: [(usize, &str, What, &str); 3] = [
    (0, "/o", What::Origin, "o"),
    (1, "/c0", What::Snap(0), "o"),
    (3, "/a", What::Mirror, "mirror-a"),
];

/// A disk as large as another one, full of content that must be preserved.
fn foreign_disk(size: Sectors) -> Image {
    let mut image = Image::zeroes(size);
    image.write(Sector(0), &vec![0xA5; usize::try_from(size.bytes()).unwrap()]);
    image
}

fn town() -> Town {
    let mut town = Town::new(1, true);
    for what in [What::Origin, What::Snap(0), What::Mirror] {
        town.add(what).unwrap();
    }
    for (what, sector) in [(What::Origin, 1), (What::Snap(0), 3), (What::Mirror, 5)] {
        town.write(what, sector);
        town.flush(what);
    }
    town
}

/// A device with another disk at one of its paths is left out, and that disk is not written. With
/// the right disk the device returns, and shows the right content.
#[test]
fn a_foreign_disk_at_the_path_of_a_disk_is_left_alone() {
    for (disk, path, what, key) in DISKS {
        let mut town = town();
        town.kill(key);
        let size = town.site.disks[disk].disk.borrow().visible().size();
        let right = town.site.swap(disk, ("serial FOREIGN".to_owned(), foreign_disk(size)));
        let why = town.recover().unwrap_err();
        let parts = [
            &format!("{path}: another disk is at this path"),
            &format!("serial {path}"),
            "serial FOREIGN",
        ];
        assert!(parts.iter().all(|part| why.contains(*part)), "{path}: {why}");
        assert!(town.read(what).is_none(), "{path}: {what:?} answers");
        let (name, image) = town.site.swap(disk, right);
        let (len, kept) = (image.size(), foreign_disk(size));
        assert!(
            image.read(Sector(0), len) == kept.read(Sector(0), len),
            "{path}: {name} was written"
        );
        assert_eq!(town.recover(), Ok(()), "{path}");
        for what in [What::Origin, What::Snap(0), What::Mirror] {
            assert_eq!(town.judge(what), Ok(()), "{path}: {what:?}");
            assert!(matches!(town.read(what), Some(Ok(_))), "{path}: {what:?} does not answer");
        }
        assert_eq!(town.end(), Ok(()), "{path}");
    }
}

pub(super) fn add_as(
    town: &mut Town,
    what: What,
    force: bool,
    other_origin: bool,
) -> Result<(), String> {
    let spec = DeviceSpec { force, other_origin, ..Town::spec(what) };
    let key = what.key();
    if !town.processes.contains_key(key) {
        let process = Process::start(&town.site, key).unwrap();
        town.processes.insert(key, process);
    }
    town.ask(key, Command::Add { name: None, id: None, spec }).map(drop)
}

fn forced(town: &Town, key: &str) -> Vec<bool> {
    town.state(key).unwrap().iter().map(|device| device.spec.force).collect()
}

/// `--force` applies to the moment of the command; only a disk that has other users is also shared
/// by later servers.
#[test]
fn force_lasts_only_while_a_disk_is_shared() {
    for (disk, what, key) in
        [(0, What::Origin, "o"), (0, What::Snap(1), "o"), (3, What::Mirror, "mirror-a")]
    {
        for busy in [false, true] {
            let mut town = Town::new(1, true);
            let other = busy.then_some(u32::MAX);
            town.site.disks[disk].claim.set(other);
            add_as(&mut town, what, true, false).unwrap();
            assert_eq!(forced(&town, key), [busy], "{what:?}");
            let claim = town.site.disks[disk].claim.get();
            assert!(
                claim.is_some() && (claim == other) == busy,
                "{what:?} is claimed by {claim:?}"
            );
            if key == "o" {
                add_as(&mut town, What::Snap(0), false, false).unwrap();
                assert_eq!(
                    forced(&town, key),
                    [busy, busy],
                    "what is added to it later shares its origin"
                );
            }
            town.kill(key);
            assert_eq!(town.recover(), Ok(()), "{what:?}, busy: {busy}");
            assert!(forced(&town, key).iter().all(|forced| *forced == busy), "{what:?}");
        }
    }
}

#[test]
fn another_origin_is_said_once() {
    let mut town = Town::new(1, true);
    town.add(What::Snap(0)).unwrap();
    town.del(What::Snap(0), false).unwrap();
    let origin = town.site.disks[0].disk.borrow().visible();
    drop(town.site.swap(0, ("serial OTHER".to_owned(), origin)));
    let why = add_as(&mut town, What::Snap(0), false, false).unwrap_err();
    assert!(why.contains("another origin"), "{why}");
    add_as(&mut town, What::Snap(0), false, true).unwrap();
    assert!(town.state("o").unwrap().iter().all(|device| !device.spec.other_origin));
    town.kill("o");
    assert_eq!(town.recover(), Ok(()));
}

/// The file at a leg's path may be a restored copy of the leg; it is not the file that was in sync.
#[test]
fn another_file_at_the_path_of_a_leg_has_not_been_in_sync() {
    for (disk, there) in [(3, "file 1-2 /a"), (4, "file 1-3 /b")] {
        let mut town = Town::new(1, true);
        *town.site.disks[disk].name.borrow_mut() = there.to_owned();
        town.add(What::Mirror).unwrap();
        town.write(What::Mirror, 5);
        town.flush(What::Mirror);
        town.kill("mirror-a");
        let size = town.site.disks[disk].disk.borrow().visible().size();
        let (_, path) = there.rsplit_once(' ').unwrap();
        drop(town.site.swap(disk, (format!("file 9-9 {path}"), foreign_disk(size))));
        assert_eq!(town.recover(), Ok(()), "{path}");
        assert_eq!(town.judge(What::Mirror), Ok(()), "{path}");
        assert!(matches!(town.read(What::Mirror), Some(Ok(_))), "{path}");
        assert_eq!(town.end(), Ok(()), "{path}");
    }
}
