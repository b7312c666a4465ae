//! Messages that take as long as a mirror's disks: comparisons and repairs. They do not change the
//! administrator's state.

use std::os::unix::net::UnixStream;

use dm_targets::mirror::compare::Difference;
use dm_targets::mirror::leg_set::LegSet;
use dm_targets::mirror::target::Mirror;
use serde_json::json;

use super::admin::devices::{LegRef, MESSAGES, find_leg, not_a_leg};
use crate::data::{Handle, Left};
use crate::failure::{Failure, Reason, wrong_usage};
use crate::protocol::Reply;

/// Most differing ranges that a comparison reports; a mirror with more needs recovery, not a list.
const MAX_DIFFERENCES: usize = 10_000;

/// Whether a message takes as long as the mirror's disks.
pub(super) fn takes_long(words: &[String]) -> bool {
    matches!(words.first().map(String::as_str), Some("check" | "repair"))
}

/// Compares the legs, or makes them equal.
pub(super) fn compare_or_repair(
    family: &Handle,
    connection: &UnixStream,
    id: u32,
    words: &[String],
    legs: &[LegRef],
) -> Result<Reply, Reason> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let lines = match *words {
        ["check"] => family.call_for(connection, move |thread, left| async move {
            compare(&*thread.group.mirror(id)?, &left).await
        }),
        ["repair", word] => {
            let leg = find_leg(legs, word).ok_or_else(|| not_a_leg(legs, id, word))?;
            family.call_for(connection, move |thread, left| async move {
                let mirror = thread.group.mirror(id)?;
                let repaired = mirror.repair_until(leg, || left.is_set()).await;
                repaired.map(|_| Vec::new()).map_err(Failure::from)
            })
        }
        _ => {
            let message = words.join(" ");
            let what = "wrong number of words";
            return Err(wrong_usage(format!(
                "message '{message}': {what}; a mirror takes {MESSAGES}"
            )));
        }
    };
    lines?.map(Reply::Lines)
}

/// One line for each range in which the legs differ.
async fn compare(mirror: &Mirror, left: &Left) -> Result<Vec<String>, Reason> {
    let mut found: Vec<Difference> = Vec::new();
    let mut more = 0_usize;
    let compared = mirror.compare_until(
        || left.is_set(),
        |difference| {
            if let Some(last) = found.last_mut().filter(|last| continues(last, &difference)) {
                last.count.0 += difference.count.0;
            } else if found.len() < MAX_DIFFERENCES {
                found.push(difference);
            } else {
                more += 1;
            }
        },
    );
    compared.await?;
    let legs = mirror.legs();
    let names = |set: LegSet| {
        set.iter().filter_map(|leg| Some(legs.get(leg)?.name.to_string())).collect::<Vec<_>>()
    };
    let line = |difference: &Difference| {
        json!({
            "start_bytes": difference.sector.bytes(),
            "len_bytes": difference.count.bytes(),
            "legs": names(difference.differing),
            "unreadable": names(difference.unreadable),
            "in_sync": difference.in_sync,
        })
        .to_string()
    };
    let mut lines: Vec<String> = found.iter().map(line).collect();
    if more > 0 {
        lines.push(json!({ "more_ranges": more }).to_string());
    }
    Ok(lines)
}

fn continues(last: &Difference, next: &Difference) -> bool {
    last.sector.plus(last.count) == next.sector
        && (last.differing, last.unreadable, last.in_sync)
            == (next.differing, next.unreadable, next.in_sync)
}
