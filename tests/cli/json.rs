//! `--json`: what every verb prints that works without ublk, and every error, against the schema.
//!
//! Verbs that look for devices need root: without it they print an error, which is judged as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::images::{Store, log as mirror_log};
use super::output::{is_root, ublk_dm};
use crate::json_schema::Schema;
use crate::offline::run;

/// The verbs that print a text by nature, with words that would be right without `--json`.
const TEXTS: [&[&str]; 5] = [
    &["completions", "bash"],
    &["man", "/nonsense/man"],
    &["metrics"],
    &["dmsetup", "ls"],
    &["systemd-generator", "/nonsense/units"],
];

/// The verbs below some words, as the help lists them.
fn verbs(words: &[String]) -> Vec<Vec<String>> {
    let asked: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
    let help = String::from_utf8(run(&asked).stdout).expect("text");
    let mut lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let mut found = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        // A line that continues has more spaces before it.
        let is_verb = line.starts_with("  ") && !line.starts_with("   ");
        let name = line.split_whitespace().next().filter(|name| is_verb && *name != "help");
        let Some(name) = name else { continue };
        let words: Vec<String> = words.iter().cloned().chain([name.to_owned()]).collect();
        let below = verbs(&words);
        if below.is_empty() { found.push(words) } else { found.extend(below) }
    }
    found
}

/// What a command prints with `--json`, after it was held to the schema.
struct Said {
    code: Option<i32>,
    objects: Vec<Value>,
    errors: Vec<Value>,
}

/// Runs a verb; `verb`: its name in the schema.
fn said(schema: &Schema, rundir: &Path, verb: &str, words: &[&str]) -> Said {
    let mut command = ublk_dm(rundir);
    command.env("UBLK_DM_TAB", rundir.join("tab")).args(words).arg("--json");
    let output = command.output().expect("it starts");
    let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).expect("text"));
    let mut errors = Vec::new();
    for line in err.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        let kind = if value.get("log").is_some() { "Log" } else { "Error" };
        let value = schema.assert_line(kind, line);
        errors.extend((kind == "Error").then_some(value));
    }
    let code = output.status.code();
    let fails = matches!(code, Some(1 | 2));
    assert_eq!(!errors.is_empty(), fails, "{words:?}: {code:?}: {err}");
    Said { code, objects: schema.assert_lines(verb, &out), errors }
}

