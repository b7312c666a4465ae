//! The log of a server: every line has a priority, reaches the machine's log, and outlives the
//! device.
//!
//! A line goes to a file below the run directory ([`file`]), which stays when the device is gone;
//! to the journal, or to syslog if there is no journal ([`system`]); and in the foreground to
//! stderr, with an `<N>` prefix if stderr is the journal, which then gets no second copy. An event
//! of a device has fields: it goes to the journal with them, whatever stderr is, and to a file of
//! events ([`events`]).
//!
//! Rules kept here: logging never blocks the thread that logs. Lines go through a queue of
//! [`MAX_QUEUED`] to a thread that writes them; lines that find the queue full are dropped, and
//! their number is logged. The end of the process waits for queued lines, but no longer than
//! [`FLUSH_LIMIT`].

mod command;
mod events;
mod file;
mod system;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use env_logger::Logger;
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::connected_to_journal;

use events::fields_of;
use file::LogFile;
use system::{Fields, SystemLog};

pub use command::Look;
pub use file::open as open_file;

use crate::rundir::EVENTS;

/// Most lines in the queue: one second of a busy server, and little memory.
const MAX_QUEUED: usize = 1024;
/// How long the end of a process waits for its last lines: a journal that does not answer does not
/// keep the process alive.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two checks for room in the queue at the end of a process.
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// The logger of a command: stderr.
static COMMAND: OnceLock<Logger> = OnceLock::new();
/// The logger of a server, once the process has become one.
static SERVER: OnceLock<Queue> = OnceLock::new();

/// The process's logger: that of a command, and from [`start`] on that of a server.
struct Front;

impl Front {
    fn now() -> Option<&'static dyn Log> {
        SERVER.get().map(|log| log as &dyn Log).or_else(|| COMMAND.get().map(|log| log as &dyn Log))
    }
}

impl Log for Front {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Front::now().is_some_and(|log| log.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(log) = Front::now() {
            log.log(record);
        }
    }

    fn flush(&self) {
        if let Some(log) = Front::now() {
            log.flush();
        }
    }
}

/// Sets up logging for a command: to stderr.
pub fn install(level: LevelFilter, look: Look) {
    let command = command::logger(level, look);
    let level = command.filter();
    if COMMAND.set(command).is_ok() && log::set_logger(&Front).is_ok() {
        log::set_max_level(level);
    }
}

/// The destinations of a server's lines besides the machine's log.
pub struct Destination {
    /// The file below the run directory.
    pub file: PathBuf,
    /// Prefix of each line in the machine's log: identifies the server.
    pub key: String,
    /// A server in the foreground also logs to stderr, as a command does.
    pub foreground: bool,
}

struct Line {
    at: SystemTime,
    level: Level,
    target: String,
    message: String,
    /// Those of an event; none for other lines.
    fields: Fields,
}

enum Job {
    Write(Line),
    /// All destinations are opened again.
    Reopen,
    /// All earlier lines have been written when the sender is dropped.
    Flush(Sender<()>),
}

/// The sending end of the queue, shared by all threads of a server.
struct Queue {
    filter: Logger,
    jobs: SyncSender<Job>,
}

/// Number of dropped lines that has not been logged yet.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Sets up logging for a server. Called once, before its threads start.
///
/// # Errors
/// The thread cannot be started. A destination that cannot be opened is left out, and the others
/// get a line about it.
pub fn start(destination: Destination) -> io::Result<()> {
    let command = COMMAND.get().map_or(LevelFilter::Warn, Logger::filter);
    // Device events have the level info, and are asked for when it is too late to enable it.
    let level = command.max(LevelFilter::Info);
    let filter = env_logger::Builder::new().filter_level(level).parse_default_env().build();
    let max = filter.filter();
    let (jobs, queue) = sync_channel(MAX_QUEUED);
    let sinks = Sinks::open(destination, command);
    std::thread::Builder::new().name("log".into()).spawn(move || sinks.write_all(&queue))?;
    if SERVER.set(Queue { filter, jobs }).is_ok() {
        log::set_max_level(max);
    }
    // A thread that panics ends the process; its message must not be lost.
    std::panic::set_hook(Box::new(|panic| {
        log::error!("{}", panic.to_string().replace('\n', " "));
        log::logger().flush();
        // As the program that people get does by itself.
        #[cfg(panic = "unwind")]
        std::process::abort();
    }));
    Ok(())
}

/// Opens the files again, which somebody may have moved away, and the machine's log, which may be
/// another one by now (a server that was started in an initrd begins without a journal).
pub fn reopen() {
    if SERVER.get().is_some_and(|server| server.jobs.try_send(Job::Reopen).is_err()) {
        log::warn!("the log is too slow: its files were not opened again");
    }
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        let line = Line {
            at: SystemTime::now(),
            level: record.level(),
            target: record.target().to_owned(),
            message: record.args().to_string(),
            fields: fields_of(record),
        };
        if self.jobs.try_send(Job::Write(line)).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let until = Instant::now() + FLUSH_LIMIT;
        let (done, written) = channel();
        let mut job = Job::Flush(done);
        // A send with a timeout does not exist; this is the end of the process.
        while let Err(TrySendError::Full(back)) = self.jobs.try_send(job) {
            if Instant::now() > until {
                return;
            }
            job = back;
            std::thread::sleep(FLUSH_PAUSE);
        }
        written.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    }
}

/// How a line is formatted for a destination.
type Form = fn(&Line) -> String;
/// The format of lines on stderr, and the most verbose level written there.
type Stderr = (Form, LevelFilter);

