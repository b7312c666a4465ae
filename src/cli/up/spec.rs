//! A line of the tab file as what `create` makes a device of.

use std::path::Path;

use super::lost;
use crate::cli::args;
use crate::cli::disk_word::Disks;
use crate::cli::table;
use crate::failure::Failure;
use crate::protocol::DeviceSpec;
use crate::tab::{Disk, Entry, Options};

/// A device as its line describes it.
pub(super) fn spec(entry: &Entry) -> Result<(DeviceSpec, args::Common), Failure> {
    let Entry { name, table, options, .. } = entry;
    let beside =
        options.beside.as_deref().map(|word| Disks::in_tab().path(Path::new(named_by(word))));
    let common =
        args::Common { beside: beside.transpose()?.map(Into::into), ..common(name, options) };
    let table = table.with_devices(|word| Ok::<_, Failure>(named_by(word).to_owned()))?;
    let source = options.source.as_deref().map(|word| Path::new(named_by(word)));
    let spec = table::of_lines(&table.to_string(), &common, source, Disks::in_tab())?;
    let (other_origin, lost) = (options.other_origin, lost::stood_in(entry));
    let continues = entry.origin_of_snapshot().is_some();
    Ok((DeviceSpec { other_origin, lost, continues, ..spec }, common))
}

/// The options of a line as those of `create`, but for the device that it is beside.
fn common(name: &str, options: &Options) -> args::Common {
    let default = args::Common::named(name.to_owned());
    args::Common {
        id: options.id,
        queues: options.queues.unwrap_or(default.queues),
        depth: options.depth.unwrap_or(default.depth),
        read_only: options.read_only,
        no_zero_copy: options.no_zero_copy,
        no_recovery: options.no_recovery,
        on_server_death: options.on_server_death.map(table::flag_of).unwrap_or_default(),
        uuid: options.uuid.clone(),
        force: options.force,
        shared: options.shared,
        ..default
    }
}

/// The word of a disk without the directory of links to devices: there may be no such links.
fn named_by(word: &str) -> &str {
    match Disk::of(word) {
        Disk::Named(name) => name,
        Disk::Path(path) => path,
    }
}
