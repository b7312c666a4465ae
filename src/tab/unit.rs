//! The systemd unit of a device of the tab file, as text.
//!
//! Rules kept here: a unit waits for the disks and the units below it, and for the snapshots of its
//! origin, but does not end with them; it is stopped after what is mounted on its device; and
//! systemd kills no server: what may end is decided by the program.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Component, Path};

use super::line::{Entry, LINKS};

/// What a unit depends on besides its own line.
#[derive(Clone, Debug, Default)]
pub struct Around<'a> {
    /// The program that the unit starts.
    pub program: &'a str,
    /// The variable that names the tab file, with its value, if it is not the usual one.
    pub variable: Option<String>,
    /// Devices that are brought up first, if they are to be brought up.
    pub after: Vec<&'a Entry>,
    /// Devices that are brought up with this one.
    pub with_it: Vec<&'a Entry>,
    /// Its disks that are no devices of the tab file.
    pub disks: Vec<String>,
    /// A disk of the device, or of one below it, needs the network.
    pub netdev: bool,
    /// A disk of the device, or of one below it, is a file: it comes after that one's file system.
    pub on_files: bool,
}

/// The name of the unit of a device.
pub fn unit_name(name: &str) -> String {
    format!("ublk-dm@{}.service", escaped(name))
}

/// The name of the unit of a disk, if it is not a file.
pub fn disk_unit(path: &str) -> Option<String> {
    path.starts_with("/dev/").then(|| format!("{}.device", escaped_path(path)))
}

/// The target that the device is a part of: file systems that need the network come later.
pub fn target_of(netdev: bool) -> &'static str {
    if netdev { "remote-fs.target" } else { "local-fs.target" }
}

/// The text of the unit of a device.
pub fn unit_of(entry: &Entry, around: &Around<'_>) -> String {
    let mut lines = vec![
        "# Made by ublk-dm from the tab file: changes here are lost.".to_owned(),
        String::new(),
        "[Unit]".to_owned(),
        format!("Description=Device {} of ublk-dm", plain(&entry.name)),
        "Documentation=man:ublk-dm-up(1)".to_owned(),
        format!("SourcePath={}", plain(&entry.place.file.display().to_string())),
    ];
    let mut fixed = |text: &str| lines.extend(text.lines().map(str::to_owned));
    fixed(BEHAVES);
    let first: BTreeSet<String> = around.after.iter().map(|it| unit_name(&it.name)).collect();
    first.iter().for_each(|unit| fixed(&format!("After={unit}")));
    let with_it: BTreeSet<String> = around.with_it.iter().map(|it| unit_name(&it.name)).collect();
    with_it.iter().for_each(|unit| fixed(&format!("Wants={unit}")));
    for path in around.disks.iter().collect::<BTreeSet<_>>() {
        if path.starts_with("/dev/") {
            // What makes the disk (an encrypted one, say) ends after this device.
            fixed(&format!("After=blockdev@{}.target", escaped_path(path)));
        }
        match disk_unit(path) {
            Some(unit) if entry.options.timeout().is_zero() => fixed(&format!("After={unit}")),
            Some(unit) => fixed(&format!("Wants={unit}\nAfter={unit}")),
            None => fixed(&format!("RequiresMountsFor={}", quoted(path))),
        }
    }
    for target in own_targets(entry) {
        fixed(&format!("Wants={target}\nBefore={target}"));
    }
    if around.netdev {
        fixed("Wants=network-online.target\nAfter=network-online.target");
    }
    let target = target_of(around.netdev);
    match (entry.options.nofail, around.on_files) {
        (true, _) => {}
        (false, true) => fixed(&format!("Before={target}")),
        (false, false) => {
            let before = target.replace("-fs.", "-fs-pre.");
            fixed(&format!("Wants={before}\nBefore={before}"));
        }
    }
    if !entry.options.initrd_attach {
        fixed("Conflicts=shutdown.target\nBefore=shutdown.target");
    }
    fixed("\n[Service]");
    if let Some(variable) = &around.variable {
        fixed(&format!("Environment={}", quoted(variable)));
    }
    // The last signals of a shutdown spare a process whose first word begins so: the root file
    // system may stand on its device.
    let (at, first) = if entry.options.initrd_attach { ("@", "@ublk-dm ") } else { ("", "") };
    let (program, name) = (of_command(around.program), of_command(&entry.name));
    fixed(&format!("ExecStart={at}{program} {first}up --foreground --timeout 0 -- {name}"));
    fixed(SERVES);
    lines.join("\n") + "\n"
}

