//! `completions` and `man`: what a package installs beside the program, made from the same table as
//! the help, so that neither can lag behind it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, Subcommand};
use clap_complete::Shell;

use super::args::text::OnlyText;
use super::terminal::print_text;
use crate::failure::Failure;

/// The name of the program, whatever it was called as.
const PROGRAM: &str = "ublk-dm";

/// What is printed or written.
#[derive(Subcommand)]
pub enum Pages {
    /// Print the completions for a shell
    ///
    ///     ublk-dm completions bash > /usr/share/bash-completion/completions/ublk-dm
    #[command(verbatim_doc_comment)]
    Completions {
        /// The shell
        shell: Shell,
        #[command(flatten)]
        text: OnlyText,
    },
    /// Write the manual pages of all verbs into a directory
    ///
    ///     ublk-dm man /usr/local/share/man/man1
    #[command(verbatim_doc_comment)]
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
    let at = |error| Failure::at(dir, error);
    fs::create_dir_all(dir).map_err(at)?;
    clap_mangen::generate_to(command, dir).map_err(at)
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
                assert!(page(&format!("ublk-dm-{name}")).contains(".SH SYNOPSIS"), "{name}");
            }
        }
        assert!(page("ublk-dm").contains("ublk\\-dm\\-merge(1)"), "{}", page("ublk-dm"));
        assert!(page("ublk-dm-add-snapshot").contains("\\-\\-chunk\\-size"));
        // Verbs between processes are nobody's.
        assert!(!pages.join("ublk-dm-serve.1").exists());
    }
}
