//! `check` and `dump`: what a store says of itself: whose it is, and whether it is being merged.

use std::fs;
use std::path::Path;

use dm_targets::snapshot::format::identity::{self, IDENTITY_END};
use dm_targets::snapshot::format::{Identity, StoreId};

use crate::images::Store;
use crate::offline::{Case, json, run, stdout};

/// A store of ublk-dm shows its id and origin; a store of the kernel shows neither.
#[test]
fn whose_a_store_is_is_shown() {
    let mut bytes = Store::new(1, 80).filled(3, 0).bytes();
    let case = Case::new(&bytes);
    assert!(json(&run(&["check", case.path(), "--json"]))["snapshot_store"]["identity"].is_null());
    let mut block = [0; IDENTITY_END];
    block.copy_from_slice(&bytes[..IDENTITY_END]);
    Identity::new(StoreId([0xab; 16]), 77, "dm/uuid LVM-1").encode(&mut block);
    bytes[..IDENTITY_END].copy_from_slice(&block);
    let case = Case::new(&bytes);
    let identity = &json(&run(&["dump", case.path(), "--json"]))["snapshot_store"]["identity"];
    assert_eq!(identity["store_id"], "ab".repeat(16));
    assert_eq!(
        (&identity["origin"], &identity["origin_size_bytes"]),
        (&"dm/uuid LVM-1".into(), &(77 * 512).into())
    );
    let text = stdout(&run(&["check", case.path()]));
    assert!(
        text.contains("dm/uuid LVM-1, 39424 bytes") && text.contains(&"ab".repeat(16)),
        "{text}"
    );
}

/// The mark of a merge stands in the identity, or alone in a store of the kernel.
#[test]
fn a_merge_that_has_not_ended_is_shown() {
    let mut bytes = Store::new(1, 80).filled(3, 0).bytes();
    let shown = |bytes: &[u8]| {
        let (texts, [object, _]) = Case::new(bytes).all(&[], 0);
        let merging = object["snapshot_store"]["merging"] == true;
        assert_eq!(texts[0].contains("begun and not ended"), merging, "{}", texts[0]);
        merging
    };
    let mut block = [0; IDENTITY_END];
    block.copy_from_slice(&bytes[..IDENTITY_END]);
    let plain = block;
    identity::mark(&mut block);
    assert!(!shown(&bytes));
    bytes[..IDENTITY_END].copy_from_slice(&block);
    assert!(shown(&bytes));
    for merging in [false, true] {
        let identity = Identity { merging, ..Identity::new(StoreId([0xab; 16]), 77, "o") };
        block = plain;
        identity.encode(&mut block);
        bytes[..IDENTITY_END].copy_from_slice(&block);
        assert_eq!(shown(&bytes), merging);
    }
}

#[test]
fn an_origin_that_the_store_was_not_made_for_is_named() {
    let mut bytes = Store::new(8, 40).record(100, 2).bytes();
    let case = Case::new(&bytes);
    let (own, other) = (case.sparse("own", 200 * 4096), case.sparse("other", 200 * 4096));
    let [own, other] = [&own, &other].map(|path| fs::canonicalize(path).unwrap());
    let judge = |bytes: &[u8], origin: &Path, code| {
        let case = Case::new(bytes);
        let (texts, [object, _]) = case.all(&["--origin", origin.to_str().unwrap()], code);
        let origin = &object["snapshot_store"]["contents"]["origin"];
        (texts[0].clone(), origin["is_the_stores"].clone(), object["violations"].clone())
    };
    // The kernel's stores do not name their origin.
    let (text, is_the_stores, _) = judge(&bytes, &other, 0);
    assert!(text.contains("cannot be verified") && is_the_stores.is_null(), "{text}");
    let mut block = [0; IDENTITY_END];
    block.copy_from_slice(&bytes[..IDENTITY_END]);
    let name = format!("file  {}", own.display());
    Identity::new(StoreId([0xab; 16]), 1600, &name).encode(&mut block);
    bytes[..IDENTITY_END].copy_from_slice(&block);
    let (text, is_the_stores, _) = judge(&bytes, &own, 0);
    assert!(text.contains(", the one that the store") && is_the_stores == true, "{text}");
    let (text, is_the_stores, violations) = judge(&bytes, &other, 3);
    assert!(text.contains("made for another origin") && is_the_stores == false, "{text}");
    assert_eq!(violations[0]["kind"], "other_origin");
}
