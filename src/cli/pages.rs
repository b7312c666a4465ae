//! `completions` and `man`: what a package installs beside the program, made from the same table as
//! the help, so that neither can lag behind it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::examples;
use super::args::text::OnlyText;
use super::terminal::print_text;
use crate::failure::Failure;

/// The name of the program, whatever it was called as.
const PROGRAM: &str = "ublk-dm";

/// What is printed or written.
#[derive(Subcommand)]
pub enum Pages {
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
        #[command(flatten)]
        text: OnlyText,
    },
    /// Write the manual pages of all verbs into a directory
    Man {
        /// The directory; it is made if it is not there
        dir: PathBuf,
        #[command(flatten)]
        text: OnlyText,
    },
}

/// Prints or writes it; `command`: the program's command line.
pub(super) fn run(what: &Pages, command: Command) -> Result<(), Failure> {
    match what {
        Pages::Completions { shell, .. } => completions(*shell, command),
        Pages::Man { dir, .. } => man(dir, command),
    }
}

fn completions(shell: Shell, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, PROGRAM, &mut script);
    print_text(&String::from_utf8_lossy(&script))
}

fn man(dir: &Path, command: Command) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::at(dir, error))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    page(dir, command, "")
}

/// Writes the page of a verb, and those of its verbs.
fn page(dir: &Path, command: Command, verb: &str) -> Result<(), Failure> {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()).cloned() {
        let path = format!("{verb} {}", one.get_name());
        page(dir, one, path.trim())?;
    }
    let page = Man::new(command);
    let path = dir.join(page.get_filename());
    let mut text = Vec::new();
    let written = page.render(&mut text).and_then(|()| render_examples(verb, &mut text));
    written.and_then(|()| fs::write(&path, text)).map_err(|error| Failure::at(&path, error))
}

fn render_examples(verb: &str, text: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::default();
    for (at, (what, lines)) in examples::of(verb).iter().enumerate() {
        match at {
            0 => roff.control("SH", ["EXAMPLES"]),
            _ => roff.control("PP", []),
        };
        roff.text([roman(format!("{what}:"))]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        for line in *lines {
            roff.text([roman(*line)]);
        }
        roff.control("fi", []);
        roff.control("RE", []);
    }
    roff.to_writer(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn every_verb_has_a_page_with_its_help() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man1");
        man(&pages, Cli::command()).unwrap();
        let page = |name: &str| fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            if name != "help" {
                let page = page(&format!("ublk-dm-{name}"));
                assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH EXAMPLES"), "{name}");
            }
        }
        assert!(page("ublk-dm").contains("ublk\\-dm\\-merge(1)"), "{}", page("ublk-dm"));
        assert!(page("ublk-dm-add-snapshot").contains("\\-\\-chunk\\-size"));
        let shown = "\n.nf\nublk\\-dm wait m \\-\\-in\\-sync\n.fi\n";
        assert!(page("ublk-dm-wait").contains(shown), "{}", page("ublk-dm-wait"));
        // Verbs between processes are nobody's.
        assert!(!pages.join("ublk-dm-serve.1").exists());
    }
}
