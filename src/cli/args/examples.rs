//! What a user may type: the examples of every verb, for `--help` and for the manual pages. Each is
//! a command that parses, with disks as they are commonly named.

use clap::Command;

/// What commands are for, and the commands.
pub type Example = (&'static str, &'static [&'static str]);

/// The examples of a verb; none for a verb that no user types.
pub fn of(verb: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(name, _)| *name == verb).map_or(&[], |(_, examples)| examples)
}

/// The command line with the examples at the end of the help of each verb.
pub fn added(command: Command, verb: &str) -> Command {
    let mut names: Vec<String> = Vec::new();
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    names.extend(shown.map(|one| one.get_name().to_owned()));
    let add = |command: Command, name: &String| {
        command.mut_subcommand(name, |one| added(one, format!("{verb} {name}").trim()))
    };
    let command = names.iter().fold(command, add);
    let examples = of(verb);
    if examples.is_empty() {
        return command;
    }
    let before = command.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
    command.after_help(format!("{before}{}", text(examples)))
}

fn text(examples: &[Example]) -> String {
    let one = |(what, lines): &Example| {
        let lines: Vec<String> = lines.iter().map(|line| format!("\n    {line}")).collect();
        format!("\n  {what}:{}", lines.concat())
    };
    format!("Examples:{}", examples.iter().map(one).collect::<Vec<_>>().concat())
}

/// The verbs, "" for the program itself, and their examples.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "",
        &[
            (
                "Write to a disk by a device that keeps snapshots, and take one",
                &[
                    "ublk-dm add origin --origin /dev/vg/data --name data",
                    "mount /dev/ublk-dm/data /srv",
                    "ublk-dm add snapshot --origin /dev/vg/data --cow /dev/vg/cow --name monday",
                    "mount -o ro /dev/ublk-dm/monday /mnt",
                ],
            ),
            (
                "Two disks with the same data",
                &["ublk-dm add mirror --leg /dev/sda --leg /dev/sdb --log /dev/vg/log --name m"],
            ),
            ("Have it all again after the next start", &["ublk-dm save"]),
        ],
    ),
    (
        "add",
        &[
            (
                "A device to write to a disk by, and a snapshot of that disk",
                &[
                    "ublk-dm add origin --origin /dev/vg/data --name data",
                    "ublk-dm add snapshot --origin /dev/vg/data --cow /dev/vg/cow --name monday",
                ],
            ),
            (
                "A mirror",
                &["ublk-dm add mirror --leg /dev/sda --leg /dev/sdb --log /dev/vg/log --name m"],
            ),
        ],
    ),
    (
        "add snapshot",
        &[
            (
                "A new snapshot, on a COW that had other content",
                &[
                    "ublk-dm zero --to /dev/vg/cow:0+4096",
                    "ublk-dm add snapshot --origin /dev/vg/data --cow /dev/vg/cow --name monday",
                ],
            ),
            (
                "A snapshot of a mirror in use, with larger chunks",
                &["ublk-dm add snapshot --origin m --cow /dev/vg/cow --chunk-size 64KiB"],
            ),
        ],
    ),
    (
        "add origin",
        &[(
            "Use the device instead of the disk",
            &[
                "ublk-dm add origin --origin /dev/vg/data --name data",
                "mount /dev/ublk-dm/data /srv",
            ],
        )],
    ),
    (
        "add mirror",
        &[
            (
                "A mirror that remembers what is in sync",
                &["ublk-dm add mirror --leg /dev/sda --leg /dev/sdb --log /dev/vg/log --name m"],
            ),
            (
                "A mirror of new disks, whose content does not matter yet",
                &["ublk-dm add mirror --leg /dev/sda --leg /dev/sdb:1MiB --nosync --name m"],
            ),
        ],
    ),
    (
        "create",
        &[
            (
                "A part of a disk as a device",
                &[r#"ublk-dm create v --table "0 2097152 linear /dev/sda 2048""#],
            ),
            (
                "Two disks in a row, in a file or on stdin",
                &[
                    "ublk-dm create both both.table",
                    r#"printf "0 8 linear /dev/sda 0\n8 8 zero\n" | ublk-dm create both"#,
                ],
            ),
            (
                "A part of another disk, served by the server of v",
                &[r#"ublk-dm create w --beside v --table "0 2097152 linear /dev/sdb 0""#],
            ),
        ],
    ),
    (
        "del",
        &[
            ("An origin's device and its snapshot", &["ublk-dm del data monday"]),
            ("Devices whose server has died and that are not wanted", &["ublk-dm del --force m"]),
        ],
    ),
    (
        "list",
        &[
            ("All devices", &["ublk-dm list"]),
            ("For a script", &["ublk-dm list -o name,used,health --no-headings"]),
        ],
    ),
    (
        "metrics",
        &[
            (
                "A file for node_exporter's textfile collector",
                &["ublk-dm metrics > ublk-dm.prom.new && mv ublk-dm.prom.new ublk-dm.prom"],
            ),
            (
                "For Prometheus itself, or by a socket",
                &[
                    "ublk-dm metrics --listen 127.0.0.1:9876",
                    "ublk-dm metrics --listen /run/ublk-dm-metrics.sock",
                ],
            ),
        ],
    ),
    (
        "monitor",
        &[
            ("Events as they happen", &["ublk-dm monitor"]),
            ("Also those that are on record, as JSON", &["ublk-dm monitor --json --past"]),
            ("A program for each event", &["ublk-dm monitor --exec /usr/local/sbin/tell-me"]),
        ],
    ),
    (
        "status",
        &[("How full a COW is, or all devices", &["ublk-dm status monday", "ublk-dm status"])],
    ),
    (
        "table",
        &[(
            "The table that runs, and the one that is loaded",
            &["ublk-dm table v", "ublk-dm table --inactive v"],
        )],
    ),
    (
        "suspend",
        &[("Hold all I/O, and let it go again", &["ublk-dm suspend data", "ublk-dm resume data"])],
    ),
    ("resume", &[("Let I/O go on, with the loaded table if there is one", &["ublk-dm resume v"])]),
    (
        "load",
        &[(
            "Move a linear device to another disk while it is in use",
            &[
                r#"ublk-dm load v --table "0 2097152 mirror core 1 1024 2 /dev/sda 0 /dev/sdb 0""#,
                "ublk-dm resume v",
                "ublk-dm wait v --in-sync",
                r#"ublk-dm load v --table "0 2097152 linear /dev/sdb 0""#,
                "ublk-dm resume v",
            ],
        )],
    ),
    ("clear", &[("Take back a `load`", &["ublk-dm clear v"])]),
    (
        "resize",
        &[(
            "More room for a file system in use",
            &[
                "lvextend -L +10G /dev/vg/data",
                "ublk-dm resize data",
                "resize2fs /dev/ublk-dm/data",
            ],
        )],
    ),
    (
        "rename",
        &[(
            "Another name, and the same in the tab file",
            &["ublk-dm rename monday tuesday", "ublk-dm save tuesday"],
        )],
    ),
    (
        "merge",
        &[
            (
                "Back to the state of the snapshot",
                &[
                    "umount /srv",
                    "ublk-dm merge monday --wait --rate 50MiB",
                    "mount /dev/ublk-dm/data /srv",
                ],
            ),
            (
                "At the next start, since the disk cannot be unmounted",
                &["ublk-dm merge monday --defer"],
            ),
            (
                "A pause, by the origin's device",
                &["ublk-dm merge data --pause", "ublk-dm merge data --resume"],
            ),
        ],
    ),
    (
        "message",
        &[
            ("Compare the legs of a mirror", &["ublk-dm message m check"]),
            ("Another disk for its second leg", &["ublk-dm message m replace 1 /dev/sdc"]),
            ("Recover gently", &["ublk-dm message m throttle 20"]),
        ],
    ),
    (
        "wait",
        &[
            ("Until a mirror is in sync", &["ublk-dm wait m --in-sync"]),
            ("Until something happens to a snapshot", &["ublk-dm wait monday"]),
        ],
    ),
    (
        "recover",
        &[
            ("All devices whose server has died", &["ublk-dm recover --all"]),
            ("A mirror, by the leg that is right", &["ublk-dm recover m --source /dev/sda"]),
        ],
    ),
    ("upgrade", &[("A new program for all devices in use", &["ublk-dm upgrade --all"])]),
    (
        "up",
        &[
            ("All devices of the tab file", &["ublk-dm up --all"]),
            ("One, whose disks may be late", &["ublk-dm up data --timeout 60"]),
        ],
    ),
    (
        "down",
        &[
            ("All devices of the tab file", &["ublk-dm down --all"]),
            ("Some of them", &["ublk-dm down data monday"]),
        ],
    ),
    (
        "save",
        &[
            ("All devices", &["ublk-dm save"]),
            (
                "One of them; only to look at it",
                &["ublk-dm save monday", "ublk-dm save --stdout monday"],
            ),
        ],
    ),
    ("systemd-generator", &[("The units, to look at", &["ublk-dm systemd-generator /tmp/units"])]),
    (
        "copy",
        &[
            (
                "A snapshot to another disk",
                &["ublk-dm copy --from /dev/ublk-dm/monday --to /dev/sdb"],
            ),
            (
                "A part of a disk, gently, to two others",
                &["ublk-dm copy --from /dev/sda:1MiB+1GiB --to /dev/sdb:1MiB --to /dev/sdc \
                      --throttle 30"],
            ),
        ],
    ),
    (
        "zero",
        &[
            ("Wipe a COW for a new snapshot", &["ublk-dm zero --to /dev/vg/cow:0+4096"]),
            ("A whole disk, for a new leg", &["ublk-dm zero --to /dev/sdc"]),
        ],
    ),
    (
        "check",
        &[
            (
                "A COW, and whether it is of this origin",
                &["ublk-dm check /dev/vg/cow --origin /dev/vg/data"],
            ),
            ("A mirror's log", &["ublk-dm check /dev/vg/log"]),
        ],
    ),
    ("dump", &[("What is on a COW, for a program", &["ublk-dm dump /dev/vg/cow --json"])]),
    (
        "journal",
        &[(
            "What dead servers have left",
            &[
                "ublk-dm journal list",
                "ublk-dm journal use /run/ublk-dm/block-7-0-28.records --cow /dev/vg/cow",
            ],
        )],
    ),
    ("journal list", &[("What dead servers have left", &["ublk-dm journal list"])]),
    (
        "journal use",
        &[(
            "The COW has come back; its next server records the writes",
            &[
                "ublk-dm journal use /run/ublk-dm/block-7-0-28.records --cow /dev/vg/cow",
                "ublk-dm recover --all",
            ],
        )],
    ),
    (
        "journal discard",
        &[(
            "The COW does not come back",
            &["ublk-dm journal discard /run/ublk-dm/block-7-0-28.records"],
        )],
    ),
    ("features", &[("What the driver can do", &["ublk-dm features"])]),
    (
        "dmsetup",
        &[(
            "As with dmsetup",
            &[
                r#"ublk-dm dmsetup create v --table "0 2097152 linear /dev/sda 0""#,
                "ublk-dm dmsetup info -c --noheadings -o name,open,attr",
                "ublk-dm dmsetup ls --tree",
                "ublk-dm dmsetup remove v",
            ],
        )],
    ),
    (
        "doctor",
        &[
            ("Look", &["ublk-dm doctor"]),
            ("Also mend what can be mended without loss", &["ublk-dm doctor --fix"]),
        ],
    ),
    ("reap", &[("Look, and then clean up", &["ublk-dm doctor", "ublk-dm reap"])]),
    (
        "completions",
        &[(
            "For bash",
            &["ublk-dm completions bash > /usr/share/bash-completion/completions/ublk-dm"],
        )],
    ),
    ("man", &[("Where man looks for them", &["ublk-dm man /usr/local/share/man/man1"])]),
];

#[cfg(test)]
mod tests;
