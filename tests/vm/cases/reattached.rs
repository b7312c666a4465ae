//! A disk behind nvme-tcp that is disconnected while its device has no server, and connected anew
//! under another number, while another disk has got its former one: it is recognized by its name.
//! The other disk is left alone.

use std::fs;

use super::admin::{kill, states};
use super::admin_left_out::remove_records;
use crate::Case;
use crate::disk::{Buf, Disk, MIB, digest_ends, node, slice, wipe};
use crate::model::View;
use crate::remote::Remote;
use crate::runner::scratch;
use crate::sh::{Out, binary, run_args, ublk_dm};
use crate::{kernel, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "whose-nvme-linear", bound_s: 120, disks, run: |_| linear() },
        Case { name: "whose-nvme-cow", bound_s: 120, disks, run: |_| cow() },
        Case { name: "whose-nvme-partition", bound_s: 120, disks, run: |_| partition() },
    ]
}

const LEN: u64 = 4 * MIB;

/// A disk behind the network, the path that its device is made of, and another disk.
struct Stage {
    far: Remote,
    /// Leads to the node of a disk, as udev's links do.
    link: String,
    other: Option<Remote>,
}

impl Stage {
    fn new() -> Stage {
        let far = Remote::new(0, &node("n0"));
        let link = format!("{}/far", scratch("by-id"));
        let stage = Stage { far, link, other: None };
        stage.lead_to(&stage.far.path);
        stage
    }

    fn lead_to(&self, path: &str) {
        drop(fs::remove_file(&self.link));
        std::os::unix::fs::symlink(path, &self.link).expect("a link");
    }

    /// Another disk takes the number of the disk, which gets a new one; the link still leads to the
    /// former node. Returns what the other disk holds.
    fn exchange(&mut self) -> (u64, u64) {
        let former = self.far.path.clone();
        self.far.disconnect();
        let other = Remote::new(1, &node("n2"));
        assert_eq!(other.path, former, "the number is not used again");
        self.other = Some(other);
        self.far.connect();
        assert_ne!(self.far.path, former);
        println!("  {former} is now {}", self.far.path);
        self.others_content()
    }

    fn others_content(&self) -> (u64, u64) {
        digest_ends(&self.other.as_ref().expect("it is there").path)
    }

    /// A command that would write to the disk under its new number is refused, and names the
    /// device that waits for it.
    fn assert_kept_for(&self, name: &str) {
        let (far, before) = (&self.far.path, digest_ends(&self.far.path));
        for line in
            [format!("zero --to {far}:0+4096"), format!("add origin --origin {far} --name other")]
        {
            let said = ublk_dm(&line).refused().stderr;
            assert!(said.contains(name) && said.contains("recover"), "{line}: {said}");
        }
        assert!(digest_ends(far) == before, "the disk was written");
    }
}

/// Asserts that a device was not taken over because another disk is at the path.
fn assert_foreign(out: Out, name: &str) {
    let said = out.stderr;
    let is_named = said.contains(&format!("{name}: not recovered"));
    assert!(out.code == 1 && is_named && said.contains("another disk is at this path"), "{said}");
}

fn assert_states(expected: &[(&str, &str)]) {
    let mut found = states();
    found.sort();
    let expected: Vec<_> =
        expected.iter().map(|(name, state)| (name.to_string(), state.to_string())).collect();
    assert_eq!(found, expected);
}

