//! The documents: what they name in backticks exists, so a reader who looks for a file, a test or
//! a mutant finds it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::sources::Sources;

/// The documents whose names of files are looked up.
const DOCUMENTS: [&str; 5] =
    ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "docs/guarantees.md", OTHERS];
/// The list of what others test, with the cases that do so here.
const OTHERS: &str = "tests/vm/others.md";
/// The directories that have files of the project.
const DIRECTORIES: [&str; 6] = ["src", "targets", "tests", "ci", "docs", "system"];
/// The files with a list of mutants.
const MUTANTS: [&str; 2] = ["targets/src/mutant.rs", "src/server/admin/mutant.rs"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The spans of a text that stand in backticks, without blocks of code.
fn names_in(text: &str) -> Vec<&str> {
    let parts = text.split("```").step_by(2);
    parts.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// All files and directories of the project, from its root.
fn paths() -> BTreeSet<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    let mut left: Vec<PathBuf> = DIRECTORIES.iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = left.pop() {
        found.insert(dir.strip_prefix(root).unwrap().to_owned());
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            found.insert(path.strip_prefix(root).unwrap().to_owned());
            if path.is_dir() {
                left.push(path);
            }
        }
    }
    found
}

/// Whether a span names a file or directory of this project: a source, or a path that begins with
/// one of its directories.
fn is_path(name: &str) -> bool {
    let word = |char: char| char.is_ascii_alphanumeric() || "/._-".contains(char);
    let first = name.split('/').next().unwrap();
    name.chars().all(word)
        && (name.ends_with(".rs") || (name.contains('/') && DIRECTORIES.contains(&first)))
}

#[test]
fn files_that_documents_name_exist() {
    let paths = paths();
    for document in DOCUMENTS {
        let text = read(document);
        for name in names_in(&text).into_iter().filter(|name| is_path(name)) {
            let found = paths.iter().any(|path| path.ends_with(name));
            assert!(found, "{document}: there is no {name}");
        }
    }
}

/// What a row of `docs/guarantees.md` may name as evidence.
struct Evidence {
    /// All texts of sources and tests.
    text: String,
    cases: BTreeSet<String>,
    mutants: BTreeSet<String>,
    paths: BTreeSet<PathBuf>,
}

impl Evidence {
    fn read() -> Evidence {
        // Not this file: it has names that do not exist.
        let other = |path: &Path| !path.ends_with("cli/papers.rs");
        let texts = |dir| -> String {
            let files = Sources::all(dir).files.into_iter();
            files.filter(|(path, _)| other(path)).map(|(_, text)| text).collect()
        };
        let vm = texts("tests/vm");
        let durations = read("tests/vm/durations.txt");
        let listed = durations.lines().filter_map(|line| line.split(' ').nth(1));
        let literals = vm.split('"').filter(|word| word.contains('-') && !word.contains(' '));
        let mutants = MUTANTS.map(read).concat();
        let mutants = mutants.lines().filter_map(|line| line.trim().strip_suffix(','));
        Evidence {
            text: ["src", "targets/src", "tests"].map(texts).concat(),
            cases: listed.chain(literals).map(str::to_owned).collect(),
            mutants: mutants.map(str::to_owned).collect(),
            paths: paths(),
        }
    }

    /// Whether a name, or the beginning of one before a `*`, is among others.
    fn is_in(name: &str, others: &BTreeSet<String>) -> bool {
        match name.split_once('*') {
            Some((first, _)) => others.iter().any(|other| other.starts_with(first)),
            None => others.contains(name),
        }
    }

    /// Whether a test, a module or a group of workloads has this name.
    fn is_test(&self, name: &str) -> bool {
        let is_defined = |word: &str| {
            let forms = [
                format!("fn {word}("),
                format!("mod {word};"),
                format!("mod {word} {{"),
                format!("\"{word}\""),
            ];
            let is_type = word.starts_with(char::is_uppercase) && self.text.contains(word);
            is_type || forms.iter().any(|form| self.text.contains(form))
        };
        match name.split_once('*') {
            Some((first, _)) => self.text.contains(&format!("fn {first}")),
            None if name.contains('/') || name.contains('.') => {
                self.paths.iter().any(|path| path.ends_with(name))
            }
            None => name.split("::").all(is_defined),
        }
    }

    /// The names in a cell that lists tests which do not exist. Each part of the cell begins with
    /// the level of its tests.
    fn missing(&self, cell: &str) -> Vec<String> {
        let mut missing = Vec::new();
        for part in cell.split(';') {
            let level = part.split(':').next().unwrap().trim();
            let mutants_from = part.find("mutants `").or_else(|| part.find("mutant `"));
            let mutants_from = mutants_from.unwrap_or(part.len());
            let (tests, mutants) = part.split_at(mutants_from);
            let is_case = |name: &str| level == "VM" && Self::is_in(name, &self.cases);
            let tests = names_in(tests);
            let tests = tests.into_iter().filter(|name| !is_case(name) && !self.is_test(name));
            missing.extend(tests.map(str::to_owned));
            let is_known = |name: &str| {
                Self::is_in(name, &self.mutants) || is_case(name) || self.is_test(name)
            };
            let mutants = names_in(mutants).into_iter().filter(|name| {
                let is_mutant = name.starts_with(char::is_uppercase);
                if is_mutant { !Self::is_in(name, &self.mutants) } else { !is_known(name) }
            });
            missing.extend(mutants.map(str::to_owned));
        }
        missing
    }
}

#[test]
fn tests_and_mutants_that_show_a_guarantee_exist() {
    let evidence = Evidence::read();
    let text = read("docs/guarantees.md");
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| line.trim_end_matches(['|', ' ']).rsplit(" | ").next());
    let missing: Vec<String> = cells.flat_map(|cell| evidence.missing(cell)).collect();
    assert_eq!(missing, Vec::<String>::new(), "docs/guarantees.md names what is not there");
}

/// The cases in the last cell of a row: names with a hyphen.
fn cases_in(row: &str) -> Vec<&str> {
    let cell = row.trim_end_matches(['|', ' ']).rsplit(" | ").next().unwrap();
    let is_case = |name: &&str| {
        let word = |char: char| char.is_ascii_alphanumeric() || "-*".contains(char);
        name.contains('-') && !name.starts_with('-') && name.chars().all(word)
    };
    names_in(cell).into_iter().filter(is_case).collect()
}

#[test]
fn cases_for_what_others_test_exist() {
    let evidence = Evidence::read();
    let text = read(OTHERS);
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let cases: Vec<&str> = rows.iter().flat_map(|row| cases_in(row)).collect();
    let is_missing = |name: &&&str| !Evidence::is_in(name, &evidence.cases);
    let missing: Vec<_> = cases.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{OTHERS} names {missing:?}");
    // A row has cases, or says why there is nothing to test.
    let says = |row: &&str| !cases_in(row).is_empty() || row.contains("not ours: ");
    assert!(rows.len() > 40 && rows.iter().all(says), "{:?}", rows.iter().find(|row| !says(row)));
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    let evidence = Evidence::read();
    let cell = "sim: `no_such_test`, mutants `NoSuchMutant`, `LossForgotten`; VM: `no-such-case`";
    assert_eq!(evidence.missing(cell), ["no_such_test", "NoSuchMutant", "no-such-case"]);
    assert!(is_path("targets/src/no_such_file.rs") && is_path("ci/no-such-script"));
}
