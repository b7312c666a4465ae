//! The columns of `info -c`, and what a device has in each.
//!
//! Rules kept here: names, headings and widths of columns are dmsetup's; a field that dmsetup has
//! and this has not is refused, not left empty.

use super::devices::{All, One, block_name, shown};
use crate::failure::{Failure, wrong_usage};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// What `-o` knows it as.
    pub id: &'static str,
    pub heading: &'static str,
    pub width: usize,
    /// Whether its words stand at the right, and are compared as numbers.
    pub is_number: bool,
}

const fn text(id: &'static str, heading: &'static str, width: usize) -> Field {
    Field { id, heading, width, is_number: false }
}

const fn number(id: &'static str, heading: &'static str, width: usize) -> Field {
    Field { id, heading, width, is_number: true }
}

/// All columns.
const FIELDS: [Field; 25] = [
    text("name", "Name", 16),
    text("mangled_name", "MangledName", 16),
    text("unmangled_name", "UnmangledName", 16),
    text("uuid", "UUID", 32),
    text("mangled_uuid", "MangledUUID", 32),
    text("unmangled_uuid", "UnmangledUUID", 32),
    number("read_ahead", "RAhead", 6),
    text("blkdevname", "BlkDevName", 16),
    text("attr", "Stat", 4),
    text("tables_loaded", "Tables", 6),
    text("suspended", "Suspended", 9),
    text("readonly", "Read-only", 9),
    text("devno", "DevNo", 5),
    number("major", "Maj", 3),
    number("minor", "Min", 3),
    number("open", "Open", 4),
    number("segments", "Targ", 4),
    number("events", "Event", 6),
    number("device_count", "#Devs", 5),
    text("devs_used", "DevNamesUsed", 16),
    text("devnos_used", "DevNosUsed", 16),
    text("blkdevs_used", "BlkDevNamesUsed", 16),
    number("device_ref_count", "#Refs", 5),
    text("names_using_dev", "RefNames", 8),
    text("devnos_using_dev", "RefDevNos", 9),
];
/// Those that are printed if none are named.
const DEFAULT: &str = "name,major,minor,attr,open,segments,events,uuid";
/// Words for several columns.
const GROUPS: [(&str, &str); 4] = [
    ("name_all", "name,mangled_name,unmangled_name,uuid,mangled_uuid,unmangled_uuid,read_ahead"),
    (
        "info_all",
        "blkdevname,attr,tables_loaded,suspended,readonly,devno,major,minor,open,segments,events",
    ),
    ("deps_all", "device_count,devnos_used,blkdevs_used"),
    ("all", "name_all,info_all,deps_all"),
];

/// The columns that words name, with commas between them.
fn fields(words: &str) -> Result<Vec<Field>, Failure> {
    let mut found = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match GROUPS.iter().find(|(name, _)| *name == word) {
            Some((_, members)) => found.extend(fields(members)?),
            None => found.push(field(word)?),
        }
    }
    Ok(found)
}

/// The column with a name.
pub(super) fn field(word: &str) -> Result<Field, Failure> {
    let word = word.to_lowercase();
    let found = FIELDS.iter().find(|field| field.id == word).copied();
    found.ok_or_else(|| wrong_usage(format!("Unrecognised field: {word}")))
}

/// The columns of `-o`, which a `+` appends to those that are printed anyway.
pub(super) fn chosen(options: Option<&str>) -> Result<Vec<Field>, Failure> {
    match options.map(|words| (words.strip_prefix('+'), words)) {
        None => fields(DEFAULT),
        Some((Some(more), _)) => fields(&format!("{DEFAULT},{more}")),
        Some((None, words)) => fields(words),
    }
}

impl Field {
    /// What a device has there.
    pub fn of(self, all: &All, one: &One) -> String {
        let word = |words: [&str; 2], is: bool| words[usize::from(is)].to_owned();
        let or_dash =
            |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let below = || one.disks(false).into_iter();
        let joined = |words: Vec<String>| words.join(",");
        match self.id {
            "name" | "mangled_name" | "unmangled_name" => one.name.clone(),
            "read_ahead" => one.read_ahead().unwrap_or(0).to_string(),
            "blkdevname" => one.block_name().unwrap_or_default(),
            "attr" => one.attributes(),
            "tables_loaded" => match (&one.table, &one.inactive) {
                (Some(_), Some(_)) => "Both".to_owned(),
                (Some(_), None) => "Live".to_owned(),
                (None, Some(_)) => "Inactive".to_owned(),
                (None, None) => "None".to_owned(),
            },
            "suspended" => word(["Active", "Suspended"], one.is_suspended),
            "readonly" => word(["Writeable", "Read-only"], one.is_read_only),
            "devno" => one.devno(),
            "major" => or_dash(one.number.map(|number| number.0)),
            "minor" => or_dash(one.number.map(|number| number.1)),
            "open" => all.opens(one).to_string(),
            "segments" => one.segments().to_string(),
            "events" => one.events.to_string(),
            "device_count" => below().count().to_string(),
            "devs_used" => joined(
                below().filter_map(|it| all.numbered(it)).map(|lower| lower.name.clone()).collect(),
            ),
            "devnos_used" => joined(below().map(shown).collect()),
            "blkdevs_used" => joined(below().map(block_name).collect()),
            "device_ref_count" => all.above(one).count().to_string(),
            "names_using_dev" => joined(all.above(one).map(|upper| upper.name.clone()).collect()),
            "devnos_using_dev" => joined(all.above(one).map(One::devno).collect()),
            _ => one.uuid.clone().unwrap_or_default(),
        }
    }
}
