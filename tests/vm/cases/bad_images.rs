//! Every crafted bad image, given to `add` as a COW: refused with its reason, byte for byte
//! untouched. The output of `check` and `dump` for them is tested without a kernel (`tests/cli`).

use std::fs;

#[allow(dead_code)]
#[path = "../../cli/images/mod.rs"]
mod images;

use crate::Case;
use crate::runner::scratch;
use crate::server;
use crate::sh::ublk_dm;

pub fn cases() -> Vec<Case> {
    vec![Case { name: "bad-images", bound_s: 300, disks: &[], run: |_| every_image() }]
}

/// Size of the origin where the image does not need one of its own.
const ORIGIN_BYTES: u64 = 8 << 20;
/// Images that `check` calls bad and `add` accepts: they hold no store yet.
const TAKEN: [&str; 3] = ["zeroes", "magic wiped", "no room for data"];

/// The error of `add` for an image. It reports the first fault, in the order of opening, where
/// repetition comes after all faults of a single record; and it has one name for everything that
/// does not fit on the COW.
fn reason(image: &images::BadImage) -> &'static str {
    match image.kind {
        // No disk at all.
        _ if image.bytes.is_empty() => "its size is 0",
        _ if image.bytes.len() < images::SECTOR => "fewer than one block",
        // Two faults, of which `check` names the other one first.
        _ if image.name == "version and size" => "chunk size of",
        _ if image.name == "a record twice" => "repeats a COW chunk",
        _ if image.name == "marked invalid" => "is invalid",
        "too_small" | "area_beyond_end" | "full_area_without_next" => "too small",
        "bad_version" => "format version",
        "bad_chunk_size" => "chunk size of",
        "old_beyond_origin" => "beyond the origin's end",
        "new_is_metadata" => "points into metadata",
        "new_beyond_cow" | "new_too_large" => "points beyond the COW's end",
        "old_twice" => "repeats an origin chunk",
        "new_twice" => "repeats a COW chunk",
        _ => "holds",
    }
}

fn every_image() {
    let dir = scratch("images");
    let (origin, cow) = (format!("{dir}/origin"), format!("{dir}/cow"));
    let (mut refused, mut wrong) = (0, Vec::new());
    for image in images::bad_images() {
        let name = image.name;
        fs::write(&cow, &image.bytes).expect("tmpfs");
        let size = image.origin_bytes.unwrap_or(ORIGIN_BYTES);
        fs::File::create(&origin).and_then(|file| file.set_len(size)).expect("tmpfs");
        if !TAKEN.contains(&name) {
            let out = ublk_dm(&format!("add snapshot --origin {origin} --cow {cow}")).refused();
            let said = out.stderr;
            if !said.contains(&cow) || !said.contains(reason(&image)) {
                wrong.push(format!("{name}: add says {:?}, not {:?}", said.trim(), reason(&image)));
            }
            server::assert_nothing_left("a refused add");
            refused += 1;
        }
        assert!(fs::read(&cow).expect("tmpfs") == image.bytes, "{name}: the image was changed");
        let blank = fs::read(&origin).expect("tmpfs");
        assert!(
            blank.len() as u64 == size && blank.iter().all(|byte| *byte == 0),
            "{name}: the origin was changed"
        );
    }
    println!("  {refused} images refused by add");
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
    assert!(refused >= 16, "only {refused} images");
}
