//! Administration after servers have died: device numbers that the kernel has reused, a run
//! directory that is full or damaged, several families of which one cannot be recovered, stacks,
//! and names.
//!
//! Whatever fails, the rest is done, and the exit code reports the failure.

use std::collections::BTreeSet;
use std::fs;

use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::runner::scratch;
use crate::server::{self, run_dir};
use crate::sh::{Out, binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "admin-number-reused", bound_s: 90, disks, run: |_| number_reused() },
        Case { name: "admin-run-dir-full", bound_s: 90, disks, run: |_| run_dir_full() },
        Case { name: "admin-state-damaged", bound_s: 90, disks, run: |_| state_damaged() },
        Case { name: "admin-each-by-itself", bound_s: 120, disks, run: |_| each_by_itself() },
        Case { name: "admin-names", bound_s: 60, disks, run: |_| names() },
        Case { name: "admin-number-refused", bound_s: 60, disks, run: |_| number_refused() },
        Case { name: "admin-stack-recovered", bound_s: 120, disks, run: |_| stack_recovered() },
        Case { name: "admin-stack-deleted", bound_s: 90, disks, run: |_| stack_deleted() },
    ]
}

const SIZE: u64 = 4 * MIB;

/// Kills the server of a device and waits until its devices wait for another server, or are dead.
pub fn kill(name: &str) {
    kill_after(name, || {});
}

/// The same, immediately after a write: before journaled records are on their COW, which takes half
/// a second.
pub fn kill_after(name: &str, done: impl FnOnce()) {
    let pid = server::number(name, "/server_pid");
    done();
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    server::wait_for(20, "the server's death to be seen", || {
        server::device(name)["state"] != "live"
    });
}

/// States of all devices by name.
pub fn states() -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_string();
    server::list().iter().map(|device| (text(&device["name"]), text(&device["state"]))).collect()
}

/// Asserts that a command failed with exactly these lines, each of which holds the given words.
pub fn assert_failed(out: &Out, lines: &[&[&str]]) {
    assert!(
        out.code == 1,
        "`{}` should exit with 1, did with {}: {}",
        out.what,
        out.code,
        out.stderr
    );
    let said: Vec<&str> = out.stderr.lines().collect();
    assert!(
        said.len() == lines.len(),
        "`{}` should say {} lines, said {said:?}",
        out.what,
        lines.len()
    );
    for words in lines {
        let has = |line: &&&str| words.iter().all(|word| line.contains(word));
        assert!(
            said.iter().any(|line| has(&line)),
            "`{}`: no line with {words:?} in {said:?}",
            out.what
        );
    }
}

fn cow_file(name: &str) -> String {
    let path = format!("{}/{name}", scratch("cows"));
    fs::File::create(&path).and_then(|file| file.set_len(8 << 20)).expect("a file");
    path
}

/// The kernel reuses a deleted device's number for another family: neither `recover` nor `del`
/// confuses the two devices.
fn number_reused() {
    let (one, other) = (slice("one", "n0", 0, SIZE), slice("two", "n0", SIZE, SIZE));
    let (cow, second) = (slice("cow", "n1", 0, SIZE), slice("cow2", "n1", SIZE, SIZE));
    server::add(&format!("origin --origin {one} --name o1"));
    let path = server::add(&format!("snapshot --origin {one} --cow {cow} --name s1"));
    let id = server::number("s1", "/id");
    kill("o1");
    ublk_dm("del --force s1").ok();
    assert!(
        server::add(&format!("snapshot --origin {other} --cow {second} --name t --id {id}"))
            == path
    );
    assert_failed(&ublk_dm("del --force s1"), &[&["s1", "no such device"]]);
    ublk_dm("recover --all").ok();
    assert!(
        server::device("o1")["state"] == "live" && server::device("t")["state"] == "live",
        "{:?}",
        states()
    );
    // The snapshot was deleted while its origin's device stayed: the store on its COW is no longer
    // valid.
    let add = format!("add snapshot --origin {one} --cow {cow} --name again");
    assert_failed(&ublk_dm(&add), &[&[&cow, "is lost", "zero its start with `ublk-dm zero --to"]]);
    sh(&format!("dd if=/dev/zero of={cow} bs=4k count=1 oflag=direct status=none")).ok();
    ublk_dm(&add).ok();
    server::del("again");
    // A state file that could not be rewritten lists a device whose number now belongs to another
    // device.
    kill("o1");
    let (file, number) = (state_file("\"o1\""), server::number("o1", "/id"));
    let state = fs::read_to_string(&file).expect("a state file");
    ublk_dm("del --force o1").ok();
    fs::write(&file, state).expect("writable");
    let third = slice("cow3", "n2", 0, SIZE);
    server::add(&format!("snapshot --origin {other} --cow {third} --name u --id {number}"));
    assert_failed(&ublk_dm("del --force o1"), &[&["o1", "no such device"]]);
    ublk_dm("recover --all").ok();
    assert!(
        states().len() == 2 && states().iter().all(|(_, state)| state == "live"),
        "{:?}",
        states()
    );
    server::del("--all");
    server::assert_nothing_left("del --all");
}

