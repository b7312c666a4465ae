//! Trees of files with known content, for the cases with file systems.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::load::Rng;

/// The pause after each file of [`churn`]. Without it nearly all of an emulated CPU goes to what is
/// only to be under way.
const PACE: Duration = Duration::from_millis(5);

/// Path below the root -> what is there: a file's digest, a link's target, `dir`.
pub type Tree = BTreeMap<String, String>;

/// Writes `files` files of up to `max_bytes` below `root`, with directories and links.
pub fn grow(root: &str, rng: &mut Rng, files: u64, max_bytes: u64) {
    for n in 0..files {
        let dir = format!("{root}/d{}/e{}", n % 5, n % 3);
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
        let path = format!("{dir}/f{n}");
        write(&path, &content(rng, max_bytes)).unwrap_or_else(|e| panic!("{path}: {e}"));
        if n % 7 == 0 {
            std::os::unix::fs::symlink(format!("f{n}"), format!("{dir}/l{n}"))
                .unwrap_or_else(|e| panic!("{path}: {e}"));
            fs::hard_link(&path, format!("{dir}/h{n}")).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
    }
}

/// Rewrites some files, removes some, adds others: nearly every directory changes.
pub fn change(root: &str, rng: &mut Rng, files: u64, max_bytes: u64) {
    for n in 0..files {
        let path = format!("{root}/d{}/e{}/f{n}", n % 5, n % 3);
        let done = match rng.below(3) {
            0 => fs::remove_file(&path),
            1 => write(&path, &content(rng, max_bytes)),
            _ => write(&format!("{path}.new"), &content(rng, max_bytes)),
        };
        done.unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

fn content(rng: &mut Rng, max_bytes: u64) -> Vec<u8> {
    let words = rng.below(max_bytes / 8 + 1);
    let mut bytes: Vec<u8> = (0..words).flat_map(|_| rng.next().to_le_bytes()).collect();
    bytes.truncate(bytes.len().saturating_sub(3)); // lengths that are not multiples of a block
    bytes
}

fn write(path: &str, bytes: &[u8]) -> std::io::Result<()> {
    fs::File::create(path)?.write_all(bytes)
}

/// The content of a tree, except below directories named `churn`.
pub fn take(root: &str) -> Tree {
    let mut tree = Tree::new();
    walk(Path::new(root), Path::new(root), &mut tree);
    tree
}

fn walk(root: &Path, dir: &Path, tree: &mut Tree) {
    let fail = |path: &Path, e: std::io::Error| -> ! { panic!("{}: {e}", path.display()) };
    for entry in fs::read_dir(dir).unwrap_or_else(|e| fail(dir, e)) {
        let path = entry.unwrap_or_else(|e| fail(dir, e)).path();
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let kind = fs::symlink_metadata(&path).unwrap_or_else(|e| fail(&path, e)).file_type();
        if name == "churn" || name == "lost+found" {
            continue;
        }
        let what = if kind.is_dir() {
            walk(root, &path, tree);
            "dir".to_string()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap_or_else(|e| fail(&path, e)).display())
        } else {
            let bytes = fs::read(&path).unwrap_or_else(|e| fail(&path, e));
            let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
                (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
            });
            format!("{} bytes {hash:016x}", bytes.len())
        };
        tree.insert(name, what);
    }
}

/// Asserts that both trees are equal; the message names the first difference.
pub fn assert_same(what: &str, expected: &Tree, found: &Tree) {
    for (name, left) in expected {
        let right = found.get(name).map_or("nothing", String::as_str);
        assert!(left == right, "{what}: {name} should be {left}, is {right}");
    }
    let extra: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).take(3).collect();
    assert!(extra.is_empty(), "{what}: {extra:?} should not be there");
}

/// Writes, syncs and removes files below `ROOT/churn` until `stop`; returns how many.
pub fn churn(root: &str, seed: u64, stop: &AtomicBool) -> Result<u64, String> {
    let (dir, mut rng, mut done) = (format!("{root}/churn"), Rng::new(seed), 0);
    fs::create_dir_all(&dir).map_err(|e| format!("{dir}: {e}"))?;
    while !stop.load(Ordering::Relaxed) {
        let path = format!("{dir}/c{}", done % 16);
        let bytes = content(&mut rng, 64 << 10);
        let result = fs::File::create(&path).and_then(|mut file| {
            file.write_all(&bytes)?;
            if done % 4 == 0 { file.sync_all() } else { Ok(()) }
        });
        result.map_err(|e| format!("{path}: {e}"))?;
        if done % 8 == 7 {
            fs::remove_file(&path).map_err(|e| format!("{path}: {e}"))?;
        }
        done += 1;
        thread::sleep(PACE);
    }
    Ok(done)
}
