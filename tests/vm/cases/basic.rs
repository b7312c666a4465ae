//! One snapshot of one disk: it serves I/O, its writes do not reach the origin, its description is
//! correct, the kernel reads it, and its deletion leaves no trace.

use serde_json::Value;

use crate::Case;
use crate::disk::{self, Disk, MIB, node, slice};
use crate::model::View;
use crate::{kernel, server, sh, store};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "basic", bound_s: 60, disks: &["n0", "n1"], run: |_| basic() },
        Case { name: "basic-transient", bound_s: 60, disks: &["n0", "n1"], run: |_| transient() },
        Case {
            name: "basic-default-chunk-size",
            bound_s: 60,
            disks: &["n0", "n1", "k0", "k1"],
            run: |_| defaults(),
        },
        Case { name: "basic-regular-files", bound_s: 60, disks: &["n0"], run: |_| regular_files() },
        Case { name: "basic-many-tags", bound_s: 120, disks: &["n0", "n1"], run: |_| many_tags() },
        Case { name: "basic-read-only", bound_s: 60, disks: &["n0", "n1"], run: |_| read_only() },
    ]
}

const SIZE: u64 = 16 * MIB;
const CHUNK: u64 = 32;

fn basic() {
    let (origin, cow) = (node("n0"), node("n1"));
    let raw = Disk::open(&origin);
    let mut view = View::new("orig", raw.sectors);
    for at in [0, 100 * MIB, raw.sectors - MIB] {
        view.write(&raw, at, MIB);
    }
    let before = disk::digest(&raw, 0, SIZE);
    let dev = server::add(&format!(
        "snapshot --origin {origin} --cow {cow} --chunk-size 16KiB --on-full invalidate --name \
         snap0"
    ));
    let open = Disk::open(&dev);
    assert!(
        open.sectors == raw.sectors,
        "{dev} has {} sectors, its origin {}",
        open.sectors,
        raw.sectors
    );
    describe_empty(&dev, &origin, &cow);
    view = view.snapshot("snap");
    // Part of a chunk, a whole chunk, the last sectors, and many at once.
    for (at, len) in [(3, 2), (320, 32), (raw.sectors - 5, 5), (100 * MIB - 64, 200)] {
        view.write(&open, at, len);
    }
    open.flush().unwrap_or_else(|e| panic!("{dev}: flush: {e}"));
    for at in [0, 100 * MIB - 512, raw.sectors - 2 * MIB] {
        view.verify_range(&open, at, 2 * MIB);
    }
    assert!(
        before == disk::digest(&raw, 0, SIZE),
        "{origin} was changed by writes to its snapshot"
    );
    let told = describe_used(&dev);
    drop(open);
    let pid = server::device("snap0")["server_pid"].as_u64();
    server::del("snap0");
    for path in [&origin, &cow] {
        assert!(disk::is_free(path), "del was answered while the server had {path}");
    }
    server::wait_gone(pid.expect("a pid"));
    server::assert_nothing_left("del");
    opens_in_the_kernel(&origin, &cow, &view, &told);
}

/// The lines for the snapshot after those writes, which the kernel must print as well.
struct Told {
    status: String,
    table: String,
}

/// The report of the snapshot after those writes.
fn describe_used(dev: &str) -> Told {
    // Chunks 0, 10, 7 chunks from 100 MiB - 64 sectors on (2 before, 136/32 after), the last.
    let exceptions = 1 + 1 + 7 + 1;
    let json = server::device("snap0");
    assert!(
        json["snapshot"]["exceptions"] == exceptions,
        "exceptions of {exceptions} chunks: {json}"
    );
    assert!(
        json["stats"]["writes"].as_u64() >= Some(4) && json["stats"]["errors"] == 0,
        "stats after 4 writes: {json}"
    );
    assert!(json["stats"]["flushes"].as_u64() >= Some(1), "stats after a flush: {json}");
    let told = Told { status: server::status("snap0"), table: server::table("snap0") };
    for other in [dev, "0"] {
        let same = server::status(other);
        assert!(
            other == "0" && json["id"] != 0 || same == told.status,
            "status {other} is {same:?}, status snap0 {:?}",
            told.status
        );
    }
    told
}

/// The kernel finds the same snapshot on the disks.
fn opens_in_the_kernel(origin: &str, cow: &str, view: &View, told: &Told) {
    let judge = kernel::snapshot("judge", origin, cow, "P", CHUNK);
    let (status, table) = (kernel::status("judge"), kernel::table("judge"));
    assert!(status == told.status, "the kernel says {status:?}, ublk-dm said {:?}", told.status);
    assert!(table == told.table, "the kernel says {table:?}, ublk-dm said {:?}", told.table);
    let open = Disk::open(&judge);
    for at in [0, 100 * MIB - 512, open.sectors - 2 * MIB] {
        view.verify_range(&open, at, 2 * MIB);
    }
    drop(open);
    kernel::remove("judge");
    store::assert_header(&Disk::open(cow), CHUNK, true);
}

