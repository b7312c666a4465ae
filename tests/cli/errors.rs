//! Errors keep their kind and cause on the way to the user: read from the sources.
//!
//! Rule kept here: an error is not turned into text on its way up. What failed is added to it
//! (`Failure::context`, `but`, `after`, `ending`), so that callers can still decide by its kind.

use super::sources::{Sources, without_tests};

/// Files in which an error ends as text, each with its reason.
const TEXT: [&str; 6] = [
    // clap and the module loader's output are read by people only.
    "cli/args/add.rs",
    "ublk/control.rs",
    // Traits of the data path, which has no kinds of its own for these.
    "data/thread.rs",
    "rundir/lost.rs",
    "server/live.rs",
    // Why a record of legs is not used, for the log.
    "rundir/legs.rs",
];
/// What adds to an error and keeps its kind, or gives it one.
const KEEPING: [&str; 5] = ["wrong(", "wrong_usage(", "Failure::from(", "Failure::at(", "TimedOut"];

/// The arguments of all calls of `map_err` in a text.
fn mappings(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, call) in text.match_indices("map_err(") {
        let rest = &text[at + call.len()..];
        let mut depth = 1;
        let end = rest.find(|letter| {
            depth += match letter {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        found.extend(end.map(|end| &rest[..end]));
    }
    found
}

/// Whether an error becomes text in a closure: it is printed, and nothing keeps its kind.
fn loses_kind(closure: &str) -> bool {
    let error = closure.split('|').nth(1).unwrap_or_default().split(':').next();
    let error = error.unwrap_or_default().trim();
    let printed = [format!("{error}.to_string()"), format!("{{{error}}}")];
    let is_printed = !error.is_empty() && printed.iter().any(|words| closure.contains(words));
    is_printed && !KEEPING.iter().any(|words| closure.contains(words))
}

fn faults_of(text: &str) -> Vec<String> {
    let text = without_tests(text);
    let mut faults: Vec<String> = mappings(&text)
        .into_iter()
        .filter(|closure| loses_kind(closure))
        .map(str::to_owned)
        .collect();
    let lines = text.lines().map(str::trim);
    let converted = ["error.to_string().into()", "why.to_string().into()"];
    let loses = |line: &&str| converted.iter().any(|words| line.contains(words));
    faults.extend(lines.filter(loses).map(str::to_owned));
    faults
}

#[test]
fn errors_keep_kind_and_cause() {
    let mut faults = Vec::new();
    for (file, text) in &Sources::read("src").files {
        if !TEXT.iter().any(|exempt| file.ends_with(exempt)) {
            faults
                .extend(faults_of(text).iter().map(|fault| format!("{}: {fault}", file.display())));
        }
    }
    assert_eq!(faults, Vec::<String>::new(), "add a context to the error instead");
}

#[test]
fn an_error_that_becomes_text_is_found() {
    for lost in [
        "a().map_err(|error| error.to_string())?;",
        "a().map_err(|error: io::Error| format!(\"{}: {error}\", b()))?;",
        "Err(why) => return Err(why.to_string().into()),",
    ] {
        assert_eq!(faults_of(lost).len(), 1, "{lost}");
    }
    for kept in [
        "a().map_err(|error| Failure::from(error).context(format!(\"{b}\")))?;",
        "a().map_err(|why| why.context(format!(\"{}\", b.to_string())))?;",
        "a().map_err(|error| wrong_usage(format!(\"{word}: {error}\")))?;",
        "a().map_err(Failure::from)?;",
    ] {
        assert_eq!(faults_of(kept), Vec::<String>::new(), "{kept}");
    }
}
