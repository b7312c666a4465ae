//! Linear devices, with the kernel's own target as the judge: the same data at the same place of
//! the disk, the same lines; the death of a server loses nothing, and a refused command leaves no
//! trace.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::Case;
use crate::disk::{self, Buf, Disk, MIB, node, slice};
use crate::load::{self, Plan, StopOnDrop};
use crate::model::View;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};
use crate::{ioctl, kernel, server};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "linear-basic", bound_s: 120, disks: &["n0"], run: |_| basic() },
        Case { name: "linear-recovered", bound_s: 120, disks: &["n0"], run: recovered },
        Case { name: "linear-bad", bound_s: 120, disks: &["n0", "k0"], run: |_| bad() },
    ]
}

const START: u64 = 3 * MIB + 8;
const LEN: u64 = 8 * MIB;

fn create(name: &str, line: &str, options: &[&str]) -> Out {
    run_args(&binary(), &[&["create", name, "--table", line][..], options].concat())
}

/// The disk's content before and after the device.
fn neighbours(disk: &Disk) -> (u64, u64) {
    (disk::digest(disk, 0, START), disk::digest(disk, START + LEN, 2 * MIB))
}

/// Written here and read by the kernel, and the other way round; status, table and JSON; suspend,
/// resume and del.
fn basic() {
    let whole = node("n0");
    let (view, raw) = (View::new("line", LEN), Disk::open(&whole));
    View::new("disk", 16 * MIB).fill(&raw);
    let before = neighbours(&raw);
    let line = format!("0 {LEN} linear {whole} {START}");
    let top = create("l", &line, &[]).ok().line();
    let disk = Disk::open(&top);
    assert!(disk.sectors == LEN, "{} sectors", disk.sectors);
    view.fill(&disk);
    disk.flush().expect("a flush");
    view.write(&disk, LEN - 9, 9);
    let json = server::device("l");
    assert!(
        json["target"] == "linear" && json["health"] == "ok" && json["size_bytes"] == LEN * 512,
        "{json}"
    );
    assert!(
        json["linear"]["path"] == whole.as_str() && json["linear"]["offset_bytes"] == START * 512,
        "{json}"
    );
    let (status, table) = (server::status("l"), server::table("l"));
    ublk_dm("suspend l").ok();
    assert!(server::device("l")["state"] == "suspended");
    ublk_dm("resume l").ok();
    ublk_dm("message l check").refused();
    view.verify(&disk);
    assert!(!disk::is_free(&whole), "the disk is not claimed");
    ublk_dm("load l --table 0").refused();
    drop(disk);
    server::del("l");
    server::assert_nothing_left("del");
    assert!(neighbours(&raw) == before, "something beside the device was written");
    drop(raw);
    let judge = slice("judge", "n0", START, LEN);
    assert!(
        (kernel::status("judge"), kernel::table("judge")) == (status, table),
        "{}",
        kernel::table("judge")
    );
    view.verify(&Disk::open(&judge));
    view.write(&Disk::open(&judge), 77, 1000);
    kernel::remove("judge");
    // The output of `table` is accepted, and a discard does not reach the neighbouring sectors.
    let top = create("l", &line, &["--read-only"]).ok().line();
    let written = Disk::try_open(&top, true).and_then(|disk| disk.try_write(0, &Buf::new(8)));
    assert!(written.is_err(), "a read-only device was written");
    assert!(server::device("l")["read_only"] == true, "{}", server::device("l"));
    view.verify(&Disk::open_read_only(&top));
    server::del("l");
    let top = create("l", &line, &[]).ok().line();
    let file = std::fs::OpenOptions::new().write(true).open(&top).expect("the device");
    ioctl::discard(&file, LEN * 512).expect("a discard");
    drop(file);
    server::del("l");
    assert!(neighbours(&Disk::open(&whole)) == before, "a discard went beyond the device");
    server::assert_nothing_left("linear-basic");
}

