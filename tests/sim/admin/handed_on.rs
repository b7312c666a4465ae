//! A mirror gets another table before its first recovery has ended: the leg that its user named as
//! the source stays the source, for that table, for the old one if that fails, and for the next
//! server.

use dm_targets::copy::SLICE_SECTORS;
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::table::TargetParams;
use dm_targets::units::Sectors;

use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};

const KEY: &str = "mirror-a";
/// The disk of the blank leg, which the table has first, and of the good one.
const BLANK: usize = 3;
const GOOD: usize = 4;

/// The regions of the first table: as large as what is copied at once.
const REGION: Sectors = Sectors(SLICE_SECTORS);
/// Length of the mirror: three times what the eight tasks of its recovery copy at the same time.
const LEN: Sectors = Sectors(3 * 8 * SLICE_SECTORS);

/// The other table.
#[derive(Clone, Copy, Debug)]
enum Other {
    /// Its regions are smaller.
    Regions,
    /// One of its legs is too short: the old table is restored.
    Short,
}

impl Other {
    fn spec(self, town: &Town) -> DeviceSpec {
        long(town.mirror_table(matches!(self, Other::Short)), Sectors(REGION.0 / 2))
    }
}

/// A table of this length and with these regions.
fn long(mut spec: DeviceSpec, region: Sectors) -> DeviceSpec {
    spec.table.len = LEN;
    if let TargetParams::Mirror(mirror) = &mut spec.table.params {
        mirror.region_size = region;
    }
    spec
}

fn image(town: &Town, disk: usize) -> Image {
    town.site.disks[disk].disk.borrow().visible()
}

fn is_recovered(town: &Town) -> bool {
    image(town, BLANK) == image(town, GOOD)
}

/// The mirror is added, and gets the other table. Ends where the machine does.
fn change_table(town: &mut Town, other: Other) -> Result<(), String> {
    let process = Process::start(&town.site, KEY).ok_or("the server did not start")?;
    town.processes.insert(KEY, process);
    let spec = long(Town::spec(What::Mirror), REGION);
    let spec = DeviceSpec { source: Some(1), force: true, ..spec };
    let added = town.ask(KEY, Command::Add { name: None, id: None, spec })?;
    let Reply::Added { path, device, .. } = added else { return Err("it is not added".into()) };
    town.added(What::Mirror, &path)?;
    town.ask(KEY, Command::Load { device, spec: other.spec(town) })?;
    assert!(!is_recovered(town), "{other:?}: the recovery ends before the table changes");
    let resumed = town.ask(KEY, Command::Resume { device });
    if !town.site.is_dead() {
        assert!(!is_recovered(town), "{other:?}: the recovery ends while the table changes");
        assert_eq!(resumed.is_ok(), matches!(other, Other::Regions), "{resumed:?}");
    }
    Ok(())
}

/// The server is killed at a step, or at the end without one, and the next one ends the recovery.
/// Returns the number of steps.
fn live(other: Other, crash_at: Option<u64>) -> u64 {
    let mut town = Town::new(1, true);
    town.site.put(BLANK, Image::zeroes(LEN));
    let short = image(&town, GOOD);
    let (known, more) = (short.sectors, SectorData::new(&[0x3C; 512]));
    let sector = |at: u64| known.get(usize::try_from(at).unwrap()).unwrap_or(&more).clone();
    town.site.put(GOOD, Image::from_fn(LEN, sector));
    let good = image(&town, GOOD);
    town.site.shared.lock().unwrap().crash_at = crash_at;
    let changed = change_table(&mut town, other);
    let steps = town.site.shared.lock().unwrap().changes;
    if town.site.is_dead() {
        town.crash(false);
    } else {
        assert_eq!(changed, Ok(()), "{other:?}");
        town.kill(KEY);
    }
    let recovered = town.recover();
    let at = || format!("{other:?}, crash at {crash_at:?}: {changed:?}, {recovered:?}");
    if let Some(process) = town.processes.get(KEY) {
        drop(town.site.run(&process.executor, || false));
        assert!(is_recovered(&town), "{}: the legs differ", at());
    }
    assert!(image(&town, GOOD) == good, "{}: the blank leg is copied over the good one", at());
    assert_eq!(town.judge(What::Mirror), Ok(()), "{}", at());
    if crash_at.is_none() {
        assert!(is_recovered(&town), "{}", at());
    }
    steps
}

fn the_source_is_known(other: Other) {
    let steps = live(other, None);
    for at in 1..=steps {
        live(other, Some(at));
    }
}

#[test]
fn the_source_is_handed_on_to_another_table_and_to_the_next_server() {
    the_source_is_known(Other::Regions);
}

#[test]
fn the_source_is_known_to_an_old_table_that_is_restored() {
    the_source_is_known(Other::Short);
}

#[cfg(feature = "mutants")]
#[test]
fn a_source_that_is_not_handed_on_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    for other in [Other::Regions, Other::Short] {
        mutant::set(Some(Mutant::SourceNotHandedOn));
        let lived = std::panic::catch_unwind(|| live(other, None));
        mutant::set(None);
        assert!(lived.is_err(), "{other:?}");
    }
}
