//! The rooms of the sources: which room may use which, read from the `use` lines.
//!
//! Rules kept here: arrows between rooms go down only, and mirror and snapshot do not use each
//! other. Every file opens with its `//!`, and is short enough to be read in one sitting.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, each of which may use only those after it.
const SERVER: [&str; 13] = [
    "main", "cli", "server", "offline", "data", "ring", "ublk", "rundir", "storage", "sys", "log",
    "protocol", "failure",
];
/// The rooms of `targets/src/`, likewise.
const TARGETS: [&str; 22] = [
    "lib", "group", "origins", "stack", "device", "target", "sim", "table", "linear", "mirror",
    "snapshot", "copy", "request", "io", "ram", "gate", "exec", "disk", "words", "mutant", "hash",
    "units",
];
/// Neither may use the other: a target is its folder.
const STRANGERS: [(&str, &str); 3] =
    [("mirror", "snapshot"), ("linear", "mirror"), ("linear", "snapshot")];
/// Longest file, in lines: short enough to read in one sitting.
const MAX_LINES: usize = 400;
/// Longest line, in characters: two files fit side by side on a screen.
const MAX_COLUMNS: usize = 100;

/// A crate's sources: each file's path under `src/`, with its content before its tests.
pub(super) struct Sources {
    pub(super) files: BTreeMap<PathBuf, String>,
}

impl Sources {
    /// The sources of a directory, except test files, which may use anything.
    pub(super) fn read(dir: &str) -> Sources {
        let mut sources = Sources::all(dir);
        sources.files.retain(|path, _| !is_test(path));
        sources
    }

    fn all(dir: &str) -> Sources {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        let mut files = BTreeMap::new();
        let mut left = vec![root.clone()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    files.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
                }
            }
        }
        Sources { files }
    }

    /// The file of a module path, and how many of the path's words name it.
    fn file_of(&self, words: &[String]) -> Option<(PathBuf, usize)> {
        (1..=words.len()).rev().find_map(|len| {
            let path: PathBuf = words[..len].iter().collect();
            let named = [path.with_extension("rs"), path.join("mod.rs")];
            named.into_iter().find(|path| self.files.contains_key(path)).map(|path| (path, len))
        })
    }

    /// The files that a file imports from. A re-export of a parent counts as its child's.
    fn imports(&self, file: &Path) -> BTreeSet<PathBuf> {
        let module = module_of(file);
        let paths = paths_in(&self.files[file]);
        paths
            .iter()
            .filter_map(|path| self.resolve(&module, path, 0))
            .filter(|other| other != file)
            .collect()
    }

    /// The circles of files that import each other: in each, every file needs every other one.
    fn circles(&self) -> Vec<BTreeSet<PathBuf>> {
        let arrows: BTreeMap<&Path, BTreeSet<PathBuf>> =
            self.files.keys().map(|file| (file.as_path(), self.imports(file))).collect();
        let mut reach: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for from in arrows.keys() {
            let mut left = vec![*from];
            let reached = reach.entry(from).or_default();
            while let Some(file) = left.pop() {
                left.extend(
                    arrows[file]
                        .iter()
                        .map(PathBuf::as_path)
                        .filter(|other| reached.insert(*other)),
                );
            }
        }
        let circle = |file: &Path| -> BTreeSet<PathBuf> {
            let back = reach[file].iter().filter(|other| reach[**other].contains(file));
            back.map(|other| other.to_path_buf()).collect()
        };
        let circles: BTreeSet<BTreeSet<PathBuf>> = arrows.keys().map(|file| circle(file)).collect();
        circles.into_iter().filter(|circle| !circle.is_empty()).collect()
    }

    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<PathBuf> {
        let mut words = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            "self" => module.to_vec(),
            // A child's path, as `mod` and `pub use` have it.
            _ => [module, &path[..1]].concat(),
        };
        for word in &path[1..] {
            if word == "super" {
                words.pop();
            } else {
                words.push(word.clone());
            }
        }
        let (file, len) = self.file_of(&words)?;
        let Some(name) = words.get(len).filter(|_| depth < 4 && words.len() > len) else {
            return Some(file);
        };
        let passed_on = paths_after(&PASSING_ON, &self.files[&file]);
        let child = passed_on.iter().find(|path| path.last() == Some(name) && path[0] != "crate");
        let deeper = child.and_then(|path| self.resolve(&module_of(&file), path, depth + 1));
        Some(deeper.unwrap_or(file))
    }
}

