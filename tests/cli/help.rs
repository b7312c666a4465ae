//! What the help says, and what the commands say that lack a word.

use std::fs;

use tempfile::TempDir;

use crate::offline::run;

/// The help of a verb as one line.
fn help(words: &[&str]) -> String {
    let output = run(&[words, &["--help"]].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_help_says_how_legs_are_counted() {
    let said = help(&["message"]);
    assert!(said.contains("LEG is a disk or a number: legs are counted from 0"), "{said}");
}

#[test]
fn the_help_says_what_a_disk_is() {
    let add = ["snapshot", "origin", "mirror"].map(|what| vec!["add", what]);
    let others = ["create", "load", "message"].map(|verb| vec![verb]);
    for words in add.into_iter().chain(others) {
        let said = help(&words);
        assert!(said.contains("DEV is a path, or the name of a device"), "{words:?}: {said}");
    }
}

#[test]
fn the_help_of_force_has_its_exception() {
    for words in
        [&["add", "snapshot"][..], &["add", "origin"], &["add", "mirror"], &["create"], &["load"]]
    {
        let said = help(words);
        for part in ["mounted, in use or hold other data", "A COW or a log is never shared"] {
            assert!(said.contains(part), "{words:?}: {said}");
        }
    }
}

#[test]
fn the_help_says_that_a_snapshot_on_the_cow_continues() {
    let said = help(&["add", "snapshot"]);
    assert!(said.contains("If a snapshot is on it already, that one continues"), "{said}");
    assert!(said.contains("A store that is on the COW already keeps its own"), "{said}");
}

/// The other way round, users would prepare for what does not happen, and not for what does.
#[test]
fn the_readme_has_the_right_side_of_systemd_257() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("the README").split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["From version 257 on, systemd's udev rules probe", "Before version 257, ublk"] {
        assert!(readme.contains(part), "the README lacks: {part}");
    }
}

#[test]
fn a_verb_without_a_device_says_what_could_be_named() {
    let dir = TempDir::new().expect("a directory");
    for (verb, all) in [("del", "--all for all devices"), ("recover", "--all for all whose server")]
    {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ublk-dm"));
        let output = command.env("UBLK_DM_RUN_DIR", dir.path()).arg(verb).output();
        let output = output.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(all) && said.lines().count() == 1, "{said}");
    }
    let said = run(&["recover", "--foreground"]);
    assert_eq!(said.status.code(), Some(2));
}

/// The top help has none of a verb's flags.
#[test]
fn wrong_usage_points_to_the_help_of_its_verb() {
    for (words, help) in [
        (&["nonsense"][..], "`ublk-dm --help`"),
        (&["journal"], "`ublk-dm journal --help`"),
        (&["journal", "nonsense"], "`ublk-dm journal --help`"),
        (&["-v", "journal", "use"], "`ublk-dm journal use --help`"),
        (&["add"], "`ublk-dm add --help`"),
        (&["add", "mirror", "--leg"], "`ublk-dm add mirror --help`"),
        (&["list", "--nonsense"], "`ublk-dm list --help`"),
        (&["serve"], "`ublk-dm --help`"),
    ] {
        let output = run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.trim_end().ends_with(&format!("; see {help}")), "{words:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
    }
}

/// A device that ends with its server has no requests afterwards.
#[test]
fn what_requests_do_without_a_server_is_a_choice_of_devices_that_stay() {
    for words in [&["add", "origin", "--origin", "/none"][..], &["create", "x"]] {
        for policy in ["wait", "fail"] {
            let flags = ["--on-server-death", policy, "--no-recovery"];
            let output = run(&[words, &flags[..]].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
            let is_named = said.contains("--on-server-death") && said.contains("--no-recovery");
            assert!(is_named && said.lines().count() == 1, "{words:?}: {said}");
        }
        let output = run(&[words, &["--on-server-death", "hang"]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
    for words in [&["add", "snapshot"][..], &["add", "origin"], &["add", "mirror"], &["create"]] {
        let said = help(words);
        for part in ["--on-server-death", "[default: wait]", "Needs Linux 6.13 or later"] {
            assert!(said.contains(part), "{words:?}: {part} in {said}");
        }
    }
    assert!(help(&["upgrade"]).contains("`--on-server-death fail`"));
}

/// It is the command line that is wrong, whether the disks are there or not.
#[test]
fn a_path_for_two_parts_of_a_mirror_is_wrong_usage() {
    let dir = TempDir::new().expect("a directory");
    let [disk, other] = ["disk", "other"].map(|name| {
        let path = dir.path().join(name);
        fs::write(&path, vec![0; 1 << 20]).expect("a disk");
        path.to_str().expect("ASCII").to_owned()
    });
    let (twice, log) = ("given for two legs that overlap", "a leg cannot also be the log");
    let line = |rest: &str| format!("0 1024 mirror {rest}");
    for (words, why) in [
        (vec!["add", "mirror", "--leg", "/none", "--leg", "/none"], twice),
        (vec!["add", "mirror", "--leg", &disk, "--leg", &format!("{disk}:64KiB")], twice),
        (vec!["add", "mirror", "--leg", &disk, "--leg", &other, "--log", &other], log),
        (vec!["create", "m", "--table", &line(&format!("core 1 8 2 {disk} 0 {disk} 8"))], twice),
        (vec!["create", "m", "--table", &line(&format!("disk 2 {disk} 8 2 {disk} 0 /b 0"))], log),
    ] {
        let output = run(&words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{words:?}: {said}");
    }
}

/// The verbs below one, "" being the program, as its help lists them.
fn verbs_below(verb: &str) -> Vec<String> {
    let words: Vec<&str> = verb.split_whitespace().collect();
    let output = run(&[&words[..], &["--help"]].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    let others = names.filter(|name| *name != "help");
    others.map(|name| format!("{verb} {name}").trim().to_owned()).collect()
}

#[test]
fn every_help_has_examples_of_its_verb() {
    let mut verbs = vec![String::new()];
    for at in 0.. {
        let Some(verb) = verbs.get(at).cloned() else { break };
        verbs.extend(verbs_below(&verb));
        let words: Vec<&str> = verb.split_whitespace().collect();
        for flag in ["--help", "-h"] {
            let output = run(&[&words[..], &[flag]].concat());
            let text = String::from_utf8(output.stdout).expect("text");
            let (_, examples) = text.split_once("\nExamples:\n").unwrap_or_else(|| {
                panic!("ublk-dm {verb} {flag}: no examples in {text}");
            });
            let begins = format!("    {}", format!("ublk-dm {verb}").trim());
            assert!(examples.contains(&begins), "ublk-dm {verb} {flag}: {examples}");
        }
    }
    assert!(verbs.len() > 40, "{verbs:?}");
}