#[test]
fn wrong_usage_of_every_verb_is_an_object() {
    let schema = Schema::read();
    let all = verbs(&[]);
    assert!(all.len() > 35, "{all:?}");
    for words in &all {
        if words == &["dmsetup"] {
            continue;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let line = [&words[..], &["--json", "--no-such-flag"]].concat();
        let output = run(&line);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let text = String::from_utf8(output.stderr).expect("text");
        let error = &schema.assert_lines("Error", &text)[0]["error"];
        let help = format!("ublk-dm {} --help", words.join(" "));
        assert!(error["kind"] == "usage" && error["advice"][0] == *help, "{text}");
        assert!(output.stdout.is_empty() && text.lines().count() == 1, "{words:?}");
    }
}

#[test]
fn verbs_that_print_a_text_have_no_objects() {
    let schema = Schema::read();
    for words in TEXTS {
        let help = String::from_utf8(run(&[words[0], "--help"]).stdout).expect("text");
        assert!(!help.contains("--json"), "{help}");
        let words = [&["--json"], words].concat();
        let output = run(&words);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{words:?}");
        let text = String::from_utf8(output.stderr).expect("text");
        let error = &schema.assert_lines("Error", &text)[0]["error"];
        assert!(error["message"].as_str().expect("text").contains("has no --json"), "{text}");
    }
    let words: BTreeSet<&str> = TEXTS.iter().map(|words| words[0]).collect();
    for verb in verbs(&[]).iter().filter(|verb| !words.contains(verb[0].as_str())) {
        let words: Vec<&str> = verb.iter().map(String::as_str).chain(["--help"]).collect();
        let help = String::from_utf8(run(&words).stdout).expect("text");
        assert!(help.contains("--json"), "{verb:?}: {help}");
    }
}

#[test]
fn devices_without_a_table_are_told_as_objects() {
    if !is_root() {
        return;
    }
    let (schema, dir) = (Schema::read(), TempDir::new().expect("a directory"));
    let said = |verb: &str, words: &[&str]| {
        let said = said(&schema, dir.path(), verb, words);
        assert_eq!((said.code, said.objects.len()), (Some(0), 1), "{words:?}");
        said.objects[0].clone()
    };
    let line = "0 8 linear /dev/null 0";
    for (verb, words, name) in [
        ("create", &["create", "v", "--notable", "--uuid", "u"][..], "v"),
        ("load", &["load", "v", "--table", line], "v"),
        ("rename", &["rename", "v", "w"], "w"),
    ] {
        let device = &said(verb, words)["device"];
        assert!(device["name"] == name && device["id"].is_null(), "{verb}: {device}");
    }
    let listed = said("list", &["list"]);
    assert!(listed["without_table"][0]["inactive_table"] == line, "{listed}");
    let table = said("table", &["table", "--inactive", "w"]);
    let is_there = table["table"][0].as_str().is_some_and(|line| line.starts_with("0 8 linear "));
    assert!(is_there && table["inactive"] == true, "{table}");
    said("clear", &["clear", "w"]);
    assert!(said("table", &["table", "--inactive"])["table"].is_null());
    let deleted = said("del", &["del", "w"]);
    assert_eq!(deleted["deleted"][0]["name"], "w", "{deleted}");
}

#[test]
fn verbs_without_devices_print_their_objects() {
    let (schema, dir) = (Schema::read(), TempDir::new().expect("a directory"));
    fs::write(dir.path().join("block-7-0-1.records"), b"damaged").expect("a file");
    let said = |verb: &str, words: &[&str]| said(&schema, dir.path(), verb, words);
    for (verb, words, key) in [
        ("list", &["list"][..], "devices"),
        ("del", &["del", "--all"], "deleted"),
        ("down", &["down", "--all"], "deleted"),
        ("up", &["up", "--all"], "up"),
        ("save", &["save"], "lines"),
        ("save", &["save", "--stdout"], "lines"),
        ("recover", &["recover", "--all"], "recovered"),
        ("reap", &["reap"], "deleted"),
        ("journal-list", &["journal", "list"], "journals"),
        ("journal-discard", &["journal", "discard", "block-7-0-1.records"], "journal"),
    ] {
        let said = said(verb, words);
        let is_whole = said.objects.len() == 1 && !said.objects[0][key].is_null();
        // Where there is no ublk, or no root, the error says so.
        assert!(is_whole || said.code == Some(1), "{verb}: {:?}", said.objects);
        let works = is_root() && !["del", "reap", "journal-discard"].contains(&verb);
        assert!(!works || said.code == Some(0), "{verb}: {:?}", said.errors);
    }
    for (verb, words) in [
        ("status", &["status"][..]),
        ("table", &["table"]),
        ("upgrade", &["upgrade", "--all"]),
        ("features", &["features"]),
        ("doctor", &["doctor"]),
    ] {
        said(verb, words);
    }
}

#[test]
fn images_and_disks_are_told_as_objects() {
    let (schema, dir) = (Schema::read(), TempDir::new().expect("a directory"));
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (good, bad, log) = (path("good"), path("bad"), path("log"));
    let store = Store::new(8, 64).filled(5, 0);
    fs::write(&good, store.clone().bytes()).expect("a file");
    fs::write(&bad, store.record(1, 1 << 40).bytes()).expect("a file");
    fs::write(&log, mirror_log(2, 64, &[u64::MAX - 1])).expect("a file");
    let said = |verb: &str, words: &[&str]| said(&schema, dir.path(), verb, words);
    for (file, code) in [(&good, 0), (&bad, 3), (&log, 0)] {
        for verb in ["check", "dump"] {
            for words in [&[verb, file][..], &[verb, file, "--origin", &good]] {
                let said = said(verb, words);
                assert_eq!((said.code, said.objects.len()), (Some(code), 1), "{words:?}");
            }
        }
    }
    let (from, to) = (path("from"), path("to"));
    fs::write(&from, vec![1; 1 << 16]).expect("a file");
    fs::write(&to, vec![0; 1 << 16]).expect("a file");
    for (verb, words) in
        [("copy", &["copy", "--from", &from, "--to", &to][..]), ("zero", &["zero", "--to", &to])]
    {
        let said = said(verb, words);
        let rings = said.errors.iter().any(|error| error.to_string().contains("io_uring"));
        assert!(rings || said.code == Some(0) && said.objects[0]["bytes"] == 1 << 16, "{verb}");
    }
}

/// The kind, the errno, what it is about and what to do are there without the text.
#[test]
fn an_error_has_its_parts() {
    let (schema, dir) = (Schema::read(), TempDir::new().expect("a directory"));
    let error = |words: &[&str]| {
        let said = said(&schema, dir.path(), "Error", words);
        assert!(said.objects.is_empty() && said.errors.len() == 1, "{words:?}");
        (said.code, said.errors[0]["error"].clone())
    };
    let (code, missing) = error(&["check", "/nonsense"]);
    assert_eq!((code, &missing["disk"]), (Some(1), &Value::from("/nonsense")), "{missing}");
    assert_eq!((&missing["errno"]["name"], &missing["kind"]), (&"ENOENT".into(), &"system".into()));
    let (code, usage) = error(&["add", "snapshot", "--name", "a b"]);
    assert_eq!((code, &usage["kind"]), (Some(2), &Value::from("usage")), "{usage}");
    if !fs::exists("/dev/ublk-control").expect("/dev") {
        assert_eq!(error(&["features"]).1["kind"], "unsupported");
    }
    if !is_root() {
        let (_, denied) = error(&["suspend", "none"]);
        assert_eq!(
            (&denied["kind"], &denied["errno"]["name"]),
            (&"system".into(), &"EPERM".into())
        );
        return;
    }
    for words in [
        &["suspend", "none"][..],
        &["status", "none"],
        &["merge", "none"],
        &["merge", "none", "--pause"],
        &["upgrade", "none"],
    ] {
        let (code, absent) = error(words);
        assert_eq!((code, &absent["kind"]), (Some(1), &Value::from("not_found")), "{words:?}");
        assert_eq!((&absent["device"], &absent["advice"][0]), (&"none".into(), &LIST.into()));
    }
    let (_, disk) = error(&["add", "origin", "--origin", "/dev/nonsense"]);
    assert_eq!((&disk["kind"], &disk["disk"]), (&"not_found".into(), &"/dev/nonsense".into()));
    // A run directory that cannot be made.
    let words = ["create", "v", "--notable"];
    let said = self::said(&schema, Path::new("/proc/nonsense"), "Error", &words);
    let unmade = &said.errors[0]["error"];
    assert!(unmade["kind"] == "system" && unmade["errno"]["number"].is_number(), "{unmade}");
}

/// What a device that there is not is looked for with.
const LIST: &str = "ublk-dm list";
