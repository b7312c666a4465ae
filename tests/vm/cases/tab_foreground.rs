//! `up --foreground`: devices of the tab file as services, each with a unit of its own although
//! they share a server.

use std::fs::File;
use std::io::{Read, Write};

use super::admin::{kill, states};
use super::process::Service;
use super::tab::{Tab, path};
use crate::Case;
use crate::disk::{Disk, MIB, slice};
use crate::mirror::{Did, Request};
use crate::model::View;
use crate::runner::scratch;
use crate::server;
use crate::sh::{binary, run_args, sh};

pub fn cases() -> Vec<Case> {
    let two = &["n0", "n1"];
    vec![
        Case { name: "tab-foreground", bound_s: 150, disks: two, run: |_| family() },
        Case { name: "tab-foreground-mounted", bound_s: 150, disks: two, run: |_| mounted() },
        Case { name: "tab-foreground-carried", bound_s: 150, disks: two, run: |_| carried() },
        Case { name: "tab-foreground-together", bound_s: 120, disks: &[], run: |_| together() },
        Case { name: "tab-foreground-alone", bound_s: 120, disks: two, run: |_| alone() },
    ]
}

const LEN: u64 = 8 * MIB;

/// Starts the service of a device, as its unit does.
fn start(tab: &Tab, name: &str) -> Service {
    let line = format!("up --foreground --timeout 0 -- {name}");
    Service::start_with(name, &line, &[("UBLK_DM_TAB", &tab.0)])
}

/// Starts a service, which must succeed.
fn started(tab: &Tab, name: &str) -> Service {
    let service = start(tab, name);
    service.hears("READY=1");
    service
}

/// Ends a service as its manager does, and returns the exit code.
fn stop(mut service: Service) -> i32 {
    service.signal("TERM");
    service.hears("STOPPING=1");
    service.ends()
}

fn is_up(name: &str) -> bool {
    server::list().iter().any(|device| device["name"] == name && device["state"] == "live")
}

/// An origin and its snapshot, which share a server: neither service hurts the other's device.
fn family() {
    let (origin, cow) = (slice("o", "n0", 0, LEN), slice("c", "n1", 0, 2 * LEN));
    let tab = Tab::of(&format!(
        "o \"0 {LEN} snapshot-origin {origin}\"\ns \"0 {LEN} snapshot {origin} {cow} P 16\"\n"
    ));
    let before = View::new("orig", LEN);
    before.fill(&Disk::open(&origin));
    let (mut s, mut o) = (started(&tab, "s"), started(&tab, "o"));
    [&s, &o].iter().for_each(|service| service.hears("WATCHDOG=1"));
    let now = View::new("now_", LEN);
    now.fill(&Disk::open(&path("o")));
    // The server is killed: both end, and both are started again, at the same moment.
    for _ in 0..4 {
        kill("o");
        assert_eq!((s.ends(), o.ends()), (1, 1), "their server has died");
        server::wait_for(20, "the devices to wait", || {
            states().iter().all(|(_, state)| state == "quiesced")
        });
        let read = Request::read(&path("o"), 0, 8);
        assert!(read.did(300) == Did::Held, "it waits for a server");
        (o, s) = (start(&tab, "o"), start(&tab, "s"));
        [&s, &o].iter().for_each(|service| service.hears("READY=1"));
        assert!(read.did(20_000) == Did::Success, "it has one");
    }
    // The snapshot stays while its origin's device is there, mounted or not.
    assert_eq!(stop(s), 1, "it is not deleted");
    assert!(is_up("s") && is_up("o"), "{:?}", server::list());
    let s = started(&tab, "s");
    Disk::open(&path("o")).write(0, &crate::disk::Buf::new(8));
    assert!(server::device("s")["snapshot"]["valid"] == true, "{:?}", server::list());
    before.verify(&Disk::open(&path("s")));
    // The origin goes first; the end of the last service is the end of the server.
    let pid = server::number("s", "/server_pid");
    assert_eq!(stop(o), 0);
    assert!(is_up("s"), "{:?}", server::list());
    assert_eq!(stop(s), 0);
    let program = format!("/proc/{pid}/exe");
    assert!(!std::fs::exists(program).unwrap_or(false), "the disks are free");
    server::assert_nothing_left("both services");
    // As after the next start of the machine.
    drop(std::fs::remove_dir_all(server::run_dir()));
    let (s, o) = (started(&tab, "s"), started(&tab, "o"));
    before.verify(&Disk::open(&path("s")));
    assert_eq!((stop(o), stop(s)), (0, 0));
    server::assert_nothing_left("both services");
}

