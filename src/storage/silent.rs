//! Whether disks answer at all, checked before a thread that must not block waits for them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::content;
use super::{Access, Claim, OpenDisk};
use crate::failure::{Failure, Kind, Reason};
use crate::sys::apart::{self, Outcome, Ready};

/// The hidden verb that probes disks. The words after it are their paths; without any, stdin has
/// them, each with a zero after it.
const ASK_VERB: &str = "ask-disk";
/// How long a disk may take to open and to read its first block. The kernel fails an NVMe or SCSI
/// command after 30 s, and a snapshot whose COW is left out may be lost: the limit is long enough
/// for that answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(35);

/// The child for the first disks that a server is to probe.
static READY: Mutex<Option<Ready>> = Mutex::new(None);

/// Starts the child for the first probe of a new server, which goes on meanwhile: the start of that
/// child takes longer than the probe.
pub fn get_ready() {
    match apart::ready(ASK_VERB) {
        Ok(ready) => *READY.lock().unwrap_or_else(PoisonError::into_inner) = Some(ready),
        Err(why) => log::debug!("{why}"),
    }
}

/// The disks that do not answer in time. An error is an answer: opening the disk returns the
/// details.
pub fn silent(disks: &BTreeSet<String>) -> BTreeSet<String> {
    let ready = READY.lock().unwrap_or_else(PoisonError::into_inner).take();
    if disks.is_empty() {
        // A server whose first device has no disk may never probe one.
        ready.into_iter().for_each(Ready::dismiss);
        return BTreeSet::new();
    }
    let paths = || disks.iter().map(String::as_str);
    let outcome = ready.and_then(|ready| ready.run(paths(), ANSWER_LIMIT)).unwrap_or_else(|| {
        let words: Vec<&str> = [ASK_VERB].into_iter().chain(paths()).collect();
        apart::run(&words, ANSWER_LIMIT)
    });
    match outcome {
        Outcome::Done => BTreeSet::new(),
        Outcome::Failed(why) => {
            log::warn!("disks are probed in this process instead of a child process: {why}");
            asked_here(disks, ask, ANSWER_LIMIT)
        }
        Outcome::Late(answers) => without(disks, &answers),
    }
}

/// The disks that do not answer this process, whose threads have to stay until they do. If it
/// cannot ask them either, opening them fails for the same reason.
fn asked_here(disks: &BTreeSet<String>, ask: Ask, limit: Duration) -> BTreeSet<String> {
    let paths = disks.iter().map(PathBuf::from).collect();
    let answers = Answers::default();
    let (done, ended) = channel();
    let to = answers.clone();
    let work = move || drop(done.send(each_apart(paths, ask, to)));
    match std::thread::Builder::new().name("disks".into()).spawn(work) {
        Ok(_) if ended.recv_timeout(limit).is_err() => without(disks, &answers.text()),
        _ => BTreeSet::new(),
    }
}

/// Answers that are kept in memory.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<u8>>>);

impl Answers {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Answers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a disk and reads its first block.
type Ask = fn(&Path);

fn ask(disk: &Path) {
    // An error is an answer.
    let opened = OpenDisk::open(disk, Access::ReadOnly, Claim::Shared);
    drop(opened.map(|disk| content::store_on(&disk)));
}

/// The disks whose numbers are not among the lines that [`ask_all`] has written.
fn without(disks: &BTreeSet<String>, answers: &str) -> BTreeSet<String> {
    let answered: BTreeSet<usize> = answers.lines().filter_map(|line| line.parse().ok()).collect();
    let silent = disks.iter().enumerate().filter(|(number, _)| !answered.contains(number));
    silent.map(|(_, disk)| disk.clone()).collect()
}

/// Why a disk that does not answer is not opened.
pub fn no_answer(disk: &str) -> Reason {
    let line = format!("{disk} has not answered for {} s", ANSWER_LIMIT.as_secs());
    Failure::new(Kind::NoAnswer, line).of_disk(disk)
}

/// Runs `work` on a thread of its own, since the disk may stop answering meanwhile. A late thread
/// is abandoned: its result, such as an open disk, is dropped when the disk answers.
///
/// # Errors
/// The disk has not answered, or no thread could be started.
pub fn within_limit<T: Send + 'static>(
    disk: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reason> {
    within(ANSWER_LIMIT, disk, work)
}

fn within<T: Send + 'static>(
    limit: Duration,
    disk: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reason> {
    let (done, result) = channel();
    let work = move || drop(done.send(work()));
    let path = disk.display();
    let thread = std::thread::Builder::new().name("disk".into()).spawn(work);
    let unasked = |error| Failure::from(error).context(format!("{path}: cannot be examined"));
    thread.map_err(unasked)?;
    result.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => no_answer(&path.to_string()),
        RecvTimeoutError::Disconnected => format!("{path}: could not be examined").into(),
    })
}

