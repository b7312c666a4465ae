//! A mirror whose disks are not all there: which legs are missing, whether it may start without
//! them, and with which table. Pure.
//!
//! Rules kept here: only a log on a disk remembers which leg is up to date, so no other mirror
//! starts without a leg, nor one whose line says which leg is right; what would hold its writes for
//! the missing leg is not started to hang; whether the log knows the legs that are left as up to
//! date is decided where it is read, by the mirror's server.

use dm_targets::mirror::table::{Mirror, MirrorLog};
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::Sectors;

use crate::cli::stand_in;
use crate::tab::{Disk, Entry, Options};

/// The legs of a mirror, by their indices, whose paths lead nowhere. A device of ublk-dm has a line
/// of its own, or is made by hand: none is missing.
pub(super) fn legs(entry: &Entry, is_missing: impl Fn(&str) -> bool) -> Vec<usize> {
    let Some(mirror) = mirror(entry) else { return Vec::new() };
    let is_lost = |word: &str| matches!(Disk::of(word), Disk::Path(path) if is_missing(path));
    let legs = mirror.legs.iter().enumerate();
    legs.filter(|(_, leg)| is_lost(&leg.device)).map(|(at, _)| at).collect()
}

/// Why a mirror does not start without these legs, as the end of a sentence; `None`: it may.
pub(super) fn refusal(entry: &Entry, missing: &[usize]) -> Option<&'static str> {
    let mirror = mirror(entry)?;
    match &mirror.log {
        _ if missing.len() == mirror.legs.len() => Some("none of its legs is there"),
        MirrorLog::Core => Some(
            "it does not start without a leg: a core log does not remember which leg is up to date",
        ),
        _ if entry.options.source.is_some() => Some(
            "it does not start without a leg: source= in its line overrules what its log knows",
        ),
        MirrorLog::Disk { .. } if mirror.handle_errors && !mirror.keep_log => Some(
            "it does not start without a leg: with handle_errors, and without keep_log, its writes \
             would be held until a disk is put in",
        ),
        MirrorLog::Disk { .. } => None,
    }
}

/// The device that stands in for a leg.
pub(super) fn stand_in(entry: &Entry, leg: usize) -> Entry {
    let offset = mirror(entry).and_then(|mirror| mirror.legs.get(leg)).map_or(0, |it| it.offset.0);
    let table = Table { len: Sectors(entry.table.len.0 + offset), params: TargetParams::Error };
    let options = Options { uuid: Some(stand_in::uuid_of(&entry.name, leg)), ..Options::default() };
    let (name, place) = (stand_in::name_of(&entry.name, leg), entry.place.clone());
    Entry { name, table, options, place }
}

/// A mirror with the devices that stand in for these legs.
pub(super) fn without(entry: &Entry, missing: &[usize]) -> Entry {
    let mut degraded = entry.clone();
    if let TargetParams::Mirror(mirror) = &mut degraded.table.params {
        for (at, leg) in mirror.legs.iter_mut().enumerate().filter(|(at, _)| missing.contains(at)) {
            leg.device = stand_in::name_of(&entry.name, at);
        }
    }
    degraded
}

/// The legs for which such devices stand in.
pub(super) fn stood_in(entry: &Entry) -> Vec<usize> {
    let legs = mirror(entry).into_iter().flat_map(|mirror| mirror.legs.iter().enumerate());
    let is_one = |at: usize, word: &str| word == stand_in::name_of(&entry.name, at);
    legs.filter(|(at, leg)| is_one(*at, &leg.device)).map(|(at, _)| at).collect()
}

