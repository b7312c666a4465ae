//! `merge`: what it refuses, how it is paused, throttled, waited for and interrupted; servers that
//! are killed meanwhile; and merges that the kernel finishes.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::admin::assert_failed;
use super::merge::is_done;
use crate::disk::{Disk, MIB, node, slice};
use crate::load::Rng;
use crate::model::View;
use crate::runner::scratch;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{Case, kernel, server, store, tree};

pub fn cases() -> Vec<Case> {
    let case = |name, disks, run| Case { name, bound_s: 240, disks, run };
    vec![
        case("merge-command", &["n0", "n1", "n2"], command),
        case("merge-killed-command", &["n0", "n1"], killed),
        case("merge-deferred", &["n0", "n1"], deferred),
        case("merge-handed-over", &["n0", "n1"], handed_over),
    ]
}

const SIZE: u64 = 16 * MIB;
const FILES: u64 = 40;
const MAX_BYTES: u64 = 200 << 10;
/// A file that is overwritten as a whole, so that the merge takes a while.
const LARGE_MIB: u64 = 32;

/// Runs `merge` with a file system in mind: nothing is printed.
fn merge(words: &str) -> Out {
    let out = ublk_dm(&format!("merge {words}")).ok();
    assert!(out.stdout.is_empty(), "`{}` printed {:?}", out.what, out.stdout);
    out
}

fn refused(words: &str, why: &str) {
    let out = ublk_dm(&format!("merge {words}")).refused();
    assert!(out.stderr.contains(why), "`{}` said {:?}", out.what, out.stderr);
}

/// Waits for the end with `--json`; the lines.
fn waited(words: &str) -> Vec<Value> {
    let out = ublk_dm(&format!("merge {words} --wait --json")).ok();
    let lines: Vec<Value> = out
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let last = lines.last().unwrap_or_else(|| panic!("`{}` printed nothing", out.what));
    assert!(last["state"] == "done" && last["left_bytes"] == 0, "{last}");
    lines
}

fn is_plain(name: &str) -> bool {
    server::table(name).split(' ').nth(2) == Some("snapshot-origin")
}

fn command(seed: u64) {
    let (origin, cow, other) = (node("n0"), node("n1"), node("n2"));
    let (dir, beside) = (scratch("origin"), scratch("beside"));
    let top = server::add(&format!("origin --origin {origin} --name o"));
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    sh(&format!("mount {top} {dir}")).ok();
    let mut rng = Rng::new(seed);
    let large = |from: &str| {
        let (bs, to) = (format!("bs=1M count={LARGE_MIB}"), format!("of={dir}/large"));
        sh(&format!("dd if={from} {to} {bs} conv=notrunc status=none")).ok();
    };
    tree::grow(&dir, &mut rng, FILES, MAX_BYTES);
    large("/dev/zero");
    let then = tree::take(&dir);
    sh("sync").ok();
    let add = |cow: &str, name: &str| {
        server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --chunk-size 4k --name {name}"
        ))
    };
    let snap = add(&cow, "s");
    tree::change(&dir, &mut rng, FILES, MAX_BYTES);
    large("/dev/urandom");
    sh("sync").ok();
    let changed = tree::take(&dir);
    add(&other, "k");
    refusals(&snap, &dir, &beside);
    runs(&top, &dir, &then);
    assert!(is_plain("o"));
    tree::assert_same("merged", &then, &tree::take(&dir));
    let log = server::log();
    assert!(log.contains("is empty and can be used again"), "{log}");
    again(&add(&cow, "again"), &dir, &beside, &then);
    // The other snapshot was made of the changed content.
    let (kept, made) = (server::device("k"), scratch("kept"));
    let kept = kept["block_device"].as_str().expect("a path").to_owned();
    sh(&format!("mount -o ro,noload {kept} {made}")).ok();
    tree::assert_same("the other snapshot", &changed, &tree::take(&made));
    sh(&format!("umount {made}")).ok();
    // Read-only: what a file system in use writes from memory while it is merged is its own.
    sh(&format!("umount {dir}")).ok();
    sh(&format!("mount -o ro,noload {top} {dir}")).ok();
    interrupted("again");
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    sh(&format!("mount -o ro,noload {top} {dir}")).ok();
    tree::assert_same("merged again", &then, &tree::take(&dir));
    sh(&format!("umount {dir}")).ok();
    server::del("o k");
    server::assert_nothing_left("del");
}

/// What is in use is not merged. At the end nothing is mounted.
fn refusals(snap: &str, dir: &str, beside: &str) {
    refused("s", "a file system on it would see its content change");
    sh(&format!("umount {dir}")).ok();
    sh(&format!("mount {snap} {beside}")).ok();
    refused("s --force", "its device ends with the merge");
    sh(&format!("umount {beside}")).ok();
    let open = Disk::open_read_only(snap);
    refused("s", "it is in use by process");
    drop(open);
    refused("o", "it is no snapshot");
}

