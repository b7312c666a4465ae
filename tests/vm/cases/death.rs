//! Devices that were added with `--on-server-death fail`: while there is no server their requests
//! fail at once, and the next one serves them with all that was acknowledged. A kernel that cannot
//! do that refuses them.

use std::thread;
use std::time::{Duration, Instant};

use super::admin::kill;
use super::process::pid_of;
use crate::Case;
use crate::disk::{Buf, Disk, MIB, slice};
use crate::load::Rng;
use crate::model::{View, resolve, stamped};
use crate::runner::scratch;
use crate::sh::{binary, run_args, sh, ublk_dm};
use crate::{server, tree};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1", "n2"];
    vec![
        Case { name: "death-fail", bound_s: 240, disks, run: fail },
        Case { name: "death-fail-old", bound_s: 60, disks, run: |_| old() },
    ]
}

const SIZE: u64 = 8 * MIB;
const FAILS: &str = "--on-server-death fail";

/// Whether the running kernel can fail requests.
fn can_fail() -> bool {
    ublk_dm("features --json").ok().stdout.contains("USER_RECOVERY_FAIL_IO")
}

fn fail(seed: u64) {
    let legs = [slice("leg0", "n0", 0, SIZE), slice("leg1", "n1", 0, SIZE)];
    let (base, cow) = (slice("base", "n0", SIZE, SIZE), slice("cow", "n2", 0, 2 * SIZE));
    mirrored(seed, &legs, &cow);
    mounted(seed, &base);
    ended(&base);
}

/// Asserts that a device's requests fail at once, and that `list` says so.
fn assert_fails(disk: &Disk, name: &str) {
    let begun = Instant::now();
    assert!(disk.try_read(0, &mut Buf::new(8)).is_err(), "{name}: a read without a server");
    assert!(begun.elapsed() < Duration::from_secs(5), "{name}: {} ms", begun.elapsed().as_millis());
    let device = server::device(name);
    assert!(device["state"] == "quiesced" && device["health"] == "failing", "{device}");
    let said = ublk_dm("list").ok().stdout;
    assert!(said.lines().any(|line| line.contains(name) && line.contains("failing")), "{said}");
}

/// A mirror that is written when its server dies, and a snapshot of it whose requests wait. No
/// upgrade fails a request.
fn mirrored(seed: u64, [one, two]: &[String; 2], cow: &str) {
    let path = server::add(&format!("mirror --leg {one} --leg {two} --nosync --name m {FAILS}"));
    let (view, frozen, disk) =
        (View::new("devi", SIZE), View::new("devi", SIZE), Disk::open(&path));
    view.fill(&disk);
    frozen.put(view.cells(0, SIZE));
    let snap = server::add(&format!("snapshot --origin m --cow {cow} --name s"));
    for (name, policy) in [("m", "fail"), ("s", "wait")] {
        let device = server::device(name);
        assert!(device["on_server_death"] == policy && device["recovery"] == true, "{device}");
    }
    let mut rng = Rng::new(seed);
    for _ in 0..4 {
        refused_upgrade();
        let waits = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for at in (0..).map(|at: u64| at * 8 % SIZE) {
                    let ticket = view.begin(at, 8).expect("no other writer");
                    // One that fails may have been written or not.
                    if disk.try_write(at, &stamped(ticket)).is_err() {
                        return;
                    }
                    view.end(ticket);
                }
            });
            thread::sleep(Duration::from_millis(50 + rng.below(100)));
            kill("m");
            writer.join().expect("a writer that ends with an error");
            let waits = scope.spawn(|| Disk::open_read_only(&snap).read(0, 8));
            assert_fails(&disk, "m");
            assert!(disk.try_write(0, &Buf::new(8)).is_err(), "a write without a server");
            assert!(server::device("s")["health"] == "unknown", "{}", server::device("s"));
            refused_upgrade();
            assert!(!waits.is_finished(), "a request of the snapshot has not waited");
            ublk_dm("recover --all").ok();
            waits.join().expect("a read that waited")
        });
        assert!(waits[..] == frozen_bytes(&snap)[..], "the read that waited");
        view.put(resolve(&disk, view.cells(0, SIZE), &view.take_unacknowledged()));
        view.verify(&disk);
        frozen.verify(&Disk::open_read_only(&snap));
    }
    ublk_dm("wait m --in-sync").ok();
    drop(disk);
    ublk_dm("del m s").ok();
    server::assert_nothing_left("del");
    sh(&format!("cmp {one} {two}")).ok();
}

fn frozen_bytes(snap: &str) -> Buf {
    Disk::open_read_only(snap).read(0, 8)
}