/// What the user of a mirror is told that runs without these legs.
pub(super) fn told(entry: &Entry, missing: &[usize]) -> Vec<String> {
    let word = |leg: usize| mirror(entry).and_then(|mirror| mirror.legs.get(leg));
    let told = |leg: &usize| {
        let (name, disk) = (&entry.name, &word(*leg)?.device);
        // `replace` takes no disk that several devices share.
        let again = match entry.options.shared {
            true => format!("when it is back, `ublk-dm down {name}` and `up` use it again"),
            false => format!(
                "`ublk-dm message {name} replace {leg} DISK` puts a disk in its place, be it that \
                 one or another"
            ),
        };
        Some(format!("{name}: it runs without leg {leg}, {disk}: {again}"))
    };
    missing.iter().filter_map(told).collect()
}

fn mirror(entry: &Entry) -> Option<&Mirror> {
    match &entry.table.params {
        TargetParams::Mirror(mirror) => Some(mirror),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Entry {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tab");
        std::fs::write(&path, line).unwrap();
        let tab = crate::tab::files::read_at(path);
        assert!(tab.wrong.is_empty(), "{:?}", tab.wrong);
        tab.entries[0].clone()
    }

    const LINE: &str = r#"m "0 64 mirror disk 2 /l 16 3 /a 0 low 0 /c 8" timeout=1"#;

    #[test]
    fn a_leg_is_missing_whose_path_leads_nowhere() {
        let missing = |line: &str, paths: &[&str]| legs(&entry(line), |path| paths.contains(&path));
        assert_eq!(missing(LINE, &["/a", "/c"]), [0, 2]);
        assert_eq!(missing(LINE, &["/l", "low"]), [0; 0], "neither the log nor a device is a leg");
        assert_eq!(missing(LINE, &[]), [0; 0]);
        assert_eq!(missing(r#"v "0 64 linear /a 0""#, &["/a"]), [0; 0]);
    }

    #[test]
    fn only_a_log_on_a_disk_knows_what_is_right() {
        let why = |line: &str, missing: &[usize]| refusal(&entry(line), missing);
        assert_eq!(why(LINE, &[0]), None);
        assert_eq!(why(LINE, &[1, 2]), None);
        assert_eq!(why(LINE, &[0, 1, 2]), Some("none of its legs is there"));
        let core = r#"m "0 64 mirror core 1 16 2 /a 0 /b 0""#;
        assert!(why(core, &[0]).unwrap().contains("a core log does not remember"));
        let named = r#"m "0 64 mirror disk 2 /l 16 2 /a 0 /b 0" source=/b"#;
        assert!(why(named, &[0]).unwrap().contains("source= in its line"));
        let features =
            |words: &str| format!("m \"0 64 mirror disk 2 /l 16 2 /a 0 /b 0 {words}\" timeout=1");
        let held = why(&features("1 handle_errors"), &[0]).unwrap();
        assert!(held.contains("its writes would be held"), "{held}");
        assert_eq!(why(&features("2 handle_errors keep_log"), &[0]), None);
    }

    #[test]
    fn a_device_that_fails_is_in_the_place_of_the_leg() {
        let entry = entry(LINE);
        let degraded = without(&entry, &[0, 2]);
        let line = "0 64 mirror disk 2 /l 16 3 m-lost-0 0 low 0 m-lost-2 8";
        assert_eq!(degraded.table.to_string(), line);
        assert_eq!((degraded.name.as_str(), &degraded.options), ("m", &entry.options));
        assert_eq!((stood_in(&degraded), stood_in(&entry)), (vec![0, 2], Vec::new()));
        let one = stand_in(&entry, 2);
        assert_eq!((one.name.as_str(), one.table.to_string()), ("m-lost-2", "0 72 error".into()));
        let told = told(&entry, &[2]);
        assert!(told[0].starts_with("m: it runs without leg 2, /c: `ublk-dm message m replace 2 "));
    }

    #[test]
    fn a_shared_disk_comes_back_with_the_mirror() {
        let entry = entry(&LINE.replace("timeout=1", "timeout=1,shared"));
        let told = super::told(&entry, &[2]);
        let again = "m: it runs without leg 2, /c: when it is back, `ublk-dm down m` and `up` use";
        assert!(told[0].starts_with(again), "{told:?}");
    }
}