/// The destinations of the logging thread.
struct Sinks {
    /// The path of the file, and the prefix of each line in the machine's log.
    opened_as: (PathBuf, String),
    file: Option<LogFile>,
    /// Where events go; the file is opened with the first.
    events: PathBuf,
    event_file: Option<LogFile>,
    system: Option<SystemLog>,
    /// stderr is the journal: it gets only events by another way.
    in_journal: bool,
    stderr: Option<Stderr>,
}

impl Sinks {
    fn open(destination: Destination, command: LevelFilter) -> Sinks {
        let Destination { file, key, foreground } = destination;
        let stderr: Option<Stderr> = match foreground {
            false => None,
            true if connected_to_journal() => Some((with_priority as Form, LevelFilter::Trace)),
            true => Some((with_time as Form, command)),
        };
        let in_journal = foreground && connected_to_journal();
        let system = SystemLog::open(&key);
        let events = file.with_extension(EVENTS);
        let opened_as = (file, key);
        let (file, event_file) = (None, None);
        let mut sinks = Sinks { opened_as, file, events, event_file, system, in_journal, stderr };
        sinks.open_file(!foreground);
        sinks
    }

    fn open_file(&mut self, takes_stderr: bool) {
        match LogFile::open(self.opened_as.0.clone(), takes_stderr) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.write(&own_line(Level::Warn, format!("no log file: {error}"))),
        }
    }

    fn reopen(&mut self) {
        self.event_file = None;
        self.system = SystemLog::open(&self.opened_as.1).or(self.system.take());
        self.open_file(self.stderr.is_none());
    }

    fn write_all(mut self, queue: &Receiver<Job>) {
        for job in queue {
            match job {
                Job::Write(line) => self.write(&line),
                Job::Reopen => self.reopen(),
                Job::Flush(done) => drop(done),
            }
            let dropped = DROPPED.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.write(&own_line(
                    Level::Warn,
                    format!("{dropped} log lines were dropped: the log is too slow"),
                ));
            }
        }
    }

    /// Writes a line to all destinations. A failing destination is not reported: the others have
    /// the line.
    fn write(&mut self, line: &Line) {
        if let Some(file) = &mut self.file {
            drop(file.write(&with_time(line)));
        }
        let is_event = !line.fields.is_empty();
        let has_system = self.system.is_some();
        if let Some(system) = self.system.as_ref().filter(|_| is_event || !self.in_journal) {
            system.write(line.level, &line.target, &line.message, &line.fields);
        }
        let is_told = self.in_journal && is_event && has_system;
        let stderr = self.stderr.filter(|(_, level)| !is_told && line.level <= *level);
        if let Some((form, _)) = stderr {
            drop(writeln!(io::stderr(), "{}", form(line)));
        }
        if is_event {
            self.write_event(line);
        }
    }

    /// Writes an event to its file. If there is no room for it, the log has it.
    fn write_event(&mut self, line: &Line) {
        if self.event_file.is_none() {
            self.event_file = LogFile::open(self.events.clone(), false).ok();
        }
        if let Some(file) = &mut self.event_file {
            let event = events::line_of(line.at, line.level, &line.fields, &line.message);
            drop(file.write(&event));
        }
    }
}

fn own_line(level: Level, message: String) -> Line {
    let target = module_path!().to_owned();
    Line { at: SystemTime::now(), level, target, message, fields: Fields::new() }
}

/// The format for terminals and files.
fn with_time(line: &Line) -> String {
    format!("{} {:<5} {}", system::utc(line.at), line.level, line.message)
}

/// The format for a service manager that reads stderr.
fn with_priority(line: &Line) -> String {
    format!("<{}>{}", system::priority(line.level), line.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: Level) -> Line {
        Line {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(86_400),
            level,
            target: "t".into(),
            message: "m: x".into(),
            fields: Fields::new(),
        }
    }

    #[test]
    fn a_line_has_a_time_or_a_priority() {
        assert_eq!(with_time(&line(Level::Warn)), "1970-01-02T00:00:00Z WARN  m: x");
        assert_eq!(with_priority(&line(Level::Error)), "<3>m: x");
        assert_eq!(with_priority(&line(Level::Info)), "<5>m: x");
    }

    #[test]
    fn a_full_queue_drops_and_counts_instead_of_waiting() {
        let (jobs, queue) = sync_channel(2);
        let filter = env_logger::Builder::new().filter_level(LevelFilter::Info).build();
        let log = Queue { filter, jobs };
        let say = |text: &str| {
            log.log(
                &Record::builder()
                    .level(Level::Warn)
                    .target("t")
                    .args(format_args!("{text}"))
                    .build(),
            );
        };
        DROPPED.store(0, Ordering::Relaxed);
        ["one", "two", "three", "four"].into_iter().for_each(say);
        assert_eq!(DROPPED.load(Ordering::Relaxed), 2);
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("log/k.log");
        let log_file = LogFile::open(file.clone(), false).expect("a file");
        let sinks = Sinks {
            opened_as: (file.clone(), String::new()),
            file: Some(log_file),
            events: file.with_extension(EVENTS),
            event_file: None,
            system: None,
            in_journal: false,
            stderr: None,
        };
        drop(log);
        sinks.write_all(&queue);
        let text = std::fs::read_to_string(file).expect("text");
        let lines: Vec<&str> = text.lines().map(|line| &line[27..]).collect();
        assert_eq!(lines, ["one", "2 log lines were dropped: the log is too slow", "two"]);
    }
}
