//! Doubtful ownership: a reattached COW with a journal that is not certainly its own, and a store
//! that was made for another origin. Both need a decision of the user, and nothing is lost by the
//! refusal.

use super::journaled::{Fixture, journal};
use crate::Case;
use crate::disk::{Buf, Disk, MIB, digest_ends, slice};
use crate::json_schema::Schema;
use crate::server;
use crate::sh::{self, ublk_dm};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "whose-attached-anew", bound_s: 120, disks, run: |_| attached_anew() },
        Case { name: "whose-other-origin", bound_s: 60, disks, run: |_| other_origin() },
    ]
}

/// A loop device is detached and attached again under the COW of a dead server.
fn attached_anew() {
    let file = std::env::temp_dir().join("cow");
    let file = file.to_str().expect("ASCII");
    sh::sh(&format!("truncate -s 8M {file}")).ok();
    let attach = || sh::sh(&format!("losetup --find --show {file}")).ok().line();
    let fixture = Fixture::on(attach());
    for verb in ["discard", "use"] {
        drop(fixture.killed(""));
        server::wait_for(20, "state quiesced", || server::device("s")["state"] == "quiesced");
        sh::sh(&format!("losetup -d {}", fixture.cow)).ok();
        server::wait_for(20, "the loop device to go", || {
            !std::fs::exists(format!("/sys/block/{}/loop", &fixture.cow["/dev/".len()..]))
                .expect("sysfs")
        });
        assert!(attach() == fixture.cow, "another loop device");
        let before = digest_ends(&fixture.cow);
        let said = ublk_dm("recover s").refused().stderr;
        let journal = journal().expect("the journal is kept");
        let journal = journal.to_str().expect("ASCII");
        assert!(said.contains(journal) && said.contains("reattached"), "said {said:?}");
        assert!(digest_ends(&fixture.cow) == before, "a refused recover wrote to the COW");
        assert!(ublk_dm("journal list").ok().line().starts_with(journal));
        let schema = Schema::read();
        let printed = |verb: &str, line: &str| {
            let out = ublk_dm(&format!("{line} --json")).ok();
            assert!(out.stderr.is_empty(), "{}", out.stderr);
            schema.assert_lines(verb, &out.stdout).remove(0)
        };
        let listed = printed("journal-list", "journal list");
        assert_eq!(listed["journals"][0]["path"], *journal, "{listed}");
        if verb == "use" {
            let line = format!("journal use {journal} --cow {}", fixture.cow);
            let used = printed("journal-use", &line);
            assert!(used["journal"].is_string(), "{used}");
            ublk_dm("recover s").ok();
            fixture
                .frozen
                .verify(&Disk::open(&format!("/dev/ublkb{}", server::number("s", "/id"))));
            server::del("s");
        } else {
            let gone = printed("journal-discard", &format!("journal discard {journal}"));
            assert_eq!(gone["journal"], *journal, "{gone}");
            ublk_dm("recover s").ok();
            server::del("s");
            Disk::open(&fixture.cow).zero(0, 8);
        }
        server::assert_nothing_left("del");
    }
    sh::sh("losetup -D").ok();
    std::fs::remove_file(file).expect("removable");
}

fn other_origin() {
    let (one, two) = (slice("one", "n0", 0, 4 * MIB), slice("two", "n0", 4 * MIB, 4 * MIB));
    let cow = slice("cow", "n1", 0, 4 * MIB);
    Disk::open(&cow).zero(0, 8);
    let add = |origin: &str, more: &str| {
        ublk_dm(&format!(
            "add snapshot --origin {origin} --cow {cow} --chunk-size 4k --name s {more}"
        ))
    };
    Disk::open(&add(&one, "").ok().line()).write(0, &Buf::new(8));
    server::del("s");
    let before = digest_ends(&cow);
    for more in ["", "--force"] {
        let said = add(&two, more).refused().stderr;
        assert!(
            said.contains("made for another origin") && said.contains("dm/name one"),
            "said {said:?}"
        );
        assert!(digest_ends(&cow) == before, "the COW was changed");
        server::assert_nothing_left("a refused add");
    }
    let shown = ublk_dm(&format!("check {cow} --json")).ok().line();
    assert!(shown.contains("dm/name one"), "{shown}");
    for (origin, more) in [(&one, ""), (&two, "--other-origin"), (&two, "")] {
        add(origin, more).ok();
        server::del("s");
    }
    add(&one, "").refused();
    // The kernel accepts it.
    let judge = crate::kernel::snapshot("judge", &two, &cow, "P", 8);
    assert!(Disk::open(&judge).try_read(0, &mut Buf::new(8)).is_ok());
    crate::kernel::remove("judge");
}
