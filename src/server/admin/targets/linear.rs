//! Linear devices before the kernel adds them: the disk is opened and claimed, nothing is written.

use std::rc::Rc;

use dm_targets::device::Opened;
use dm_targets::linear::table::Linear as Table;
use dm_targets::linear::target::Linear;
use dm_targets::target::Target;

use super::disks::{Sharing, check_length, check_range, discard_of};
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, KnownDisks};
use crate::server::admin::devices::Deps;
use crate::server::admin::machine::{Machine, OpenDisk, Thread};
use crate::server::admin::new_device::NewDevice;
use crate::server::admin::state::Administrator;
use crate::ublk::device;

impl<M: Machine> Administrator<M> {
    pub(in crate::server::admin) fn prepare_linear(
        &mut self,
        linear: &Table,
        mut spec: DeviceSpec,
        again: Option<&KnownDisks>,
    ) -> Result<NewDevice<M>, Reason> {
        let path = &linear.device;
        if let Some(entry) = self.devices.values().next().filter(|_| !spec.force && again.is_none())
        {
            let (id, name) = (entry.info.id, &entry.name);
            return Err(
                format!("{path}: in use by /dev/ublkb{id} ({name}); --force shares it").into()
            );
        }
        if again.is_none() {
            self.refuse_circle_of(&spec.table.params)?;
        }
        let (disk, shared) = self.open_as_it_is(path, Sharing::of(spec.force, again.is_some()))?;
        spec.force = shared;
        let known = self.recognized(path, &disk, again)?;
        let (len, start, limits) = (spec.table.len, linear.offset, *disk.limits());
        check_range(&disk, start, len)?;
        check_length(path, len, disk.size(), limits.logical_block_size)?;
        let read_only = disk.is_read_only() || spec.options.read_only;
        let mut deps = Deps::default();
        deps.insert(path, disk.id(), known);
        let (target, ()) = self.open_target(move |thread: Rc<M::Thread>| async move {
            let target = Target::Linear(Rc::new(Linear::new(thread.disk(disk), start, len)));
            Ok::<_, Reason>((Opened { target, events: Rc::default() }, ()))
        })?;
        let discard = discard_of(&[&limits], start);
        let params = device::params(&[&limits], limits.volatile_cache, len, read_only, discard);
        Ok(NewDevice { params, target, deps, read_only, spec, cow: None, note: None })
    }
}
