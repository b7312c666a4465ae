//! The owner of a journal: records that a dead server could no longer write are used on the store
//! as that server left it, and refused as soon as another program has written to the COW.

use dm_targets::snapshot::format::Record;
use dm_targets::snapshot::journal::Journaled;
use dm_targets::units::{Chunk, CowChunk};

use crate::stack::{Left, Setup, prepare, recover};
use crate::workload::write;

fn record(old: u64, new: u64) -> Record {
    Record { old: Chunk(old), new: CowChunk(new) }
}

/// A dead server had handed out COW chunk 2 for a copy that never ended and journaled a write in
/// chunk 3. Another program continues with the COW, and its records take the chunks before the
/// journal's: nothing overlaps, but the journal no longer matches the store. An error says what was
/// accepted.
pub fn records_of_another() -> Result<(), String> {
    let setup = Setup::single(14, 2, 30);
    let made = setup.created_images()?;
    // The number of records of another program, and the journal's content and count.
    for (foreign, journal, recorded) in [
        (1, vec![record(0, 3)], 0),
        (2, vec![record(0, 4)], 0),
        (2, vec![record(2, 2), record(0, 5)], 0),
        (3, vec![record(2, 2), record(3, 3), record(0, 6)], 1),
    ] {
        let ops: Vec<_> = (0..foreign).map(|number| write(0, 4 + 2 * number, 2)).collect();
        let images = prepare(&setup, &made, &ops);
        let journals = vec![Journaled { records: journal.clone(), recorded }];
        if recover(&setup, &Left { images, journals, ..Left::default() }).is_ok() {
            return Err(format!(
                "{foreign} records of another program: a journal of {journal:?} is taken over"
            ));
        }
    }
    Ok(())
}

#[test]
fn a_journal_is_refused_when_another_program_has_written_records() {
    records_of_another().unwrap();
}

/// The last commit may have become durable without being counted, in part or whole: its records are
/// in the journal.
#[test]
fn a_commit_that_was_not_counted_is_the_servers_own() {
    let setup = Setup::single(14, 2, 30);
    let made = setup.created_images().unwrap();
    let images = prepare(&setup, &made, &[write(0, 4, 2), write(0, 6, 2)]);
    for recorded in 0..=2 {
        let records = vec![record(2, 2), record(3, 3), record(0, 4)];
        let journals = vec![Journaled { records, recorded }];
        let shown = recover(&setup, &Left { images: images.clone(), journals, ..Left::default() })
            .unwrap()
            .snaps[0]
            .clone()
            .unwrap();
        assert_eq!(shown[..2], images[1].sectors[8..10]);
    }
}