/// A file system is on the device, and is written: the service ends and starts, is killed, and its
/// server is killed.
fn mounted() {
    let disk = slice("d", "n0", 0, 64 * MIB);
    let tab = Tab::of(&format!("d \"0 {} linear {disk} 0\"\n", 64 * MIB));
    let mut service = started(&tab, "d");
    let at = scratch("mnt");
    sh(&format!("mkfs.ext4 -q {}", path("d"))).ok();
    sh(&format!("mount {} {at}", path("d"))).ok();
    let write = |byte: u8| {
        let mut file = File::create(format!("{at}/{byte}")).expect("a file");
        file.write_all(&[byte; 1 << 20]).expect("written");
        file.sync_all().expect("stored");
    };
    write(1);
    let pid = server::number("d", "/server_pid");
    assert_eq!(stop(service), 1, "it is not deleted");
    write(2);
    service = started(&tab, "d");
    write(3);
    assert_eq!(server::number("d", "/server_pid"), pid, "its server has not changed");
    service.signal("KILL");
    service.ends();
    write(4);
    service = started(&tab, "d");
    let (script, done) = (format!("dd if=/dev/zero of={at}/5 bs=64k count=128 oflag=sync"), "dd");
    let writer = std::thread::spawn(move || sh(&script));
    kill("d");
    assert_eq!(service.ends(), 1, "its server has died");
    service = started(&tab, "d");
    writer.join().expect(done).ok();
    for byte in 1..=4 {
        let mut bytes = Vec::new();
        let file = File::open(format!("{at}/{byte}"));
        file.expect("a file").read_to_end(&mut bytes).expect("readable");
        assert!(bytes.len() == 1 << 20 && bytes.iter().all(|it| *it == byte), "file {byte}");
    }
    sh(&format!("umount {at}")).ok();
    sh(&format!("e2fsck -fn {}", path("d"))).ok();
    assert_eq!(stop(service), 0);
    server::assert_nothing_left("the service");
}

/// A device that carries the origin of a snapshot: it is ready when that is there as well.
fn carried() {
    let (disk, cow) = (slice("d", "n0", 0, LEN), slice("c", "n1", 0, 2 * LEN));
    let tab =
        Tab::of(&format!("s \"0 {LEN} snapshot m {cow} P 16\"\nm \"0 {LEN} linear {disk} 0\"\n"));
    let before = View::new("orig", LEN);
    before.fill(&Disk::open(&disk));
    let m = started(&tab, "m");
    assert!(is_up("s"), "it would miss what is written now");
    let s = started(&tab, "s");
    let user = Disk::open(&path("m"));
    View::new("now_", LEN).fill(&user);
    assert_eq!(stop(s), 1, "its origin is in use");
    assert!(is_up("s"), "{:?}", server::list());
    let s = started(&tab, "s");
    drop(user);
    assert_eq!(stop(m), 1, "it has a snapshot");
    let m = started(&tab, "m");
    // Nothing changes the origin in between.
    assert_eq!(stop(s), 0);
    let s = started(&tab, "s");
    before.verify(&Disk::open(&path("s")));
    assert_eq!((stop(s), stop(m)), (0, 0));
    server::assert_nothing_left("both services");
    drop(std::fs::remove_dir_all(server::run_dir()));
    let m = started(&tab, "m");
    before.verify(&Disk::open(&path("s")));
    let mut s = started(&tab, "s");
    // What another command deletes has ended.
    tab.run("down s").ok();
    assert_eq!(s.ends(), 0);
    assert_eq!(stop(m), 0);
    server::assert_nothing_left("both services");
}

/// Services that start at the same moment, as at boot: each device gets a number, though all begin
/// with the same.
fn together() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let lines = names.map(|name| format!("{name} \"0 8 zero\"\n"));
    let tab = Tab::of(&format!("{}x \"0 8 zero\" id=1,noauto\n", lines.concat()));
    let services = names.map(|name| start(&tab, name));
    services.iter().for_each(|service| service.hears("READY=1"));
    assert!(server::list().iter().all(|device| device["id"] != 1), "that is another line's");
    for service in services {
        assert_eq!(stop(service), 0);
    }
    server::assert_nothing_left("all services");
}

/// What a service does that cannot have its device, or finds another one.
fn alone() {
    let link = format!("{}/late", scratch("links"));
    let disk = slice("d", "n0", 0, LEN);
    let text = format!("d \"0 {LEN} linear {link} 0\" nofail\nz \"0 8 zero\"\n");
    let tab = Tab::of(&text);
    assert_eq!(start(&tab, "d").ends(), 1, "there is no disk, and it is not waited for");
    assert_eq!(start(&tab, "none").ends(), 1, "there is no line");
    server::assert_nothing_left("two failures");
    // Two services of one device, and an end before it is there.
    std::os::unix::fs::symlink(&disk, &link).expect("a link");
    let other = "up --foreground d";
    let other = Service::start_with("other", other, &[("UBLK_DM_TAB", &tab.0)]);
    let both = [start(&tab, "d"), other];
    both.iter().for_each(|service| service.hears("READY=1"));
    let [one, mut other] = both;
    assert_eq!((stop(one), other.ends()), (0, 0));
    server::assert_nothing_left("two services");
    std::fs::remove_file(&link).expect("removable");
    let waits = "up --foreground d";
    let mut waiting = Service::start_with("d", waits, &[("UBLK_DM_TAB", &tab.0)]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    waiting.signal("TERM");
    assert_eq!(waiting.ends(), 1, "it was not brought up");
    server::assert_nothing_left("an interrupted service");
    // A device with another table than its line is watched as it is.
    let z = started(&tab, "z");
    tab.write(&text.replace("8 zero", "16 zero"));
    z.signal("KILL");
    drop(z);
    let z = started(&tab, "z");
    assert!(server::table("z").starts_with("0 8 zero"), "{}", server::table("z"));
    assert_eq!(stop(z), 0);
    server::assert_nothing_left("the service");
    // What the last signals of a shutdown spare starts servers that they spare.
    let begin = format!("export UBLK_DM_TAB={}; exec -a @ublk-dm $0 up z", tab.0);
    run_args("bash", &["-c", &begin, &binary()]).ok();
    let pid = server::number("z", "/server_pid");
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).expect("a server");
    assert!(words.starts_with(b"@ublk-dm\0serve\0"), "{}", String::from_utf8_lossy(&words));
    server::del("z");
    server::assert_nothing_left("del");
}
