//! What a loss of power leaves of a device whose data move: one of its table's disks has what was
//! flushed, and if the table is a mirror's with a log, its user adds it again and is shown that,
//! whichever leg the log takes as the source.

use dm_targets::request::RequestKind;
use dm_targets::sim::Rng;
use dm_targets::table::TargetParams;
use dm_targets::units::{Sector, Sectors};

use super::super::model;
use super::super::process::Process;
use super::super::town::{Broken, SECTORS, Town};
use super::{DISKS, L, Life, disks_of, spec, table};
use crate::protocol::{Command, DeviceSpec, Reply};

/// A mirror's legs, in the table's order.
fn legs_of(number: usize) -> Vec<String> {
    match table(number).params {
        TargetParams::Mirror(mirror) => mirror.legs.into_iter().map(|leg| leg.device).collect(),
        _ => Vec::new(),
    }
}

/// The disk of a mirror's log.
fn log_of(number: usize) -> Option<String> {
    match table(number).params {
        TargetParams::Mirror(mirror) => mirror.log_device().map(str::to_owned),
        _ => None,
    }
}

/// The mirror whose log has been left, when another table takes the place of one: until a mirror
/// has that log again.
fn left_for(table: usize, next: usize, left: Option<usize>) -> Option<usize> {
    let is_left = |table: &usize| log_of(*table).is_some() && log_of(*table) != log_of(next);
    Some(table).filter(is_left).or(left.filter(is_left))
}

/// What the mirror's user is told whose log knows nothing of the legs.
const NO_SOURCE: &str = "no leg is known to be up to date";

impl Life {
    pub(super) fn change_table(&mut self, next: usize) {
        if next != self.table {
            self.left = left_for(self.table, next, self.left);
            self.table = next;
        }
    }

    /// After a loss of power, one of the table's disks holds what was flushed.
    pub(super) fn judge_disks(&mut self, tables: [usize; 2]) -> Result<(), Broken> {
        self.content.power_lost();
        let values = |disk: usize| {
            let image = self.town.site.disks[DISKS[disk].0].disk.borrow().visible();
            model::values(&image.read(Sector(0), Sectors(SECTORS as u64)))
        };
        let judge = |disk: usize| self.content.clone().judge(&values(disk));
        let right: Vec<_> =
            tables.into_iter().flat_map(disks_of).filter(|disk| judge(*disk).is_ok()).collect();
        if !right.is_empty() {
            let present = Some(tables[0]).filter(|table| log_of(*table).is_some());
            return match (present, self.left) {
                _ if tables[0] != tables[1] => Ok(()),
                (present, Some(left)) if present.is_none() || self.value % 2 == 0 => {
                    self.judge_left(left, &right)
                }
                (present, _) => present.map_or(Ok(()), |table| self.judge_again(table)),
            };
        }
        let found = tables.into_iter().flat_map(disks_of).map(judge).collect::<Vec<_>>();
        Err(format!("no disk of tables {tables:?} is right after the power: {found:?}"))
    }

    /// Adds a table, as the first one or after a loss of power.
    pub(super) fn add(&mut self, table: usize, source: Option<usize>) -> Result<(), Broken> {
        let town = &mut self.town;
        let process = Process::start(&town.site, L.key()).ok_or("no server")?;
        town.processes.insert(L.key(), process);
        // What the other legs hold does not count.
        let spec = DeviceSpec { force: true, source, ..spec(table) };
        match town.ask(L.key(), Command::Add { name: None, id: None, spec }) {
            Ok(Reply::Added { path, .. }) => town.added(L, &path),
            other => Err(format!("table {table} is not added: {other:?}")),
        }
    }

    /// Adds a table again after a loss of power, which is over for the model, too, and reads it.
    fn judge_again(&mut self, table: usize) -> Result<(), Broken> {
        self.add(table, None)?;
        self.judge_reads(table)
    }

    /// The same for a mirror that was left: unless its log knows it all, a source must be named.
    fn judge_left(&mut self, table: usize, right: &[usize]) -> Result<(), Broken> {
        match self.add(table, None) {
            Err(why) if why.contains(NO_SOURCE) => {
                let is_right = |path: &&str| right.iter().any(|disk| DISKS[*disk].1 == *path);
                let words = legs_of(table);
                let Some(source) = words.iter().position(|word| is_right(&word.as_str())) else {
                    return Ok(());
                };
                self.town.kill(L.key());
                self.add(table, Some(source))?;
            }
            added => added?,
        }
        self.judge_reads(table)
    }

    fn judge_reads(&mut self, table: usize) -> Result<(), Broken> {
        // Before the recovery, or after it.
        if Rng::new(u64::from(self.value)).one_in(2) {
            self.rest();
        }
        let values = (0..SECTORS).map(|sector| shown(&mut self.town, sector));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let judged = self.content.clone().judge(&values);
        judged.map_err(|why| format!("table {table} after the power: {why}"))
    }
}

fn shown(town: &mut Town, sector: usize) -> Result<u32, Broken> {
    let pending = town.send(L, RequestKind::Read, sector, vec![0xEE; 512]).ok_or("no read")?;
    let result = pending.result.borrow().clone();
    town.strike(&pending);
    match result {
        Some(Ok(())) => Ok(model::values(&town.site.take_payload(pending.payload))[0]),
        other => Err(format!("a read after the power ends with {other:?}")),
    }
}