/// How every unit starts. A unit that fails is tried again, but not ten times a minute.
const BEHAVES: &str = "\
DefaultDependencies=no
IgnoreOnIsolate=yes
After=systemd-modules-load.service systemd-udevd-kernel.socket
StartLimitIntervalSec=60
StartLimitBurst=10";

/// How every service ends: only the watching process is told to end, and nothing is killed. The
/// server is not that process, and may serve other devices.
const SERVES: &str = "\
Type=notify
NotifyAccess=main
TimeoutStartSec=infinity
WatchdogSec=60
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2
KillMode=process
SendSIGKILL=no
OOMPolicy=continue
OOMScoreAdjust=-1000
LimitMEMLOCK=infinity";

/// What makes systemd wait for a disk as long as its line says.
pub fn timeout_of(seconds: u64) -> String {
    format!("# Made by ublk-dm from the tab file.\n\n[Unit]\nJobRunningTimeoutSec={seconds}\n")
}

/// The targets between the device and what is on it, by which file systems and swap on it are
/// stopped first.
fn own_targets(entry: &Entry) -> Vec<String> {
    let number = entry.options.id.map(|id| format!("/dev/ublkb{id}"));
    let paths = number.into_iter().chain([format!("{}{}", LINKS, entry.name)]);
    paths.map(|path| format!("blockdev@{}.target", escaped_path(&path))).collect()
}

/// A name in the name of a unit, as `systemd-escape` has it.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if at == 0 => escaped.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => {
                escaped.push(char::from(byte));
            }
            // Writing to a string does not fail.
            _ => write!(escaped, "\\x{byte:02x}").unwrap_or_default(),
        }
    }
    escaped
}

/// A path in the name of a unit.
fn escaped_path(path: &str) -> String {
    let parts = Path::new(path).components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    escaped(&parts.collect::<Vec<_>>().join("/"))
}

/// A word where systemd expands specifiers.
fn plain(word: &str) -> String {
    word.replace('%', "%%")
}

