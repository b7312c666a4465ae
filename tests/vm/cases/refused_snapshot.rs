//! A snapshot that is refused because its origin was changed without it, before or while it was
//! being added: the error names the way out, which is gone here, and nothing is left behind.

use std::fs;

use crate::disk::{Buf, Disk, MIB, digest, slice};
use crate::faults::{Fails, Faulty};
use crate::model::View;
use crate::sh::{Out, binary, run_args, ublk_dm};
use crate::{Case, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "refused-snapshot", bound_s: 120, disks, run: |_| before() },
        Case { name: "refused-snapshot-meanwhile", bound_s: 240, disks, run: |_| meanwhile() },
    ]
}

/// Sectors of the device, and of the COW.
const LEN: u64 = 4 * MIB;

/// What the refusal of a store says that missed a change.
const MIXTURE: &str = "would show a mixture of two moments";

struct Stage {
    disk: String,
    cow: Faulty,
    /// What the snapshot shows.
    view: View,
}

impl Stage {
    fn new() -> Stage {
        let cow = Faulty::new("c", "n1", 0, 2 * LEN);
        Stage { disk: slice("d", "n0", 0, LEN), cow, view: View::new("orig", LEN) }
    }

    fn line(&self) -> String {
        format!("0 {LEN} linear {} 0", self.disk)
    }

    /// The device `m` after a start of the machine, with a snapshot on the COW that keeps a chunk;
    /// its path.
    fn restarted(&self) -> String {
        ublk_dm(&format!("zero --to {}:0+4096", self.cow.node)).ok();
        let path = self.create();
        self.view.fill(&Disk::open(&path));
        self.add().ok();
        Disk::open(&path).write(0, &Buf::new(8));
        ublk_dm("del s m").ok();
        server::assert_nothing_left("del");
        drop(fs::remove_dir_all(server::run_dir()));
        self.create()
    }

    fn create(&self) -> String {
        run_args(&binary(), &["create", "m", "--table", &self.line()]).ok().line()
    }

    fn words(&self) -> String {
        format!("add snapshot --origin m --cow {} --name s", self.cow.node)
    }

    fn add(&self) -> Out {
        ublk_dm(&self.words())
    }

    /// Adds the snapshot, and writes to the device after a time.
    fn add_beside_a_write(&self, path: &str, after_ms: u64) -> Out {
        let (add, ms) = (self.words(), format!("{}.{:03}", after_ms / 1000, after_ms % 1000));
        let write = format!("dd if=/dev/zero of={path} bs=4096 seek=8 count=1 conv=notrunc");
        let line = format!(
            "{} {add} & add=$!; sleep {ms}; {write} oflag=direct status=none; wait $add",
            binary()
        );
        run_args("bash", &["-c", &line])
    }

    /// Takes the way out that a refusal names: a new snapshot shows the device as it is.
    fn way_out(&self, path: &str, why: &str) {
        let advice = why.split('`').find_map(|part| part.strip_prefix("ublk-dm zero "));
        let advice = advice.unwrap_or_else(|| panic!("no way out: {why}"));
        assert!(why.contains("--other-origin"), "{why}");
        ublk_dm(&format!("zero {advice}")).ok();
        let now = digest(&Disk::open_read_only(path), 0, LEN);
        let snapshot = self.add().ok().line();
        Disk::open(path).write(64, &Buf::new(8));
        assert_eq!(digest(&Disk::open_read_only(&snapshot), 0, LEN), now);
    }
}

/// The refused snapshot's origin carries nothing: it gets any other table.
fn before() {
    let stage = Stage::new();
    let path = stage.restarted();
    Disk::open(&path).write(64, &Buf::new(8));
    let why = stage.add().refused().stderr;
    assert!(why.contains(MIXTURE), "{why}");
    assert_eq!(server::list().len(), 1);
    let origin = format!("0 {LEN} snapshot-origin {}", stage.disk);
    for table in [&origin, &stage.line()] {
        run_args(&binary(), &["load", "m", "--table", table]).ok();
        ublk_dm("resume m").ok();
    }
    let why = stage.add().refused().stderr;
    stage.way_out(&path, &why);
    ublk_dm("del s m").ok();
    server::assert_nothing_left("del");
}

/// The first write of the origin comes while the snapshot is being added.
fn meanwhile() {
    let stage = Stage::new();
    let path = stage.restarted();
    stage.cow.set(&[(Fails::NothingButSlow { read_ms: 400, write_ms: 0 }, 0, 2 * LEN)]);
    let out = stage.add_beside_a_write(&path, 600);
    stage.cow.set(&[]);
    let why = out.refused().stderr;
    assert!(why.contains(MIXTURE), "{why}");
    stage.way_out(&path, &why);
    ublk_dm("del s m").ok();
    let mut refused = 0;
    for round in 0..16 {
        let path = stage.restarted();
        let out = stage.add_beside_a_write(&path, round * 40);
        if out.code == 0 {
            // It came first.
            stage.view.verify(&Disk::open_read_only(&out.line()));
        } else {
            let why = out.refused().stderr;
            assert!(why.contains(MIXTURE), "{why}");
            stage.way_out(&path, &why);
            refused += 1;
        }
        ublk_dm("del s m").ok();
    }
    println!("{refused} of 16 were refused");
    server::assert_nothing_left("del");
}
