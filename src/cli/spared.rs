//! What the end of a service may not delete: a service manager ends and starts services in any
//! order, and a restart of one of them must not lose anything.
//!
//! Rule kept here: a snapshot is kept while its origin's device could be written without it. (That
//! a device in use is kept is the rule of `del`.)

use super::client::Known;
use crate::failure::{Failure, Kind, Reason};
use crate::protocol::{DeviceRef, DeviceReport};
use crate::rundir::RunDir;
use crate::ublk::device;

/// Refuses a snapshot whose origin has a device that stays: one made for that origin, or the origin
/// itself if it is in use. (A device that is the origin can be deleted after the snapshot only.)
pub(super) fn refuse_loss(rundir: &RunDir, which: DeviceRef) -> Result<(), Reason> {
    let known = Known::of(rundir)?;
    let with_it = |devices: &[DeviceReport]| devices.iter().any(|one| one.device() == which);
    let Some(family) = known.families.iter().find(|family| with_it(&family.devices)) else {
        return Ok(());
    };
    let Some(snapshot) = family.devices.iter().find(|one| one.device() == which) else {
        return Ok(());
    };
    for other in &family.devices {
        let why = match relation(snapshot, other) {
            Relation::None => Ok(()),
            Relation::WritesOrigin => Err(Failure::new(Kind::InUse, "it is up")),
            Relation::IsOrigin if other.object.server_pid.is_none() => {
                Err(Failure::new(Kind::InUse, "it waits for a server"))
            }
            Relation::IsOrigin => device::not_open(other.id).map_err(Failure::without_end),
        };
        why.map_err(|why| {
            let what = "would be written without this snapshot, which would be lost";
            why.context(format!("its origin {} {what}", other.name))
        })?;
    }
    Ok(())
}

/// What one device is for another one.
#[derive(Debug, PartialEq, Eq)]
enum Relation {
    None,
    /// Its users write the origin of the other one.
    WritesOrigin,
    /// It is the origin of the other one.
    IsOrigin,
}

fn relation(snapshot: &DeviceReport, other: &DeviceReport) -> Relation {
    let number = other.object.major.zip(other.object.minor);
    relation_of(&snapshot.table, &other.table, number)
}

/// The same by their table lines, as their server has them, and the number of the other one.
fn relation_of(snapshot: &str, other: &str, number: Option<(u32, u32)>) -> Relation {
    let target_and_origin = |table: &str| {
        let mut words = table.split(' ').skip(2).map(str::to_owned);
        words.next().zip(words.next())
    };
    let Some((target, origin)) = target_and_origin(snapshot) else { return Relation::None };
    if target != "snapshot" {
        return Relation::None;
    }
    if number.is_some_and(|(major, minor)| origin == format!("{major}:{minor}")) {
        return Relation::IsOrigin;
    }
    let writes = |target: &str| matches!(target, "snapshot-origin" | "snapshot-merge");
    match target_and_origin(other) {
        Some((target, of)) if writes(&target) && of == origin => Relation::WritesOrigin,
        _ => Relation::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_known_by_its_number() {
        let of = |other: &str| relation_of("0 64 snapshot 8:0 8:16 P 8", other, Some((259, 1)));
        assert_eq!(of("0 64 snapshot-origin 8:0"), Relation::WritesOrigin);
        assert_eq!(of("0 64 snapshot-merge 8:0 8:32 P 8"), Relation::WritesOrigin);
        assert_eq!(of("0 64 snapshot-origin 8:16"), Relation::None);
        assert_eq!(of("0 64 snapshot 8:0 8:32 P 8"), Relation::None);
        assert_eq!(of("0 64 zero"), Relation::None);
        let mirror = "0 64 mirror core 1 8 2 8:0 0 8:16 0";
        let over = |table: &str| relation_of(table, mirror, Some((259, 1)));
        assert_eq!(over("0 64 snapshot 259:1 8:16 P 8"), Relation::IsOrigin);
        assert_eq!(over("0 64 snapshot 259:11 8:16 P 8"), Relation::None);
        assert_eq!(over("0 64 linear 259:1 0"), Relation::None, "it has nothing to lose");
        assert_eq!(relation_of("0 64 snapshot 8:0 8:16 P 8", "0 64 error", None), Relation::None);
    }
}
