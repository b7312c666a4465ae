//! `ublk-dm`: device-mapper's snapshot and mirror targets as a userspace server on ublk.
//!
//! Commands are short-lived: they find or start the server of a family and ask it over a socket in the run directory. A
//! server is this same program under the hidden verb `serve`; it has a control thread ([`server`]) and a data thread
//! ([`family`]) whose one ring ([`ring`]) carries ublk commands and disk I/O alike.
//!
//! `unsafe` is only where rings, mappings and system calls are owned: [`ring`], [`arena`], [`queue`], [`family`],
//! [`rundir`], `control` and `open`.

mod arena;
mod cli;
mod commands;
mod control;
mod daemon;
mod family;
mod offline;
mod open;
mod proto;
mod queue;
mod report;
mod ring;
mod rundir;
mod server;
mod signature;
mod transfer;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, _) => log::LevelFilter::Debug,
    };
    let level = if matches!(cli.verb, cli::Verb::Serve { .. }) { level.max(log::LevelFilter::Info) } else { level };
    env_logger::Builder::new().filter_level(level).parse_default_env().init();
    match commands::run(cli.verb) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("ublk-dm: {}", failure.message.replace('\n', " "));
            ExitCode::from(failure.code)
        }
    }
}
