//! The tab file: what `up`, `down` and `save` say of it without ublk. Verbs that look for devices
//! need root: without it these tests report that and end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::output::{is_root, refused, ublk_dm};
use crate::offline::run;

/// A directory with a tab file, and what runs a verb with that.
struct Tab(TempDir);

impl Tab {
    fn of(text: &str) -> Tab {
        let dir = TempDir::new().expect("a directory");
        fs::write(dir.path().join("tab"), text).expect("a file");
        Tab(dir)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("tab")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = ublk_dm(&self.0.path().join("run"));
        command.env("UBLK_DM_TAB", self.path()).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("it starts")
    }

    fn refused(&self, words: &[&str], code: i32) -> String {
        refused(&self.run(words), code)
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect()
}

#[test]
fn the_help_has_the_format_and_the_options() {
    for verb in ["up", "save"] {
        let said = String::from_utf8(run(&[verb, "--help"]).stdout).expect("text");
        for part in [
            "/etc/ublk-dm.tab",
            "noauto",
            "nofail",
            "_netdev",
            "x-initrd.attach",
            "timeout=",
            "UBLK_DM_TAB",
            "snapshot-origin /dev/disk/by-id/",
        ] {
            assert!(said.contains(part), "{verb}: {part} in {said}");
        }
    }
    let said = String::from_utf8(run(&["up", "--help"]).stdout).expect("text");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(words.join(" ").contains("brought up without a leg that is not there"), "{said}");
    let said = String::from_utf8(run(&["down", "--help"]).stdout).expect("text");
    assert!(said.contains("--all"), "{said}");
}

#[test]
fn a_verb_without_a_name_is_wrong_usage() {
    let tab = Tab::of("");
    for verb in ["up", "down"] {
        let why = tab.refused(&[verb], 2);
        assert!(why.contains(&format!("{verb}: no device is named")), "{why}");
        let why = tab.refused(&[verb, "--all", "x"], 2);
        assert!(why.contains("--all"), "{why}");
    }
}

#[test]
fn a_service_is_that_of_one_device() {
    let tab = Tab::of("a \"0 8 zero\"\nb \"0 8 zero\"\n");
    for words in [&["up", "--foreground"][..], &["up", "--foreground", "a", "b"]] {
        let why = tab.refused(words, 2);
        assert_eq!(why, "ublk-dm: up --foreground: name one device of the tab file\n");
    }
    let why = tab.refused(&["up", "--foreground", "--all"], 2);
    assert!(why.contains("--foreground") && why.contains("--all"), "{why}");
    for timeout in ["soon", "", "86401"] {
        let why = tab.refused(&["up", "--timeout", timeout, "a"], 2);
        assert!(why.contains("--timeout"), "{why}");
    }
    if !is_root() {
        return;
    }
    let why = tab.refused(&["up", "--foreground", "c"], 1);
    assert!(why.contains("c: not in "), "{why}");
}

/// The files below a directory, with what stands in them or where a link leads.
fn files_below(dir: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if let Ok(to) = fs::read_link(&path) {
            files.insert(name, to.display().to_string());
        } else if path.is_dir() {
            let inside = files_below(&path).into_iter();
            files.extend(inside.map(|(file, text)| (format!("{name}/{file}"), text)));
        } else {
            files.insert(name, fs::read_to_string(path).expect("text"));
        }
    }
    files
}

