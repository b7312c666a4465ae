//! The program of a server that is to be replaced, kept for as long as it may be needed again.
//!
//! Its file may be gone, replaced by the new program; or it may be on one of the devices that wait
//! for a server. So it is copied to memory first.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as Process;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::failure::{Failure, Reason};
use crate::sys::apart;

/// What the kernel appends to the path of a program whose file was removed.
const REMOVED: &[u8] = b" (deleted)";

/// A program that runs.
pub(super) struct Program {
    /// Its file, or a copy in memory.
    file: File,
    /// Its path when it was started.
    name: OsString,
    /// It is the one that this process runs.
    is_this: bool,
}

impl Program {
    /// The program that a process runs.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn of(pid: u32) -> Result<Program, Reason> {
        let link = format!("/proc/{pid}/exe");
        let kept = || {
            let file = File::open(&link)?;
            let is_this = is_same(&file, &File::open(apart::PROGRAM)?)?;
            let name = without_mark(fs::read_link(&link)?.into_os_string());
            let file = copy_of(&file).unwrap_or(file);
            Ok(Program { file, name, is_this })
        };
        kept().map_err(|error: io::Error| {
            Failure::at(Path::new(&link), error).context("its program cannot be kept")
        })
    }

    /// Whether this process runs the same program.
    pub(super) fn is_this(&self) -> bool {
        self.is_this
    }

    /// A new process of the program. The program must be kept until that has started.
    pub(super) fn process(&self) -> Process {
        let mut process = Process::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        process.arg0(&self.name);
        process
    }
}

/// The path of a program, without the kernel's mark that its file was removed.
fn without_mark(name: OsString) -> OsString {
    let bytes = name.as_bytes();
    OsString::from_vec(bytes.strip_suffix(REMOVED).unwrap_or(bytes).to_vec())
}

/// A copy in memory, which can be executed.
fn copy_of(mut file: &File) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::EXEC;
    let mut copy = File::from(memfd_create("ublk-dm", flags)?);
    file.rewind()?;
    io::copy(&mut file, &mut copy)?;
    Ok(copy)
}

/// Whether two files have the same content.
fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (first, second) = (one.metadata()?, other.metadata()?);
    if (first.dev(), first.ino()) == (second.dev(), second.ino()) {
        return Ok(true);
    }
    if first.len() != second.len() {
        return Ok(false);
    }
    let whole = |mut file: &File| {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    Ok(whole(one)? == whole(other)?)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_program_is_kept_after_its_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sleeps");
        let shell = fs::canonicalize("/bin/sh").unwrap();
        fs::copy(shell, &path).unwrap();
        let start = |mut program: Process, line: &str| {
            program.args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut old = start(Process::new(&path), "read line");
        let program = Program::of(old.id()).unwrap();
        assert!(!program.is_this());
        fs::remove_file(&path).unwrap();
        drop(old.stdin.take());
        old.wait().unwrap();
        let again = start(program.process(), "echo $0; exit 7").wait_with_output().unwrap();
        assert_eq!(again.status.code(), Some(7));
        assert_eq!(without_mark("/a/b (deleted)".into()), "/a/b");
        assert_eq!(without_mark("/a/b".into()), "/a/b");
    }

    #[test]
    fn this_program_is_known_by_its_content() {
        assert!(Program::of(std::process::id()).unwrap().is_this());
        let (this, copy) = (File::open(apart::PROGRAM).unwrap(), tempfile::tempfile().unwrap());
        io::copy(&mut &this, &mut &copy).unwrap();
        assert!(is_same(&copy, &this).unwrap());
    }
}
