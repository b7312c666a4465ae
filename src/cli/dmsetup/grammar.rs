//! dmsetup's command line: a command, and options that may stand before, between and after the
//! words. Pure.
//!
//! Rules kept here: what dmsetup accepts is accepted, a long option also by its beginning; and what
//! is accepted and would have no effect that a script relies on is refused by name, not ignored.

use clap::{ArgAction, Parser};

use crate::failure::{Failure, wrong_usage};

/// The options, all of which dmsetup takes with every command, and the words.
#[derive(Parser, Default)]
#[command(
    name = "dmsetup",
    infer_long_args = true,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
pub(super) struct Asked {
    /// The command and what it is about.
    pub words: Vec<String>,
    #[arg(short, long)]
    pub help: bool,
    #[arg(long)]
    pub version: bool,
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    #[arg(short, long)]
    pub force: bool,
    #[arg(short = 'c', visible_short_alias = 'C', long)]
    pub columns: bool,
    #[arg(short, long)]
    pub notable: bool,
    #[arg(short, long)]
    pub readonly: bool,
    #[arg(short, long, allow_hyphen_values = true)]
    pub uuid: Option<String>,
    #[arg(long)]
    setuuid: bool,
    #[arg(short = 'j', long)]
    pub major: Option<u32>,
    #[arg(short, long)]
    pub minor: Option<u32>,
    /// The table, or since 1.02.186 the file that has it.
    #[arg(long, allow_hyphen_values = true)]
    pub table: Option<String>,
    #[arg(short, long, allow_hyphen_values = true)]
    pub options: Option<String>,
    #[arg(short = 'O', long, allow_hyphen_values = true)]
    pub sort: Option<String>,
    #[arg(short = 'S', long, allow_hyphen_values = true)]
    pub select: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub separator: Option<String>,
    #[arg(long)]
    pub noheadings: bool,
    #[arg(long)]
    pub nameprefixes: bool,
    #[arg(long)]
    pub unquoted: bool,
    #[arg(long)]
    pub rows: bool,
    #[arg(long)]
    pub target: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub exec: Option<String>,
    #[arg(long)]
    pub tree: bool,
    #[arg(long)]
    pub inactive: bool,
    #[arg(long)]
    pub concise: bool,
    #[arg(long)]
    pub noflush: bool,
    #[arg(long)]
    pub retry: bool,
    #[arg(long)]
    pub deferred: bool,
    #[arg(long)]
    count: Option<u64>,
    #[arg(long)]
    interval: Option<u64>,
    #[arg(short = 'U', long)]
    uid: Option<String>,
    #[arg(short = 'G', long)]
    gid: Option<String>,
    #[arg(short = 'M', long)]
    mode: Option<String>,
    #[command(flatten)]
    accepted: Accepted,
}

/// Options that ask for what is so anyway, or that ublk-dm has nothing for.
#[derive(clap::Args, Default)]
struct Accepted {
    #[arg(long)]
    nolockfs: bool,
    #[arg(long)]
    noopencount: bool,
    #[arg(long)]
    noudevrules: bool,
    #[arg(long)]
    noudevsync: bool,
    #[arg(long)]
    verifyudev: bool,
    #[arg(long)]
    addnodeoncreate: bool,
    #[arg(long)]
    addnodeonresume: bool,
    #[arg(long)]
    checks: bool,
    #[arg(long)]
    showkeys: bool,
    #[arg(long)]
    unbuffered: bool,
    #[arg(short, long)]
    yes: bool,
    #[arg(long)]
    udevcookie: Option<String>,
    #[arg(long)]
    manglename: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    readahead: Option<String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Clear,
    Create,
    Deps,
    Help,
    Info,
    Load,
    Ls,
    Message,
    /// What udev and device-mapper have to agree on, of which there is nothing here.
    Nothing,
    Remove,
    RemoveAll,
    Rename,
    Resume,
    Status,
    Suspend,
    Table,
    Targets,
    TargetVersion,
    Version,
    Wait,
    WipeTable,
}

