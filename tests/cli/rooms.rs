//! The house: which room may use which, read from the `use` lines of the sources.
//!
//! Rules kept here: arrows between rooms go down only, and mirror and snapshot do not know each other. Every file opens
//! with its `//!`, and is short enough to be read at once.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, each of which may use only those behind it.
const SERVER: [&str; 13] = [
    "main", "cli", "server", "offline", "data", "ring", "ublk", "rundir", "storage", "sys", "log", "protocol",
    "failure",
];
/// The rooms of `targets/src/`, likewise.
const TARGETS: [&str; 14] = [
    "lib", "target", "sim", "mirror", "table", "snapshot", "copy", "request", "io", "exec", "disk", "mutant", "hash",
    "units",
];
/// Neither may know the other.
const STRANGERS: [(&str, &str); 1] = [("mirror", "snapshot")];
/// Longest file, in lines: what is read in one sitting.
const MAX_LINES: usize = 450;

/// A crate's sources: each file's path under `src/`, with what stands before its tests.
struct Sources {
    files: BTreeMap<PathBuf, String>,
}

impl Sources {
    fn read(dir: &str) -> Sources {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        let mut files = BTreeMap::new();
        let mut left = vec![root.clone()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                    let text = fs::read_to_string(&path).unwrap();
                    files.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
                }
            }
        }
        Sources { files }
    }

    /// The file of a module path, and how many of its words led there.
    fn file_of(&self, words: &[String]) -> Option<(PathBuf, usize)> {
        (1..=words.len()).rev().find_map(|len| {
            let path: PathBuf = words[..len].iter().collect();
            let named = [path.with_extension("rs"), path.join("mod.rs")];
            named.into_iter().find(|path| self.files.contains_key(path)).map(|path| (path, len))
        })
    }

    /// The files that a file imports from. What a parent only passes on is its child's.
    fn imports(&self, file: &Path) -> BTreeSet<PathBuf> {
        let module = module_of(file);
        let paths = paths_in(&self.files[file]);
        paths.iter().filter_map(|path| self.resolve(&module, path, 0)).filter(|other| other != file).collect()
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
        let Some(name) = words.get(len).filter(|_| depth < 4 && words.len() > len) else { return Some(file) };
        let passed_on = paths_after("pub use ", &self.files[&file]);
        let child = passed_on.iter().find(|path| path.last() == Some(name) && path[0] != "crate");
        let deeper = child.and_then(|path| self.resolve(&module_of(&file), path, depth + 1));
        Some(deeper.unwrap_or(file))
    }
}

/// A file of tests beside the code may use anything.
fn is_test(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("tests"))
}

/// `cli/mod.rs` and `cli.rs` are the module `cli`.
fn module_of(file: &Path) -> Vec<String> {
    let path = if file.ends_with("mod.rs") { file.parent().unwrap().to_owned() } else { file.with_extension("") };
    let words = path.iter().map(|word| word.to_str().unwrap().to_owned());
    words.filter(|word| word != "main" && word != "lib").collect()
}

/// The paths that a file names: its `use` lines, and `crate::` wherever it stands.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut paths = paths_after("use ", text);
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            let path: String =
                line[at..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
            paths.push(words_of(&path));
        }
    }
    paths
}

/// The paths of all statements that begin with a word, with their braces taken apart.
fn paths_after(start: &str, text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let starts = |line: &str| line.starts_with(start) || (start == "use " && line.starts_with("pub use "));
    let mut rest = text;
    while let Some(line) = rest.lines().next() {
        if starts(line) {
            let end = rest.find(';').unwrap_or(rest.len());
            let statement = rest[..end].trim_start_matches("pub ").trim_start_matches("use ");
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
            faults.push(format!("{}: stands in no room that ARCHITECTURE.md names", file.display()));
            continue;
        };
        for other in sources.imports(file) {
            let to = room(&other);
            let strangers = STRANGERS.iter().any(|pair| *pair == (&*from, &*to) || *pair == (&*to, &*from));
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

#[test]
fn every_file_says_what_it_is_and_is_short() {
    for dir in ["src", "targets/src"] {
        for (file, text) in &Sources::read(dir).files {
            assert!(text.starts_with("//!"), "{dir}/{}: does not open with //!", file.display());
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{dir}/{}: {lines} lines, at most {MAX_LINES}", file.display());
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
