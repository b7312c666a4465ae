//! Tests of the judge of power cuts: it must detect handmade records that break a promise, and
//! servers that break a rule on purpose.

use crate::Case;
use crate::cases::powercut::{CROWD_CHUNK, Load, Start, prepare, record, try_judge};
use crate::disk::MIB;
use crate::model::{Ticket, stamped};
use crate::power::history::History;
use crate::power::log::{Contents, Event};
use crate::power::oracle::{Layout, Snapshot};
use crate::power::replay::Record;
use crate::{sh, store};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "powercut-judge", bound_s: 30, disks: &[], run: |_| by_hand() },
        Case { name: "powercut-mutants", bound_s: 240, disks: &["s0", "n1"], run: mutants },
    ]
}

const CHUNK: u64 = 8;
/// An origin of four chunks, and behind it a COW with header, area and five chunks of data.
const ORIGIN: u64 = 4 * CHUNK;
const COW: u64 = 7 * CHUNK;

/// One record with one snapshot, which exists from the beginning, and one write to chunk 1 of the
/// origin.
struct ByHand {
    record: Record,
    layout: Layout,
}

impl ByHand {
    fn new() -> ByHand {
        let mut contents = Contents::default();
        let cells: Vec<u64> =
            (1..=ORIGIN).map(|n| u64::from(u32::from_be_bytes(*b"bas0")) << 32 | n).collect();
        for (sector, cell) in (0..).zip(&cells) {
            contents.add(&stamped(Ticket { sector, sectors: 1, cell: *cell }));
        }
        let mut header = vec![0; 512];
        header[..16].copy_from_slice(&store::header(store::MAGIC, 1, 1, 8));
        contents.add(&header);
        contents.add(&vec![0; crate::disk::us((COW - 1) * 512)]);
        let start = (0..u32::try_from(ORIGIN + COW).expect("small")).collect();
        let history = History::new("s1_1", cells.clone());
        let snapshot =
            Snapshot { start: ORIGIN, sectors: COW, chunk: CHUNK, history, may_end: false };
        let layout = Layout { origin: History::new("org1", cells), snapshots: vec![snapshot] };
        let events = vec![Event::Mark("c,0".into()), Event::Mark("c,1".into())];
        ByHand { record: Record { contents, start, events }, layout }
    }

    fn push(&mut self, sector: u64, bytes: &[u8], fua: bool) {
        let first = self.record.contents.add(bytes);
        self.record.events.push(Event::Write {
            sector,
            sectors: bytes.len() as u64 / 512,
            first,
            fua,
        });
    }

    /// The old content of chunk 1 goes to COW chunk 2.
    fn copy(&mut self) {
        let first = u32::try_from(CHUNK).expect("small");
        self.record.events.push(Event::Write {
            sector: ORIGIN + 2 * CHUNK,
            sectors: CHUNK,
            first,
            fua: false,
        });
    }

    fn commit(&mut self, fua: bool) {
        let mut block = vec![0; 512];
        block[..16].copy_from_slice(&store::record(1, 2));
        self.push(ORIGIN + CHUNK, &block, fua);
    }

    /// The origin's write, with its acknowledgement.
    fn write(&mut self) {
        let ticket = self.layout.origin.begin(CHUNK + 3, 2, false).expect("no other writer");
        self.push(ticket.sector, &stamped(ticket), false);
        let acknowledged = self.layout.origin.end(ticket);
        // Plain writes are listed with the next flush; the acknowledgement came before.
        let mark = Event::Mark(format!("a,0,{acknowledged}"));
        let plain = |event: &Event| matches!(event, Event::Write { fua: false, .. });
        let at =
            self.record.events.iter().rposition(|event| !plain(event)).map_or(0, |last| last + 1);
        self.record.events.insert(at, mark);
    }

    fn flush(&mut self) {
        self.record.events.push(Event::Flush);
    }

    fn verdict(&self) -> Result<(), String> {
        try_judge(&self.record, &self.layout, 1, 0).map(|_| ())
    }

    fn accepted(&self, what: &str) {
        self.verdict().unwrap_or_else(|why| panic!("{what}: {why}"));
    }

    fn found_out(&self, what: &str, why: &str) {
        match self.verdict() {
            Ok(()) => panic!("the judge did not notice: {what}"),
            Err(found) => {
                assert!(found.contains(why), "{what}: found {found:?} instead of {why:?}")
            }
        }
    }
}

fn by_hand() {
    let mut right = ByHand::new();
    right.copy();
    right.flush();
    right.commit(true);
    right.write();
    right.flush();
    right.accepted("copy, flush, record, write");
    right.record.events.push(Event::Mark("f,0,1".into()));
    right.accepted("and flushed");

    let mut no_flush = ByHand::new();
    no_flush.commit(true);
    no_flush.copy();
    no_flush.flush();
    no_flush.found_out("no flush before the record", "its view: sector 8 should hold");

    let mut no_fua = ByHand::new();
    no_fua.copy();
    no_fua.flush();
    no_fua.commit(false);
    no_fua.write();
    no_fua.flush();
    no_fua.found_out("a record that is not durable", "its view: sector 11 should hold");

    let mut early = ByHand::new();
    early.copy();
    early.write();
    early.flush();
    early.commit(true);
    early.found_out("a write before the record", "its view: sector 11 should hold");

    let mut lost = ByHand::new();
    lost.copy();
    lost.flush();
    lost.commit(true);
    lost.write();
    let write = lost.record.events.pop().expect("the write");
    lost.record.events.push(Event::Mark("f,0,1".into()));
    lost.record.events.push(write);
    lost.found_out("a write that a flush covered is lost", "origin: sector 11 should hold");

    let mut torn = ByHand::new();
    torn.copy();
    torn.flush();
    let mut block = vec![0; 512];
    block[16..32].copy_from_slice(&store::record(1, 3));
    torn.push(ORIGIN + CHUNK, &block, true);
    torn.found_out("a record behind the terminator", "stands behind the terminator");

    let mut gone = ByHand::new();
    gone.push(ORIGIN, &[0; 512], true);
    gone.found_out("no header", "has no header");
}

/// Loads after which an undetected mutant has survived: whether a write comes at the wrong moment
/// is chance.
const TRIES: u64 = 4;

/// Each of these servers loses data in some cut; the records of the correct server are accepted in
/// `powercut`.
fn mutants(seed: u64) {
    // With chunks of one sector an area is full after 32 records.
    let small = [("NextAreaLate", 1)];
    let crowded = ["NoFlushBeforeArea", "NoFua", "OriginBeforeCommit", "HeaderBeforeArea"]
        .map(|name| (name, CROWD_CHUNK));
    for (name, chunk) in crowded.into_iter().chain(small) {
        sh::use_mutant(name);
        let found = (1..=TRIES).find_map(|load| Some((load, broken(seed + load, chunk)?)));
        let (load, why) =
            found.unwrap_or_else(|| panic!("seed {seed}: {name} survives {TRIES} loads"));
        println!("  {name}, load {load}: {}", why.split("; events").next().unwrap_or_default());
    }
}

/// The broken promise that a load finds.
fn broken(seed: u64, chunk: u64) -> Option<String> {
    crate::disk::wipe("s0");
    let cow_sectors = 10 * MIB;
    let origin = prepare(&[(chunk, cow_sectors)]);
    let snapshots = vec![Start { chunk, cow_sectors, cells: None, may_end: false }];
    let (record, layout) = record(Load {
        seed,
        origin,
        snapshots,
        round: 1,
        requests: 15,
        written: &[0, 1],
        crowded: true,
    });
    try_judge(&record, &layout, seed, 0).err()
}
