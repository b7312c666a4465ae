//! Lost stores by other paths: a store that is known to be lost is refused by any path of its COW,
//! and no other store is.

use std::fs;
use std::os::unix::fs::symlink;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "lost-by-any-path", bound_s: 120, disks, run: |_| any_path() },
        Case { name: "lost-other-bytes", bound_s: 120, disks, run: |_| other_bytes() },
        Case { name: "lost-other-store", bound_s: 90, disks, run: |_| other_store() },
    ]
}

const SIZE: u64 = 4 * MIB;
const CHUNK: u64 = 8;

fn line(origin: &str, cow: &str) -> String {
    format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s")
}

fn refused(origin: &str, cow: &str) {
    for option in ["", " --force"] {
        let said = ublk_dm(&format!("add {}{option}", line(origin, cow))).refused();
        assert!(
            said.code == 1 && said.stderr.contains("is lost: its origin was changed"),
            "{cow}: {}",
            said.stderr
        );
    }
}

fn attach(file: &str) -> String {
    sh(&format!("losetup --find --show {file}")).ok().line()
}

fn detach(node: &str) {
    sh(&format!("losetup -d {node}")).ok();
    let backing = format!("/sys/block/{}/loop", &node["/dev/".len()..]);
    server::wait_for(20, "the loop device to go", || !fs::exists(&backing).expect("sysfs"));
}

/// A snapshot is deleted and its origin is written: the COW, a file, is refused by every path,
/// until its start is zeroed.
fn any_path() {
    let origin = slice("org", "n0", 0, SIZE);
    let dir = scratch("lost");
    let at = |name: &str| format!("{dir}/{name}");
    let (cow, copy) = (at("cow"), at("copy"));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    for made_by_kernel in [false, true] {
        fs::File::create(&cow).and_then(|file| file.set_len(16 << 20)).expect("a file");
        if made_by_kernel {
            let node = attach(&cow);
            kernel::snapshot("judge", &origin, &node, "P", CHUNK);
            kernel::remove("judge");
            detach(&node);
        }
        let top = Disk::open(&server::add(&format!("origin --origin {origin} --name o")));
        server::add(&line(&origin, &cow));
        view.write(&top, 100, 50);
        server::del("s");
        view.write(&top, 200, 50);
        symlink(&cow, at("link")).expect("a link");
        fs::hard_link(&cow, at("hard")).expect("a hard link");
        let mut paths =
            vec![cow.clone(), at("link"), at("hard"), attach(&cow), attach(&at("hard"))];
        if !made_by_kernel {
            // A store without an id cannot be distinguished from its copy.
            fs::copy(&cow, &copy).expect("a copy");
            paths.extend([copy.clone(), attach(&copy)]);
        }
        paths.iter().for_each(|path| refused(&origin, path));
        paths.iter().filter(|path| path.starts_with("/dev/loop")).for_each(|node| detach(node));
        fs::rename(&cow, at("moved")).expect("renamed");
        refused(&origin, &at("moved"));
        fs::rename(at("moved"), &cow).expect("renamed");
        // A wipe by one path is recognized by another.
        Disk::open(&at("hard")).zero(0, CHUNK);
        let new = Disk::open(&server::add(&line(&origin, &at("link"))));
        view.snapshot("snap").verify(&new);
        drop((new, top));
        server::del("o s");
        ["link", "hard", "cow"]
            .iter()
            .for_each(|name| fs::remove_file(at(name)).expect("removable"));
        server::assert_nothing_left("del");
        // The last snapshot departed with its COW, which is gone.
        server::forget_departed();
    }
}

/// A deleted snapshot of a loop device with an offset is lost by what is written to the file below
/// it: by a device made of it, and by commands.
fn other_bytes() {
    const BLOCK: u64 = 8;
    let cow = slice("cow", "n1", 0, SIZE);
    let file = format!("{}/origin", scratch("lost-bytes"));
    fs::File::create(&file).and_then(|it| it.set_len((SIZE + BLOCK) << 9)).expect("a file");
    let loops = format!("losetup --find --show --offset {} {file}", BLOCK << 9);
    let origin = sh(&loops).ok().line();
    let deleted = || {
        Disk::open(&cow).zero(0, CHUNK);
        Disk::open(&server::add(&line(&origin, &cow))).zero(0, 8);
        server::del("s");
    };
    let writes: [&dyn Fn(); 3] = [
        &|| {
            let table = format!("0 {SIZE} linear {file} 0");
            run_args(&binary(), &["create", "l", "--table", &table]).ok();
            server::del("l");
        },
        &|| drop(ublk_dm(&format!("zero --to {file}:4096+4096")).ok()),
        &|| drop(ublk_dm(&format!("copy --from {cow}:0+4096 --to {file}:8192")).ok()),
    ];
    for write in writes {
        deleted();
        write();
        refused(&origin, &cow);
    }
    // What is before the origin is none of it.
    deleted();
    ublk_dm(&format!("zero --to {file}:0+4096")).ok();
    server::add(&line(&origin, &cow));
    server::del("s");
    detach(&origin);
    server::forget_lost();
    server::forget_departed();
    server::assert_nothing_left("del");
}

/// Another store under the name of a disk that had a lost store is accepted, and the lost store is
/// still refused when it is back.
fn other_store() {
    let (one, two) = (slice("one", "n0", 0, SIZE), slice("two", "n0", SIZE, SIZE));
    let (view, other) = (View::new("one_", SIZE), View::new("two_", SIZE));
    view.fill(&Disk::open(&one));
    other.fill(&Disk::open(&two));
    let good = || slice("cow", "n1", 0, SIZE);
    let lost = || slice("cow", "n1", SIZE, SIZE);
    // A good one.
    let top = Disk::open(&server::add(&format!("origin --origin {two} --name o")));
    server::add(&line(&two, &good()));
    let frozen = other.snapshot("snap");
    other.write(&top, 100, 50);
    drop(top);
    server::del("o s");
    kernel::remove("cow");
    // And a lost one at the same name.
    let top = Disk::open(&server::add(&format!("origin --origin {one} --name o")));
    let cow = lost();
    server::add(&line(&one, &cow));
    view.write(&top, 100, 50);
    server::del("s");
    view.write(&top, 200, 50);
    drop(top);
    server::del("o");
    refused(&one, &cow);
    kernel::remove("cow");
    let shown = Disk::open(&server::add(&line(&two, &good())));
    frozen.verify(&shown);
    drop(shown);
    server::del("s");
    kernel::remove("cow");
    // The record still exists.
    let cow = lost();
    refused(&one, &cow);
    Disk::open(&cow).zero(0, CHUNK);
    server::add(&line(&one, &cow));
    server::del("s");
    // The record belongs to the earlier attachment of the disk, and does not apply to any other
    // store.
    assert!(server::forget_lost() <= 1, "more records than lost stores");
    server::assert_nothing_left("del");
}