/// The disks that this process has been started to probe, which `input` has if no word names any.
/// Its words are not a command line for users: parsing them as one, which builds the help of all
/// verbs, takes longer than the probe.
pub fn asked(
    mut words: impl Iterator<Item = OsString>,
    mut input: impl Read,
) -> Option<Vec<PathBuf>> {
    if words.next()? != ASK_VERB {
        return None;
    }
    let named: Vec<PathBuf> = words.map(PathBuf::from).collect();
    if !named.is_empty() {
        return Some(named);
    }
    let mut given = Vec::new();
    input.read_to_end(&mut given).ok()?;
    let paths = given.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Some(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
}

/// Opens disks and reads their first blocks, in a process that does nothing else: one thread for
/// each, so that none waits for another. Writes the number of each disk that has answered to
/// `answers`, in a line of its own, and ends when all have.
///
/// # Errors
/// No thread could be started.
pub fn ask_all(disks: Vec<PathBuf>, answers: impl Write + Send + 'static) -> Result<(), Reason> {
    each_apart(disks, ask, answers)
}

fn each_apart(
    disks: Vec<PathBuf>,
    ask: impl Fn(&Path) + Clone + Send + 'static,
    answers: impl Write + Send + 'static,
) -> Result<(), Reason> {
    let answers = Arc::new(Mutex::new(answers));
    let mut threads = Vec::new();
    for (number, disk) in disks.into_iter().enumerate() {
        let (ask, answers) = (ask.clone(), answers.clone());
        let work = move || {
            ask(&disk);
            let line = format!("{number}\n");
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = answers.write_all(line.as_bytes()).and_then(|()| answers.flush()) {
                log::debug!("{}: {error}", disk.display());
            }
        };
        threads.push(std::thread::Builder::new().name("disk".into()).spawn(work)?);
    }
    for thread in threads {
        drop(thread.join());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_disk_that_falls_silent_is_left_behind_with_what_comes_of_it() {
        let (limit, disk) = (Duration::from_millis(100), Path::new("/d"));
        assert_eq!(within(limit, disk, || 7), Ok(7));
        let (answer, silent) = channel::<()>();
        let (held, released) = channel::<()>();
        let opened = within(limit, disk, move || {
            assert!(silent.recv().is_err());
            held
        });
        assert!(opened.is_err_and(|why| why.starts_with("/d has not answered")));
        drop(answer);
        assert!(released.recv_timeout(ANSWER_LIMIT) == Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn only_the_verb_makes_a_process_ask_and_every_other_word_is_a_disk() {
        let given = |words: &[&str], input: &[u8]| asked(words.iter().map(OsString::from), input);
        let of = |words: &[&str]| given(words, b"/z\0");
        assert_eq!(of(&[ASK_VERB, "/a", "-v"]), Some(vec!["/a".into(), "-v".into()]));
        assert_eq!(of(&["add", ASK_VERB, "/a"]), None);
        assert_eq!(of(&[]), None);
        assert_eq!(given(&[ASK_VERB], b"/a\0/b c\0"), Some(vec!["/a".into(), "/b c".into()]));
        assert_eq!(given(&[ASK_VERB], b""), Some(Vec::new()), "it is not needed any more");
    }

    #[test]
    fn disks_are_asked_without_a_process_if_none_can_be_started() {
        let names = BTreeSet::from(["/a", "/b-hangs"].map(str::to_owned));
        let ask: Ask = |disk| {
            while disk == Path::new("/b-hangs") {
                std::thread::park();
            }
        };
        let hung = BTreeSet::from(["/b-hangs".to_owned()]);
        assert_eq!(asked_here(&names, ask, Duration::from_millis(300)), hung);
        let there = BTreeSet::from(["/a".to_owned()]);
        assert_eq!(asked_here(&there, ask, ANSWER_LIMIT), BTreeSet::new());
    }

    #[test]
    fn a_disk_that_hangs_does_not_keep_the_answers_of_others_back() {
        let names = ["/a", "/b-hangs", "/c"];
        let (answer, hung) = channel::<()>();
        let hung = Arc::new(Mutex::new(hung));
        let ask = move |disk: &Path| {
            if disk == Path::new("/b-hangs") {
                assert!(hung.lock().unwrap().recv().is_err());
            }
        };
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let disks = names.map(PathBuf::from).to_vec();
        let asked = std::thread::spawn(move || each_apart(disks, ask, theirs));
        let mut answers = [0; 4];
        ours.read_exact(&mut answers).unwrap();
        let silent = |answers| without(&names.map(str::to_owned).into(), answers);
        assert_eq!(silent(str::from_utf8(&answers).unwrap()), ["/b-hangs".to_owned()].into());
        assert_eq!(silent("").len(), 3);
        drop(answer);
        asked.join().unwrap().unwrap();
        let mut rest = String::new();
        ours.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "1\n");
    }
}
