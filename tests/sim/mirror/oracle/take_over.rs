//! Judges a takeover of a dead server's mirror: the new server has the record of the legs, and the
//! requests in flight are sent to it again.

use dm_targets::mirror::leg_state::{LegState, Past};
use dm_targets::request::RequestKind;

use super::super::fixture::Fixture;
use super::*;

/// What a dead server leaves in addition to its disks.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// The record of the legs.
    pub record: Option<LegState>,
    /// Writes and discards that had not ended: kind, write id, range.
    pub in_flight: Vec<(RequestKind, u32, u64, u64)>,
    /// A record could not be written and its request failed, so nothing is promised about the
    /// request's range.
    pub may_differ: bool,
}

/// Judges images of legs and log after the death of the server: everything that was acknowledged is
/// shown, before recovery and after it, and all legs are the same at the end.
pub fn judge_take_over(
    setup: &Setup,
    images: &[Image],
    left: &Left,
    model: Option<(&Model, Moment)>,
) -> Result<Judged, String> {
    let setup = Setup {
        past: Past::TakenOver(left.record.clone()),
        source: None,
        disk: DiskConfig { immediate: true, ..setup.disk },
        ..setup.clone()
    };
    let fixture = Fixture::new_or(&setup, images).map_err(|error| error.to_string())?;
    for (kind, id, first, count) in left.in_flight.iter().copied() {
        fixture
            .wait(&fixture.start(kind, id, first, count))
            .map_err(|error| format!("sent once more it fails: {error}"))?;
    }
    let read = || fixture.read(0, setup.sectors).map_err(|error| error.to_string());
    let before = read()?;
    if let Some((model, moment)) = model {
        model.origin.judge(0, &before, moment).map_err(|fault| format!("taken over: {fault}"))?;
    }
    fixture.run_until_idle();
    let status = fixture.mirror.status();
    if status.in_sync_regions != status.regions {
        return Err(format!(
            "taken over, recovery ends at {}/{}",
            status.in_sync_regions, status.regions
        ));
    }
    for _ in 0..setup.legs {
        if !left.may_differ && read()? != before {
            return Err("taken over, a later read shows something else".into());
        }
    }
    let after = fixture.close();
    let length = usize::try_from(setup.sectors).unwrap();
    let differs =
        (1..setup.legs).find(|leg| after[*leg].sectors[..length] != after[0].sectors[..length]);
    match differs.filter(|_| !left.may_differ) {
        Some(leg) => Err(format!("taken over, leg {leg} differs from leg 0 after recovery")),
        None => Ok(Judged { shown: before }),
    }
}