/// Every key of the contract, on a store without exceptions.
fn describe_empty(dev: &str, origin: &str, cow: &str) {
    let json = server::device("snap0");
    let size = Disk::open_read_only(dev).sectors * 512;
    let number: u64 = dev["/dev/ublkb".len()..].parse().expect("ublkbN");
    let expect: [(&str, Value); 23] = [
        ("/id", number.into()),
        ("/name", "snap0".into()),
        ("/target", "snapshot".into()),
        ("/state", "live".into()),
        ("/block_device", dev.into()),
        ("/char_device", format!("/dev/ublkc{number}").into()),
        ("/size_bytes", size.into()),
        ("/logical_block_size", 512.into()),
        ("/read_only", false.into()),
        ("/recovery", true.into()),
        ("/snapshot/origin", origin.into()),
        ("/snapshot/cow", cow.into()),
        ("/snapshot/store", "persistent".into()),
        ("/snapshot/chunk_size_bytes", 16384.into()),
        ("/snapshot/valid", true.into()),
        ("/snapshot/overflow", false.into()),
        ("/snapshot/used_bytes", 32768.into()),
        ("/snapshot/total_bytes", (Disk::open_read_only(cow).sectors * 512).into()),
        ("/snapshot/metadata_bytes", 32768.into()),
        ("/snapshot/exceptions", 0.into()),
        ("/snapshot/merge", Value::Null),
        ("/stats/writes", 0.into()),
        ("/stats/copies", 0.into()),
    ];
    for (pointer, value) in expect {
        assert!(
            json.pointer(pointer) == Some(&value),
            "list --json: {pointer} should be {value} in {json}"
        );
    }
    for key in ["major", "minor", "queues", "queue_depth", "server_pid"] {
        assert!(json[key].is_u64(), "list --json: {key} should be a number in {json}");
    }
    assert!(
        json["zero_copy"] == kernel_lends_pages(),
        "list --json: zero_copy of a device by itself: {json}"
    );
    for key in [
        "reads",
        "read_bytes",
        "write_bytes",
        "flushes",
        "discards",
        "copy_bytes",
        "commits",
        "errors",
    ] {
        assert!(
            json["stats"][key].is_u64(),
            "list --json: stats.{key} should be a number in {json}"
        );
    }
}

fn transient() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    let before = disk::digest_ends(&origin);
    let dev = server::add(&format!(
        "snapshot --origin {origin} --cow {cow} --chunk-size 4096 --store transient --name t"
    ));
    let status = server::status("t");
    assert!(
        status == format!("0 {SIZE} snapshot 0/{SIZE} 0"),
        "status of an empty transient store: {status:?}"
    );
    let table = server::table("t");
    assert!(table.ends_with(" NO 8"), "table of a transient store: {table:?}");
    let (open, view) = (Disk::open(&dev), view.snapshot("snap"));
    for at in [0, 9, 4096, SIZE - 3] {
        view.write(&open, at, 3);
    }
    view.verify(&open);
    // Chunks 0 and 1, 512, the last one.
    let status = server::status("t");
    assert!(
        status == format!("0 {SIZE} snapshot 32/{SIZE} 0"),
        "status after four exceptions: {status:?}"
    );
    drop(open);
    server::del("t");
    server::assert_nothing_left("del");
    assert!(before == disk::digest_ends(&origin), "{origin} was changed by writes to its snapshot");
    // The same line again: what a transient store leaves on its COW has no header that says whose
    // that is, and the flag that the refusal names is one that this verb has.
    let line = format!("0 {SIZE} snapshot {origin} {cow} N 8");
    let create = |more: &[&str]| {
        sh::run_args(&sh::binary(), &[&["create", "t", "--table", &line][..], more].concat())
    };
    let said = create(&[]).refused();
    assert!(
        said.code == 1
            && said.stderr.lines().count() == 1
            && said.stderr.contains(&cow)
            && said.stderr.contains("use --force"),
        "{}",
        said.stderr
    );
    server::assert_nothing_left("a refused create");
    create(&["--force"]).ok();
    assert!(server::status("t") == format!("0 {SIZE} snapshot 0/{SIZE} 0"), "an empty store");
    server::del("t");
    server::assert_nothing_left("del");
}

/// Whether this kernel can register requests' buffers by itself.
fn kernel_lends_pages() -> bool {
    std::env::var("UBLK_DM_KERNEL").is_ok_and(|kernel| kernel == "new")
}

