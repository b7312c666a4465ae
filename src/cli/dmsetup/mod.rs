//! `dmsetup ARGS...`, and the program under the name `udmsetup`: the grammar, the output and the
//! exit codes of dmsetup, for devices of ublk-dm.
//!
//! Rules kept here: words become the calls that the house's own verbs make, so that no rule about
//! data is kept twice; dmsetup on the same machine is the judge of what is printed; what it can and
//! this cannot is refused by name; and exit codes are 0 and 1, whatever failed.

mod change;
mod chosen;
mod columns;
mod complaint;
mod concise;
mod devices;
pub mod entry;
mod fields;
mod grammar;
mod select;
mod show;
mod tree;
mod usage;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::failure::Failure;
use change::Simple;
use complaint::say;
use devices::All;
use grammar::{Asked, Verb};
use show::Lines;

/// The name under which the program is dmsetup.
const NAME: &str = "udmsetup";
/// The verb, and what its own help is asked with.
const VERB: &str = "dmsetup";
const HELP: [&str; 2] = ["--help", "-h"];
/// The interface of device-mapper that scripts may count on: the first one whose `--inactive`
/// works, and before the one that has deferred removal.
const DRIVER: &str = "4.16.0";

/// The words for dmsetup on the program's command line, if it is called as that: by the name, or by
/// the verb before any flag, since their flags are not the same.
pub fn words_in(mut all: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let name = all.next()?;
    if Path::new(&name).file_name()? == NAME {
        return Some(all.collect());
    }
    let verb = all.next()?;
    let rest: Vec<OsString> = all.collect();
    let asks_help = rest.first().is_some_and(|word| HELP.iter().any(|help| word == help));
    (verb == VERB && !asks_help).then_some(rest)
}

/// Does what dmsetup would.
pub fn run(words: &[OsString]) -> ExitCode {
    let text = |word: &OsString| word.to_str().map(str::to_owned);
    let Some(words) = words.iter().map(text).collect::<Option<Vec<String>>>() else {
        say("dmsetup: an argument is not UTF-8");
        say("Couldn't process command line.");
        return ExitCode::FAILURE;
    };
    let (verb, asked) = match grammar::parse(&words) {
        Ok(asked) => asked,
        Err(why) => {
            why.as_ref().map_or_else(usage::print, |why| say(&why.to_string()));
            say("Couldn't process command line.");
            return ExitCode::FAILURE;
        }
    };
    let Err(why) = carry_out(verb, &asked) else { return ExitCode::SUCCESS };
    say(&why.to_string());
    say("Command failed.");
    ExitCode::FAILURE
}

fn carry_out(verb: Verb, asked: &Asked) -> Result<(), Failure> {
    match verb {
        Verb::Clear => change::simple(asked, Simple::Clear),
        Verb::Create => change::create(asked),
        Verb::Deps => show::deps(&All::read()?, asked),
        Verb::Help => {
            usage::print();
            Ok(())
        }
        Verb::Info => show::info(&All::read()?, asked),
        Verb::Load => change::load(asked),
        Verb::Ls => show::ls(&All::read()?, asked),
        Verb::Message => change::send(asked),
        Verb::Nothing => Ok(()),
        Verb::Remove => change::remove(asked),
        Verb::RemoveAll => change::remove_all(asked),
        Verb::Rename => change::rename(asked),
        Verb::Resume => change::simple(asked, Simple::Resume),
        Verb::Status => show::lines(&All::read()?, asked, Lines::Status),
        Verb::Suspend => change::simple(asked, Simple::Suspend),
        Verb::Table => show::lines(&All::read()?, asked, Lines::Table),
        Verb::Targets => show::targets(&[]),
        Verb::TargetVersion => show::targets(&asked.words),
        Verb::Version => usage::version(DRIVER),
        Verb::Wait => change::wait(asked),
        Verb::WipeTable => change::wipe_table(asked),
    }
}

/// The verb as clap has read it, with a flag of the program before it.
pub(super) fn verb(words: &[OsString]) -> Result<ExitCode, Failure> {
    Ok(run(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<String> {
        let found = words_in(line.split(' ').map(OsString::from));
        found.map(|words| words.join(std::ffi::OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn the_name_or_the_verb_makes_it_dmsetup() {
        assert_eq!(words("udmsetup -v info").as_deref(), Some("-v info"));
        assert_eq!(words("/usr/sbin/udmsetup --help").as_deref(), Some("--help"));
        assert_eq!(words("ublk-dm dmsetup -v info").as_deref(), Some("-v info"));
        assert_eq!(words("ublk-dm dmsetup info --help").as_deref(), Some("info --help"));
        for line in ["ublk-dm list", "ublk-dm dmsetup --help", "ublk-dm -v dmsetup info", "ublk-dm"]
        {
            assert_eq!(words(line), None, "{line}");
        }
    }
}
