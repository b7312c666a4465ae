//! Devices of a server as disks of others: what is refused, what passes through both, and what
//! becomes of them. Their lives with an end at every step are those of `carried`.

use dm_targets::request::RequestKind;

use super::carried_stack::{DISK, Do, KEY, LOWER, Lower, Stack};
use super::model;
use super::town::{SECTORS, Town, What};
use crate::protocol::{Command, DeviceRef, DeviceSpec, Reply};
use crate::ublk::device::BLOCK_PATH;

/// A device over devices.
fn stack(line: &'static str) -> Stack {
    let mut stack = Stack::new(line, true);
    for step in [Do::Add(Lower), Do::Write(Lower, 0), Do::Write(Lower, 5)] {
        stack.act(step).unwrap();
    }
    stack
}

fn over_devices() -> impl Iterator<Item = &'static str> {
    LOWER.into_iter().filter(|line| line.contains("/under"))
}

fn spec(line: &str) -> DeviceSpec {
    let mut spec = Town::spec(What::Mirror);
    spec.table = dm_targets::table::Table::parse_table(line).unwrap();
    spec
}

fn add(stack: &mut Stack, line: &str) -> Result<DeviceRef, String> {
    match stack.ask(Command::Add { name: None, id: None, spec: spec(line) })? {
        Reply::Added { device, .. } => Ok(device),
        other => Err(format!("{other:?}")),
    }
}

fn refused(stack: &mut Stack, command: Command, why: &str) {
    match stack.ask(command) {
        Err(found) => assert!(found.contains(why), "{found}"),
        Ok(reply) => panic!("not refused: {reply:?}"),
    }
}

fn path(device: DeviceRef) -> String {
    format!("{BLOCK_PATH}{}", device.id)
}

/// Ends a stack, which must have shown nothing wrong.
fn end(mut stack: Stack) {
    stack.judge(Lower).unwrap();
    stack.end().unwrap();
}

/// A device stays, with its table, as long as one stands on it.
fn ends_after_what_stands_on_it() {
    for line in over_devices() {
        let mut stack = stack(line);
        let under: Vec<DeviceRef> = stack.under.values().copied().collect();
        for device in &under {
            for force in [false, true] {
                let del = Command::Del { devices: vec![*device], force };
                refused(&mut stack, del, "stands on it: delete that first");
            }
            let load = Command::Load { device: *device, spec: spec("0 8 error") };
            refused(&mut stack, load, "its table cannot be replaced");
        }
        let lower = stack.device(Lower).unwrap();
        stack.judge(Lower).unwrap();
        let devices = under.into_iter().chain([lower]).collect();
        stack.ask(Command::Del { devices, force: false }).unwrap();
        assert!(stack.town.site.kernel.borrow().devices.is_empty());
    }
}

/// Without a server, too.
#[test]
fn a_waiting_device_ends_after_what_stands_on_it() {
    // The server of the others has nothing left.
    let mut stack = stack(LOWER[2]);
    stack.act(Do::Kill).unwrap();
    stack.act(Do::Attach(DISK, false)).unwrap();
    drop(stack.act(Do::Recover));
    let under = stack.under["/under-a"];
    let del = Command::Del { devices: vec![under], force: true };
    refused(&mut stack, del, "stands on it: delete that first");
    stack.act(Do::Attach(DISK, true)).unwrap();
    stack.act(Do::Recover).unwrap();
    end(stack);
}

/// While a device is suspended, what stands on it waits, and no command does.
fn what_a_suspended_device_holds_is_not_awaited() {
    for line in over_devices() {
        let mut stack = stack(line);
        let (lower, under) = (stack.device(Lower).unwrap(), *stack.under.values().next().unwrap());
        stack.ask(Command::Suspend { device: under, noflush: false }).unwrap();
        let kind = RequestKind::Write { fua: false };
        let write = |stack: &mut Stack| stack.io(lower, kind, 0, model::sector(70));
        stack.disk.begin(0, 70);
        assert_eq!(write(&mut stack), None, "it waits");
        let del = Command::Del { devices: vec![lower], force: true };
        for command in [Command::Suspend { device: lower, noflush: false }, del, Command::Leave] {
            refused(&mut stack, command, "is suspended and holds its I/O");
        }
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        assert_eq!(write(&mut stack), None, "the next server has forgotten it");
        stack.ask(Command::Resume { device: under }).unwrap();
        end(stack);
    }
}

