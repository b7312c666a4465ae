//! `ublk-dm`: device-mapper's snapshot and mirror targets as a userspace server on ublk.
//!
//! Commands are short-lived: a command finds or starts the server of a family and sends its request
//! over a socket in the run directory. A server is this same program under the hidden verb `serve`;
//! it has a control thread ([`server`]) and a data thread ([`data`]) whose one ring ([`ring`])
//! carries ublk commands and disk I/O alike.
//!
//! `unsafe` is allowed only in the modules that own rings and memory, and in `sys` for calls that
//! no safe crate offers; the compiler rejects it everywhere else.

mod cli;
mod data;
mod failure;
mod offline;
mod protocol;
#[allow(unsafe_code)]
mod ring;
mod rundir;
mod server;
mod storage;
mod sys;
mod tab;
mod ublk;

#[cfg(all(test, feature = "mutants"))]
#[allow(clippy::unwrap_used)]
#[path = "../tests/sim/admin/mod.rs"]
mod admin_simulation;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use cli::json;
use cli::terminal::{complain, print_text, refuse_usage};
use server::logging::Look;
use storage::silent;

/// Exit code for an invalid command line.
const WRONG_USAGE: u8 = 2;

/// The error of a command line as one line: clap's message without the usage text after it.
fn usage_line(error: &clap::Error) -> String {
    let help = help_of(cli::args::words(std::env::args_os()).into_iter().skip(1));
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("a verb or an argument is missing; see `{help}`");
    }
    let text = error.to_string();
    let message: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let message = message.join(" ");
    format!("{}; see `{help}`", message.strip_prefix("error: ").unwrap_or(&message))
}

/// The command that shows the help for the verb among these words, or for all verbs.
fn help_of(words: impl Iterator<Item = OsString>) -> String {
    let mut verb = cli::args::command();
    let mut help = verb.get_name().to_owned();
    // No flag before a verb takes a value.
    let words = words.map(|word| word.to_string_lossy().into_owned());
    for word in words.filter(|word| !word.starts_with('-')) {
        let Some(found) = verb.find_subcommand(&word).filter(|found| !found.is_hide_set()) else {
            break;
        };
        verb = found.clone();
        help = format!("{help} {}", verb.get_name());
    }
    format!("{help} --help")
}

/// Prints the help or version text.
fn show(asked: &clap::Error) -> ExitCode {
    let text = asked.render();
    let styled = std::io::stdout().is_terminal();
    let text = if styled { text.ansi().to_string() } else { text.to_string() };
    match print_text(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn main() -> ExitCode {
    sys::limits::ignore_signal();
    if let Some(disks) = silent::asked(std::env::args_os().skip(1), std::io::stdin()) {
        let asked = silent::ask_all(disks, std::io::stdout());
        return asked.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    if let Some(words) = cli::dmsetup::words_in(std::env::args_os()) {
        server::logging::install(log::LevelFilter::Warn, Look::of_text(false));
        let code = cli::dmsetup::run(&words);
        log::logger().flush();
        return code;
    }
    let words = cli::args::words(std::env::args_os());
    let cli = match cli::args::parse(words) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            if std::env::args_os().any(|word| word == json::FLAG) {
                json::turn_on();
            }
            refuse_usage(usage_line(&error));
            return ExitCode::from(WRONG_USAGE);
        }
        // The user asked for help or the version.
        Err(error) => return show(&error),
    };
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, _) => log::LevelFilter::Debug,
    };
    let is_server = matches!(&cli.verb, cli::args::Verb::Internal(what) if what.serves());
    let level = if is_server { level.max(log::LevelFilter::Info) } else { level };
    if cli.json {
        json::turn_on();
    }
    let text = Look::of_text(cli.verbose > 0 || is_server);
    server::logging::install(level, if cli.json { Look::Objects } else { text });
    if cli.verb.serves() {
        server::environment::close_inherited();
    }
    let code = match cli::run(cli.verb, cli.json) {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.code())
        }
    };
    log::logger().flush();
    code
}