#[test]
fn the_generator_writes_a_unit_for_each_device() {
    let tab = Tab::of(
        "o \"0 8 snapshot-origin /dev/null/x\" timeout=7\n\
         s-1 \"0 8 snapshot /dev/null/x /dev/null/c P 8\" nofail\n\
         n \"0 8 linear /dev/null/n 0\" _netdev\nz \"0 8 zero\" noauto\nw \"0 8 nonsense\"\n",
    );
    let units = TempDir::new().expect("a directory");
    let at = units.path().join("normal");
    let path = at.to_str().expect("text");
    let said = tab.refused(&["systemd-generator", path, "/early", "/late"], 1);
    assert!(said.contains(":5: w: target") && said.lines().count() == 1, "{said}");
    let files = files_below(&at);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let has = [
        "dev-null-c.device.d/60-ublk-dm.conf",
        "dev-null-n.device.d/60-ublk-dm.conf",
        "dev-null-x.device.d/60-ublk-dm.conf",
        "local-fs.target.requires/ublk-dm@o.service",
        "local-fs.target.wants/ublk-dm@s\\x2d1.service",
        "remote-fs.target.requires/ublk-dm@n.service",
        "ublk-dm@n.service",
        "ublk-dm@o.service",
        "ublk-dm@s\\x2d1.service",
        "ublk-dm@z.service",
    ];
    assert_eq!(names, has);
    assert_eq!(files[has[3]], "../ublk-dm@o.service");
    assert!(files[has[2]].contains("JobRunningTimeoutSec=30\n"), "the longest of all");
    let origin = &files["ublk-dm@o.service"];
    for line in ["After=ublk-dm@s\\x2d1.service", "Wants=ublk-dm@s\\x2d1.service"] {
        assert!(origin.contains(&format!("{line}\n")), "{line}: {origin}");
    }
    let program = fs::canonicalize(env!("CARGO_BIN_EXE_ublk-dm")).expect("the program");
    let start = format!("ExecStart=\"{}\" up --foreground --timeout 0 -- \"o\"", program.display());
    assert!(origin.contains(&start), "{origin}");
    assert!(origin.contains(&format!("Environment=\"UBLK_DM_TAB={}\"", tab.path().display())));
    // In an initrd there is what it brings up. By the name of a generator it is one.
    fs::write(tab.path(), "r \"0 8 zero\" x-initrd.attach\no \"0 8 zero\"\n").expect("a file");
    let (link, at) = (units.path().join("ublk-dm-generator"), units.path().join("initrd"));
    symlink(&program, &link).expect("a link");
    let mut generator = Command::new(link);
    generator.env("UBLK_DM_TAB", tab.path()).env("SYSTEMD_IN_INITRD", "1");
    let output = generator.arg(&at).args(["/early", "/late"]).output().expect("it starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let files = files_below(&at);
    assert_eq!(files.keys().filter(|name| name.ends_with("r.service")).count(), 2);
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files["ublk-dm@r.service"].contains(" @ublk-dm up --foreground "), "{files:?}");
    // What is there is not written twice.
    let again = generator.output().expect("it starts");
    assert!(refused(&again, 1).contains("File exists"), "{again:?}");
}

#[test]
fn the_generator_needs_a_directory() {
    let tab = Tab::of("");
    for words in [&["systemd-generator"][..], &["systemd-generator", "a", "b"]] {
        let why = tab.refused(words, 2);
        assert!(why.ends_with("; see `ublk-dm systemd-generator --help`\n"), "{why}");
    }
    fs::remove_file(tab.path()).expect("removable");
    let done = tab.run(&["systemd-generator", "/none"]);
    assert!(done.status.success() && done.stderr.is_empty(), "no file is no device: {done:?}");
    fs::write(tab.path(), "z \"0 8 zero\"\n").expect("a file");
    let why = tab.refused(&["systemd-generator", "/dev/null"], 1);
    assert!(why.contains("ublk-dm: /dev/null/ublk-dm@z.service: "), "{why}");
}

#[test]
fn each_wrong_line_has_its_place_and_reason() {
    if !is_root() {
        return;
    }
    let tab = Tab::of(
        "# devices\n\
         a 0 8 zero\n\
         b \"0 8 zero\n\
         c \"0 8 nonsense\"\n\
         d \"0 8 linear 8:16 0\" nofail\n\
         e \"0 8 linear x/y 0\"\n\
         7 \"0 8 zero\"\n\
         g \"0 8 zero\" timeout=soon\n\
         h \"0 8 zero\" noauto\n\
         i \"0 8 zero\" noauto\n\
         i \"0 16 zero\" noauto\n",
    );
    let path = tab.path().display().to_string();
    for (line, why) in [
        (2, "a: 0: the table is missing before it; a table line stands in double quotes"),
        (3, "a quote is not closed"),
        (4, "c: target \"nonsense\": unknown"),
        (5, "d: 8:16: the numbers of disks change"),
        (6, "e: x/y: the path of a disk must be absolute"),
        (7, "name '7': it is a number"),
        (8, "g: option timeout=soon: it takes a number from 0 to 86400"),
    ] {
        for verb in ["up", "down"] {
            let output = tab.run(&[verb, "--all"]);
            let begins = format!("ublk-dm: {path}:{line}: {why}");
            let said = lines(&output);
            assert!(said.iter().any(|said| said.starts_with(&begins)), "{begins}: {said:?}");
            assert_eq!((output.status.code(), said.len()), (Some(1), 8), "{said:?}");
        }
    }
    let twins = format!("ublk-dm: i: on several lines: {path}:10, {path}:11\n");
    assert_eq!(tab.refused(&["up", "i"], 1), twins);
    let why = tab.refused(&["up", "c"], 1);
    assert!(why.contains(":4: c: target"), "{why}");
    // A line that is right is nobody's fault.
    let done = tab.run(&["down", "h"]);
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
}

