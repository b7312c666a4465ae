//! What the user of a snapshot should know whose store was on the COW already: it is no new
//! snapshot, and its chunk size is the store's, as it is for device-mapper.

use dm_targets::units::ChunkSize;

/// Bytes that are zeroed for a new store, at least.
const LEAST_BYTES: u32 = 4096;

/// The note for a snapshot that is continued with the store's chunk size, where `wanted` was asked
/// for, on a COW with blocks of `block` bytes.
pub(super) fn note(cow: &str, block: u32, chunk: ChunkSize, wanted: Option<ChunkSize>) -> String {
    let other = wanted.filter(|wanted| *wanted != chunk).map_or_else(String::new, |wanted| {
        let (used, unused) = (size(chunk), size(wanted));
        format!(" with its own chunk size of {used}, not with {unused}")
    });
    let start = block.max(LEAST_BYTES);
    format!(
        "{cow}: the snapshot that is on it continues{other}; for a new one, delete this device \
         and zero the start of the COW (`ublk-dm zero --to {cow}:0+{start}`)"
    )
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
        let said = |wanted| note("/dev/c", 512, of(8), wanted);
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
        assert!(said(None).ends_with("--to /dev/c:0+4096`)"), "{}", said(None));
        let large = note("/dev/c", 16384, of(32), None);
        assert!(large.ends_with("--to /dev/c:0+16384`)"), "{large}");
    }
}
