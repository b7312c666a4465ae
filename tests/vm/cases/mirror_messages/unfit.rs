//! Legs and tables that do not fit a live mirror are refused, and leave it as it was.

use super::{LEN, REGION, message};
use crate::condition::{Fault, Faulty};
use crate::disk::{Disk, completed, node, slice};
use crate::mirror::{self, Engine, Initial, Mirror, Shape, ours};
use crate::model::View;
use crate::server;
use crate::sh::{binary, run_args, ublk_dm};

/// A refused table leaves the old one in place, with the present knowledge of its legs: also if the
/// old table had called them equal.
pub(super) fn refused_table() {
    if ours() == Engine::Kernel {
        return;
    }
    let (first, large) = (slice("leg0", "n0", 0, LEN), slice("large", "k0", 0, LEN));
    let second = Faulty::new("leg1", "n1", 0, LEN);
    let shape = Shape::new(LEN, REGION, &[&first, &second.path])
        .initial(Initial::NoSync)
        .features(&["handle_errors", "keep_log"]);
    let view = View::new("mirr", LEN);
    mirror::fill(&view, &shape);
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    let disk = served.disk();
    second.set(Fault::Gone);
    view.write(&disk, 3 * REGION, 64);
    served.wait_status(10, "a failed leg", |status| status.letters == "AD");
    second.heal();
    let other = Shape::new(LEN, REGION, &[&first, &large]);
    run_args(&binary(), &["load", "m", "--table", &other.table()]).ok();
    ublk_dm("suspend m").ok();
    ublk_dm("resume m").refused();
    ublk_dm("resume m").ok();
    view.verify(&disk);
    served.wait_in_sync();
    view.verify(&disk);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(&shape, "after a refused table");
    server::assert_nothing_left("del");
}

/// Users' requests have the block size and flushes of the device as it was added: a new leg must
/// accept them, and a leg with a cache must get the flushes.
pub(super) fn unfit() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = ["n0", "n1"].map(|disk| slice(&format!("leg{disk}"), disk, 0, LEN));
    let (large, cached) = (slice("large", "k0", 0, LEN), slice("cached", "n1", LEN, LEN));
    for leg in &legs {
        set_cache(leg, "write through");
    }
    let shape = Shape::new(LEN, REGION, &[&legs[0], &legs[1]]);
    let view = View::new("mirr", LEN);
    view.fill(&Disk::open(&legs[0]));
    let served = Mirror::open(Engine::Ublk, "m", &shape);
    served.wait_in_sync();
    let table = server::table("m");
    for words in [format!("replace 1 {large}"), format!("add-leg {large}")] {
        let said = ublk_dm(&format!("message m {words}")).refused().stderr;
        assert!(
            said.contains(&large) && said.contains("blocks of 4096 bytes"),
            "{words}: {said:?}"
        );
    }
    assert!(server::table("m") == table, "a refused leg is in the table: {}", server::table("m"));
    let other = Shape::new(LEN, REGION, &[&legs[0], &large]);
    run_args(&binary(), &["load", "m", "--table", &other.table()]).ok();
    ublk_dm("suspend m").ok();
    let said = ublk_dm("resume m").refused().stderr;
    assert!(said.contains("blocks of 4096 bytes"), "resume with the table: {said:?}");
    run_args(&binary(), &["load", "m", "--table", &shape.table()]).ok();
    ublk_dm("resume m").ok();
    served.wait_in_sync();
    let disk = served.disk();
    view.write(&disk, 1, 1);
    view.verify(&disk);
    // The device was made from disks without a cache.
    message(&format!("replace 0 {cached}"));
    served.wait_in_sync();
    // The block layer passes on flushes to devices with a cache only.
    let cache = std::fs::read_to_string(attribute(&served.path, "queue/write_cache"))
        .expect("an attribute");
    assert!(cache.trim() == "write back", "the mirror's cache is {cache:?}");
    let before = flushes(&node("n1"));
    disk.flush().expect("a flush");
    assert!(flushes(&node("n1")) > before, "a flush does not reach the leg that has a cache");
    view.verify(&disk);
    drop(disk);
    served.close();
    mirror::assert_legs_equal(
        &Shape::new(LEN, REGION, &[&cached, &legs[1]]),
        "after the replacement",
    );
    legs.iter().for_each(|leg| set_cache(leg, "write back"));
    server::assert_nothing_left("del");
}

pub(super) fn attribute(path: &str, name: &str) -> String {
    let node = std::fs::canonicalize(path).expect("a device");
    format!(
        "/sys/class/block/{}/{name}",
        node.file_name().and_then(|name| name.to_str()).expect("ASCII")
    )
}

/// Makes the kernel report the attribute that the case needs.
pub(super) fn set_cache(path: &str, cache: &str) {
    let path = attribute(path, "queue/write_cache");
    std::fs::write(&path, cache).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Flushes that a disk has completed; the devices above it count none.
pub(super) fn flushes(path: &str) -> u64 {
    completed(path, 15)
}
