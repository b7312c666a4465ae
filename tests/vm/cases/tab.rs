//! The tab file: `up`, `down` and `save`. A start of the machine is played by `down` and a run
//! directory that is gone.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::admin::kill;
use crate::Case;
use crate::disk::{Disk, MIB, digest, node, slice};
use crate::model::View;
use crate::runner::scratch;
use crate::server;
use crate::sh::{Out, binary, run_args, sh, ublk_dm};

pub fn cases() -> Vec<Case> {
    let four = &["n0", "n1", "n2", "n3"];
    let five = &["n0", "n1", "n2", "n3", "n4"];
    vec![
        Case { name: "tab-stack", bound_s: 180, disks: four, run: |_| stack() },
        Case { name: "tab-saved", bound_s: 240, disks: five, run: |_| saved() },
        Case { name: "tab-late", bound_s: 120, disks: &["n0", "n1"], run: |_| late() },
        Case { name: "tab-killed", bound_s: 150, disks: &["n0", "n1"], run: |_| killed() },
        Case { name: "tab-refused", bound_s: 150, disks: &["n0", "n1"], run: |_| refused() },
        Case { name: "tab-mounted", bound_s: 120, disks: &["n0"], run: |_| mounted() },
    ]
}

pub const LEN: u64 = 8 * MIB;

/// A tab file.
pub struct Tab(pub String);

impl Tab {
    pub fn of(text: &str) -> Tab {
        let tab = Tab(format!("{}/x.tab", scratch("tab")));
        tab.write(text);
        tab
    }

    pub fn write(&self, text: &str) {
        fs::write(&self.0, text).expect("a tab file");
    }

    pub fn text(&self) -> String {
        fs::read_to_string(&self.0).expect("a tab file")
    }

    pub fn run(&self, line: &str) -> Out {
        let words = [format!("UBLK_DM_TAB={}", self.0), binary()];
        let words = words.iter().map(String::as_str).chain(line.split_whitespace());
        run_args("env", &words.collect::<Vec<_>>())
    }

    /// Runs `up`, which must be silent but for the names and paths, and returns those.
    pub fn up(&self, words: &str) -> Vec<(String, String)> {
        let out = self.run(&format!("up {words}")).ok();
        let pair = |line: &str| line.split_once(": ").map(|(a, b)| (a.to_owned(), b.to_owned()));
        out.stdout.lines().map(|line| pair(line).expect("NAME: PATH")).collect()
    }

    /// Takes all down and forgets it, as the end of the machine does.
    pub fn restart(&self) {
        self.run("down --all").ok();
        server::assert_nothing_left("down --all");
        drop(fs::remove_dir_all(server::run_dir()));
    }

    pub fn begin(&self, line: &str) -> Child {
        let mut command = Command::new(binary());
        command.env("UBLK_DM_TAB", &self.0).args(line.split_whitespace());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }
}

pub fn path(name: &str) -> String {
    server::device(name)["block_device"].as_str().expect("a path").to_owned()
}

fn names(pairs: &[(String, String)]) -> Vec<&str> {
    pairs.iter().map(|(name, _)| name.as_str()).collect()
}