/// The commands, with the fewest and the most words after each, as dmsetup counts them.
const VERBS: [(&str, Verb, usize, usize); 30] = [
    ("clear", Verb::Clear, 0, ANY),
    ("create", Verb::Create, 0, 2),
    ("deps", Verb::Deps, 0, ANY),
    ("help", Verb::Help, 0, ANY),
    ("info", Verb::Info, 0, ANY),
    ("load", Verb::Load, 0, 2),
    ("ls", Verb::Ls, 0, 0),
    ("mangle", Verb::Nothing, 0, ANY),
    ("message", Verb::Message, 2, ANY),
    ("mknodes", Verb::Nothing, 0, ANY),
    ("reload", Verb::Load, 0, 2),
    ("remove", Verb::Remove, 0, ANY),
    ("remove_all", Verb::RemoveAll, 0, 0),
    ("rename", Verb::Rename, 1, 2),
    ("resume", Verb::Resume, 0, ANY),
    ("status", Verb::Status, 0, ANY),
    ("suspend", Verb::Suspend, 0, ANY),
    ("table", Verb::Table, 0, ANY),
    ("target-version", Verb::TargetVersion, 1, ANY),
    ("targets", Verb::Targets, 0, 0),
    ("udevcomplete", Verb::Nothing, 1, 1),
    ("udevcomplete_all", Verb::Nothing, 0, 1),
    ("udevcookies", Verb::Nothing, 0, 0),
    ("udevcookie", Verb::Nothing, 0, 0),
    ("udevcreatecookie", Verb::Nothing, 0, 0),
    ("udevflags", Verb::Nothing, 1, 1),
    ("udevreleasecookie", Verb::Nothing, 0, 1),
    ("version", Verb::Version, 0, 0),
    ("wait", Verb::Wait, 0, 2),
    ("wipe_table", Verb::WipeTable, 0, ANY),
];
const ANY: usize = usize::MAX;
/// Those that dmsetup has and ublk-dm has nothing for.
const NOT_HERE: [&str; 4] = ["measure", "setgeometry", "splitname", "stats"];

/// Reads a command line. `Err(None)`: it has no command, and the usage is what is wanted.
pub(super) fn parse(words: &[String]) -> Result<(Verb, Asked), Option<Failure>> {
    let all = std::iter::once("dmsetup").chain(words.iter().map(String::as_str));
    let mut asked = Asked::try_parse_from(all).map_err(|error| Some(one_line(&error)))?;
    if asked.help {
        return Ok((Verb::Help, asked));
    }
    if asked.version {
        return Ok((Verb::Version, asked));
    }
    if asked.words.is_empty() {
        return Err(None);
    }
    let command = asked.words.remove(0);
    let known = VERBS.iter().find(|(name, ..)| *name == command);
    let Some((_, verb, fewest, most)) = known else {
        let why = match NOT_HERE.contains(&command.as_str()) {
            true => format!("{command}: not supported for devices of ublk-dm"),
            false => "Unknown command.".to_owned(),
        };
        return Err(Some(wrong_usage(why)));
    };
    if !(*fewest..=*most).contains(&asked.words.len()) {
        return Err(Some(wrong_usage("Incorrect number of arguments.")));
    }
    asked.refuse_ineffective(*verb).map_err(Some)?;
    Ok((*verb, asked))
}

impl Asked {
    /// A command about these words, or about the device that the options name.
    pub fn about(&self, words: &[String]) -> Asked {
        Asked {
            words: words.to_vec(),
            uuid: self.uuid.clone(),
            major: self.major,
            minor: self.minor,
            ..Asked::default()
        }
    }

    /// Refuses options that would change what a script sees, and have nothing behind them.
    fn refuse_ineffective(&self, verb: Verb) -> Result<(), Failure> {
        let node = "nodes of devices belong to udev: use a rule";
        let repeats = self.count.is_some_and(|count| count != 1)
            || (self.interval.is_some() && self.count.is_none());
        if verb == Verb::Create && self.notable && self.table.is_some() {
            return Err(wrong_usage("--table and --notable are incompatible."));
        }
        for (is_given, option, why) in [
            (self.uid.is_some(), "--uid", node),
            (self.gid.is_some(), "--gid", node),
            (self.mode.is_some(), "--mode", node),
            (repeats, "--count and --interval", "a report is printed once"),
            (self.setuuid, "--setuuid", "a device has its uuid from its creation on"),
        ] {
            if is_given {
                return Err(wrong_usage(format!("{option}: not supported: {why}")));
            }
        }
        Ok(())
    }
}

/// clap's error without its hints.
fn one_line(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let lines: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    wrong_usage(format!("dmsetup: {}", line.strip_prefix("error: ").unwrap_or(&line)))
}