#[test]
fn names_that_the_file_does_not_have_are_refused() {
    if !is_root() {
        return;
    }
    let tab = Tab::of("a \"0 8 zero\"\n");
    let path = tab.path().display().to_string();
    assert_eq!(tab.refused(&["up", "b"], 1), format!("ublk-dm: b: not in {path}, nor beside it\n"));
    // Nor is there such a device, which `del` could delete.
    let why = tab.refused(&["down", "b"], 1);
    assert_eq!(why, format!("ublk-dm: b: not in {path}, nor beside it\n"));
    // No file is no device.
    fs::remove_file(tab.path()).expect("removable");
    let done = tab.run(&["down", "--all"]);
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let done = tab.run(&["up", "--all"]);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && told.contains("there is no such file, so nothing"), "{told}");
    let output = tab.command(&["up", "--all"]).env("UBLK_DM_TAB", "").output().expect("it starts");
    assert!(refused(&output, 1).contains("UBLK_DM_TAB is empty"));
    fs::create_dir(tab.path()).expect("a directory");
    for what in ["--all", "b"] {
        assert!(tab.refused(&["up", what], 1).contains("it is not a regular file"), "{what}");
    }
}

#[test]
fn unknown_options_are_said_and_missing_disks_are_waited_for() {
    if !is_root() {
        return;
    }
    let tab = Tab::of(
        "a \"0 8 linear /dev/not-there 0\" timeout=1,luks,x-mine\n\
         b \"0 8 linear a 0\"\n",
    );
    let path = tab.path().display().to_string();
    let output = tab.run(&["up", "--all"]);
    let said = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{said:?}");
    assert!(said[0].ends_with(&format!("{path}:1: a: option luks: unknown, and ignored")));
    let missing =
        said.iter().find(|line| line.starts_with("ublk-dm: a: cannot open /dev/not-there"));
    let missing = missing.unwrap_or_else(|| panic!("{said:?}"));
    assert!(missing.ends_with("; /dev/not-there was waited for, for 1 s"), "{missing}");
    assert!(said.contains(&"ublk-dm: b: it stands on a, which is not up".to_owned()), "{said:?}");
    assert_eq!(said.len(), 3, "{said:?}");
    // The same with nofail is a warning.
    let text = fs::read_to_string(tab.path()).expect("a file").replace("luks", "nofail");
    fs::write(tab.path(), text.replace("a 0\"", "a 0\" nofail")).expect("a file");
    let output = tab.run(&["up", "--all"]);
    assert!(output.status.success() && lines(&output).len() == 2, "{output:?}");
}

#[test]
fn an_origin_waits_for_its_snapshots_and_for_lines_that_may_be_theirs() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20]).expect("a disk");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&disk, &link).expect("a link");
    let [disk, link] = [&disk, &link].map(|path: &std::path::PathBuf| path.display().to_string());
    let origin = format!("o \"0 2048 snapshot-origin {disk}\" timeout=0\n");
    let snapshot = |options| format!("s \"0 2048 snapshot {link} /dev/none P 8\" {options}\n");
    let tab = Tab::of(&format!("{origin}{}", snapshot("timeout=0")));
    let said = lines(&tab.run(&["up", "o"]));
    let lost = "ublk-dm: o: its snapshot s is not up and would be lost with the first write; \
                nofail on its line accepts that";
    assert!(said.contains(&lost.to_owned()) && said.len() == 2, "{said:?}");
    let tab = Tab::of(&format!("{origin}s \"0 2048 snapsht {link} /dev/none P 8\"\n"));
    let why = tab.refused(&["up", "o"], 1);
    let what = "o: a snapshot of its disk may be on a line that cannot be used: ";
    assert!(why.contains(what) && why.contains(":2: s: target"), "{why}");
}

#[test]
fn save_without_devices_changes_nothing() {
    if !is_root() {
        return;
    }
    let text = "# mine\nwrong\n";
    let tab = Tab::of(text);
    for words in [&["save"][..], &["save", "-"], &["save", "--stdout"]] {
        let done = tab.run(words);
        assert!(done.status.success() && done.stdout.is_empty(), "{words:?}: {done:?}");
        assert_eq!(fs::read_to_string(tab.path()).expect("a file"), text);
    }
    assert!(tab.refused(&["save", "x"], 1).contains("x: no such device"));
    let left = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
    assert_eq!(left(&tab.0.path().join("run")), 0, "no lock is left");
}