/// An origin with two snapshots, listed before them and by another link; a mirror with its log, and
/// a snapshot of it, listed before it; all of it twice, and again after a start of the machine.
fn stack() {
    // A COW has room for all of its origin.
    let disk = |name: &str, number: u64, on: &str| slice(name, on, number * 2 * LEN, 2 * LEN);
    let (one, two, third) = (disk("c1", 0, "n1"), disk("c2", 1, "n1"), disk("c3", 0, "n3"));
    let origin = slice("o", "n0", 0, LEN);
    let (legs, log) = ([disk("a", 1, "n0"), disk("b", 2, "n1")], disk("log", 0, "n2"));
    let link = format!("{}/link", scratch("links"));
    symlink(&origin, &link).expect("a link");
    let tab = Tab::of(&format!(
        r#"# the origin comes first here, and last of its family
           srv  "0 {LEN} snapshot-origin {link}"  _netdev
           ms   "0 {LEN} snapshot /dev/ublk-dm/m {third} P 16"
           mon  "0 {LEN} snapshot {origin} {one} PO 16"
           tue  "0 {LEN} snapshot {origin} {two} P 16"  nofail,depth=32

           m    "0 {LEN} mirror disk 2 {log} 1024 2 {} 0 {} 0"  x-mine=1
           part "0 8 linear m 8"  noauto
        "#,
        legs[0], legs[1]
    ));
    let before = View::new("orig", LEN);
    before.fill(&Disk::open(&origin));
    let up = tab.up("--all");
    assert_eq!(names(&up), ["srv", "ms", "mon", "tue", "m"], "in the order of the lines");
    up.iter().for_each(|(name, node)| assert_eq!(path(name), *node));
    assert_eq!(server::number("tue", "/queue_depth"), 32);
    let pids = || ["srv", "mon", "tue"].map(|name| server::number(name, "/server_pid"));
    assert!(pids().iter().all(|pid| *pid == pids()[0]), "one server for a family");
    assert_eq!(server::number("ms", "/server_pid"), server::number("m", "/server_pid"));
    let (now, mirror) = (View::new("now_", LEN), View::new("mirr", LEN));
    now.fill(&Disk::open(&path("srv")));
    ublk_dm("wait m --in-sync").ok();
    mirror.fill(&Disk::open(&path("m")));
    let again = pids();
    assert_eq!(tab.up("--all"), up, "it is up already");
    assert_eq!(pids(), again);
    for snapshot in ["mon", "tue"] {
        before.verify(&Disk::open(&path(snapshot)));
    }
    tab.restart();
    assert_eq!(names(&tab.up("--all")), names(&up));
    now.verify(&Disk::open(&path("srv")));
    mirror.verify(&Disk::open(&path("m")));
    before.verify(&Disk::open(&path("mon")));
    before.verify(&Disk::open(&path("tue")));
    let said = tab.run("down mon").ok().stderr;
    assert!(said.contains("its snapshot is lost with the next write to srv"), "{said}");
    tab.run("down srv mon tue").ok();
    tab.run("down srv mon tue").ok();
    // With its snapshots, and what it stands on; nothing else.
    assert_eq!(names(&tab.up("srv")), ["srv", "mon", "tue"]);
    before.verify(&Disk::open(&path("tue")));
    tab.restart();
    assert_eq!(names(&tab.up("m")), ["ms", "m"]);
    down_and_up(&tab);
    mirror.verify(&Disk::open(&path("m")));
    tab.restart();
}

/// A mirror and its snapshot in one boot: it is the same mirror.
fn down_and_up(tab: &Tab) {
    let shown = || digest(&Disk::open_read_only(&path("ms")), 0, LEN);
    let was = shown();
    tab.run("down ms m").ok();
    assert_eq!(names(&tab.up("ms")), ["ms", "m"]);
    assert_eq!(shown(), was);
}

/// Where udev has its links, which this machine makes by hand.
const LINKS: &str = "/dev/disk/by-id";

fn links(make: bool) {
    fs::create_dir_all(LINKS).expect("a directory");
    for (name, disk) in [("nvme-ORIGIN", "n0"), ("wwn-0", "n1"), ("nvme-COW", "n1")] {
        let link = format!("{LINKS}/{name}");
        drop(fs::remove_file(&link));
        if make {
            symlink(node(disk), link).expect("a link");
        }
    }
}

fn create(name: &str, line: &str, more: &[&str]) {
    run_args(&binary(), &[&["create", name, "--table", line], more].concat()).ok();
}