/// A table as dmsetup reads it, `of` the file with this name: empty lines and comments are left
/// out, and of each line that remains the beginning is checked.
pub(super) fn table(text: &str, of: &str) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        // A comment begins where a word does.
        let comment = [" #", "\t#"].iter().filter_map(|start| line.find(start)).min();
        let line = line[..comment.unwrap_or(line.len())].trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let number = |word: Option<&str>| word.is_some_and(|word| word.parse::<u64>().is_ok());
        if !(number(words.next()) && number(words.next()) && words.next().is_some()) {
            return Err(wrong_usage(format!("Invalid format on line {} of table {of}.", at + 1)));
        }
        lines.push(line.to_owned());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Verb, Asked) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&words).unwrap_or_else(|why| {
            panic!("{line}: {}", why.map_or_else(String::new, |why| why.to_string()))
        })
    }

    fn refused(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        match parse(&words) {
            Err(Some(why)) => why.to_string(),
            _ => panic!("{line}: accepted"),
        }
    }

    #[test]
    fn options_stand_anywhere_and_may_be_short() {
        for line in [
            "info -c --noheadings -o name,open v",
            "-c info v --noheadings -oname,open",
            "info v -C --nohead --options=name,open",
            "info --col -o open -o name,open --noheadings -- v",
        ] {
            let (verb, asked) = read(line);
            assert_eq!((verb, asked.words), (Verb::Info, vec!["v".to_owned()]), "{line}");
            assert!(asked.columns && asked.noheadings, "{line}");
            assert_eq!(asked.options.as_deref(), Some("name,open"), "{line}");
        }
        let (verb, asked) = read("reload v --table -x -r");
        assert_eq!((verb, asked.table.as_deref()), (Verb::Load, Some("-x")));
        assert!(asked.readonly);
        let (_, asked) = read("info -c -O -open,name -j 259 -m 3 -vv");
        assert_eq!((asked.sort.as_deref(), asked.verbose), (Some("-open,name"), 2));
        assert_eq!((asked.major, asked.minor), (Some(259), Some(3)));
        let (_, asked) = read("suspend --nolockfs --noflush --noudevsync --udevcookie 0xd4d1 a b");
        assert!(asked.noflush && asked.words.len() == 2);
    }

    #[test]
    fn commands_are_whole_words_with_so_many_arguments() {
        assert!(matches!(parse(&[]), Err(None)));
        assert!(matches!(parse(&["-v".to_owned()]), Err(None)));
        for line in ["message v", "wait a b c", "create a b c", "ls v", "targets zero"] {
            assert_eq!(refused(line), "Incorrect number of arguments.", "{line}");
        }
        for line in ["crea v", "CREATE v", "bogus"] {
            assert_eq!(refused(line), "Unknown command.", "{line}");
        }
        for line in ["stats list", "setgeometry v", "measure", "splitname vg-lv"] {
            assert!(refused(line).contains("not supported for devices of ublk-dm"), "{line}");
        }
        assert!(refused("info --bogus").starts_with("dmsetup: unexpected argument '--bogus'"));
        for line in ["mknodes", "udevcomplete 0xd4d1", "udevcreatecookie", "mangle v"] {
            assert_eq!(read(line).0, Verb::Nothing, "{line}");
        }
        assert_eq!(read("info --help").0, Verb::Help);
        assert_eq!(read("--version").0, Verb::Version);
    }

    #[test]
    fn what_would_have_no_effect_is_refused_by_name() {
        for line in
            ["rename v --setuuid U", "create v -M 0600", "info -c --count 2", "info --interval 1"]
        {
            assert!(refused(line).contains(": not supported: "), "{line}");
        }
        assert_eq!(read("info -u U").1.uuid.as_deref(), Some("U"), "as a name");
        assert!(read("info -c --count 1").1.columns);
    }

    #[test]
    fn a_table_is_its_lines_without_comments() {
        let lines = table("# a\n\n 0 8 zero #b\n8 8 linear /dev/a# 0\n", "f").unwrap();
        assert_eq!(lines, ["0 8 zero", "8 8 linear /dev/a# 0"]);
        assert_eq!(table("", "").unwrap(), Vec::<String>::new());
        for (text, line) in [("garbage", 1), ("0 bogus", 1), ("0 8 zero\n8 8", 2), ("-1 8 zero", 1)]
        {
            let why = table(text, "f").unwrap_err().to_string();
            assert_eq!(why, format!("Invalid format on line {line} of table f."));
        }
    }
}
