//! Every verb has examples, and each is a command line.

use clap::{CommandFactory, Parser};

use super::*;
use crate::cli::args::Cli;

/// All verbs that users type, "" among them.
fn verbs(command: &Command, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    let is_shown = |one: &&Command| !one.is_hide_set() && one.get_name() != "help";
    for one in command.get_subcommands().filter(is_shown) {
        verbs(one, format!("{path} {}", one.get_name()).trim(), found);
    }
}

/// The words of a line, as a shell splits it; with quotes, and up to what is for the shell.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for next in line.chars() {
        match next {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            next => word.push(next),
        }
    }
    words.push(word);
    assert!(!is_quoted, "{line}");
    words.split(|word| word == ">").next().unwrap().to_vec()
}

#[test]
fn every_verb_has_examples_that_parse_and_of_its_own() {
    let mut command = Cli::command();
    command.build();
    let mut all = Vec::new();
    verbs(&command, "", &mut all);
    for (verb, _) in EXAMPLES {
        assert!(all.contains(&(*verb).to_owned()), "{verb} is no verb");
    }
    for verb in &all {
        let mut own = 0;
        for line in of(verb).iter().flat_map(|(_, lines)| *lines) {
            assert!(line.len() <= 92, "the help would wrap: {line}");
            let command = line.split(" | ").last().unwrap();
            if !command.starts_with("ublk-dm ") {
                continue;
            }
            let parsed = Cli::try_parse_from(words(command));
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
            own += usize::from(command.starts_with(format!("ublk-dm {verb}").trim_end()));
        }
        assert!(own > 0, "{verb} has no example");
    }
    assert!(words("x --table \"a b\" > y") == ["x", "--table", "a b"]);
}