/// A device that is in use, has snapshots, is read-only or suspended, or stands on the other one,
/// is no disk.
fn what_cannot_be_a_disk() {
    let mut stack = stack(LOWER[1]);
    let lower = stack.device(Lower).unwrap();
    let over = format!("0 8 linear {} 0", path(lower));
    stack.set_use(Lower, true);
    assert!(add(&mut stack, &over).unwrap_err().contains("it is in use"));
    stack.set_use(Lower, false);
    stack.act(Do::Suspend(Lower)).unwrap();
    assert!(add(&mut stack, &over).unwrap_err().contains("is suspended: resume it first"));
    stack.act(Do::Resume(Lower)).unwrap();
    let snapshot = add(&mut stack, &format!("0 8 snapshot {} /c0 P 2", path(lower))).unwrap();
    assert!(add(&mut stack, &over).unwrap_err().contains("has or had snapshots"));
    let of_snapshot = format!("0 8 linear {} 0", path(snapshot));
    assert!(add(&mut stack, &of_snapshot).unwrap_err().contains("can be no disk of its devices"));
    stack.ask(Command::Del { devices: vec![snapshot], force: false }).unwrap();
    assert!(add(&mut stack, &over).unwrap_err().contains("has or had snapshots"));
    stack.act(Do::Write(Lower, 1)).unwrap();
    end(stack);
    // One that stands on the device, or is the device.
    let mut stack = self::stack(LOWER[3]);
    let (lower, under) = (stack.device(Lower).unwrap(), stack.under["/under-a"]);
    for (device, other) in [(lower, lower), (under, under), (under, lower)] {
        let load = Command::Load { device, spec: spec(&format!("0 8 linear {} 0", path(other))) };
        assert!(stack.ask(load).is_err(), "{device:?} over {other:?}");
    }
    let origin = spec(&format!("0 8 snapshot-origin {}", path(lower)));
    refused(&mut stack, Command::Load { device: lower, spec: origin }, "made of itself");
    // A snapshot of a device that is a disk of another one.
    let why = add(&mut stack, &format!("0 8 snapshot {} /c1 P 2", path(under))).unwrap_err();
    assert!(why.contains("stands on linear0"), "{why}");
    end(stack);
}

/// A mirror is the only one of its server; ranges are beside it.
fn one_mirror() {
    let mut stack = stack(LOWER[2]);
    let legs = stack.under.values().map(|device| format!("{} 0", path(*device)));
    let legs = legs.collect::<Vec<_>>().join(" ");
    let why = add(&mut stack, &format!("0 8 mirror core 1 2 2 {legs}")).unwrap_err();
    assert!(why.contains("in use by another device of this server"), "{why}");
    add(&mut stack, "0 8 linear /o 0").unwrap();
    let over = format!("0 8 linear {} 0", path(stack.device(Lower).unwrap()));
    add(&mut stack, &over).unwrap();
    let del = Command::Del { devices: vec![stack.device(Lower).unwrap()], force: true };
    refused(&mut stack, del, "stands on it: delete that first");
    stack.act(Do::Kill).unwrap();
    stack.act(Do::Recover).unwrap();
    stack.judge(Lower).unwrap();
}

/// A mirror, and an origin that another device of its server has got since: the next server has
/// both, whichever it opens first.
#[test]
fn a_mirror_beside_an_origin() {
    let mut stack = stack(LOWER[2]);
    let other = add(&mut stack, "0 8 linear /o 0").unwrap();
    let load = Command::Load { device: other, spec: spec("0 8 snapshot-origin /o") };
    stack.ask(load).unwrap();
    stack.ask(Command::Resume { device: other }).unwrap();
    for _ in 0..2 {
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        stack.act(Do::Write(Lower, 3)).unwrap();
        stack.judge(Lower).unwrap();
    }
}

/// A mirror that replaces a range keeps no disk of which another device has a range.
#[test]
fn a_leg_is_of_one_device() {
    let mut stack = stack(LOWER[3]);
    let leg = add(&mut stack, "0 4 linear /b 0").unwrap();
    let under = stack.under["/under-a"];
    stack.act(Do::Del(Lower, false)).unwrap();
    stack.ask(Command::Del { devices: vec![under], force: false }).unwrap();
    let first = add(&mut stack, "0 4 linear /a 0").unwrap();
    add(&mut stack, "0 4 linear /a 4").unwrap();
    let line = format!("0 4 mirror core 1 2 2 /a 0 {} 0", path(leg));
    stack.ask(Command::Load { device: first, spec: spec(&line) }).unwrap();
    refused(&mut stack, Command::Resume { device: first }, "in use by");
}

