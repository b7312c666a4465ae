//! The cases, most important first.

mod admin;
mod admin_asked;
mod admin_gone;
mod admin_left_out;
mod alternate;
mod areas;
mod bad_images;
mod bad_input;
mod basic;
mod claims;
mod copy;
mod death;
mod dmsetup;
mod doctor;
mod ends;
mod ends_sigterm;
mod errors;
mod errors_direct;
mod few_files;
mod file_systems;
mod fio;
mod full;
mod full_edges;
mod full_file_system;
mod handover;
mod hangs;
mod hangs_beside;
mod inherited;
mod joins;
mod journaled;
mod json;
mod kept;
mod kill;
mod leaving;
mod linear;
mod lines;
mod listed;
mod live;
mod lost;
mod merge;
mod merge_command;
mod merge_keep;
mod merge_mounted;
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
mod monitor;
mod moves;
mod notable;
mod powercut;
mod powercut_judge;
mod powercut_reopen;
mod process;
mod process_log;
mod process_loss;
mod races;
mod reattached;
mod refused_snapshot;
mod removed;
mod rename;
mod reopened;
mod resize;
mod scale;
mod scenario_merge;
mod scenarios;
mod scenarios_lvm;
mod scenarios_sharing;
mod self_tests;
mod shared;
mod stack_apart;
mod stack_joined;
mod stack_named;
mod stack_tables;
mod stack_twice;
mod stacks;
mod stands;
mod suite;
mod tab;
mod tab_foreground;
mod tab_lost;
mod tab_saved;
mod tables;
mod unrecorded;
mod upgrade;
mod verbs;
mod whose;

use crate::Case;

/// The groups of cases, in the order in which they run.
const GROUPS: &[fn() -> Vec<Case>] = &[
    basic::cases,
    alternate::cases,
    areas::cases,
    live::cases,
    file_systems::cases,
    joins::cases,
    full::cases,
    full_edges::cases,
    full_file_system::cases,
    bad_input::cases,
    bad_images::cases,
    fio::cases,
    verbs::cases,
    suite::cases,
    tables::cases,
    tab::cases,
    tab_foreground::cases,
    tab_lost::cases,
    tab_saved::cases,
    linear::cases,
    lines::cases,
    removed::cases,
    rename::cases,
    reopened::cases,
    resize::cases,
    monitor::cases,
    json::cases,
    moves::cases,
    handover::cases,
    hangs::cases,
    hangs_beside::cases,
    inherited::cases,
    process::cases,
    process_log::cases,
    process_loss::cases,
    few_files::cases,
    unrecorded::cases,
    kept::cases,
    scale::cases,
    kill::cases,
    leaving::cases,
    upgrade::cases,
    journaled::cases,
    admin::cases,
    admin_gone::cases,
    admin_asked::cases,
    admin_left_out::cases,
    ends::cases,
    ends_sigterm::cases,
    listed::cases,
    lost::cases,
    merge::cases,
    merge_command::cases,
    merge_keep::cases,
    merge_mounted::cases,
    notable::cases,
    whose::cases,
    reattached::cases,
    refused_snapshot::cases,
    claims::cases,
    stack_apart::cases,
    stack_named::cases,
    shared::cases,
    scenario_merge::cases,
    scenarios::cases,
    scenarios_lvm::cases,
    scenarios_sharing::cases,
    self_tests::cases,
    stack_joined::cases,
    stack_tables::cases,
    stack_twice::cases,
    stacks::cases,
    stands::cases,
    copy::cases,
    death::cases,
    dmsetup::cases,
    doctor::cases,
    errors::cases,
    errors_direct::cases,
    races::cases,
    powercut::cases,
    powercut_judge::cases,
    mirror_basic::cases,
    mirror_shapes::cases,
    mirror_alternate::cases,
    mirror_fail::cases,
    mirror_record::cases,
    mirror_repair::cases,
    mirror_kill::cases,
    mirror_messages::cases,
    mirror_unreadable::cases,
    mirror_watch::cases,
    mirror_slow::cases,
    mirror_bad::cases,
];

/// Every case, in the order in which they run.
pub fn all() -> Vec<Case> {
    GROUPS.iter().flat_map(|cases| cases()).collect()
}
