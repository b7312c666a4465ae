//! Crafted bad images: headers, records, ends and logs, each with its fault.

use super::{BadImage, Store, log};

fn bad(
    name: &'static str,
    bytes: Vec<u8>,
    kind: &'static str,
    reason: &'static str,
    offset: Option<u64>,
) -> BadImage {
    BadImage { name, bytes, origin_bytes: None, kind, reason, offset_bytes: offset }
}

// A table: one image to a line.
#[rustfmt::skip]
pub(super) fn bad_headers() -> Vec<BadImage> {
    let store = || Store::new(8, 40).filled(3, 5);
    let version_and_size = store().header_word(2, 9).header_word(3, 7).bytes();
    let swapped: Vec<u8> =
        store().bytes().chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let mut ext = vec![0; 65536];
    ext[1024] = 1;
    ext[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xEF]);
    let mut file_system = vec![0; 65536];
    file_system[..4].copy_from_slice(b"XFSB");
    vec![
        bad("nothing at all", Vec::new(), "too_small", "0 bytes are too small for a header",
            Some(0)),
        bad("shorter than a header", store().truncated(15), "too_small", "15 bytes are too small",
            Some(0)),
        bad("zeroes", vec![0; 65536], "no_store", "no store: the first word is zero", Some(0)),
        bad("magic wiped", store().header_word(0, 0).bytes(), "no_store", "no store", Some(0)),
        bad("an ext file system", ext, "no_store", "signature of ext2 at byte 1080", Some(0)),
        bad("a file system", file_system, "foreign_magic",
            "neither a snapshot's COW nor a mirror's log", Some(0)),
        bad("words of the other byte order", swapped, "foreign_magic", "0x536e4170", Some(0)),
        bad("version 0", store().header_word(2, 0).bytes(), "bad_version", "format version 0;",
            Some(8)),
        bad("version 2", store().header_word(2, 2).bytes(), "bad_version", "format version 2;",
            Some(8)),
        bad("chunk size 0", store().header_word(3, 0).bytes(), "bad_chunk_size",
            "size of 0 sectors", Some(12)),
        bad("chunk size 7", store().header_word(3, 7).bytes(), "bad_chunk_size",
            "size of 7 sectors", Some(12)),
        bad("2 GiB chunks", store().header_word(3, 0x40_0000).bytes(), "bad_chunk_size",
            "4194304 sectors", Some(12)),
        bad("chunk size of ones", store().header_word(3, u32::MAX).bytes(), "bad_chunk_size",
            "4294967295", Some(12)),
        bad("version and size", version_and_size, "bad_version", "format version 9;", Some(8)),
        bad("marked invalid", store().header_word(1, 0).bytes(), "marked_invalid", "marked invalid",
            Some(4)),
    ]
}

// A table: one image to a line.
#[rustfmt::skip]
pub(super) fn bad_records() -> Vec<BadImage> {
    // chunks of 4096 bytes: area 0 at chunk 1, area 1 at chunk 258; record 1 is at byte 4112
    let with = |old, new| Store::new(8, 300).record(5, 2).record(old, new).record(7, 4).bytes();
    let at = Some(4112);
    // chunks of 512 bytes: 32 records per area, areas at chunks 1, 34, 67
    let across = |old, new| Store::new(1, 80).filled(40, 0).record(old, new).bytes();
    let mut garbage = Store::new(1, 80).bytes();
    garbage[512..1024].fill(0xA5);
    let beyond_origin = bad(
        "origin chunk beyond the origin",
        with(100, 3),
        "old_beyond_origin",
        "beyond the origin",
        at,
    );
    vec![
        bad("data in area 0", with(6, 1), "new_is_metadata",
            "record 1 of area 0 (6 -> 1) points into metadata", at),
        bad("data in area 1", with(6, 258), "new_is_metadata", "(6 -> 258) points into metadata",
            at),
        bad("data right behind the end", with(6, 300), "new_beyond_cow",
            "(6 -> 300) points beyond the COW's end", at),
        bad("data far behind the end", with(6, 5000), "new_beyond_cow",
            "points beyond the COW's end", at),
        bad("data chunk 2^56", with(6, 1 << 56), "new_too_large", "points beyond the COW's end",
            at),
        bad("data chunk of ones", with(6, u64::MAX), "new_too_large", "points beyond the COW's end",
            at),
        bad("an origin longer than any", with(1 << 60, 3), "old_beyond_origin",
            "beyond the origin's end", at),
        bad("both halves absurd", with(u64::MAX, u64::MAX), "old_beyond_origin",
            "beyond the origin's end", at),
        BadImage { origin_bytes: Some(100 * 4096), ..beyond_origin },
        bad("an origin chunk twice", with(5, 3), "old_twice",
            "repeats an origin chunk, as record 0 of area 0", at),
        bad("a COW chunk twice", with(6, 2), "new_twice",
            "repeats a COW chunk, as record 0 of area 0", at),
        bad("a record twice", with(5, 2), "old_twice", "(5 -> 2) repeats an origin chunk", at),
        bad("twice in two areas", across(3, 43), "old_twice", "record 8 of area 1 (3 -> 43)",
            Some(34 * 512 + 128)),
        bad("old data in area 0", garbage, "old_beyond_origin", "beyond the origin's end",
            Some(512)),
    ]
}

// A table: one image to a line.
#[rustfmt::skip]
pub(super) fn bad_ends() -> Vec<BadImage> {
    let full = |chunks| Store::new(1, chunks).filled(32, 0).bytes();
    let cut_area = Store::new(8, 2).truncated(4096 + 512);
    let partial = Store::new(8, 40).record(5, 39).truncated(39 * 4096 + 2048);
    vec![
        bad("header only", Store::new(8, 1).bytes(), "area_beyond_end",
            "area 0 at byte 4096 does not fit", Some(4096)),
        bad("no room for data", Store::new(8, 2).bytes(), "too_small",
            "has 2 chunks; a store needs 3", None),
        bad("area 0 cut off", cut_area, "area_beyond_end", "area 0 at byte 4096 does not fit",
            Some(4096)),
        bad("1 GiB chunks on 64 KiB", Store::new(8, 16).header_word(3, 1 << 21).bytes(),
            "too_small", "has 0 chunks", None),
        bad("full area at the end", full(34), "full_area_without_next",
            "area 0 is full, but area 1", Some(34 * 512)),
        bad("cut in the middle", Store::new(8, 40).filled(20, 0).truncated(81920), "new_beyond_cow",
            "beyond", Some(4384)),
        bad("data in the partial chunk", partial, "new_beyond_cow", "(5 -> 39) points beyond",
            Some(4096)),
    ]
}

// A table: one image to a line.
#[rustfmt::skip]
pub(super) fn bad_logs() -> Vec<BadImage> {
    let cut = log(2, 8, &[0xFF])[..1024].to_vec();
    vec![
        bad("log version 3", log(3, 8, &[0xFF]), "log_bad_version", "log has format version 3",
            Some(4)),
        bad("log version 0", log(0, 8, &[0xFF]), "log_bad_version", "log has format version 0",
            Some(4)),
        bad("log of 2^32 regions", log(2, 1 << 32, &[]), "log_too_many_regions",
            "4294967296 regions", Some(8)),
        bad("log larger than its device", log(2, 1 << 20, &[]), "log_truncated",
            "needs 132096 bytes", Some(4096)),
        bad("log without bits", cut, "log_truncated", "needs 1032 bytes", Some(1024)),
    ]
}