/// SIGTERM while an origin's device is in use: its snapshot waits with it, though it stands on a
/// device of the server and the origin's does not.
#[test]
fn a_snapshot_on_a_device_waits_with_its_origin() {
    let mut stack = stack(LOWER[1]);
    let origin = add(&mut stack, "0 8 linear /o 0").unwrap();
    stack.ask(Command::Load { device: origin, spec: spec("0 8 snapshot-origin /o") }).unwrap();
    stack.ask(Command::Resume { device: origin }).unwrap();
    let cow = add(&mut stack, "0 24 linear /c0 0").unwrap();
    let snapshot = add(&mut stack, &format!("0 8 snapshot /o {} P 2", path(cow))).unwrap();
    let kernel = stack.town.site.clone();
    kernel.kernel.borrow_mut().devices.get_mut(&origin.id).unwrap().in_use = true;
    let kind = RequestKind::Write { fua: true };
    stack.io(snapshot, kind, 1, model::sector(7)).unwrap().unwrap();
    stack.act(Do::Terminate).unwrap();
    stack.act(Do::Recover).unwrap();
    stack.io(origin, kind, 1, model::sector(8)).unwrap().unwrap();
    let read = stack.io(snapshot, RequestKind::Read, 1, vec![0; 512]).unwrap().unwrap();
    assert_eq!(read, [7]);
}

/// The COW of a snapshot that is left out does not become a leg.
#[test]
fn what_waits_is_no_leg() {
    let mut stack = stack(LOWER[1]);
    stack.act(Do::Add(super::carried_stack::Upper)).unwrap();
    let leg = add(&mut stack, "0 8 linear /b 0").unwrap();
    for step in [Do::Kill, Do::Attach(DISK, false)] {
        stack.act(step).unwrap();
    }
    drop(stack.act(Do::Recover));
    let why = add(&mut stack, &format!("0 8 mirror core 1 2 2 /c0 0 {} 0", path(leg)));
    let why = why.unwrap_err();
    assert!(why.contains("recover"), "{why}");
}

/// A server that takes over with another device at the number has nothing on that.
fn another_device_at_the_number() {
    for line in over_devices() {
        let mut stack = stack(line);
        let under = *stack.under.values().next().unwrap();
        stack.act(Do::Kill).unwrap();
        let kernel = &stack.town.site.kernel;
        if let Some(device) = kernel.borrow_mut().devices.get_mut(&under.id) {
            device.info.target_flags += 1000;
        }
        let why = stack.recover().unwrap_err();
        assert!(why.contains("which has no server"), "{why}");
    }
}

/// The nodes below are read-only, from before the first write to the end.
fn nodes() {
    for line in over_devices() {
        let mut stack = stack(line);
        stack.judge_nodes().unwrap();
        stack.act(Do::Del(Lower, false)).unwrap();
        stack.judge_nodes().unwrap();
        stack.act(Do::Add(Lower)).unwrap();
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
        stack.judge_nodes().unwrap();
        stack.act(Do::Steal(Lower)).unwrap();
        stack.judge_nodes().unwrap();
    }
}

/// Two ranges of one device, and one of them moves to a disk and back.
#[test]
fn ranges_of_a_device_are_other_devices() {
    let mut stack = stack(LOWER[1]);
    let below = path(stack.device(Lower).unwrap());
    let one = add(&mut stack, &format!("0 4 linear {below} 0")).unwrap();
    let two = add(&mut stack, &format!("0 4 linear {below} 4")).unwrap();
    let why = add(&mut stack, &format!("0 2 linear {below} 3")).unwrap_err();
    assert!(why.contains("in use by"), "{why}");
    let kind = RequestKind::Write { fua: true };
    for (device, value) in [(one, 7), (two, 8)] {
        stack.io(device, kind, 1, model::sector(value)).unwrap().unwrap();
    }
    for _ in 0..2 {
        let whole = stack.read(Lower).unwrap().unwrap();
        assert_eq!((whole[1], whole[5]), (7, 8), "{whole:?}");
        stack.act(Do::Kill).unwrap();
        stack.act(Do::Recover).unwrap();
    }
    stack.ask(Command::Load { device: two, spec: spec("0 4 linear /o 0") }).unwrap();
    stack.ask(Command::Resume { device: two }).unwrap();
    stack.ask(Command::Load { device: two, spec: spec(&format!("0 4 linear {below} 4")) }).unwrap();
    stack.ask(Command::Resume { device: two }).unwrap();
    let read = stack.io(two, RequestKind::Read, 1, vec![0; 512]).unwrap().unwrap();
    assert_eq!(read, [8]);
}

