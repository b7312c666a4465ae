//! `systemd-generator`: units for the devices of the tab file, before systemd starts any unit.
//!
//! Rules kept here: nothing is asked of a device or a server, and no disk is opened, because
//! systemd waits for generators; a line that cannot be used has no unit; and what may be between
//! two devices because a disk is not there yet moves neither to another part of the boot. (Whether
//! an origin may be written is decided when it is brought up.)

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::up::plan::{Find, Plan, goes_with, is_device, waits_for};
use super::verdict::verdict;
use crate::failure::{Failure, Reason};
use crate::storage::DiskId;
use crate::tab::unit::{self, Around};
use crate::tab::{Disk, Entry, Tab, files};

/// systemd says with this whether it runs in an initrd.
const IN_INITRD: &str = "SYSTEMD_IN_INITRD";

/// Writes the units to the directory for those that are made from a configuration.
pub(super) fn generate(normal: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let program = program.to_str().ok_or("the program's path is no text in UTF-8")?;
    let in_initrd = std::env::var_os(IN_INITRD).is_some_and(|value| value == "1");
    let tab = files::read()?;
    let mut problems: Vec<Reason> = tab.wrong.iter().map(|wrong| wrong.why.clone()).collect();
    let find = |word: &str| match Disk::of(word) {
        Disk::Path(path) => DiskId::of_path(Path::new(path)).ok(),
        Disk::Named(_) => None,
    };
    let mut timeouts = BTreeMap::new();
    for (entry, around) in units(&tab, program, &find) {
        if in_initrd && !entry.options.initrd_attach {
            continue;
        }
        for unit in around.disks.iter().filter_map(|path| unit::disk_unit(path)) {
            let timeout_s: &mut u64 = timeouts.entry(unit).or_default();
            *timeout_s = (*timeout_s).max(entry.options.timeout().as_secs());
        }
        problems.extend(write(normal, entry, &around).err());
    }
    // No limit is written as 0.
    for (unit, timeout_s) in timeouts.into_iter().filter(|(_, timeout_s)| *timeout_s > 0) {
        let file = format!("{unit}.d/60-ublk-dm.conf");
        problems.extend(put(&normal.join(file), &unit::timeout_of(timeout_s)).err());
    }
    verdict(problems)
}