/// An origin with its snapshot; devices of two disks in one server, and a mirror over them with a
/// snapshot that ends with the machine.
fn make_all() {
    let [n0, n1, n2, n3, n4] = ["n0", "n1", "n2", "n3", "n4"].map(node);
    server::add(&format!("snapshot --origin {n0} --cow {n1} --name s --depth 64"));
    server::add(&format!("origin --origin {n0} --name o --id 9"));
    create("l0", &format!("0 {LEN} linear {n2} 0"), &["--read-only", "--shared"]);
    create("l1", &format!("0 {LEN} linear {n2} {LEN}"), &["--shared"]);
    create("p1", &format!("0 {LEN} linear {n3} 0"), &["--beside", "l0"]);
    create("z", "0 8 zero", &["--no-recovery"]);
    server::add("mirror --leg l1 --leg p1 --nosync --name m");
    server::add(&format!("snapshot --origin m --cow {n4} --store transient --name t"));
}

/// What runs becomes a tab file that brings it back; what a person wrote stays.
fn saved() {
    links(true);
    make_all();
    let tab = Tab::of("# mine\nz  \"0 16 zero\" timeout=3\n\nold \"0 8 zero\" noauto\n");
    let printed = tab.run("save --stdout s o").ok().stdout;
    assert_eq!(tab.run("save s - o").ok().stdout, printed);
    let lines: Vec<&str> = printed.lines().collect();
    let sectors = Disk::open_read_only(&node("n0")).sectors;
    let begins = format!("s  \"0 {sectors} snapshot {LINKS}/nvme-ORIGIN {LINKS}/nvme-COW PO ");
    assert!(lines[0].starts_with(&begins) && lines[0].ends_with("\"  id=0,depth=64"), "{printed}");
    let origin = format!("o  \"0 {sectors} snapshot-origin {LINKS}/nvme-ORIGIN\"  id=9");
    assert_eq!(lines[1], origin);
    let said = tab.run("save").ok();
    assert!(said.stderr.contains("t: not saved: a transient") && said.stdout.is_empty());
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    let text = tab.text();
    assert!(text.starts_with("# mine\nz  \"0 8 zero\"  timeout=3\n\nold \"0 8 zero\" noauto\n"));
    for part in [
        format!("l0  \"0 {LEN} linear {} 0\"  read-only,shared,id=", node("n2")),
        format!("m  \"0 {LEN} mirror core 1 1024 2 l1 0 p1 0\"  id="),
        "beside=l0".to_owned(),
        origin,
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    let before = ["s", "o", "l0"].map(|name| (name, server::table(name)));
    ublk_dm("del t").ok();
    let view = View::new("orig", 64);
    view.fill(&Disk::open(&path("o")));
    tab.restart();
    tab.run("up --all").ok();
    before.iter().for_each(|(name, table)| assert_eq!(server::table(name), *table, "{name}"));
    assert_eq!(server::device("o")["block_device"], "/dev/ublkb9");
    view.verify_range(&Disk::open("/dev/ublkb9"), 0, 64);
    let pids = ["l1", "p1", "m"].map(|name| server::number(name, "/server_pid"));
    assert!(pids.iter().all(|pid| *pid == pids[0]), "beside is kept: {pids:?}");
    tab.run("save").ok();
    assert_eq!(tab.text(), text, "nothing is new");
    saved_elsewhere(&tab);
    tab.restart();
    links(false);
}

/// A device with its line in a file beside the tab file, which is not written; and one that no line
/// brings back.
fn saved_elsewhere(tab: &Tab) {
    let text = tab.text();
    fs::create_dir_all(format!("{}.d", tab.0)).expect("a directory");
    fs::write(format!("{}.d/more.tab", tab.0), "more \"0 16 zero\"\n").expect("a file");
    assert_eq!(tab.up("more").len(), 1);
    tab.run("save more").ok();
    tab.run("down more").ok();
    create("more", "0 8 zero", &[]);
    let said = tab.run("save more").refused().stderr;
    assert!(said.contains("more.tab:1 has another table: change it there"), "{said}");
    run_args("rm", &["-r", &format!("{}.d", tab.0)]).ok();
    ublk_dm("del more").ok();
    ublk_dm("del s").ok();
    let said = tab.run("save s").refused().stderr;
    assert!(said.contains("s: no such device"), "{said}");
    assert_eq!(tab.text(), text);
}

/// A disk that comes late delays only what needs it; one that does not come is a failure, or a
/// warning.
fn late() {
    let (now, then) = (slice("now", "n0", 0, LEN), slice("then", "n1", 0, LEN));
    let link = format!("{}/late", scratch("links"));
    let tab = Tab::of(&format!(
        "late \"0 {LEN} linear {link} 0\" timeout=60\nupon \"0 8 linear late 0\"\nnow \"0 {LEN} \
         linear {now} 0\"\nnever \"0 8 linear /dev/never 0\" timeout=1,nofail\n"
    ));
    let mut up = tab.begin("up --all");
    server::wait_for(30, "the device whose disk is there", || {
        server::list().iter().any(|device| device["name"] == "now")
    });
    assert!(up.try_wait().expect("a child").is_none(), "it does not wait");
    assert_eq!(server::list().len(), 1);
    symlink(&then, &link).expect("a link");
    assert!(up.wait().expect("a child").success(), "the disk came");
    assert_eq!(server::list().len(), 3);
    let again = tab.run("up --all").ok();
    assert!(again.stderr.contains("/dev/never was waited for, for 1 s; its line has nofail"));
    assert_eq!(again.stdout.lines().count(), 3);
    // Without the disk.
    tab.restart();
    fs::remove_file(&link).expect("removable");
    tab.write(&tab.text().replace("timeout=60", "timeout=1").replace(",nofail", ""));
    let out = tab.run("up --all");
    assert_eq!((out.code, out.stderr.lines().count()), (1, 3), "{}", out.stderr);
    assert!(out.stderr.contains("upon: it stands on late, which is not up"), "{}", out.stderr);
    assert_eq!(names(&[("now".to_owned(), path("now"))]), ["now"]);
    tab.restart();
    // A signal ends the wait, and nothing is left.
    tab.write(&format!("late \"0 {LEN} linear {link} 0\" timeout=600\n"));
    let mut up = tab.begin("up late");
    thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    sh(&format!("kill {}", up.id())).ok();
    assert_eq!(up.wait().expect("a child").code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(20));
    server::assert_nothing_left("a signal");
}

/// Devices whose servers were killed are recovered, not refused for their own names.
fn killed() {
    let (origin, cow) = (slice("o", "n0", 0, LEN), slice("c", "n1", 0, LEN));
    let lines = slice("l", "n0", LEN, LEN);
    let tab = Tab::of(&format!(
        "o \"0 {LEN} snapshot-origin {origin}\"\ns \"0 {LEN} snapshot {origin} {cow} P 16\"\nl \"0 \
         {LEN} linear {lines} 0\"\nz \"0 8 zero\"\n"
    ));
    let up = tab.up("--all");
    let (view, line) = (View::new("orig", LEN), View::new("line", LEN));
    view.fill(&Disk::open(&path("o")));
    line.fill(&Disk::open(&path("l")));
    for name in ["o", "l"] {
        kill(name);
    }
    server::wait_for(20, "the devices to wait", || {
        ["o", "s", "l"].iter().all(|name| server::device(name)["state"] == "quiesced")
    });
    assert_eq!(tab.up("--all"), up, "the same devices");
    assert!(server::list().iter().all(|device| device["state"] == "live"));
    view.verify(&Disk::open(&path("o")));
    line.verify(&Disk::open(&path("l")));
    // One whose disk is away stays, and is named.
    kill("l");
    server::wait_for(20, "the device to wait", || server::device("l")["state"] == "quiesced");
    sh("dmsetup remove l").ok();
    let out = tab.run("up --all");
    // Its path is not that of a device that is up.
    assert_eq!((out.code, out.stdout.lines().count()), (1, 3), "{}", out.stderr);
    assert!(out.stderr.contains("l: ") && !out.stdout.contains("l: "), "{}", out.stderr);
    slice("l", "n0", LEN, LEN);
    assert_eq!(tab.up("l"), [up[2].clone()]);
    line.verify(&Disk::open(&path("l")));
    tab.restart();
}

/// What is not as the file says, or cannot be.
fn refused() {
    let (origin, cow) = (slice("o", "n0", 0, LEN), slice("c", "n1", 0, LEN));
    let snapshot = |options: &str| {
        format!("s \"0 {LEN} snapshot {origin} /dev/none P 16\" timeout=0,{options}\n")
    };
    let text = format!("o \"0 {LEN} snapshot-origin {origin}\"\nz \"0 8 zero\"\n");
    let tab = Tab::of("# nothing\n");
    let out = tab.run("up --all").ok();
    assert!(
        out.stderr.contains("there is no line in it, so nothing is brought up"),
        "{}",
        out.stderr
    );
    tab.write(&format!("{text}{}", snapshot("")));
    let out = tab.run("up --all");
    assert_eq!((out.code, out.stderr.lines().count()), (1, 2), "{}", out.stderr);
    assert!(out.stderr.contains("o: its snapshot s is not up and would be lost"), "{}", out.stderr);
    assert_eq!(out.stdout.lines().count(), 1, "z is up");
    tab.write(&format!("{text}{}", snapshot("nofail")));
    let out = tab.run("up --all").ok();
    assert!(out.stderr.contains("o: its snapshot s is not up, and is lost"), "{}", out.stderr);
    assert_eq!(out.stdout.lines().count(), 2);
    // It is up already, whatever became of its snapshot.
    tab.write(&format!("{text}{}", snapshot("")));
    assert_eq!(tab.run("up o").code, 1);
    tab.run("up z").ok();
    tab.write(&text.replace("8 zero", "16 zero"));
    let said = tab.run("up --all");
    let why = "z: it is up with another table than that of ";
    assert!(said.code == 1 && said.stderr.contains(why), "{}", said.stderr);
    assert_eq!(said.stdout.lines().count(), 2, "it is up nevertheless");
    // A line that cannot be used may be the snapshot's.
    tab.run("down --all").ok();
    tab.write(&format!("{text}s \"0 {LEN} snapsht {origin} {cow} P 16\"\n"));
    let out = tab.run("up --all");
    assert!(out.code == 1 && out.stderr.contains("o: a snapshot of its disk may be on a line"));
    assert_eq!(out.stdout.lines().count(), 1, "z is up");
    tab.write("a \"0 8 linear b 0\"\nb \"0 8 linear a 0\"\nz \"0 8 zero\"\n");
    let out = tab.run("up --all");
    assert!(out.code == 1 && out.stderr.contains("stands on itself"), "{}", out.stderr);
    // Two commands at once are one.
    tab.restart();
    tab.write(&text);
    let mut both = [tab.begin("up --all"), tab.begin("up --all")];
    both.iter_mut().for_each(|up| assert!(up.wait().expect("a child").success()));
    assert_eq!(server::list().len(), 2);
    tab.restart();
}

/// A device that is mounted stays, and the others go.
fn mounted() {
    let disk = slice("d", "n0", 0, 64 * MIB);
    let tab = Tab::of(&format!("d \"0 {} linear {disk} 0\"\nz \"0 8 zero\"\n", 64 * MIB));
    let up = tab.up("--all");
    sh(&format!("mkfs.ext4 -q {}", up[0].1)).ok();
    let at = scratch("mnt");
    sh(&format!("mount {} {at}", up[0].1)).ok();
    let said = tab.run("down --all").refused().stderr;
    assert!(said.contains("mounted"), "{said}");
    assert_eq!(server::list().len(), 1);
    sh(&format!("umount {at}")).ok();
    tab.restart();
}
