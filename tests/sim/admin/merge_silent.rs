//! A merge begins with `merge`, or ends, while a disk falls silent: when the disk answers, the
//! origin has its merge, or its plain table, and runs.

use super::merge_command::snapshot_of;
use super::merging::{O, S};
use super::merging_silent::{DISKS, OPERATIONS, answer, come_to_rest, town};

/// A merge ends while a user's write waits for the origin's disk: the table stays, and becomes
/// plain when the disk answers.
#[test]
fn an_origin_whose_disk_is_silent_becomes_plain_when_that_answers() {
    let mut town = town();
    let mut merged = snapshot_of(&town);
    town.merge(S, false).unwrap();
    town.strike_gone();
    town.until_merged();
    come_to_rest(&town);
    town.site.disks[0].hangs.set(true);
    town.write(O, 3);
    town.notice_end();
    assert!(town.target().0, "its write has not ended");
    assert_eq!(town.on_record(), (true, false));
    answer(&mut town);
    town.notice_end();
    assert_eq!((town.on_record(), town.target().0), ((false, false), false));
    merged.begin(3, town.next_value);
    merged.acknowledge(3, town.next_value);
    town.shows(&mut merged).unwrap();
}

/// The command ends though a disk falls silent; when it answers there is the merge, or there are
/// the origin and its snapshot.
fn begin(disk: usize, operations: u32) -> Result<bool, String> {
    let mut town = town();
    let (mut merged, mut plain) = (snapshot_of(&town), town.origin.clone());
    town.site.disks[disk].hangs_after.set(Some(operations));
    let begun = town.merge(S, false);
    answer(&mut town);
    if town.on_record().1 {
        // As the error says.
        town.resume(O)?;
    }
    town.strike_gone();
    let has_begun = !town.has(S);
    town.shows(if has_begun { &mut merged } else { &mut plain })?;
    if !has_begun {
        merged.judge(&town.read(S).ok_or("the snapshot does not answer")??)?;
        if begun.is_ok() {
            return Err("it is said that it has begun".into());
        }
        town.merge(S, false)?;
    }
    town.until_merged();
    town.notice_end();
    town.shows(&mut merged)?;
    if town.on_record().0 { Err("it does not end".into()) } else { Ok(begun.is_ok()) }
}

#[test]
fn a_merge_that_begins_while_a_disk_falls_silent_begins_or_is_begun_again() {
    let (mut late, mut in_time) = (0, 0);
    for disk in DISKS {
        for operations in 0..OPERATIONS {
            let ended = begin(disk, operations);
            let ended = ended.unwrap_or_else(|why| panic!("{disk} {operations}: {why}"));
            *(if ended { &mut in_time } else { &mut late }) += 1;
        }
    }
    assert!(late > 0 && in_time > 0, "{late} {in_time}");
}
