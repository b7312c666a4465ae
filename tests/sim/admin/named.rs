//! Disks that were given by the name of a device: the one that had the name when the command was
//! given, and no other that has its number by now.

use dm_targets::table::Table;

use super::carried_refused::stack;
use super::carried_stack::{LOWER, Stack, Upper};
use super::hold_and_are_noticed;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};
use crate::server::admin::mutant::Mutant;

/// The place of a disk that no device has.
const C: usize = 5;

fn add(stack: &mut Stack, lower: DeviceRef, named: DeviceRef) -> Result<Reply, String> {
    let table = Table::parse_table(&format!("0 8 snapshot /dev/ublkb{} /c1 P 2", lower.id));
    let spec = DeviceSpec { table: table.unwrap(), ..Town::spec(What::Mirror) };
    let spec = DeviceSpec { named: vec![named], ..spec };
    stack.ask(Command::Add { name: Some("named".to_owned()), id: None, spec })
}

/// A new device: nothing is left of one that is refused.
fn added() -> Result<(), String> {
    for line in LOWER {
        let (mut stack, lower, _) = stack(line);
        let other = DeviceRef { cookie: lower.cookie ^ 1, ..lower };
        let why = match add(&mut stack, lower, other) {
            Err(why) => why,
            Ok(_) => return Err(format!("{line}: another device is taken")),
        };
        if !why.contains("is now another device") {
            return Err(why);
        }
        let devices = stack.town.site.kernel.borrow().devices.len();
        let before = 2 + stack.under.len();
        if devices != before || stack.left().len() != before {
            return Err(format!("{line}: {devices} devices"));
        }
        // A name of another disk does not matter, and the right one is taken.
        add(&mut stack, lower, DeviceRef { id: lower.id + 90, ..other })?;
        stack.judge(Upper)?;
        let (mut stack, lower, _) = self::stack(line);
        add(&mut stack, lower, lower)?;
    }
    Ok(())
}

/// A loaded table, whose disks are opened when it is put in place; and a leg.
fn loaded_or_put_in() -> Result<(), String> {
    for at in [0, 1] {
        let (mut stack, lower, upper) = stack(LOWER[at]);
        stack.ask(Command::Del { devices: vec![upper], force: true })?;
        stack.town.site.ublk.set(Some((C, 77)));
        let named = vec![DeviceRef { id: 77, cookie: 5 }];
        let refused = if at == 0 {
            let words = ["replace", "1", "/dev/ublkb77"].map(str::to_owned).to_vec();
            stack.ask(Command::Message { device: lower, words, named })
        } else {
            let table = Table::parse_table("0 8 linear /dev/ublkb77 0").unwrap();
            let spec = DeviceSpec { table, named, ..Town::spec(What::Lines) };
            stack.ask(Command::Load { device: lower, spec })?;
            stack.ask(Command::Resume { device: lower })
        };
        match refused {
            Err(why) if why.contains("is now another device") => {}
            other => return Err(format!("{}: {other:?}", LOWER[at])),
        }
        let state = stack.left();
        if state.iter().any(|device| device.spec.table.to_string().contains("ublkb77")) {
            return Err("it is on record".to_owned());
        }
    }
    Ok(())
}

#[test]
fn a_named_disk_is_the_device_that_had_the_name() {
    hold_and_are_noticed(&[
        (added, Mutant::NamedByNumber),
        (loaded_or_put_in, Mutant::NamedByNumber),
    ]);
}
