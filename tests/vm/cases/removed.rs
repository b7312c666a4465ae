//! A COW on a SCSI disk that is removed while it is used. The kernel answers writes to it with the
//! errno of a full disk, because the disk ends at 0 then; it is an error of the disk nevertheless.

use std::fs;
use std::path::Path;

use crate::Case;
use crate::disk::{Buf, Disk, MIB, node, slice};
use crate::server;
use crate::sh::{binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "s0"];
    vec![Case { name: "error-cow-removed", bound_s: 120, disks, run: |_| removed() }]
}

const LEN: u64 = 8 * MIB;

/// Has the machine find its disks again, and the removed one under its name.
struct FoundAgain(String);

impl Drop for FoundAgain {
    fn drop(&mut self) {
        for host in fs::read_dir("/sys/class/scsi_host").into_iter().flatten().flatten() {
            drop(fs::write(host.path().join("scan"), "- - -"));
        }
        let is_it = |disk: &Path| {
            let page = fs::read(disk.join("device/vpd_pg80")).unwrap_or_default();
            String::from_utf8_lossy(&page).trim_matches(|c: char| !c.is_alphanumeric()) == self.0
        };
        server::wait_for(30, "the disk to be found again", || {
            let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
            let found = disks.map(|disk| disk.path()).find(|disk| is_it(disk));
            let node = found.and_then(|disk| Some(format!("/dev/{}", disk.file_name()?.to_str()?)));
            node.filter(|node| fs::exists(node).unwrap_or(false))
                .is_some_and(|node| sh(&format!("ln -sfn {node} /run/disks/{}", self.0)).code == 0)
        });
    }
}

fn removed() {
    let origin = slice("origin", "n0", 0, LEN);
    for policy in ["P", "PO"] {
        // It may have another name when it is found again.
        let cow = node("s0");
        let disk = cow.rsplit('/').next().expect("a name");
        server::add(&format!("origin --origin {origin} --name o"));
        let line = format!("0 {LEN} snapshot {origin} {cow} {policy} 8");
        let top = run_args(&binary(), &["create", "s", "--table", &line]).ok().line();
        let (snap, plain) = (Disk::open(&top), Disk::open(&path_of("o")));
        snap.write(0, &Buf::new(8));
        snap.flush().expect("its record is on the COW");
        let again = FoundAgain("s0".to_owned());
        fs::write(format!("/sys/block/{disk}/device/delete"), "1").expect("it is removed");
        let failed = snap.try_write(64, &Buf::new(8)).and_then(|()| snap.flush());
        assert!(failed.is_err(), "a write to a removed disk is acknowledged");
        plain.write(128, &Buf::new(8));
        server::wait_for(20, "the snapshot's end", || server::status("s").ends_with(" Invalid"));
        let log = server::log();
        assert!(!log.contains("COW is full") && !log.contains("No space"), "{policy}: {log}");
        assert!(log.contains(&cow), "{policy}: the disk is not named: {log}");
        drop((snap, plain));
        ublk_dm("del --all --force").ok();
        drop(again);
        server::forget_lost();
        server::forget_departed();
        server::assert_nothing_left("error-cow-removed");
        // What could not be marked is a sound store to the next command.
        Disk::open(&node("s0")).zero(0, 8);
    }
}

fn path_of(name: &str) -> String {
    server::device(name)["block_device"].as_str().expect("a node").to_owned()
}
