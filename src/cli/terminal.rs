//! What a command prints for people: results on stdout, progress bars on a terminal.

use std::io::{self, ErrorKind, IsTerminal, Write};

use dm_targets::units::Sectors;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::io::Errno;

use super::json;
use crate::failure::{Failure, one_line, wrong_usage};
use crate::sys::stdout::was_closed;

/// What was being done when stdout could not be written.
pub const CANNOT_WRITE: &str = "cannot write the result to stdout";

/// stdout, where a reader that has gone away (EPIPE) is not a failure: `ublk-dm list | head -1` has
/// succeeded. Any other error that keeps the result from being written is a failure, as is a stdout
/// that the caller has closed.
pub struct Stdout(io::StdoutLock<'static>);

/// Opens stdout for a result.
pub fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

/// Treats a reader that has gone away as one that has read everything.
fn unless_reader_left<T>(result: io::Result<T>, all: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(all),
        result => result,
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if was_closed() {
            return Err(Errno::BADF.into());
        }
        unless_reader_left(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_reader_left(self.0.flush(), ())
    }
}

/// Writes a result to stdout; a result that cannot be written is a failure of the command.
pub fn print_text(text: &str) -> Result<(), Failure> {
    let mut stdout = stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::from(error).context(CANNOT_WRITE))
}

/// Prints a line to stdout.
pub fn print(line: &str) -> Result<(), Failure> {
    print_text(&format!("{line}\n"))
}

/// Reports why a command fails, in one line on stderr.
///
/// The line may contain user input: characters that a terminal would act on are escaped. If stderr
/// cannot be written, the exit code still says that the command failed.
pub fn complain(why: &Failure) {
    let line = one_line(&why.to_string());
    let object = json::is_on().then(|| json::error_line(why, &line));
    drop(match object {
        Some(Ok(object)) => writeln!(io::stderr(), "{object}"),
        _ => writeln!(io::stderr(), "ublk-dm: {line}"),
    });
}

/// Reports that the command line is wrong.
pub fn refuse_usage(line: String) {
    complain(&wrong_usage(line));
}

/// A progress bar on a terminal, a hidden one elsewhere and with `--json`.
pub fn progress_bar(total: Sectors) -> ProgressBar {
    if json::is_on() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total.bytes());
    let template = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