/// The merge is throttled, paused, continued and waited for; at the end the origin is mounted.
fn runs(top: &str, dir: &str, then: &tree::Tree) {
    merge("s --rate 64KiB");
    assert!(server::list().iter().all(|device| device["name"] != "s"), "its device has ended");
    let state = server::device("o")["snapshot"]["merge"].clone();
    assert!(
        state["snapshot"] == "s"
            && state["limit_bytes_per_second"] == 65536
            && state["paused"] == false
            && state["state"] == "merging",
        "{state}"
    );
    assert_eq!(server::status("o").split(' ').nth(2), Some("snapshot-merge"));
    refused("k", "another snapshot is being merged");
    refused("s", "already");
    merge("s --pause");
    assert_eq!(server::device("o")["snapshot"]["merge"]["paused"], true);
    std::thread::sleep(Duration::from_millis(500));
    let paused = server::number("o", "/snapshot/merge/left_bytes");
    // The device shows the snapshot, and can be used.
    sh(&format!("mount {top} {dir}")).ok();
    tree::assert_same("while it rests", then, &tree::take(dir));
    merge("o --rate 0");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server::number("o", "/snapshot/merge/left_bytes"), paused, "it rests");
    rests("paused; `ublk-dm merge o --resume` continues it");
    ublk_dm("suspend o").ok();
    rests("suspended; `ublk-dm resume o` continues it");
    ublk_dm("resume o").ok();
    // Its own table is in place: it is not loaded after a resume.
    let device = server::device("o");
    let word = |of: &str| device["snapshot"][of].as_str().expect("a path").to_owned();
    let sectors = device["size_bytes"].as_u64().expect("a size") / 512;
    let line = format!("0 {sectors} snapshot-merge {} {} P 8", word("origin"), word("cow"));
    run_args(&binary(), &["load", "o", "--table", &line]).ok();
    ublk_dm("resume o").ok();
    assert_eq!(ublk_dm("table --inactive o").ok().stdout, "");
    merge("o --resume");
    let lines = waited("o");
    // There is nothing to wait for any more, nor to continue.
    assert_eq!(ublk_dm("merge o --wait --json").ok().stdout, "");
    merge("o --resume");
    println!("{} lines; the first: {}", lines.len(), lines[0]);
}

/// Who waits for a merge that rests is told why, once.
fn rests(why: &str) {
    let wait = format!("timeout -s INT 2 {} merge o --wait", binary());
    let said = sh(&wait).stderr;
    assert_eq!(said.matches(why).count(), 1, "{said}");
}

/// The COW of the merged snapshot has a new one.
fn again(snap: &str, dir: &str, beside: &str, then: &tree::Tree) {
    sh(&format!("rm -r {dir}/large")).ok();
    sh(&format!("dd if=/dev/urandom of={dir}/new bs=1M count=16 status=none")).ok();
    sh("sync").ok();
    sh(&format!("mount {snap} {beside}")).ok();
    tree::assert_same("a new snapshot", then, &tree::take(beside));
    sh(&format!("umount {beside}")).ok();
}

/// Ctrl-C ends the wait, not the merge; the origin is mounted, which `--force` allows.
fn interrupted(name: &str) {
    let words = ["merge", name, "--force", "--wait", "--rate", "64KiB"];
    let mut command = Command::new(binary());
    let child = command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("it starts");
    server::wait_for(20, "the merge to begin", || !is_plain("o"));
    std::thread::sleep(Duration::from_millis(500));
    sh(&format!("kill -INT {}", child.id())).ok();
    let out = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.contains("the merge goes on"), "{said}");
    assert!(out.stdout.is_empty());
    assert!(!is_plain("o"), "it is still being merged");
    waited(&format!("{name} --rate 0"));
    assert!(is_plain("o"));
}

/// An origin `o` with a snapshot `s` of which every second chunk was written; what it shows.
pub(super) fn pair(origin: &str, cow: &str) -> View {
    let org_view = View::new("orig", SIZE);
    org_view.fill(&Disk::open(origin));
    server::add(&format!("origin --origin {origin} --name o"));
    let snap =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s"));
    let view = org_view.snapshot("snap");
    let snap = Disk::open(&snap);
    for chunk in (0..SIZE / 8).step_by(2) {
        view.write(&snap, chunk * 8, 8);
    }
    view
}

/// Kills the server of the origin's device.
pub(super) fn kill() {
    let pid = server::number("o", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
}

/// The server dies in the middle of a merge, and when that has just ended; its successors go on
/// with it at the rate that was asked for, and come to its end.
fn killed(seed: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    let view = pair(&origin, &cow);
    merge("s --rate 256KiB");
    let top = server::device("o")["block_device"].as_str().expect("a path").to_owned();
    let top = Disk::open(&top);
    for round in 0..6u64 {
        let limit = server::number("o", "/snapshot/merge/limit_bytes_per_second");
        assert_eq!(limit, 256 << 10, "the rate of round {round}");
        kill();
        ublk_dm("recover o").ok();
        view.write(&top, (seed ^ round) % 1000 * 8, 64);
        view.verify(&top);
    }
    merge("o --pause");
    kill();
    ublk_dm("recover o").ok();
    assert_eq!(server::device("o")["snapshot"]["merge"]["paused"], true);
    merge("o --resume");
    merge("o --rate 2MiB");
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert!(rounds < 30, "it does not end");
        std::thread::sleep(Duration::from_millis(seed % 40 * rounds));
        kill();
        ublk_dm("recover o").ok();
        if is_plain("o") {
            break;
        }
    }
    println!("killed {rounds} times until it had ended");
    view.verify(&top);
    drop(top);
    server::del("o");
    server::assert_nothing_left("del");
    view.verify(&Disk::open(&origin));
    assert_eq!(store::records(&Disk::open(&cow), 8).len(), 0);
}

