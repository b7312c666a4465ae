//! What reaches the disks, in which order, as the kernel's block layer tells it (tracefs).

use std::fs;

use crate::sh::sh;

const ROOT: &str = "/sys/kernel/tracing";
const EVENT: &str = "events/block/block_rq_issue/enable";

/// A running record of the requests that disks get.
pub struct Trace(());

impl Trace {
    /// Begins; there is one at a time.
    pub fn start() -> Trace {
        if !fs::exists(format!("{ROOT}/trace")).unwrap_or(false) {
            sh(&format!("mount -t tracefs none {ROOT}")).ok();
        }
        let trace = Trace(());
        put("buffer_size_kb", "4096");
        put("trace", "");
        put(EVENT, "1");
        put("tracing_on", "1");
        trace
    }

    /// Ends, and returns the writes since the start.
    pub fn end(self) -> Written {
        put("tracing_on", "0");
        let text = fs::read_to_string(format!("{ROOT}/trace")).expect("a trace");
        Written(text.lines().filter_map(write_of).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        fs::write(format!("{ROOT}/{EVENT}"), "0").ok();
        fs::write(format!("{ROOT}/tracing_on"), "0").ok();
    }
}

fn put(file: &str, text: &str) {
    let path = format!("{ROOT}/{file}");
    fs::write(&path, text).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// A write: the disk's number, its first sector and its sectors.
type Write = (String, u64, u64);

/// Writes in the order in which the disks got them.
pub struct Written(Vec<Write>);

impl Written {
    /// Those to one disk.
    pub fn of(&self, node: &str) -> Vec<(u64, u64)> {
        let path = format!("/sys/class/block/{}/dev", node.trim_start_matches("/dev/"));
        let number = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let number = number.trim().replace(':', ",");
        let of_disk = self.0.iter().filter(|write| write.0 == number);
        of_disk.map(|(_, sector, sectors)| (*sector, *sectors)).collect()
    }
}

/// A write of data, from its line: `... block_rq_issue: 259,0 WS 4096 () 2048 + 8 ... [fio]`.
fn write_of(line: &str) -> Option<Write> {
    let mut words = line.split_once("block_rq_issue: ")?.1.split_whitespace();
    let disk = words.next()?.to_string();
    words.next().filter(|kind| kind.contains('W'))?;
    let (at, sectors) = line.split_once(" () ")?.1.split_once(" + ")?;
    let sectors = sectors.split_whitespace().next()?.parse().ok().filter(|n| *n > 0)?;
    Some((disk, at.trim().parse().ok()?, sectors))
}
