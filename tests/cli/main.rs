//! Command-line tests: what the program does on any Linux, without ublk and without root.

mod copy;
mod disk_words;
mod dmsetup;
mod doctor;
mod errors;
mod help;
mod identity;
mod images;
mod journal;
mod json;
#[path = "../json_schema.rs"]
mod json_schema;
mod listed;
mod merge;
mod monitor;
mod names;
mod notable;
mod numbers;
mod offline;
mod output;
mod papers;
mod rooms;
mod run_directory;
mod sources;
mod tab;
mod wrong_tables;