/// All devices, each with what its unit depends on.
fn units<'a>(tab: &'a Tab, program: &'a str, find: Find<'_>) -> Vec<(&'a Entry, Around<'a>)> {
    let names: Vec<String> = tab.entries.iter().map(|entry| entry.name.clone()).collect();
    let entries = Plan::of(tab, &names, false, find).0.entries;
    let mut units: Vec<(&Entry, Around<'_>)> = Vec::new();
    for entry in &entries {
        let mut disks = entry.table.params.devices();
        disks.retain(|word| {
            let is_path = matches!(Disk::of(word), Disk::Path(_));
            is_path && !tab.entries.iter().any(|other| is_device(word, other))
        });
        let mut around = Around { program, variable: files::variable(tab), ..Around::default() };
        around.netdev = entry.options.netdev;
        around.on_files = disks.iter().any(|path| unit::disk_unit(path).is_none());
        around.disks = disks;
        let certain = |one: &&(&Entry, Around<'_>)| waits_for(entry, one.0, find) == Some(true);
        for (_, below) in units.iter().filter(certain) {
            around.netdev |= below.netdev;
            around.on_files |= below.on_files;
        }
        let comes_first = |(other, its): &&(&'a Entry, Around<'a>)| {
            let is_earlier = its.netdev <= around.netdev && its.on_files <= around.on_files;
            waits_for(entry, other, find).unwrap_or(is_earlier)
        };
        around.after = units.iter().filter(comes_first).map(|(other, _)| *other).collect();
        let with_it = |other: &&&'a Entry| goes_with(other, entry, find);
        around.with_it = entries.iter().filter(with_it).copied().collect();
        units.push((entry, around));
    }
    units
}

/// Writes a unit, and has the file systems need or want it.
fn write(normal: &Path, entry: &Entry, around: &Around<'_>) -> Result<(), Failure> {
    let name = unit::unit_name(&entry.name);
    let file = normal.join(&name);
    put(&file, &unit::unit_of(entry, around))?;
    if entry.options.noauto {
        return Ok(());
    }
    let kind = if entry.options.nofail { "wants" } else { "requires" };
    let dir = normal.join(format!("{}.{kind}", unit::target_of(around.netdev)));
    let link = dir.join(&name);
    let linked = fs::create_dir_all(&dir).and_then(|()| symlink(format!("../{name}"), &link));
    linked.map_err(|error| Failure::at(&link, error))
}

/// Writes a file that is not there yet.
fn put(file: &Path, text: &str) -> Result<(), Failure> {
    let written = || -> io::Result<()> {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        io::Write::write_all(&mut fs::File::create_new(file)?, text.as_bytes())
    };
    written().map_err(|error| Failure::at(file, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The units of a tab file: name, whether it needs the network and files, those before it, and
    /// those with it. `/dev/N` is the disk N; others are not there yet.
    fn units_of(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tab");
        fs::write(&path, text).unwrap();
        let tab = files::read_at(path);
        assert!(tab.wrong.is_empty(), "{:?}", tab.wrong);
        let find = |word: &str| {
            let minor = word.strip_prefix("/dev/")?.parse().ok()?;
            Some(DiskId::Block { major: 1, minor })
        };
        let names = |all: &[&Entry]| {
            let mut names: Vec<&str> = all.iter().map(|entry| entry.name.as_str()).collect();
            names.sort_unstable();
            names.join(" ")
        };
        let line = |(entry, around): &(&Entry, Around<'_>)| {
            let net = if around.netdev { " net" } else { "" };
            let files = if around.on_files { " files" } else { "" };
            let (after, with_it) = (names(&around.after), names(&around.with_it));
            format!("{}{net}{files} after {after} with {with_it}", entry.name)
        };
        units(&tab, "/p", &find).iter().map(line).collect()
    }

    #[test]
    fn snapshots_come_first_and_lower_devices() {
        let text = r#"
            o  "0 64 snapshot-origin /dev/1"
            s  "0 64 snapshot /dev/1 /dev/2 P 8"
            t  "0 64 snapshot /dev/1 /dev/3 P 8" noauto
            m  "0 64 linear l 0"
            ms "0 64 snapshot m /dev/4 P 8"
            l  "0 64 linear /dev/ublkb7 0"
            n  "0 64 linear /dev/5 0" id=7
        "#;
        let has = [
            "s after  with ",
            "t after  with ",
            "o after s t with s",
            "n after  with ",
            "l after n with n",
            "m after l with l ms",
            "ms after m with m",
        ];
        assert_eq!(units_of(text), has);
    }

    #[test]
    fn what_stands_on_the_network_or_on_files_does_so_itself() {
        let text = r#"
            a "0 64 linear /dev/net 0" _netdev
            b "0 64 linear a 0"
            c "0 64 linear /srv/file 0"
            d "0 64 mirror core 1 8 2 b 0 c 0"
        "#;
        let has = [
            "a net after  with ",
            "b net after a with a",
            "c files after  with ",
            "d net files after b c with b c",
        ];
        // Other paths than those below /dev are files.
        assert_eq!(units_of(text), has);
    }

    #[test]
    fn what_is_not_known_delays_but_moves_nothing() {
        let text = r#"
            o "0 64 snapshot-origin /dev/a"
            s "0 64 snapshot /dev/b /dev/c P 8"
            t "0 64 snapshot /dev/d /dev/e P 8" _netdev
        "#;
        let has = ["s after  with ", "t net after  with ", "o after s with "];
        assert_eq!(units_of(text), has);
    }
}
