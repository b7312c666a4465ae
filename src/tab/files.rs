//! Where the tab file and the files beside it are, and what stands in them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::file::{Tab, Wrong};
use crate::failure::Failure;

/// The tab file unless [`VARIABLE`] is set.
const DEFAULT: &str = "/etc/ublk-dm.tab";
/// Environment variable that names another one.
const VARIABLE: &str = "UBLK_DM_TAB";

/// The path of the tab file. The files `*.tab` in the directory of that name with `.d` are read
/// as well, in the order of their names.
///
/// # Errors
/// The variable is empty.
pub fn path() -> Result<PathBuf, Failure> {
    match std::env::var_os(VARIABLE) {
        Some(path) if path.is_empty() => {
            Err(format!("{VARIABLE} is empty: set it to a file, or unset it for {DEFAULT}").into())
        }
        Some(path) => {
            std::path::absolute(&path).map_err(|error| Failure::from(error).context(VARIABLE))
        }
        None => Ok(DEFAULT.into()),
    }
}

/// The variable with its value, for another process that is to read the same files; `None`: it
/// needs none.
pub fn variable(tab: &Tab) -> Option<String> {
    (tab.path != Path::new(DEFAULT)).then(|| format!("{VARIABLE}={}", tab.path.display()))
}

/// Reads all files. A file that does not exist has no lines; one that cannot be read is among what
/// is wrong.
///
/// # Errors
/// The variable is empty.
pub fn read() -> Result<Tab, Failure> {
    Ok(read_at(path()?))
}

/// The same of a file that the variable might name.
pub(crate) fn read_at(path: PathBuf) -> Tab {
    let mut tab = Tab { path, ..Tab::default() };
    let (beside, problem) = beside(&tab.path);
    let mut problems: Vec<Failure> = problem.into_iter().collect();
    for file in [tab.path.clone()].iter().chain(&beside) {
        match text_of(file) {
            Ok(text) => tab.add(file, &text),
            Err(why) => problems.push(why),
        }
    }
    tab.take_out_twins();
    tab.wrong.extend(problems.into_iter().map(|why| Wrong { why, name: None, words: None }));
    tab
}

/// The files beside the tab file, and why there may be more.
fn beside(path: &Path) -> (Vec<PathBuf>, Option<Failure>) {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let is_tab = |path: &PathBuf| {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        !is_hidden && path.extension().is_some_and(|end| end == "tab")
    };
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&dir)?.collect::<std::io::Result<Vec<_>>>()?;
        let mut files: Vec<_> =
            entries.into_iter().map(|entry| entry.path()).filter(is_tab).collect();
        files.sort();
        Ok(files)
    };
    match list() {
        Ok(files) => (files, None),
        Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), None),
        Err(error) => (Vec::new(), Some(Failure::at(&dir, error))),
    }
}

/// Refuses what may have no end, or be waited for, such as a FIFO.
fn regular(file: &Path) -> io::Result<()> {
    match file == Path::new("/dev/null") || fs::metadata(file)?.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// The text of a file; of one that does not exist, none.
///
/// # Errors
/// It cannot be read, or is no text.
pub fn text_of(file: &Path) -> Result<String, Failure> {
    match regular(file).and_then(|()| fs::read(file)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::at(file, error)),
        Ok(bytes) => {
            String::from_utf8(bytes).map_err(|_| Failure::at(file, "it is no text in UTF-8"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_read_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tab");
        assert!(read_at(path.clone()).entries.is_empty(), "there is none");
        let beside = dir.path().join("x.tab.d");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("b.tab"), "c \"0 8 zero\"\n").unwrap();
        fs::write(beside.join("a.tab"), "b \"0 8 zero\"\n").unwrap();
        for other in ["a.tab~", ".b.tab", "README", "tab"] {
            fs::write(beside.join(other), "x \"0 8 zero\"\n").unwrap();
        }
        fs::write(&path, "a \"0 8 zero\"").unwrap();
        let tab = read_at(path.clone());
        let names: Vec<_> = tab.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(tab.wrong.is_empty());
        // What cannot be read may say anything.
        fs::write(beside.join("c.tab"), b"d \xff").unwrap();
        let tab = read_at(path);
        assert_eq!(tab.entries.len(), 3);
        let [wrong] = &tab.wrong[..] else { panic!() };
        assert!(wrong.why.contains("c.tab: it is no text") && wrong.may_have(|_| false));
        // Nor is anything waited for.
        let tab = read_at("/dev/zero".into());
        assert!(tab.wrong[0].why.contains("/dev/zero: it is not a regular file"));
        assert!(read_at("/dev/null".into()).wrong.is_empty());
    }
}
