//! What the user of a snapshot should know whose store was on the COW already: it is no new
//! snapshot, and its chunk size is the store's, as it is for device-mapper.

use dm_targets::units::ChunkSize;

use super::wipe::zero_start;

/// A store that was on a COW.
#[derive(Clone, Copy)]
pub(super) enum Store {
    /// Without an exception, as a merge leaves it, or a snapshot whose origin was never written.
    Empty,
    /// With exceptions: what they keep is of an earlier moment.
    Filled,
}

impl Store {
    /// A store with so many exceptions.
    pub(super) fn with(exceptions: usize) -> Store {
        if exceptions == 0 { Store::Empty } else { Store::Filled }
    }
}

/// The note for a snapshot that is continued with the store's chunk size, where `wanted` was asked
/// for, on a COW with blocks of `block` bytes.
pub(super) fn note(
    (cow, block): (&str, u32),
    store: Store,
    chunk: ChunkSize,
    wanted: Option<ChunkSize>,
) -> String {
    let other = wanted.filter(|wanted| *wanted != chunk).map_or_else(String::new, |wanted| {
        let (used, unused) = (size(chunk), size(wanted));
        format!(" with its own chunk size of {used}, not with {unused}")
    });
    match store {
        Store::Empty => format!(
            "{cow}: the store that is on it is used{other}; it is empty, so the snapshot shows \
             the origin as it is now"
        ),
        Store::Filled => format!(
            "{cow}: the snapshot that is on it continues{other}; for a new one, delete this \
             device and {}",
            zero_start(cow, block)
        ),
    }
}

/// A chunk size as `--chunk-size` takes it.
fn size(chunk: ChunkSize) -> String {
    let bytes = chunk.bytes();
    if bytes % 1024 == 0 { format!("{} KiB", bytes / 1024) } else { format!("{bytes} bytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_size_that_is_not_used_is_named() {
        let of = |sectors| ChunkSize::from_sectors(sectors).unwrap();
        let said = |wanted| note(("/dev/c", 512), Store::Filled, of(8), wanted);
        for same in [None, Some(of(8))] {
            let said = said(same);
            assert!(
                said.starts_with("/dev/c: the snapshot that is on it continues; for"),
                "{said}"
            );
        }
        for (wanted, named) in [(of(32), "not with 16 KiB"), (of(1), "not with 512 bytes")] {
            let said = said(Some(wanted));
            assert!(said.contains("chunk size of 4 KiB") && said.contains(named), "{said}");
        }
        assert!(said(None).ends_with("--to /dev/c:0+4096`"), "{}", said(None));
        let large = note(("/dev/c", 16384), Store::Filled, of(32), None);
        assert!(large.ends_with("--to /dev/c:0+16384`"), "{large}");
    }
    #[test]
    fn an_empty_store_keeps_no_earlier_moment() {
        let of = |sectors| ChunkSize::from_sectors(sectors).unwrap();
        let said = note(("/dev/c", 512), Store::with(0), of(8), Some(of(32)));
        assert!(said.ends_with("; it is empty, so the snapshot shows the origin as it is now"));
        assert!(said.contains("chunk size of 4 KiB, not with 16 KiB"), "{said}");
        assert!(note(("/dev/c", 512), Store::with(1), of(8), None).contains("continues"));
    }
}