/// The state file that contains a text.
fn state_file(text: &str) -> String {
    let files =
        fs::read_dir(run_dir()).expect("a run directory").flatten().map(|entry| entry.path());
    let mut files = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let file = files.find(|path| fs::read_to_string(path).is_ok_and(|found| found.contains(text)));
    file.unwrap_or_else(|| panic!("no state file with {text}")).display().to_string()
}

/// `ublk-dm` with another run directory.
fn in_dir(dir: &str, line: &str) -> Out {
    let variable = format!("UBLK_DM_RUN_DIR={dir}");
    let binary = binary();
    let mut args = vec![variable.as_str(), binary.as_str()];
    args.extend(line.split_whitespace());
    run_args("env", &args)
}

/// A run directory without room for a state file: no device is added that the next server would not
/// know of.
fn run_dir_full() {
    let dir = scratch("run");
    sh(&format!("mount -t tmpfs -o size=256k,mode=0700 tmpfs {dir}")).ok();
    let (one, other) = (slice("one", "n0", 0, SIZE), slice("two", "n0", SIZE, SIZE));
    let (cow, second) = (slice("cow", "n1", 0, SIZE), slice("cow2", "n1", SIZE, SIZE));
    let fill = || drop(sh(&format!("dd if=/dev/zero of={dir}/filler bs=1k")));
    let before = Disk::open_read_only(&cow).read(0, 64).to_vec();
    fill();
    in_dir(&dir, &format!("add origin --origin {one} --name o")).refused();
    in_dir(&dir, &format!("add snapshot --origin {one} --cow {cow} --name s")).refused();
    assert!(Disk::open_read_only(&cow).read(0, 64).to_vec() == before, "the COW was changed");
    fs::remove_file(format!("{dir}/filler")).expect("removable");
    in_dir(&dir, &format!("add origin --origin {one} --name o")).ok();
    fill();
    in_dir(&dir, &format!("add snapshot --origin {one} --cow {cow} --name s")).refused();
    in_dir(&dir, &format!("add snapshot --origin {other} --cow {second} --name t")).refused();
    assert!(Disk::open_read_only(&cow).read(0, 64).to_vec() == before, "the COW was changed");
    // The old server goes on: the next one could not record anything.
    let said = in_dir(&dir, "upgrade o").refused().stderr;
    assert!(
        said.contains("o: not upgraded: ") && said.contains("the old server goes on"),
        "{said}"
    );
    let list = in_dir(&dir, "list --no-headings").ok().stdout;
    assert!(list.lines().count() == 1 && list.contains(" ok "), "list says {list:?}");
    in_dir(&dir, "del --all").ok();
    fs::remove_file(format!("{dir}/filler")).expect("removable");
    let left = fs::read_dir(&dir).expect("there").flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name != "log").collect();
    assert!(left.is_empty(), "left in the run directory: {left:?}");
    sh(&format!("umount {dir}")).ok();
    server::assert_nothing_left("del --all");
}

