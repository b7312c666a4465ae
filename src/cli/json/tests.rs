//! Every verb has its objects in the schema, or is one that prints a text by nature; and the object
//! of an error.

use clap::CommandFactory;
use serde_json::{Value, json};

use super::*;
use crate::cli::args::Cli;
use crate::failure::Kind;

/// The schema of everything that is printed.
const SCHEMA: &str = include_str!("../../../docs/ublk-dm.schema.json");
/// Where people read of it.
const DOCUMENT: &str = include_str!("../../../docs/json.md");

/// The verbs without verbs of their own, each with whether it has the flag.
fn verbs(command: &clap::Command, path: &str, found: &mut Vec<(String, bool)>) {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        if name == "help" {
            continue;
        }
        let path = if path.is_empty() { name.to_owned() } else { format!("{path} {name}") };
        if verb.has_subcommands() {
            verbs(verb, &path, found);
            continue;
        }
        let mut flags = verb.get_arguments().filter(|one| one.get_long() == Some("json"));
        let flag = flags.next().unwrap_or_else(|| panic!("{path} takes no --json"));
        found.push((path, !flag.is_hide_set()));
    }
}

#[test]
fn every_verb_has_its_objects_in_the_schema_and_in_the_document() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut command = Cli::command();
    command.build();
    let mut all = Vec::new();
    verbs(&command, "", &mut all);
    assert!(all.len() > 35, "{all:?}");
    for (verb, has_flag) in &all {
        let definition = &schema["$defs"][verb.replace(' ', "-")];
        assert_eq!(definition.is_object(), *has_flag, "{verb}: the schema's $defs");
        assert!(DOCUMENT.contains(&format!("`{verb}`")), "{verb}: docs/json.md");
    }
    let verbs: Vec<String> = all.iter().map(|(verb, _)| verb.replace(' ', "-")).collect();
    // The others are parts, whose names are not those of verbs.
    for name in schema["$defs"].as_object().unwrap().keys() {
        let is_part = name.starts_with(char::is_uppercase);
        assert!(is_part || verbs.contains(name), "the schema has {name}, which is no verb");
    }
}

#[test]
fn an_error_is_one_object() {
    let why = Failure::new(Kind::System { errno: libc::ENOSPC }, "no room").of_disk("/dev/sda");
    let why = why.at_sector(8).context("s").of_device("s").ending("; `ublk-dm del s` makes room");
    let line: Value = serde_json::from_str(&error_line(&why, "the line").unwrap()).unwrap();
    let error = json!({ "kind": "system", "message": "the line", "device": "s",
        "errno": { "number": libc::ENOSPC, "name": "ENOSPC" }, "disk": "/dev/sda", "sector": 8,
        "advice": ["ublk-dm del s"] });
    assert_eq!(line, json!({ "version": 1, "error": error }));
    let line = error_line(&Failure::from("why"), "why").unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["error"]["kind"], &line["error"]["errno"]), (&json!("failed"), &Value::Null));
    assert_eq!((line["error"]["advice"].as_array().map(Vec::len), name_of(9999)), (Some(0), None));
}