/// A merge of ours that ends in the middle, by `del` or with its server, is finished by the kernel;
/// no journal and no file is left.
fn handed_over(_: u64) {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, 2 * SIZE));
    for dies in [false, true] {
        let view = pair(&origin, &cow);
        let records = SIZE / 8 / 2;
        merge("s --rate 512KiB");
        server::wait_for(60, "a batch", || server::number("o", "/snapshot/merge/merged_bytes") > 0);
        if dies {
            kill();
            ublk_dm("del --force o").ok();
        } else {
            server::del("o");
        }
        server::assert_nothing_left("del");
        // The origin's disk is a mixture. What a dead server's merge had still to do is not known.
        let ended = if dies { "may not have ended" } else { "has not ended" };
        let ended = format!("a merge into it {ended}");
        let mixture: &[&str] = &[&ended, &cow, "ublk-dm create o", "--force"];
        assert_failed(&ublk_dm(&format!("add origin --origin {origin}")), &[mixture]);
        server::assert_nothing_left("an add that is refused");
        server::forget_departed();
        let raw_cow = Disk::open(&cow);
        let left = store::records(&raw_cow, 8).len() as u64;
        println!("handed over with {left} of {records} records, dies: {dies}");
        assert!(left > 0 && left < records, "{left} of {records} records");
        let node = kernel::create("kmerge", &format!("0 {SIZE} snapshot-merge {origin} {cow} P 8"));
        view.verify(&Disk::open(&node));
        server::wait_for(60, "the kernel's end", || is_done(&kernel::status("kmerge")));
        kernel::remove("kmerge");
        view.verify(&Disk::open(&origin));
        assert_eq!(store::records(&raw_cow, 8).len(), 0);
        crate::disk::wipe("n1");
    }
}

/// A merge is deferred under a mounted origin. The next servers leave it alone as long as that is
/// mounted; it begins when the origin is added again, or taken over unused.
fn deferred(_: u64) {
    let (origin, cow) = (node("n0"), node("n1"));
    let dir = scratch("origin");
    let top = server::add(&format!("origin --origin {origin} --name o"));
    sh(&format!("mkfs.ext4 -q -F {top}")).ok();
    let file = format!("{dir}/file");
    let mount = || sh(&format!("mount {top} {dir}")).ok();
    let put = |word: &str| {
        std::fs::write(&file, word).expect("it is written");
        sh("sync").ok();
    };
    mount();
    put("then");
    let add = || {
        let words = format!("--origin {origin} --cow {cow} --chunk-size 4k --name s");
        server::add(&format!("snapshot {words}"));
        put("now");
        ublk_dm("merge s --defer --rate 8MiB").ok().stderr
    };
    let said = add();
    assert!(said.contains("`ublk-dm merge s --pause` takes that back"), "{said}");
    let is_deferred = || server::device("s")["snapshot"]["merge"]["state"] == "deferred";
    kill();
    assert!(is_deferred(), "a device without a server shows it");
    let said = ublk_dm("recover s o").ok().stderr;
    assert!(is_plain("o") && is_deferred() && said.contains("s: its merge stays deferred: "));
    for words in ["o --wait", "o --resume", "o --rate 1MiB", "s --rate 1MiB"] {
        refused(words, "its merge is deferred and has not begun");
    }
    let said = merge("s --pause").stderr;
    assert!(said.contains("its deferred merge is taken back"), "{said}");
    assert!(server::device("s")["snapshot"]["merge"].is_null());
    ublk_dm("merge s --defer").ok();
    sh(&format!("umount {dir}")).ok();
    std::thread::sleep(Duration::from_millis(500));
    assert!(is_plain("o") && is_deferred(), "the end of a use is no activation");
    kill();
    ublk_dm("recover s o").ok();
    let has_begun = || server::list().iter().all(|device| device["name"] != "s");
    assert!(has_begun(), "its device has ended");
    ublk_dm("merge o --wait").ok();
    let shows = |word: &str| {
        mount();
        assert_eq!(std::fs::read_to_string(&file).expect("it is read"), word);
    };
    shows("then");
    add();
    sh(&format!("umount {dir}")).ok();
    server::del("o");
    assert!(is_deferred());
    assert_eq!(server::add(&format!("origin --origin {origin} --name o")), top);
    server::wait_for(10, "the deferred merge to begin", has_begun);
    ublk_dm("merge o --wait").ok();
    shows("then");
    sh(&format!("umount {dir}")).ok();
    sh(&format!("e2fsck -fn {top}")).ok();
    server::del("o");
    server::assert_nothing_left("del");
}
