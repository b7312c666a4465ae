//! How a disk is wiped: one wording, with the command, wherever an error or a note asks for it.

/// Bytes that are zeroed, at least: a block of most disks, which a signature or a store's header
/// is in.
const LEAST_BYTES: u32 = 4096;

/// Has the disk at a path hold no store any more, as the end of a sentence. `block_bytes` is its
/// block size; 0 if it is not known.
pub fn zero_start(path: &str, block_bytes: u32) -> String {
    let bytes = block_bytes.max(LEAST_BYTES);
    format!("zero its start with `ublk-dm zero --to {path}:0+{bytes}`")
}

/// Has the disk at a path not hold what was recognized at a byte of it, as the end of a sentence.
/// `block_bytes` is its block size.
pub(super) fn wipe(path: &str, at_byte: u64, block_bytes: u32) -> String {
    let bytes = u64::from(block_bytes.max(LEAST_BYTES));
    let start = at_byte / bytes * bytes;
    format!("wipe it with `ublk-dm zero --to {path}:{start}+{bytes}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_wiped() {
        for (at, block, range) in [
            (0x438, 512, "/d:0+4096`"),
            (0x1_0040, 4096, "/d:65536+4096`"),
            (0x1_3040, 16384, "/d:65536+16384`"),
        ] {
            let said = wipe("/d", at, block);
            assert!(said.ends_with(range), "{said}");
        }
        for (block, range) in [(0, "/d:0+4096`"), (512, "/d:0+4096`"), (16384, "/d:0+16384`")] {
            let said = zero_start("/d", block);
            assert!(said.ends_with(range), "{said}");
        }
    }
}
