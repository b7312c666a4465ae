//! A device with snapshots in its server grows, and its origin's device: the snapshots keep their
//! length and what they show, also if the server dies at any step.

use dm_targets::request::RequestKind;

use super::carried_stack::{DISK, Do, LOWER, Lower, Stack, Top, Upper};
use super::model::{self, Content};
use super::resize::{LONG, long_image};
use super::town::SECTORS;
use crate::protocol::Command;

/// A device on disks that have grown, its snapshot and its origin's device.
fn stack(line: &'static str) -> Stack {
    let mut stack = Stack::new(line, true);
    for disk in [DISK, DISK + 1] {
        stack.town.site.put(disk, long_image(0));
    }
    stack.disk = Content::of((500..).take(SECTORS));
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Add(Upper), Do::Add(Top)] {
        stack.act(step).unwrap();
    }
    stack.act(Do::Write(Top, 3)).unwrap();
    stack
}

/// Makes all of them longer, from the bottom up, but for the snapshot.
fn grow(stack: &mut Stack) -> Result<(), String> {
    let bytes = Some(LONG as u64 * 512);
    let under = stack.under.values().copied();
    let own = [Lower, Top].map(|part| stack.device(part));
    for device in under.chain(own.into_iter().flatten()).collect::<Vec<_>>() {
        stack.ask(Command::Resize { device, bytes })?;
    }
    Ok(())
}

/// Both devices write and read what is new, and the snapshot is as it was.
fn judge(stack: &mut Stack) {
    let last = LONG - 1;
    for (at, part) in [Lower, Top].into_iter().enumerate() {
        let device = stack.device(part).unwrap();
        let value = 9000 + u32::try_from(at).unwrap();
        let kind = RequestKind::Write { fua: false };
        stack.io(device, kind, last, model::sector(value)).unwrap().unwrap();
        for other in [Lower, Top] {
            let device = stack.device(other).unwrap();
            let read = stack.io(device, RequestKind::Read, last, vec![0; 512]);
            assert_eq!(read, Some(Ok(vec![value])), "{other:?}");
        }
        stack.act(Do::Write(part, 4 + at)).unwrap();
    }
    [Lower, Top, Upper].into_iter().for_each(|part| stack.judge(part).unwrap());
    let upper = stack.device(Upper).unwrap();
    let shown = stack.town.site.kernel.borrow().devices[&upper.id].params.dev_sectors;
    assert_eq!(shown, SECTORS as u64);
}

/// The tables that can grow: one of several lines has the length of these.
fn lines() -> impl Iterator<Item = &'static str> {
    LOWER.into_iter().filter(|line| !line.contains('\n'))
}

#[test]
fn a_device_with_snapshots_grows() {
    for line in lines() {
        let mut stack = stack(line);
        grow(&mut stack).unwrap();
        judge(&mut stack);
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        judge(&mut stack);
    }
}

#[test]
fn every_end_of_a_growth_leaves_the_snapshots() {
    for line in lines() {
        for crash in 1.. {
            let mut stack = stack(line);
            let has_ended = stack.ends_at(crash, |stack| drop(grow(stack)));
            [Lower, Top, Upper].into_iter().for_each(|part| stack.judge(part).unwrap());
            grow(&mut stack).unwrap();
            judge(&mut stack);
            if !has_ended {
                break;
            }
        }
    }
}
