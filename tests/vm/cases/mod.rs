//! The cases, most important first.

mod admin;
mod alternate;
mod areas;
mod bad_images;
mod bad_input;
mod basic;
mod copy;
mod ends;
mod errors;
mod errors_direct;
mod file_systems;
mod fio;
mod full;
mod full_edges;
mod hangs;
mod joins;
mod kill;
mod leaving;
mod live;
mod mirror_alternate;
mod mirror_bad;
mod mirror_basic;
mod mirror_fail;
mod mirror_kill;
mod mirror_messages;
mod mirror_record;
mod mirror_repair;
mod mirror_shapes;
mod mirror_slow;
mod mirror_unreadable;
mod mirror_watch;
mod noted;
mod powercut;
mod powercut_judge;
mod powercut_reopen;
mod process;
mod races;
mod scale;
mod tables;
mod verbs;

use crate::Case;

/// Every case, in the order in which they run.
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(basic::cases());
    all.extend(alternate::cases());
    all.extend(areas::cases());
    all.extend(live::cases());
    all.extend(file_systems::cases());
    all.extend(joins::cases());
    all.extend(full::cases());
    all.extend(full_edges::cases());
    all.extend(bad_input::cases());
    all.extend(bad_images::cases());
    all.extend(fio::cases());
    all.extend(verbs::cases());
    all.extend(tables::cases());
    all.extend(hangs::cases());
    all.extend(process::cases());
    all.extend(scale::cases());
    all.extend(kill::cases());
    all.extend(leaving::cases());
    all.extend(noted::cases());
    all.extend(admin::cases());
    all.extend(ends::cases());
    all.extend(copy::cases());
    all.extend(errors::cases());
    all.extend(errors_direct::cases());
    all.extend(races::cases());
    all.extend(powercut::cases());
    all.extend(powercut_judge::cases());
    all.extend(mirror_basic::cases());
    all.extend(mirror_shapes::cases());
    all.extend(mirror_alternate::cases());
    all.extend(mirror_fail::cases());
    all.extend(mirror_record::cases());
    all.extend(mirror_repair::cases());
    all.extend(mirror_kill::cases());
    all.extend(mirror_messages::cases());
    all.extend(mirror_unreadable::cases());
    all.extend(mirror_watch::cases());
    all.extend(mirror_slow::cases());
    all.extend(mirror_bad::cases());
    all
}
