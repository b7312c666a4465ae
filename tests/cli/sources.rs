//! The sources of the project, and which files import which, read from the `use` lines.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

    pub(super) fn all(dir: &str) -> Sources {
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
    pub(super) fn imports(&self, file: &Path) -> BTreeSet<PathBuf> {
        let module = module_of(file);
        let paths = paths_in(&self.files[file]);
        paths
            .iter()
            .filter_map(|path| self.resolve(&module, path, 0))
            .filter(|other| other != file)
            .collect()
    }

    /// The circles of files that import each other: in each, every file needs every other one.
    pub(super) fn circles(&self) -> Vec<BTreeSet<PathBuf>> {
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
pub(super) fn paths_in(text: &str) -> Vec<Vec<String>> {
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