fn linear() {
    let mut stage = Stage::new();
    let create = |link: &str| {
        let line = format!("0 {LEN} linear {link} 0");
        run_args(&binary(), &["create", "l", "--table", &line]).ok().line()
    };
    let (view, top) = (View::new("line", LEN), create(&stage.link));
    view.fill(&Disk::open(&top));
    Disk::open(&top).flush().expect("a flush");
    kill("l");
    let before = stage.exchange();
    assert_foreign(ublk_dm("recover l"), "l");
    assert_states(&[("l", "quiesced")]);
    stage.assert_kept_for("l");
    stage.lead_to(&stage.far.path);
    ublk_dm("recover l").ok();
    let disk = Disk::open(&top);
    view.verify(&disk);
    view.write(&disk, 100, 50);
    view.verify(&disk);
    drop(disk);
    // Deleted while the path leads to the other disk again.
    kill("l");
    stage.lead_to(&stage.other.as_ref().expect("it is there").path);
    ublk_dm("del --force l").ok();
    assert!(stage.others_content() == before, "the other disk was written");
    server::assert_nothing_left("del --force");
    let judge = kernel::create("judge", &format!("0 {LEN} linear {} 0", stage.far.path));
    view.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// Where the partition starts: after its disk's first MiB.
pub(super) const START: u32 = 2048;

/// A partition table with one partition, in the form of the PC BIOS.
pub(super) fn put_partition(disk: &str) {
    let mut table = Buf::new(1);
    let entry = &mut table[446..462];
    entry[4] = 0x83; // Linux
    entry[8..12].copy_from_slice(&START.to_le_bytes());
    entry[12..].copy_from_slice(&u32::try_from(LEN).expect("it fits").to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xAA]);
    Disk::open(disk).write(0, &table);
}

/// A device on a partition: its whole disk is kept for it under every number.
fn partition() {
    put_partition(&node("n0"));
    let mut stage = Stage::new();
    let first = |stage: &Stage| format!("{}p1", stage.far.path);
    stage.lead_to(&first(&stage));
    let line = format!("0 {LEN} linear {} 0", stage.link);
    let top = run_args(&binary(), &["create", "l", "--table", &line]).ok().line();
    let view = View::new("line", LEN);
    view.fill(&Disk::open(&top));
    Disk::open(&top).flush().expect("a flush");
    kill("l");
    stage.exchange();
    stage.assert_kept_for("l");
    stage.lead_to(&first(&stage));
    ublk_dm("recover l").ok();
    view.verify(&Disk::open(&top));
    server::del("l");
    server::assert_nothing_left("del");
    drop(stage);
    wipe("n0");
}

fn cow() {
    let mut stage = Stage::new();
    let origin = slice("org", "n1", 0, LEN);
    let view = View::new("orig", LEN);
    view.fill(&Disk::open(&origin));
    Disk::open(&stage.far.path).zero(0, 8);
    let frozen = view.snapshot("snap");
    let top = server::add(&format!("origin --origin {origin} --name o"));
    let line = format!("snapshot --origin {origin} --cow {} --chunk-size 4k --name s", stage.link);
    let snap = server::add(&line);
    view.write(&Disk::open(&top), 0, 256);
    Disk::open(&top).flush().expect("a flush");
    kill("o");
    let before = stage.exchange();
    assert_foreign(ublk_dm("recover --all"), "s");
    assert_states(&[("o", "live"), ("s", "quiesced")]);
    assert!(stage.others_content() == before, "the other disk was written");
    stage.assert_kept_for("s");
    stage.lead_to(&stage.far.path);
    ublk_dm("recover s").ok();
    frozen.verify(&Disk::open(&snap));
    view.write(&Disk::open(&top), 1024, 256);
    frozen.verify(&Disk::open(&snap));
    // Deleted while the path leads to the other disk again: it is lost from the origin's next write
    // on, under every number of its disk.
    kill("o");
    stage.lead_to(&stage.other.as_ref().expect("it is there").path);
    ublk_dm("del --force s").ok();
    assert_states(&[("o", "quiesced")]);
    ublk_dm("recover o").ok();
    view.write(&Disk::open(&top), 2048, 64);
    assert!(stage.others_content() == before, "the other disk was written");
    stage.lead_to(&stage.far.path);
    let said = ublk_dm(&format!("add {line}")).refused().stderr;
    assert!(said.contains("is lost") || said.contains("is invalid"), "{said}");
    view.verify(&Disk::open(&top));
    server::del("o");
    server::forget_lost();
    server::forget_departed();
    // The empty journal of a COW that was not found at its path.
    remove_records();
    server::assert_nothing_left("del");
    drop(stage);
    kernel::remove("org");
}
