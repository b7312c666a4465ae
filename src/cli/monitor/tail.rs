//! The files of events in the run directory, read as they grow.
//!
//! Rule kept here: a file that has become too long is renamed, and what was not read of it yet is
//! read before its successor. (One that is renamed twice between two looks has lost what was in
//! it: a server's log has it.)

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::protocol::EventLine;
use crate::rundir::{EVENTS, OLDER};

/// How far a file was read.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Which file: its inode's number.
    ino: u64,
    /// Bytes that were read.
    bytes: u64,
}

/// All files, and how far each was read.
#[derive(Default)]
pub(super) struct Tail(BTreeMap<PathBuf, Place>);

impl Tail {
    /// Leaves out what the files have now.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn skip(&mut self, dir: &Path) -> io::Result<()> {
        self.read(dir).map(drop)
    }

    /// The events that were added since the last call, by their time.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn read(&mut self, dir: &Path) -> io::Result<Vec<EventLine>> {
        let mut events = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == EVENTS) {
                let place = self.0.entry(path.clone()).or_default();
                read_both(&path, place, &mut events)?;
            }
        }
        // Those of one second stay as they were written.
        events.sort_by(|one: &EventLine, other| one.time.cmp(&other.time));
        Ok(events)
    }
}

/// Reads the rest of a file that was renamed, and what there is of its successor.
fn read_both(path: &Path, place: &mut Place, events: &mut Vec<EventLine>) -> io::Result<()> {
    let mut older = path.as_os_str().to_owned();
    older.push(OLDER);
    let Some((mut file, ino)) = open(path)? else { return Ok(()) };
    if ino != place.ino {
        // A file that was never read: both are new.
        if let Some((mut file, old)) = open(Path::new(&older))? {
            if place.ino == 0 || place.ino == old {
                read_from(&mut file, place, events)?;
            }
        }
        *place = Place { ino, bytes: 0 };
    }
    read_from(&mut file, place, events)
}

fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => {
            let file = file?;
            let ino = file.metadata()?.ino();
            Ok(Some((file, ino)))
        }
    }
}

/// Reads whole lines; a line that is being written is read the next time.
fn read_from(file: &mut File, place: &mut Place, events: &mut Vec<EventLine>) -> io::Result<()> {
    file.seek(SeekFrom::Start(place.bytes))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n');
    // A line that another version wrote differently is left out.
    events.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()));
    place.bytes += whole as u64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn add(path: &Path, device: &str, time: &str) {
        let event = EventLine { device: device.to_owned(), ..EventLine::at(time.to_owned()) };
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{}", serde_json::to_string(&event).unwrap()).unwrap();
    }

    fn names(events: &[EventLine]) -> Vec<&str> {
        events.iter().map(|event| event.device.as_str()).collect()
    }

    #[test]
    fn each_event_is_read_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("a.events"), dir.path().join("b.events"));
        fs::write(dir.path().join("a.log"), "no event\n").unwrap();
        let mut tail = Tail::default();
        add(&one, "past", "1");
        tail.skip(dir.path()).unwrap();
        assert!(tail.read(dir.path()).unwrap().is_empty());
        add(&one, "third", "3");
        add(&two, "second", "2");
        assert_eq!(names(&tail.read(dir.path()).unwrap()), ["second", "third"]);
        assert!(tail.read(dir.path()).unwrap().is_empty());
        assert_eq!(names(&Tail::default().read(dir.path()).unwrap()), ["past", "second", "third"]);
    }

    #[test]
    fn what_is_left_of_a_renamed_file_is_read_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.events");
        let mut tail = Tail::default();
        add(&path, "one", "1");
        assert_eq!(names(&tail.read(dir.path()).unwrap()), ["one"]);
        add(&path, "two", "2");
        fs::rename(&path, dir.path().join("a.events.1")).unwrap();
        add(&path, "three", "3");
        assert_eq!(names(&tail.read(dir.path()).unwrap()), ["two", "three"]);
        let all = Tail::default().read(dir.path()).unwrap();
        assert_eq!(names(&all), ["one", "two", "three"]);
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.events");
        add(&path, "one", "1");
        let text = fs::read_to_string(&path).unwrap();
        let (begin, end) = text.split_at(10);
        fs::write(&path, begin).unwrap();
        let mut tail = Tail::default();
        assert!(tail.read(dir.path()).unwrap().is_empty());
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(end.as_bytes()).unwrap();
        file.write_all(b"{\"version\":9}\n").unwrap();
        assert_eq!(names(&tail.read(dir.path()).unwrap()), ["one"]);
    }
}