#[test]
fn a_device_replaces_a_leg() {
    let mut stack = stack(LOWER[2]);
    let other = add(&mut stack, "0 8 linear /o 0").unwrap();
    let lower = stack.device(Lower).unwrap();
    let words = ["replace", "1", &path(other)].map(str::to_owned).to_vec();
    let message = Command::Message { device: lower, words, named: vec![other] };
    stack.ask(message).unwrap();
    let executor = stack.town.processes[KEY].executor.clone();
    drop(stack.town.site.run(&executor, || false));
    stack.act(Do::Write(Lower, 3)).unwrap();
    assert_eq!(stack.read(Lower).unwrap().unwrap().len(), SECTORS);
    let shown = stack.io(other, RequestKind::Read, 0, vec![0; SECTORS * 512]).unwrap().unwrap();
    assert_eq!(Some(Ok(shown)), stack.read(Lower), "the new leg has all of it");
    let freed = stack.under.remove("/under-b").unwrap();
    assert!(!stack.town.site.kernel.borrow().devices[&freed.id].protected);
    stack.ask(Command::Del { devices: vec![freed], force: false }).unwrap();
    let del = Command::Del { devices: vec![other], force: true };
    refused(&mut stack, del, "stands on it: delete that first");
    stack.act(Do::Kill).unwrap();
    stack.act(Do::Recover).unwrap();
    stack.judge(Lower).unwrap();
}

/// A mirror replaces one on the same devices; one that cannot be used leaves it in place.
fn a_mirror_is_replaced() {
    let mut stack = stack(LOWER[2]);
    let device = stack.device(Lower).unwrap();
    let [a, b] = ["/under-a", "/under-b"].map(|word| path(stack.under[word]));
    for (line, why) in [
        (format!("0 8 mirror core 1 4 2 {a} 0 {b} 0 1 handle_errors"), None),
        // The disk below one of them.
        (format!("0 8 mirror core 1 2 2 /a 0 {b} 0"), Some("in use")),
        (format!("0 8 mirror core 1 2 2 {a} 0 {b} 0 1 handle_errors"), None),
    ] {
        stack.ask(Command::Load { device, spec: spec(&line) }).unwrap();
        let resumed = stack.ask(Command::Resume { device });
        match (resumed, why) {
            (Ok(_), None) => {}
            (Err(found), Some(why)) if found.contains(why) && found.contains("still in place") => {}
            (other, _) => panic!("{line}: {other:?}"),
        }
        stack.act(Do::Write(Lower, 3)).unwrap();
        stack.judge(Lower).unwrap();
    }
    stack.act(Do::Kill).unwrap();
    stack.act(Do::Recover).unwrap();
    end(stack);
}

#[test]
fn a_mirror_over_devices_is_replaced_by_another_one() {
    a_mirror_is_replaced();
}

#[test]
fn a_device_ends_after_what_stands_on_it() {
    ends_after_what_stands_on_it();
}

#[test]
fn no_command_waits_for_what_a_lower_device_holds() {
    what_a_suspended_device_holds_is_not_awaited();
}

#[test]
fn not_every_device_is_a_disk() {
    what_cannot_be_a_disk();
    one_mirror();
}

#[test]
fn a_lower_device_is_found_by_its_cookie() {
    another_device_at_the_number();
}

#[test]
fn nobody_else_writes_to_a_lower_device() {
    nodes();
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_lower_devices_is_killed() {
    use crate::server::admin::mutant::{self, Mutant};
    let all: [fn(); 7] = [
        ends_after_what_stands_on_it,
        what_a_suspended_device_holds_is_not_awaited,
        what_cannot_be_a_disk,
        one_mirror,
        another_device_at_the_number,
        nodes,
        a_mirror_is_replaced,
    ];
    for mutant in [
        Mutant::JoinedEnds,
        Mutant::JoinedInUse,
        Mutant::JoinsCarrier,
        Mutant::JoinedByNumber,
        Mutant::JoinedWritable,
        Mutant::HeldAwaited,
        Mutant::ClosedStillUser,
    ] {
        mutant::set(Some(mutant));
        let noticed = all.iter().any(|check| std::panic::catch_unwind(check).is_err());
        mutant::set(None);
        assert!(noticed, "{mutant:?} is not noticed");
    }
}
