//! Disks that are given as legs: one that is a leg already stays claimed, and what another disk
//! holds is not overwritten, at whatever offset the leg begins.

use super::message;
use crate::disk::{Disk, MIB, digest_ends, is_free, slice};
use crate::mirror::{Engine, ours};
use crate::server;
use crate::sh::{sh, ublk_dm};

const SIZE: u64 = 16 * MIB;

pub(super) fn judged() {
    if ours() == Engine::Kernel {
        return;
    }
    let legs = ["n0", "n1"].map(|disk| slice(&format!("leg{disk}"), disk, 0, SIZE));
    let (third, large) = (slice("third", "n2", 0, SIZE), slice("large", "n3", 0, 3 * SIZE));
    for disk in legs.iter().chain([&third, &large]) {
        Disk::open(disk).zero(0, 2 * MIB);
    }
    sh(&format!("mkfs.ext4 -q {}", legs[0])).ok();
    sh(&format!("mkfs.ext4 -q {}", legs[1])).ok();
    let add = format!("add mirror --leg {} --leg {} --name m", legs[0], legs[1]);
    let zero = format!("ublk-dm zero --to {}:0+4096", legs[1]);
    unchanged(&legs[1], &add, &["holds ext4", &zero, "--force"]);
    ublk_dm(zero.trim_start_matches("ublk-dm ")).ok();
    ublk_dm(&add).ok();
    ublk_dm("wait m --in-sync").ok();
    claims(&legs);
    same_kind(&third);
    offsets(&large);
    server::del("m");
    // A former leg holds the same file system.
    ublk_dm(&add).ok();
    server::del("m");
    server::assert_nothing_left("del");
}

/// A command is refused in these words, and the disk keeps what it holds.
fn unchanged(disk: &str, command: &str, words: &[&str]) {
    let before = digest_ends(disk);
    let said = ublk_dm(command).refused().stderr;
    assert!(words.iter().all(|word| said.contains(word)), "{command}: no {words:?} in {said}");
    assert!(digest_ends(disk) == before, "{command}: {disk} was written");
}

/// The same disk again: it stays claimed, and is not added a second time.
fn claims(legs: &[String; 2]) {
    message(&format!("replace {0} {0}", legs[0]));
    ublk_dm("wait m --in-sync").ok();
    message(&format!("replace 1 {}", legs[1]));
    ublk_dm("wait m --in-sync").ok();
    for leg in legs {
        assert!(!is_free(leg), "{leg} is a leg, and not claimed");
        ublk_dm(&format!("message m add-leg {leg}")).refused();
        ublk_dm(&format!("zero --to {leg}")).refused();
    }
    let pid = server::number("m", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("recover m").ok();
    assert!(legs.iter().all(|leg| !is_free(leg)), "a leg is not claimed after recover");
    ublk_dm("wait m --in-sync").ok();
}

/// Another file system of the kind that the mirror holds.
fn same_kind(third: &str) {
    sh(&format!("mkfs.ext4 -q {third}")).ok();
    let zero = format!("ublk-dm zero --to {third}:0+4096");
    for words in [format!("add-leg {third}"), format!("replace 1 {third}")] {
        unchanged(third, &format!("message m {words}"), &["holds ext4", &zero]);
    }
    sh(&format!("e2fsck -fn {third}")).ok();
    ublk_dm(zero.trim_start_matches("ublk-dm ")).ok();
    message(&format!("add-leg {third}"));
    ublk_dm("wait m --in-sync").ok();
    assert!(!is_free(third), "{third} is a leg, and not claimed");
    message("remove-leg 2");
    assert!(is_free(third), "{third} is no leg, and claimed");
}

/// A file system or a partition at the leg's range, or around it.
fn offsets(large: &str) {
    let add = format!("message m add-leg {large}:9MiB");
    sh(&format!("mkfs.ext4 -q {large}")).ok();
    unchanged(large, &add, &["holds ext4"]);
    sh(&format!("e2fsck -fn {large}")).ok();
    Disk::open(large).zero(0, 2 * MIB);
    make_mbr(large, MIB, MIB);
    message(&format!("add-leg {large}:9MiB"));
    ublk_dm("wait m --in-sync").ok();
    message("remove-leg 2");
    Disk::open(large).zero(9 * MIB, 2 * MIB);
    make_mbr(large, 10 * MIB, MIB);
    unchanged(large, &add, &["MBR", "with a partition in that range"]);
}

/// Puts a table with one partition on a disk.
fn make_mbr(disk: &str, start: u64, sectors: u64) {
    let mut boot = [0; 512];
    boot[450] = 0x83;
    for (at, number) in [(454, start), (458, sectors)] {
        let number = u32::try_from(number).expect("a small disk");
        boot[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    boot[510..].copy_from_slice(&[0x55, 0xAA]);
    Disk::open(disk).write_bytes(0, &boot);
}
