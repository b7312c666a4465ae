//! Mirrors that grow while users write, from a short last region on: what the legs and the disk of
//! the log have in the new part is of another time, and differs.

use dm_targets::disk::Errno;
use dm_targets::mirror::table::InitialSync;
use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::units::{Sector, Sectors};

use super::super::explore::{Admin, Case, When};
use super::super::fixture::Setup;
use super::{run, torn};
use crate::pattern;
use crate::workload::random_ops;

/// Its length afterwards: its bits take another word of the log.
pub const LONG: u64 = 140;

/// The disks of a mirror, with room for its new length.
pub fn long_images(setup: &Setup, images: &[Image]) -> Vec<Image> {
    let longer = |(leg, image): (u32, &Image)| {
        let mut long = Image::from_fn(Sectors(LONG), |at| pattern::sector(70 + leg, at));
        long.write(Sector(0), &image.read(Sector(0), image.size()));
        long
    };
    let mut long: Vec<Image> = (0..).zip(&images[..setup.legs]).map(longer).collect();
    if setup.log {
        // As bits, what stands behind those of the log says that all is in sync.
        let log = Setup { sectors: LONG, ..setup.clone() }.log_sectors();
        let mut bytes = vec![0xFF; usize::try_from(log * 512).unwrap()];
        let used = 1024 + 8;
        bytes[..used].copy_from_slice(&images[setup.legs].read(Sector(0), Sectors(3))[..used]);
        let mut image = Image::zeroes(Sectors(log));
        image.write(Sector(0), &bytes);
        long.push(image);
    }
    long
}

/// The mirrors that grow.
fn mirrors() -> Vec<(Setup, Vec<Image>)> {
    let two = Setup::small();
    let three = Setup { legs: 3, ..Setup::small() }.features(true, true);
    let core = Setup { log: false, initial: InitialSync::NoSync, ..Setup::small() };
    let disk = DiskConfig { volatile_cache: false, ..Setup::small().disk };
    let whole = Setup { sectors: 6, disk, ..Setup::small() };
    vec![
        (two.clone(), two.clean_images()),
        (two.clone(), torn(&two, 0b0110, 0)),
        (two.clone(), torn(&two, 0b1100, 0b01)),
        (three.clone(), three.clean_images()),
        (core.clone(), core.clean_images()),
        (whole.clone(), whole.clean_images()),
    ]
}

/// Mirrors that grow at some time of a random workload.
pub fn grown() -> Vec<Case> {
    let mut cases = Vec::new();
    for seed in 0..24 {
        for (number, (setup, images)) in mirrors().into_iter().enumerate() {
            let mut rng = Rng::new(seed * 11 + number as u64);
            let ops = random_ops(&mut rng, 4, 1, setup.sectors, 1);
            let images = long_images(&setup, &images);
            let base = Case::new(&setup, &images, &ops, crate::seed_base() + seed);
            let admin_when =
                if rng.one_in(3) { When::InSync } else { When::Requests(rng.below(4)) };
            cases.push(Case { admin: Admin::Grow(LONG), admin_when, cap: 5, lives_on: 0, ..base });
        }
    }
    cases
}

/// The same while operations of the disks fail.
fn failing() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, case) in (0..).zip(grown().into_iter().take(12)) {
        for disk in 0..case.images.len() {
            for class in [Class::Read, Class::Write, Class::Flush] {
                let matcher = Matcher::all(class);
                let fault = Fault { matcher, skip: number % 7, times: 1, errno: Errno::EIO };
                cases.push(Case { faults: vec![(disk, fault)], ..case.clone() });
            }
        }
    }
    cases
}

#[test]
fn mirrors_grow_under_writes() {
    run("mirror::mirrors_grow_under_writes", grown().into_iter(), 5_000);
}

#[test]
fn disks_fail_while_mirrors_grow() {
    run("mirror::disks_fail_while_mirrors_grow", failing().into_iter(), 2_000);
}