/// A word in quotes.
fn quoted(word: &str) -> String {
    let mut quoted = String::from("\"");
    for next in plain(word).chars() {
        if matches!(next, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(next);
    }
    quoted.push('"');
    quoted
}

/// A word of a command, where systemd expands variables.
fn of_command(word: &str) -> String {
    quoted(word).replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tab::line::Place;

    fn entry(line: &str) -> Entry {
        let place = Place { file: "/etc/ublk-dm.tab".into(), line: 1 };
        Entry::parse(line, &place).unwrap().unwrap()
    }

    fn around() -> Around<'static> {
        Around { program: "/usr/sbin/ublk-dm", ..Around::default() }
    }

    fn assert_lines(text: &str, has: &[&str], has_not: &[&str]) {
        for line in has {
            assert!(text.lines().any(|other| other == *line), "no {line} in {text}");
        }
        for part in has_not {
            assert!(!text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn names_are_those_of_systemd() {
        assert_eq!(unit_name("srv-1"), "ublk-dm@srv\\x2d1.service");
        assert_eq!(unit_name(".é"), "ublk-dm@\\x2e\\xc3\\xa9.service");
        let disk = |path| disk_unit(path).unwrap_or_default();
        assert_eq!(disk("/dev/disk/by-id/nvme-A.1"), "dev-disk-by\\x2did-nvme\\x2dA.1.device");
        assert_eq!(disk("/dev//x/"), "dev-x.device");
        assert_eq!(disk_unit("/srv/x"), None);
    }

    #[test]
    fn a_unit_waits_for_its_disks_and_ends_after_file_systems() {
        let (s, t) = (entry(r#"s "0 8 zero""#), entry(r#"t "0 8 zero" noauto"#));
        let o = entry(r#"o "0 64 snapshot-origin /dev/sda" timeout=10,id=3"#);
        let disks = vec!["/dev/sda".to_owned()];
        let around = Around { after: vec![&s, &t], with_it: vec![&s], disks, ..around() };
        let text = unit_of(&o, &around);
        let has = [
            "SourcePath=/etc/ublk-dm.tab",
            "DefaultDependencies=no",
            "After=systemd-modules-load.service systemd-udevd-kernel.socket",
            "Wants=dev-sda.device",
            "After=dev-sda.device",
            "After=blockdev@dev-sda.target",
            "Wants=ublk-dm@s.service",
            "After=ublk-dm@s.service",
            "After=ublk-dm@t.service",
            "Wants=local-fs-pre.target",
            "Before=local-fs-pre.target",
            "Before=blockdev@dev-ublk\\x2ddm-o.target",
            "Wants=blockdev@dev-ublkb3.target",
            "Conflicts=shutdown.target",
            "Type=notify",
            "ExecStart=\"/usr/sbin/ublk-dm\" up --foreground --timeout 0 -- \"o\"",
            "Restart=on-failure",
            "WatchdogSec=60",
            "KillMode=process",
            "SendSIGKILL=no",
        ];
        assert_lines(&text, &has, &["BindsTo", "Requires=", "Wants=ublk-dm@t", "Environment"]);
        assert!(timeout_of(10).ends_with("[Unit]\nJobRunningTimeoutSec=10\n"));
    }

    #[test]
    fn files_the_network_and_what_boot_does_not_wait_for() {
        let a = entry(r#"a "0 8 linear /srv/a\ $b 0""#);
        let disks = vec!["/srv/a $b".to_owned()];
        let on_files = Around { disks: disks.clone(), on_files: true, ..around() };
        let text = unit_of(&a, &on_files);
        let has = ["RequiresMountsFor=\"/srv/a $b\"", "Before=local-fs.target"];
        assert_lines(&text, &has, &[".device", "local-fs-pre"]);
        let text = unit_of(&a, &Around { netdev: true, ..around() });
        let has = ["After=network-online.target", "Before=remote-fs-pre.target"];
        assert_lines(&text, &has, &["local-fs"]);
        let nofail = entry(r#"a "0 8 linear /dev/x 0" nofail,timeout=0"#);
        let text = unit_of(&nofail, &Around { disks: vec!["/dev/x".to_owned()], ..around() });
        assert_lines(&text, &["After=dev-x.device"], &["-fs", "Wants=dev-x.device"]);
    }

    #[test]
    fn what_the_root_file_system_stands_on_is_not_ended() {
        let text = unit_of(&entry(r#"b "0 8 zero" x-initrd.attach"#), &around());
        let start =
            "ExecStart=@\"/usr/sbin/ublk-dm\" @ublk-dm up --foreground --timeout 0 -- \"b\"";
        assert_lines(&text, &[start], &["shutdown.target"]);
    }

    #[test]
    fn no_name_is_taken_for_something_else() {
        let variable = Some("UBLK_DM_TAB=/a b".to_owned());
        let text = unit_of(&entry(r#"50%$x;\"quot "0 8 zero""#), &Around { variable, ..around() });
        let has = [
            "Description=Device 50%%$x;\"quot of ublk-dm",
            "Environment=\"UBLK_DM_TAB=/a b\"",
            r#"ExecStart="/usr/sbin/ublk-dm" up --foreground --timeout 0 -- "50%%$$x;\"quot""#,
        ];
        assert_lines(&text, &has, &[]);
    }
}