/// The kernel's table of registered buffers is as large as seven of these devices. The eighth
/// device is served by copying, as is a device that was added with `--no-zero-copy`.
fn many_tags() {
    let origin = slice("org", "n0", 0, MIB);
    let view = View::new("orig", MIB);
    view.fill(&Disk::open(&origin));
    for n in 0..8 {
        let cow = slice(&format!("c{n}"), "n1", n * 2 * MIB, 2 * MIB);
        let dev = server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --name s{n} --depth 2048"
        ));
        let json = server::device(&format!("s{n}"));
        assert!(
            json["zero_copy"] == (n < 7 && kernel_lends_pages()),
            "device {n} of 2048 tags: {json}"
        );
        let (disk, view) = (Disk::open(&dev), view.snapshot("snap"));
        view.write(&disk, 5, 70);
        view.verify(&disk);
    }
    server::del("s3");
    let cow = slice("cn", "n1", 16 * MIB, 2 * MIB);
    for (options, expected) in [("--no-zero-copy", false), ("", kernel_lends_pages())] {
        server::add(&format!(
            "snapshot --origin {origin} --cow {cow} --name n --depth 2048 {options}"
        ));
        let json = server::device("n");
        assert!(json["zero_copy"] == expected, "{options}: {json}");
        server::del("n");
    }
    server::del("--all");
    server::assert_nothing_left("del --all");
}

/// Without a chunk size: 16 KiB for a new store, the store's own for an old one.
fn defaults() {
    for (origin, cow, block) in [("n0", "n1", 512), ("k0", "k1", 4096)] {
        let (origin, cow) = (slice("org", origin, 0, SIZE), slice("cow", cow, 0, SIZE));
        server::add(&format!("snapshot --origin {origin} --cow {cow} --name d"));
        let json = server::device("d");
        assert!(json["snapshot"]["chunk_size_bytes"] == 16384, "chunk size of a new store: {json}");
        assert!(
            json["logical_block_size"] == block,
            "logical block size over {block}-byte blocks: {json}"
        );
        server::del("d");
        Disk::open(&cow).zero(0, 8);
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 64k --name d"));
        server::del("d");
        server::add(&format!("snapshot --origin {origin} --cow {cow} --name d"));
        let json = server::device("d");
        assert!(
            json["snapshot"]["chunk_size_bytes"] == 65536,
            "chunk size of an old store: {json}"
        );
        server::del("d");
        server::assert_nothing_left("del");
        store::assert_header(&Disk::open(&cow), 128, true);
        kernel::remove("org");
        kernel::remove("cow");
    }
}

/// Origin and COW as files of a file system.
fn regular_files() {
    let dir = crate::runner::scratch("files");
    sh::sh(&format!("mkfs.ext4 -q {}", node("n0"))).ok();
    sh::sh(&format!("mount {} {dir}", node("n0"))).ok();
    let (origin, cow) = (format!("{dir}/origin"), format!("{dir}/cow"));
    for (path, mib) in [(&origin, 8), (&cow, 12)] {
        sh::sh(&format!("truncate -s {mib}M {path}")).ok();
    }
    let view = View::new("orig", 8 * MIB);
    view.fill(&Disk::open(&origin));
    let dev =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name f"));
    let (open, snap) = (Disk::open(&dev), view.snapshot("snap"));
    for at in (0..8 * MIB).step_by(1000) {
        snap.write(&open, at, 16);
    }
    snap.verify(&open);
    view.verify(&Disk::open(&origin));
    drop(open);
    let status = server::status("f");
    server::del("f");
    server::assert_nothing_left("del");
    let looped =
        |path: &str| sh::sh(&format!("losetup --find --show --direct-io=on {path}")).ok().line();
    let (origin, cow) = (looped(&origin), looped(&cow));
    let judge = kernel::snapshot("judge", &origin, &cow, "P", 8);
    assert!(
        kernel::status("judge") == status,
        "the kernel says {:?}, ublk-dm said {status:?}",
        kernel::status("judge")
    );
    snap.verify(&Disk::open(&judge));
    kernel::remove("judge");
    sh::sh(&format!("losetup -d {origin} {cow}")).ok();
    sh::sh(&format!("umount {dir}")).ok();
}

fn read_only() {
    let (origin, cow) = (slice("org", "n0", 0, SIZE), slice("cow", "n1", 0, SIZE));
    let view = View::new("orig", SIZE);
    view.fill(&Disk::open(&origin));
    sh::sh(&format!("blockdev --setro {origin}")).ok();
    let dev =
        server::add(&format!("snapshot --origin {origin} --cow {cow} --chunk-size 4k --name w"));
    let (open, snap) = (Disk::open(&dev), view.snapshot("snap"));
    snap.write(&open, 77, 5);
    snap.verify(&open);
    drop(open);
    server::del("w");
    let dev = server::add(&format!("snapshot --origin {origin} --cow {cow} --read-only --name r"));
    assert!(server::device("r")["read_only"] == true, "list --json should say read_only of r");
    let open = Disk::open_read_only(&dev);
    snap.verify(&open);
    assert!(
        Disk::try_open(&dev, true).and_then(|d| d.try_write(0, &disk::Buf::new(8))).is_err(),
        "{dev} is read-only but took a write"
    );
    drop(open);
    server::del("r");
    server::assert_nothing_left("del");
}
