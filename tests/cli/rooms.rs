//! The rooms of the sources: which room may use which, read from the `use` lines.
//!
//! Rules kept here: arrows between rooms go down only, and mirror and snapshot do not use each
//! other. Every file opens with its `//!`, and is short enough to be read in one sitting.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::sources::{Sources, paths_in, without_tests};

/// A room, and the rooms that it uses: these and no others.
type Arrows = (&'static str, &'static [&'static str]);

/// The rooms of `src/`. Arrows go down.
const SERVER: [Arrows; 14] = [
    ("main", &["cli", "server", "storage", "sys"]),
    (
        "cli",
        &[
            "server", "offline", "tab", "data", "ring", "ublk", "rundir", "storage", "sys",
            "protocol", "failure",
        ],
    ),
    ("server", &["data", "ublk", "rundir", "storage", "sys", "protocol", "failure"]),
    ("offline", &["storage", "failure"]),
    ("tab", &["protocol", "failure"]),
    ("data", &["ring", "storage", "sys", "protocol"]),
    ("ring", &["sys"]),
    ("ublk", &["storage", "sys", "protocol", "failure"]),
    ("rundir", &["storage", "sys", "protocol", "failure"]),
    ("storage", &["sys", "protocol", "failure"]),
    ("protocol", &["failure"]),
    ("failure", &["sys"]),
    ("sys", &[]),
    ("log", &[]),
];
/// The rooms of `targets/src/`, likewise.
const TARGETS: [Arrows; 25] = [
    ("lib", &[]),
    (
        "group",
        &[
            "origins", "stack", "device", "target", "mirror", "snapshot", "copy", "exec", "disk",
            "mutant", "units",
        ],
    ),
    ("origins", &["target", "snapshot", "disk", "mutant"]),
    ("stack", &["device", "request", "exec", "disk", "mutant", "units"]),
    ("device", &["target", "snapshot", "request", "gate", "exec", "disk", "mutant"]),
    (
        "target",
        &[
            "segments", "zero", "error", "linear", "mirror", "snapshot", "request", "exec", "disk",
            "mutant", "units",
        ],
    ),
    ("sim", &["snapshot", "exec", "disk", "units"]),
    ("table", &["segments", "linear", "mirror", "snapshot", "words", "units"]),
    ("segments", &["zero", "error", "linear", "request", "disk", "mutant", "units"]),
    ("zero", &["request", "disk", "mutant", "units"]),
    ("error", &["request", "mutant", "units"]),
    ("linear", &["request", "disk", "words", "mutant", "units"]),
    ("mirror", &["copy", "request", "gate", "exec", "disk", "words", "mutant", "hash", "units"]),
    (
        "snapshot",
        &["copy", "request", "io", "gate", "exec", "disk", "words", "mutant", "hash", "units"],
    ),
    ("copy", &["io", "exec", "disk", "units"]),
    ("request", &["disk", "units"]),
    ("io", &["exec", "disk", "units"]),
    ("ram", &["exec", "disk", "units"]),
    ("gate", &["exec"]),
    ("exec", &[]),
    ("disk", &["mutant", "units"]),
    ("words", &["units"]),
    ("mutant", &[]),
    ("hash", &[]),
    ("units", &[]),
];
/// Longest file, in lines: short enough to read in one sitting.
const MAX_LINES: usize = 400;
/// Longest line, in characters: two files fit side by side on a screen.
const MAX_COLUMNS: usize = 100;

fn room(file: &Path) -> String {
    let first = file.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// What is wrong with the arrows between rooms: ones that are not in the list, that do not go down,
/// or that the list has and no file uses.
fn wrong_arrows(sources: &Sources, rooms: &[Arrows]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in sources.files.keys() {
        let from = room(file);
        let Some((_, allowed)) = rooms.iter().find(|(name, _)| *name == from) else {
            faults
                .push(format!("{}: stands in no room that ARCHITECTURE.md names", file.display()));
            continue;
        };
        for other in sources.imports(file) {
            let to = room(&other);
            if to != from && !allowed.contains(&&*to) {
                faults.push(format!("{} uses {}", file.display(), other.display()));
            }
            used.entry(from.clone()).or_default().insert(to);
        }
    }
    for (at, (from, allowed)) in rooms.iter().enumerate() {
        for to in *allowed {
            if !used.get(*from).is_some_and(|used| used.contains(*to)) {
                faults.push(format!("{from} does not use {to}: the list has one arrow too many"));
            }
            if !rooms[at + 1..].iter().any(|(name, _)| name == to) {
                faults.push(format!("{from} uses {to}: this arrow does not go down"));
            }
        }
    }
    faults
}

#[test]
fn arrows_between_rooms_are_those_of_the_list() {
    assert_eq!(wrong_arrows(&Sources::read("src"), &SERVER), Vec::<String>::new());
    assert_eq!(wrong_arrows(&Sources::read("targets/src"), &TARGETS), Vec::<String>::new());
}

/// The circles of a crate's files, each with its imports.
fn circles_of(sources: &Sources) -> Vec<String> {
    let mut faults = Vec::new();
    for circle in sources.circles() {
        faults.push("these import each other in a circle:".to_owned());
        for file in &circle {
            let others: Vec<String> = sources
                .imports(file)
                .intersection(&circle)
                .map(|other| other.display().to_string())
                .collect();
            faults.push(format!("    {} uses {}", file.display(), others.join(", ")));
        }
    }
    faults
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for dir in ["targets/src", "src"] {
        assert_eq!(circles_of(&Sources::read(dir)), Vec::<String>::new());
    }
}

/// Whether Rust's Debug output is in a text that users read. Assertions are for developers.
fn shows_debug(text: &str) -> bool {
    let is_debug = |line: &str| line.contains(":?}") || line.contains(":#?}");
    without_tests(text).lines().any(|line| is_debug(line) && !line.contains("assert"))
}

#[test]
fn messages_are_in_words() {
    let shown = |dir| -> Vec<String> {
        let files = Sources::read(dir).files.into_iter().filter(|(_, text)| shows_debug(text));
        files.map(|(file, _)| file.display().to_string()).collect()
    };
    // A mutant is selected by its name in the code.
    assert_eq!(shown("targets/src"), ["mutant.rs"]);
    assert_eq!(shown("src"), Vec::<String>::new());
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    for dir in ["src", "targets/src", "tests"] {
        for (file, text) in &Sources::all(dir).files {
            assert!(text.starts_with("//!"), "{dir}/{}: does not open with //!", file.display());
            let lines = text.lines().count();
            assert!(
                lines <= MAX_LINES,
                "{dir}/{}: {lines} lines, at most {MAX_LINES}",
                file.display()
            );
            let long = text.lines().position(|line| line.chars().count() > MAX_COLUMNS);
            assert_eq!(long, None, "{dir}/{}: a line is too long", file.display());
        }
    }
}

#[test]
fn use_trees_are_taken_apart() {
    let text = "use crate::a::{b, c::{d, e}, self};\npub use super::f;\nuse x::Y as Z;\n";
    let paths: Vec<String> = paths_in(text).iter().map(|path| path.join("::")).collect();
    for path in ["crate::a::b", "crate::a::c::d", "crate::a::c::e", "crate::a::self", "super::f"] {
        assert!(paths.iter().any(|other| other == path), "{path} of {paths:?}");
    }
}

#[test]
fn circles_are_found_and_what_tests_use_counts_for_nothing() {
    let sources = |files: &[(&str, &str)]| Sources {
        files: files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect(),
    };
    let circle = sources(&[
        ("a/mod.rs", "mod b;\nmod c;\npub use b::B;\n"),
        ("a/b.rs", "use super::c::C;\npub struct B(C);\n"),
        ("a/c.rs", "pub struct C;\nfn c() {\n    super::b::b();\n}\n"),
        ("d.rs", "use crate::a::B;\n"),
    ]);
    let faults = circles_of(&circle);
    let expected = ["    a/b.rs uses a/c.rs", "    a/c.rs uses a/b.rs"];
    assert_eq!(faults[1..], expected, "what a parent passes on is its child's");
    let parent = sources(&[
        ("a/mod.rs", "mod b;\npub struct A;\nfn a() {\n    b::b();\n}\n"),
        ("a/b.rs", "fn b(_: super::A) {}\n"),
    ]);
    assert_eq!(
        circles_of(&parent).len(),
        3,
        "a type of the parent's own, and a child called by its name"
    );
    let tests = sources(&[
        ("a.rs", "use crate::b::B;\n"),
        (
            "b.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n#[cfg(test)]\nuse \
             crate::a::A;\npub struct B;\n",
        ),
    ]);
    assert_eq!(circles_of(&tests), Vec::<String>::new());
}