/// An upgrade does nothing, whether the server lives or not.
fn refused_upgrade() {
    let before = server::device("m")["state"].clone();
    let out = ublk_dm("upgrade m").refused();
    let words = if before == "live" { "(--on-server-death fail)" } else { "it has no server" };
    assert!(out.code == 1 && out.stderr.contains(words), "{}", out.stderr);
    assert!(server::device("m")["state"] == before, "{}", server::device("m"));
}

/// A mounted file system gets errors, and is whole again after its repair: with all that was
/// synced. SIGTERM leaves the device.
fn mounted(seed: u64, base: &str) {
    let path = server::add(&format!("origin --origin {base} --name o {FAILS}"));
    let dir = scratch("failing");
    sh(&format!("mkfs.ext4 -q -F {path}")).ok();
    let mount = || drop(sh(&format!("mount -o errors=remount-ro {path} {dir}")).ok());
    mount();
    tree::grow(&dir, &mut Rng::new(seed), 20, 64 << 10);
    sh("sync").ok();
    let then = tree::take(&dir);
    for signal in ["KILL", "TERM"] {
        let pid = pid_of("o");
        sh(&format!("kill -{signal} {pid}")).ok();
        server::wait_gone(pid);
        server::wait_for(20, "its end", || server::device("o")["state"] == "quiesced");
        let file = format!("{dir}/more");
        let write = sh(&format!("dd if=/dev/zero of={file} bs=64k count=8 oflag=direct"));
        assert!(write.code != 0, "SIG{signal}: a write without a server");
        assert_fails(&Disk::open(&path), "o");
        ublk_dm("recover o").ok();
        sh(&format!("umount {dir}")).ok();
        let check = sh(&format!("e2fsck -fy {path}"));
        assert!(check.code < 4, "e2fsck: {}{}", check.stdout, check.stderr);
        mount();
        sh(&format!("rm -f {file}")).ok();
        sh("sync").ok();
        tree::assert_same("what was synced", &then, &tree::take(&dir));
    }
    sh(&format!("umount {dir}")).ok();
    server::del("o");
    server::assert_nothing_left("del");
}

/// A dead server's device is deleted; one that was created from a table is served as that.
fn ended(base: &str) {
    Disk::open(base).zero(0, MIB);
    let line = format!("0 {SIZE} linear {base} 0");
    let create = ["create", "l", "--table", &line, "--on-server-death", "fail"];
    let path = run_args(&binary(), &create).ok().line();
    let disk = Disk::open(&path);
    disk.write_bytes(0, &[0x5a; 4096]);
    kill("l");
    assert_fails(&disk, "l");
    ublk_dm("recover l").ok();
    assert!(disk.read(0, 8).iter().all(|byte| *byte == 0x5a), "an acknowledged write");
    kill("l");
    drop(disk);
    ublk_dm("del --force l").ok();
    server::assert_nothing_left("del --force");
    // A name that gets its table later.
    ublk_dm(&format!("create l --notable {FAILS}")).ok();
    run_args(&binary(), &["load", "l", "--table", &line]).ok();
    ublk_dm("resume l").ok();
    assert!(server::device("l")["on_server_death"] == "fail", "{}", server::device("l"));
    server::del("l");
    server::assert_nothing_left("del");
}

/// What the kernel cannot do is refused, with the version that can; nothing is left, and the disks
/// are as they were.
fn old() {
    let (base, cow) = (slice("base", "n0", 0, SIZE), slice("cow", "n2", 0, 2 * SIZE));
    if can_fail() {
        server::add(&format!("origin --origin {base} --name o {FAILS}"));
        server::del("o");
        return;
    }
    let legs = [slice("leg0", "n0", SIZE, SIZE), slice("leg1", "n1", 0, SIZE)];
    let before = crate::disk::digest(&Disk::open(&cow), 0, 2 * SIZE);
    let [one, two] = &legs;
    for line in [
        format!("origin --origin {base}"),
        format!("snapshot --origin {base} --cow {cow}"),
        format!("mirror --leg {one} --leg {two} --nosync"),
    ] {
        let out = ublk_dm(&format!("add {line} {FAILS}")).refused();
        let why = "--on-server-death fail: it needs Linux 6.13 or later, and this is 6.";
        assert!(out.code == 1 && out.stderr.contains(why), "{line}: {}", out.stderr);
        server::assert_nothing_left(&line);
    }
    assert!(crate::disk::digest(&Disk::open(&cow), 0, 2 * SIZE) == before, "the COW has changed");
    // The default is what it was.
    server::add(&format!("origin --origin {base} --name o --on-server-death wait"));
    kill("o");
    ublk_dm("recover o").ok();
    server::del("o");
    server::assert_nothing_left("del");
}
