//! What a run of `dmsetup.sh` has said, without what two runs cannot have in common: the numbers of
//! devices are their names, the numbers of events are left out, and of a complaint the reason is.

use std::collections::BTreeMap;

/// How the lines of stderr begin that are compared.
const COMPLAINTS: [&str; 9] = [
    "Device does not",
    "Invalid",
    "No device",
    "Please",
    "Incorrect",
    "Unknown",
    "Unable",
    "Name ",
    "--table",
];

/// What the lines of a command are.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Output,
    Complaint,
    Names,
    Other,
}

/// A command and what it has said.
struct Said {
    command: String,
    output: Vec<String>,
    complaint: Vec<String>,
    code: String,
}

/// The lines to compare; `dmsetup` is what the script has called.
pub fn comparable(text: &str, dmsetup: &str) -> Vec<String> {
    let mut names = BTreeMap::new();
    let mut lines = Vec::new();
    let mut said: Option<Said> = None;
    let mut part = Part::Other;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("@command ") {
            end(&mut said, &names, &mut lines);
            let command = command_of(command, dmsetup);
            let (output, complaint) = (Vec::new(), Vec::new());
            said = Some(Said { command, output, complaint, code: String::new() });
            part = Part::Output;
        } else if line == "@complaint" {
            part = Part::Complaint;
        } else if let (Some(code), Some(said)) = (line.strip_prefix("@code "), &mut said) {
            said.code = code.to_owned();
            part = Part::Other;
        } else if line == "@names" {
            part = Part::Names;
        } else {
            match (part, &mut said) {
                (Part::Output, Some(said)) => said.output.push(line.to_owned()),
                (Part::Complaint, Some(said)) => said.complaint.push(line.to_owned()),
                (Part::Names, _) if line.starts_with(|first: char| first.is_ascii_digit()) => {
                    learn(line, &mut names)
                }
                (Part::Names, _) => {}
                // What the script says itself.
                _ => {
                    end(&mut said, &names, &mut lines);
                    lines.push(line.to_owned());
                }
            }
        }
    }
    end(&mut said, &names, &mut lines);
    lines
}

/// Learns a device's name from `major minor attributes name`. A device without a table has no
/// number here.
fn learn(line: &str, names: &mut BTreeMap<(String, String), String>) {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (major, minor, attributes, name) = (next(), next(), next(), next());
    let name = if attributes.starts_with('L') { format!("<{name}>") } else { "-:-".to_owned() };
    names.insert((major, minor), name);
}

/// Writes down a command that has ended.
fn end(
    said: &mut Option<Said>,
    names: &BTreeMap<(String, String), String>,
    lines: &mut Vec<String>,
) {
    let Some(Said { command, output, complaint, code }) = said.take() else { return };
    let is_concise = command.contains("table --concise");
    lines.push(format!("$ {command}"));
    for line in output {
        let line = if is_concise { without_third(&line) } else { line };
        let line = with_names(&line, names);
        let head = ["Major, minor:", "Event number:"].into_iter().find(|it| line.starts_with(it));
        lines.push(format!("  | {}", head.unwrap_or(&line)));
    }
    lines
        .extend(complaint.iter().filter_map(|line| failed(line)).map(|line| format!("  ! {line}")));
    let begins = |line: &&String| COMPLAINTS.iter().any(|begin| line.starts_with(begin));
    lines.extend(complaint.iter().filter(begins).map(|line| format!("  ! {line}")));
    lines.push(format!("  = {code}"));
}

/// A command without the program that was called and the kernel's names of nodes.
fn command_of(command: &str, dmsetup: &str) -> String {
    let words = command.replacen(dmsetup, "dmsetup", 1);
    let words = words.split(' ').map(|word| {
        let number = ["/dev/dm-", "/dev/ublkb"].iter().find_map(|begin| word.strip_prefix(begin));
        match number {
            Some(number) if number.bytes().all(|digit| digit.is_ascii_digit()) => "NODE",
            _ => word,
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A concise table without the number of the device.
fn without_third(line: &str) -> String {
    let fields = line.split(',').enumerate();
    let fields = fields.map(|(at, field)| if at == 2 { "N" } else { field });
    fields.collect::<Vec<_>>().join(",")
}

/// A line with names for the numbers `M:N` and `(M, N)` of devices.
fn with_names(line: &str, names: &BTreeMap<(String, String), String>) -> String {
    let mut line = line.to_owned();
    for ((major, minor), name) in names {
        line = line.replace(&format!("({major}, {minor})"), &format!("({name})"));
        let numbers = format!("{major}:{minor}");
        let mut from = 0;
        while let Some(at) = line[from..].find(&numbers).map(|at| from + at) {
            let end = at + numbers.len();
            let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
            let bytes = line.as_bytes();
            if is_part(at.checked_sub(1).and_then(|at| bytes.get(at))) || is_part(bytes.get(end)) {
                from = end;
                continue;
            }
            line.replace_range(at..end, name);
            from = at + name.len();
        }
    }
    line
}

/// `device-mapper: VERB ioctl on NAME failed: WORDS` of a complaint, without what comes after it,
/// and without the number of the device.
fn failed(line: &str) -> Option<String> {
    let begin = line.find(" failed:")?;
    let (before, after) = (&line[..begin], &line[begin + " failed:".len()..]);
    let number = before.strip_suffix(')').and_then(|before| before.rsplit_once('('));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    let before = match number {
        Some((before, number)) if is_number(number) => format!("{} ", before.trim_end()),
        _ => before.to_owned(),
    };
    let after = after.split(':').next().unwrap_or_default();
    let line = format!("{before} failed:{after}");
    line.starts_with("device-mapper: ").then_some(line)
}
