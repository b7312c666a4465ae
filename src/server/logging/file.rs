//! Log files below the run directory: they stay when the device is gone, and are bounded in size
//! and number.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::stdio::dup2_stderr;

use crate::failure::Failure;
use crate::rundir::{EVENTS, OLDER};

/// A longer file is renamed, replacing the previous one.
const MAX_BYTES: u64 = 256 * 1024;
/// Servers whose logs are kept: those written last. With [`MAX_BYTES`] at most 32 MiB of memory.
const MAX_SERVERS: usize = 64;

/// A server's log file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    len_bytes: u64,
    /// stderr goes to the file as well: the output of libraries is not lost.
    takes_stderr: bool,
}

/// Opens a log file for appending; creates its directory, and removes the oldest logs if there are
/// too many.
pub fn open(path: &Path) -> io::Result<File> {
    let in_path = |error: io::Error| io::Error::from(Failure::at(path, error));
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(in_path)?;
        if is_log(path) && !path.exists() {
            remove_oldest(dir, MAX_SERVERS - 1);
        }
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(in_path)
}

/// Removes all but the `keep` logs that were written last.
fn remove_oldest(dir: &Path, keep: usize) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = entries.filter(|path| is_log(path));
    let written = |path: &PathBuf| {
        fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let mut logs: Vec<_> = logs.map(|path| (written(&path), path)).collect();
    logs.sort();
    let too_many = logs.len().saturating_sub(keep);
    for (_, path) in logs.into_iter().take(too_many) {
        // Another server may have removed it already.
        let events = path.with_extension(EVENTS);
        for path in [older(&path), path, older(&events), events] {
            drop(fs::remove_file(path));
        }
    }
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "log")
}

/// The previous file. Its name is that of the file with a number appended.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(OLDER);
    name.into()
}

impl LogFile {
    pub(super) fn open(path: PathBuf, takes_stderr: bool) -> io::Result<LogFile> {
        let file = open(&path)?;
        let len_bytes = file.metadata()?.len();
        let log = LogFile { path, file, len_bytes, takes_stderr };
        log.take_stderr()?;
        Ok(log)
    }

    fn take_stderr(&self) -> io::Result<()> {
        if self.takes_stderr {
            dup2_stderr(&self.file)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, line: &str) -> io::Result<()> {
        let line = format!("{}\n", line.replace('\n', " "));
        if self.len_bytes > MAX_BYTES {
            fs::rename(&self.path, older(&self.path))?;
            self.file = open(&self.path)?;
            self.len_bytes = 0;
            self.take_stderr()?;
        }
        self.file.write_all(line.as_bytes())?;
        self.len_bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log/k.log");
        let mut log = LogFile::open(path.clone(), false).expect("a log");
        let line = "x".repeat(1023);
        for _ in 0..1000 {
            log.write(&line).expect("room");
        }
        let len = |path: &Path| fs::metadata(path).expect("a log").len();
        assert!(len(&path) <= MAX_BYTES + 1024 && len(&older(&path)) <= MAX_BYTES + 1024);
        assert_eq!(fs::read_dir(dir.path().join("log")).expect("a directory").count(), 2);
        // A reopened log continues where it ended.
        let before = len(&path);
        LogFile::open(path.clone(), false).expect("a log").write("more").expect("room");
        assert_eq!(len(&path), before + 5);
    }

    #[test]
    fn the_oldest_logs_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |n: usize| dir.path().join(format!("log/{n}.log"));
        for n in 0..MAX_SERVERS + 10 {
            let file = open(&path(n)).expect("a log");
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + n as u64);
            file.set_modified(at).expect("a time");
            let events = path(n).with_extension(EVENTS);
            drop(LogFile::open(events, false).expect("a file of events"));
        }
        let kept = fs::read_dir(dir.path().join("log")).expect("a directory").count();
        assert_eq!(kept, 2 * MAX_SERVERS, "with its log the events of a server go");
        assert!(!path(0).exists() && path(MAX_SERVERS + 9).exists());
    }
}
