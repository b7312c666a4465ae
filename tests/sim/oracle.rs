//! Judges images that survived a crash: with the kernel's rules, with the code under test, and with
//! the model.

use dm_targets::sim::image::{Image, SectorData};
use dm_targets::snapshot::target::OnFull;

use crate::kernel::{self, Loaded};
use crate::model::{Device, Model, Moment, Snap};
use crate::stack::{Left, Setup, recover};

/// The assumptions of a judgement.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Records use data chunks one after the other.
    pub dense: bool,
    /// The stores have been opened: the content of an earlier owner is gone, and there is a store.
    pub open: bool,
}

fn tell(number: usize) -> impl FnOnce(String) -> String {
    move |fault| format!("snap{}: {fault}", number + 1)
}

/// Judges the surviving images: the store's structure, the content of all devices, and that opening
/// them twice makes no difference. The kernel must show the same; it finds journaled records only
/// after the next server has recorded them.
pub fn judge(
    setup: &Setup,
    model: &Model,
    left: &Left,
    moment: Moment,
    expect: Expect,
) -> Result<Vec<Image>, String> {
    let mut views = Vec::new();
    for (number, snap) in model.snaps.iter().enumerate() {
        let loaded =
            kernel::load(&left.images[number + 1], setup.origin_sectors).map_err(tell(number))?;
        if left.is_lost(number) {
            // The COW's content is meaningless to a server that knows of the loss.
            if !snap.may_be_invalid() {
                return Err(format!(
                    "snap{}: is recorded as lost and nothing has gone wrong",
                    number + 1
                ));
            }
            views.push(None);
            continue;
        }
        check_store(&loaded, snap, expect).map_err(tell(number))?;
        views.push(kernel::view(&loaded, &left.images[number + 1], &left.images[0]));
    }
    let recovered = recover(setup, left)?;
    for (number, view) in views
        .iter_mut()
        .enumerate()
        .filter(|(number, _)| left.is_journaled() && !left.is_lost(*number))
    {
        let loaded = kernel::load(&recovered.images[number + 1], setup.origin_sectors)
            .map_err(tell(number))?;
        *view = kernel::view(&loaded, &recovered.images[number + 1], &recovered.images[0]);
    }
    model.origin.judge(0, &recovered.origin, moment).map_err(|fault| format!("origin: {fault}"))?;
    for (number, (shown, snap)) in recovered.snaps.iter().zip(&model.snaps).enumerate() {
        if *shown != views[number] {
            return Err(format!("snap{}: the kernel would show something else", number + 1));
        }
        if let Some(shown) = shown {
            snap.device.judge(0, shown, moment).map_err(tell(number))?;
        }
    }
    if recovered.writes > 0 {
        let again = Left { lost: left.lost.clone(), ..Left::images(&recovered.images) };
        let again = recover(setup, &again)?;
        if again.writes > 0 || again.images != recovered.images {
            return Err("opening a second time writes again".into());
        }
        if again.snaps != recovered.snaps || again.origin != recovered.origin {
            return Err("opening a second time shows something else".into());
        }
    }
    Ok(recovered.images)
}

fn check_store(loaded: &Loaded, snap: &Snap, expect: Expect) -> Result<(), String> {
    match loaded {
        Loaded::Empty if expect.open => Err("there is no store any more".into()),
        Loaded::Invalid if !snap.may_be_invalid() => {
            Err("is invalid and nothing has gone wrong".into())
        }
        Loaded::Empty | Loaded::Valid(_) if snap.dead => {
            Err("was durably invalid (I9) and is valid again".into())
        }
        Loaded::Valid(store) if expect.open && store.stale_tail => Err(
            "stale bytes stand behind the terminator, where the kernel would take them for records"
                .into(),
        ),
        Loaded::Valid(store) if expect.dense && !store.is_dense() => {
            Err(format!("I3: records leave holes: {:?}", store.records))
        }
        _ => Ok(()),
    }
}

/// The model of a family that starts from the images left by a crash: the content of these by the
/// kernel's rules must be preserved. Until the journal is recorded, a loss of power removes it.
pub fn model_of(setup: &Setup, left: &Left) -> Result<Model, String> {
    let images = &left.images;
    let mut snaps = Vec::new();
    for (number, snap) in setup.snaps.iter().enumerate() {
        let cow = &images[number + 1];
        let mut loaded = kernel::load(cow, setup.origin_sectors)?;
        let without = kernel::view(&loaded, cow, &images[0]).filter(|_| left.is_journaled());
        if let Loaded::Valid(store) = &mut loaded {
            let journaled =
                left.journal_of(number).iter().map(|record| (record.old.0, record.new.0));
            let journaled: Vec<_> =
                journaled.filter(|record| !store.records.contains(record)).collect();
            store.records.extend(journaled);
        }
        let view: Option<Vec<SectorData>> =
            kernel::view(&loaded, cow, &images[0]).filter(|_| !left.is_lost(number));
        let (chunk, records) = match &loaded {
            Loaded::Valid(store) => (store.chunk, &store.records[..]),
            _ => (snap.chunk, &[][..]),
        };
        snaps.push(Snap {
            dead: view.is_none(),
            device: Device::new(view.unwrap_or_default(), without),
            chunk,
            capacity: kernel::capacity(cow.size().0, chunk, records),
            touched: records.iter().map(|(old, _)| *old).collect(),
            overflows: snap.on_full == OnFull::Overflow,
            origin_wrote: false,
            failed: false,
            left: false,
            outlived: false,
        });
    }
    let mut model = Model::new(Device::new(images[0].sectors.clone(), None), snaps, setup.volatile);
    model.journal = setup.journal;
    Ok(model)
}