/// Whether a file beside the code holds tests of it.
fn is_test(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("tests"))
}

/// `cli/mod.rs` and `cli.rs` are the module `cli`.
fn module_of(file: &Path) -> Vec<String> {
    let path = if file.ends_with("mod.rs") {
        file.parent().unwrap().to_owned()
    } else {
        file.with_extension("")
    };
    let words = path.iter().map(|word| word.to_str().unwrap().to_owned());
    words.filter(|word| word != "main" && word != "lib").collect()
}

/// The beginnings of statements that import names of other files, for this file or for others.
const PASSING_ON: [&str; 3] = ["pub use ", "pub(crate) use ", "pub(super) use "];

/// The paths that a file names: its `use` statements, and `crate::`, `super::`, `self::` and its
/// children's names wherever they stand in its code.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let text = without_tests(text);
    let mut paths = paths_after(&["use "], &text);
    paths.extend(paths_after(&PASSING_ON, &text));
    let children = text.lines().filter_map(|line| {
        let (_, name) = line
            .split_once("mod ")
            .filter(|(before, _)| ["", "pub ", "pub(crate) "].contains(before))?;
        name.strip_suffix(';').map(|name| format!("{name}::"))
    });
    let starts: Vec<String> =
        ["crate::", "super::", "self::"].map(String::from).into_iter().chain(children).collect();
    let in_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, _) in starts.iter().flat_map(|start| line.match_indices(start.as_str())) {
            if !line[..at].ends_with(in_path) {
                paths.push(words_of(
                    &line[at..].chars().take_while(|c| in_path(*c)).collect::<String>(),
                ));
            }
        }
    }
    paths
}

/// A file's text without the items that only tests have.
pub(super) fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        // The item ends at a semicolon, or at a brace with the item's own indentation.
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let mut item = lines.by_ref().skip_while(|line| line.trim_start().starts_with(['#', '/']));
        if item.next().is_some_and(|first| first.ends_with('{')) {
            lines.by_ref().find(|line| *line == end);
        }
    }
    kept
}

/// The paths of all statements that begin with one of some words, with their braces expanded.
fn paths_after(starts: &[&str], text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = text;
    while let Some(line) = rest.lines().next() {
        if let Some(start) = starts.iter().find(|start| line.trim_start().starts_with(**start)) {
            let end = rest.find(';').unwrap_or(rest.len());
            let statement = rest[..end].trim_start().trim_start_matches(start);
            spread("", &statement.replace(['\n', ' '], ""), &mut paths);
        }
        rest = &rest[(line.len() + 1).min(rest.len())..];
    }
    paths.iter().map(|path| words_of(path)).collect()
}

fn words_of(path: &str) -> Vec<String> {
    path.split("::").filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// `a::{b,c::d}` is `a::b` and `a::c::d`.
fn spread(before: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        return paths.push(format!("{before}{tree}"));
    };
    let (mut depth, mut from) = (0, 0);
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if from < at {
                    spread(&format!("{before}{head}"), &inner[from..at], paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

fn room(file: &Path) -> String {
    let first = file.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn arrows_go_down(sources: &Sources, rooms: &[&str]) -> Vec<String> {
    let place = |room: &str| rooms.iter().position(|other| *other == room);
    let mut faults = Vec::new();
    for file in sources.files.keys() {
        let from = room(file);
        let Some(at) = place(&from) else {
            faults
                .push(format!("{}: stands in no room that ARCHITECTURE.md names", file.display()));
            continue;
        };
        for other in sources.imports(file) {
            let to = room(&other);
            let strangers =
                STRANGERS.iter().any(|pair| *pair == (&*from, &*to) || *pair == (&*to, &*from));
            if strangers || place(&to).is_some_and(|to| to < at) {
                faults.push(format!("{} uses {}", file.display(), other.display()));
            }
        }
    }
    faults
}

#[test]
fn arrows_between_rooms_go_down() {
    assert_eq!(arrows_go_down(&Sources::read("src"), &SERVER), Vec::<String>::new());
    assert_eq!(arrows_go_down(&Sources::read("targets/src"), &TARGETS), Vec::<String>::new());
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