/// The server of the device `l` is killed twice while its disk is written, and `dead` judges what
/// is listed of the device without a server.
pub fn killed_twice((view, disk): (&View, &Disk), plan: Plan, seed: u64, dead: impl Fn(&Value)) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let _stop = StopOnDrop(stop);
        let writes = scope.spawn(move || load::write(view, disk, seed, plan, stop));
        for _ in 0..2 {
            let before = server::number("l", "/stats/writes");
            server::wait_for(30, "writes", || server::number("l", "/stats/writes") > before + 40);
            let pid = server::number("l", "/server_pid");
            sh(&format!("kill -9 {pid}")).ok();
            server::wait_gone(pid);
            server::wait_for(20, "state quiesced", || server::device("l")["state"] == "quiesced");
            dead(&server::device("l"));
            ublk_dm("recover --all").ok();
        }
        stop.store(true, Ordering::Relaxed);
        writes.join().expect("no panic").unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    });
}

/// Killed under load, twice: the writers notice only a delay.
fn recovered(seed: u64) {
    let whole = node("n0");
    let view = View::new("line", LEN);
    let top = create("l", &format!("0 {LEN} linear {whole} {START}"), &[]).ok().line();
    let disk = Disk::open(&top);
    view.fill(&disk);
    let plan = Plan::depth_32(100_000, 90);
    killed_twice((&view, &disk), plan, seed, |dead| {
        assert!(dead["linear"]["offset_bytes"] == START * 512, "{dead}");
    });
    view.verify(&disk);
    drop(disk);
    server::del("l");
    server::assert_nothing_left("del");
    let judge = slice("judge", "n0", START, LEN);
    view.verify(&Disk::open(&judge));
    kernel::remove("judge");
}

/// The results of bad input: one line, no device, no process, no file, and the disk unchanged.
fn bad() {
    let (whole, large) = (node("n0"), node("k0"));
    let small = slice("small", "n0", 0, LEN);
    let refuse = |code: i32, line: &str| {
        let before = [&small, &large].map(|disk| disk::digest_ends(disk));
        let out = create("l", line, &[]).refused();
        assert!(out.code == code, "`{}`: exit code {}", out.what, out.code);
        server::assert_nothing_left(&out.what);
        assert!(
            before == [&small, &large].map(|disk| disk::digest_ends(disk)),
            "`{}` wrote",
            out.what
        );
    };
    for args in [
        "".to_string(),
        small.clone(),
        format!("{small} -1"),
        format!("{small} 8k"),
        format!("{small} 0 0"),
    ] {
        refuse(2, &format!("0 {LEN} linear {args}"));
    }
    refuse(2, &format!("8 {LEN} linear {small} 0"));
    refuse(2, &format!("0 0 linear {small} 0"));
    refuse(2, &format!("0 8 linear {small} 18446744073709551615"));
    refuse(1, &format!("0 {} linear {small} 0", LEN + 1));
    refuse(1, &format!("0 {LEN} linear {small} 1"));
    refuse(1, &format!("0 8 linear {small} {LEN}"));
    refuse(1, "0 8 linear /dev/nonsense 0");
    refuse(1, "0 8 linear /dev/null 0");
    // The blocks of this disk have 4096 bytes.
    refuse(1, &format!("0 8 linear {large} 4"));
    refuse(1, &format!("0 12 linear {large} 8"));
    // In use by the kernel's target, and by one of our devices: that shares it if the ranges do not
    // overlap, or with `--force`.
    refuse(1, &format!("0 8 linear {whole} 0"));
    create("one", &format!("0 64 linear {small} 0"), &[]).ok();
    let said = create("two", &format!("0 64 linear {small} 63"), &[]).refused();
    assert!(said.stderr.contains("one") && said.stderr.contains("--force"), "{}", said.stderr);
    create("two", &format!("0 64 linear {small} 63"), &["--force"]).ok();
    create("three", &format!("0 64 linear {small} 127"), &[]).ok();
    assert!(server::list().len() == 3, "{:?}", server::list());
    let pid = server::number("one", "/server_pid");
    sh(&format!("kill -9 {pid}")).ok();
    server::wait_gone(pid);
    ublk_dm("recover --all").ok();
    // The disk is claimed as long as one of them has it.
    for name in ["one", "two"] {
        server::del(name);
        assert!(!disk::is_free(&small), "not claimed after del {name}");
    }
    server::del("--all");
    server::assert_nothing_left("del --all");
}
