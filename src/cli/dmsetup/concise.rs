//! The concise form of devices: `NAME,UUID,MINOR,FLAGS,LINE[,LINE]...`, with semicolons between
//! devices, and a backslash before a comma, a semicolon or a backslash that is part of a word.
//! Pure.

use crate::failure::{Failure, wrong_usage};
use crate::protocol::refuse_odd_uuid;

/// A device.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Concise {
    pub name: String,
    pub uuid: Option<String>,
    pub minor: Option<u32>,
    pub is_read_only: bool,
    /// The lines of its table; none for a device without one.
    pub lines: Vec<String>,
}

/// Splits a text into devices, and these into fields.
fn fields_of(text: &str) -> Vec<Vec<String>> {
    let mut devices = vec![vec![String::new()]];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ';' => devices.push(vec![String::new()]),
            ',' => {
                devices.iter_mut().last().into_iter().for_each(|fields| fields.push(String::new()))
            }
            letter => {
                let letter = if letter == '\\' { letters.next().unwrap_or(letter) } else { letter };
                let field = devices.iter_mut().last().and_then(|fields| fields.iter_mut().last());
                field.into_iter().for_each(|field| field.push(letter));
            }
        }
    }
    devices
}

/// Reads devices.
pub(super) fn parse(text: &str) -> Result<Vec<Concise>, Failure> {
    let one = |fields: Vec<String>| {
        let why = |what: &str| wrong_usage(format!("{}: {what}", fields[0].trim()));
        let field = |at: usize| fields.get(at).map_or("", |field| field.trim());
        if fields.len() < 4 {
            return Err(why("a concise device is NAME,UUID,MINOR,FLAGS,LINE[,LINE]..."));
        }
        let uuid = Some(field(1).to_owned()).filter(|uuid| !uuid.is_empty());
        if let Some(Err(odd)) = uuid.as_deref().map(refuse_odd_uuid) {
            return Err(why(odd));
        }
        let minor = match field(2) {
            "" => None,
            word => Some(word.parse().map_err(|_| why("its minor number is none"))?),
        };
        let is_read_only = match field(3) {
            "ro" => true,
            "" | "rw" => false,
            _ => return Err(why("its flags are `ro` or `rw`")),
        };
        let lines = fields[4..].iter().map(|line| line.trim().to_owned());
        let lines = lines.filter(|line| !line.is_empty()).collect();
        Ok(Concise { name: field(0).to_owned(), uuid, minor, is_read_only, lines })
    };
    let is_empty = |fields: &Vec<String>| fields.iter().all(|field| field.trim().is_empty());
    fields_of(text).into_iter().filter(|fields| !is_empty(fields)).map(one).collect()
}

/// Writes a field.
fn escaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    for letter in field.chars() {
        if matches!(letter, ',' | ';' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// Writes a device.
pub(super) fn written(
    (name, uuid): (&str, Option<&str>),
    minor: Option<u32>,
    is_read_only: bool,
    lines: impl Iterator<Item = String>,
) -> String {
    let minor = minor.map_or_else(String::new, |minor| minor.to_string());
    let flags = if is_read_only { "ro" } else { "rw" };
    let lines: String = lines.map(|line| format!(",{}", escaped(&line))).collect();
    let uuid = escaped(uuid.unwrap_or_default());
    format!("{},{uuid},{minor},{flags}{lines}", escaped(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_their_lines_are_taken_apart() {
        let text = "x,LVM-a/b,,ro,0 1024 linear /dev/a 0,1024 1024 zero;y,,7,,0 64 error;z,,,rw;\n";
        let read = parse(text).unwrap();
        let device = |name: &str, minor, is_read_only, lines: &[&str]| Concise {
            name: name.to_owned(),
            uuid: Some("LVM-a/b".to_owned()).filter(|_| name == "x"),
            minor,
            is_read_only,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            read,
            [
                device("x", None, true, &["0 1024 linear /dev/a 0", "1024 1024 zero"]),
                device("y", Some(7), false, &["0 64 error"]),
                device("z", None, false, &[]),
            ]
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let lines = ["0 8 linear /dev/a,b;c\\d 0".to_owned(), "8 8 error ".to_owned()];
        let text = written(("a,b", Some("U;1")), Some(3), true, lines.into_iter());
        assert_eq!(text, "a\\,b,U\\;1,3,ro,0 8 linear /dev/a\\,b\\;c\\\\d 0,8 8 error ");
        let read = parse(&text).unwrap();
        assert_eq!((read[0].name.as_str(), read[0].minor), ("a,b", Some(3)));
        assert_eq!(read[0].uuid.as_deref(), Some("U;1"));
        assert_eq!(read[0].lines, ["0 8 linear /dev/a,b;c\\d 0", "8 8 error"]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, why) in [
            ("x", "NAME,UUID,MINOR"),
            ("x,a b,,rw,0 1 error", "space"),
            ("x,,a,rw,0 1 error", "minor number"),
            ("x,,,rx,0 1 error", "`ro` or `rw`"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.starts_with("x: ") && said.contains(why), "{text}: {said}");
        }
    }
}