/// A living server is queried, whatever its state file says; for a dead server, the damaged file is
/// named.
fn state_damaged() {
    let (origin, cow) = (slice("one", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let file = state_file("\"s\"");
    let whole = fs::read(&file).expect("a state file");
    fs::write(&file, &whole[..whole.len() / 2]).expect("writable");
    assert!(server::device("s")["state"] == "live", "its server is asked");
    ublk_dm("suspend s").ok();
    ublk_dm("resume s").ok();
    ublk_dm("del --all --force").ok();
    server::assert_nothing_left("del --all with a damaged state file");

    server::add(&format!("snapshot --origin {origin} --cow {cow} --name s"));
    let whole = fs::read(&file).expect("a state file");
    kill("s");
    for damaged in [&whole[..whole.len() / 2], b"", b"{}"] {
        fs::write(&file, damaged).expect("writable");
        for verb in ["list", "list --json", "del --all", "del --all --force", "recover --all"] {
            assert_failed(&ublk_dm(verb), &[&[&file]]);
        }
        assert_failed(&ublk_dm("del --force s"), &[&["s: no such device", &file]]);
        assert_failed(
            &ublk_dm(&format!("add snapshot --origin {origin} --cow {cow} --name u")),
            &[&[&file]],
        );
    }
    fs::write(&file, whole).expect("writable");
    ublk_dm("recover --all").ok();
    server::del("s");
    server::assert_nothing_left("del");
}

/// Four families die, one permanently and one whose COW is gone: the others are recovered and
/// deleted nevertheless.
fn each_by_itself() {
    let origins: Vec<String> =
        (0..4).map(|n| slice(&format!("org{n}"), "n0", n * SIZE, SIZE)).collect();
    let cows: Vec<String> = (0..4).map(|n| cow_file(&format!("c{n}"))).collect();
    for n in 0..4 {
        let option = if n == 2 { "--no-recovery" } else { "" };
        server::add(&format!(
            "snapshot --origin {} --cow {} --name s{n} {option}",
            origins[n], cows[n]
        ));
    }
    let pids: BTreeSet<u64> =
        (0..4).map(|n| server::number(&format!("s{n}"), "/server_pid")).collect();
    for pid in &pids {
        sh(&format!("kill -9 {pid}")).ok();
        server::wait_gone(*pid);
    }
    server::wait_for(20, "all to be dead", || states().iter().all(|(_, state)| state != "live"));
    let aside = format!("{}.aside", cows[1]);
    fs::rename(&cows[1], &aside).expect("renamed");
    assert_failed(&ublk_dm("recover --all"), &[&["s1", "c1"], &["--no-recovery"]]);
    let live = |name: &str| server::device(name)["state"] == "live";
    assert!(live("s0") && live("s3") && !live("s1") && !live("s2"), "{:?}", states());
    assert_failed(&ublk_dm("del --all"), &[&["its server has died"], &["its server has died"]]);
    assert!(states().len() == 2, "the living ones are deleted: {:?}", states());
    fs::rename(&aside, &cows[1]).expect("renamed");
    ublk_dm("recover s1").ok();
    assert_failed(&ublk_dm("del s1 nonsense"), &[&["nonsense"]]);
    assert_failed(&ublk_dm("recover s2"), &[&["--no-recovery"]]);
    ublk_dm("del --all --force").ok();
    server::assert_nothing_left("del --all --force");
}

/// No two devices have one name, whether given or generated, living or dead.
fn names() {
    let (one, other) = (slice("one", "n0", 0, SIZE), slice("two", "n0", SIZE, SIZE));
    let cows: Vec<String> =
        (0..3).map(|n| slice(&format!("cow{n}"), "n1", n * SIZE, SIZE)).collect();
    server::add(&format!("snapshot --origin {one} --cow {} --name snap1 --id 0", cows[0]));
    let path = server::add(&format!("snapshot --origin {other} --cow {} --id 1", cows[1]));
    let distinct = || {
        states().iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>().len()
            == states().len()
    };
    assert!(distinct(), "{:?}", states());
    kill("snap1");
    ublk_dm(&format!("add snapshot --origin {other} --cow {} --name snap1", cows[2])).refused();
    server::del(&path);
    let path = server::add(&format!("snapshot --origin {other} --cow {} --id 1", cows[1]));
    assert!(distinct(), "{:?}", states());
    ublk_dm("recover snap1").ok();
    server::del("snap1");
    server::del(&path);
    server::assert_nothing_left("del");
}

/// An impossible number is refused by an error that names it; so is the largest integer.
fn number_refused() {
    let (origin, cow) = (slice("one", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let add = |id: u64| ublk_dm(&format!("add snapshot --origin {origin} --cow {cow} --id {id}"));
    for id in [u64::from(u32::MAX), 99_999_999, 1 << 20] {
        let said = add(id).refused().stderr;
        assert!(said.contains("--id") && said.contains(&id.to_string()), "--id {id}: {said:?}");
    }
    add(3).ok();
    let taken = ublk_dm(&format!("add origin --origin {origin} --id 3")).refused().stderr;
    assert!(taken.contains("--id 3") && taken.contains("already"), "said {taken:?}");
    server::del("3");
    server::assert_nothing_left("refused numbers");
}

/// A snapshot's COW is on a mirror of ublk-dm: both servers die, and both are recovered, the lower
/// one first.
fn stack_recovered() {
    let origin = slice("one", "n0", 0, SIZE);
    let (left, right) = (slice("left", "n1", 0, 4 * SIZE), slice("right", "n2", 0, 4 * SIZE));
    let mirror = server::add(&format!("mirror --leg {left} --leg {right} --nosync --name zmirror"));
    server::add(&format!("origin --origin {origin} --name o"));
    let snap = server::add(&format!("snapshot --origin {origin} --cow {mirror} --name s"));
    Disk::open(&snap).write(0, &crate::disk::Buf::new(8));
    kill("s");
    kill("zmirror");
    // The upper one alone is refused immediately and does not wait for a disk that does not answer.
    assert_failed(&ublk_dm("recover s"), &[&["o, s: not recovered", &mirror]]);
    ublk_dm("recover --all").ok();
    assert!(states().iter().all(|(_, state)| state == "live"), "{:?}", states());
    Disk::open(&snap).write(8, &crate::disk::Buf::new(8));
    server::del("--all");
    server::assert_nothing_left("del --all of a snapshot over a mirror");
}

/// A mirror over a snapshot of a snapshot, whatever their numbers are: `del --all` begins at the
/// top.
fn stack_deleted() {
    let (origin, other) = (slice("one", "n0", 0, SIZE), slice("two", "n0", SIZE, SIZE));
    let (cow, second) = (slice("cow", "n1", 0, SIZE), slice("cow2", "n1", SIZE, SIZE));
    for ids in [[0, 1, 2], [2, 1, 0]] {
        let lowest = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --name a --force --id {}",
            ids[0]
        ));
        let middle = server::add(&format!(
            "snapshot --origin {lowest} --cow {second} --name b --force --id {}",
            ids[1]
        ));
        server::add(&format!(
            "mirror --leg {middle} --leg {other} --nosync --force --name c --id {}",
            ids[2]
        ));
        server::del("--all");
        server::assert_nothing_left("del --all of a stack");
    }
}
