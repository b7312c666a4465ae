//! Judges images that survived a crash: with the kernel's rules, with the code under test, and with the model.

use dm_targets::sim::image::{Image, SectorData};
use dm_targets::snapshot::target::OnFull;

use crate::kernel::{self, Loaded};
use crate::model::{Device, Model, Moment, Snap};
use crate::stack::{Setup, recover};

/// What a judgement may take for granted.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Records use data chunks one after the other.
    pub dense: bool,
    /// The stores have been opened: what an earlier owner left is gone, and there is a store.
    pub open: bool,
}

fn tell(number: usize) -> impl FnOnce(String) -> String {
    move |fault| format!("snap{}: {fault}", number + 1)
}

/// Judges surviving images: the store's structure, what everything shows, and that opening them twice makes no
/// difference.
pub fn judge(
    setup: &Setup,
    model: &Model,
    images: &[Image],
    moment: Moment,
    expect: Expect,
) -> Result<Vec<Image>, String> {
    let mut views = Vec::new();
    for (number, snap) in model.snaps.iter().enumerate() {
        let cow = &images[number + 1];
        let loaded = kernel::load(cow, setup.origin_sectors).map_err(tell(number))?;
        check_store(&loaded, snap, expect).map_err(tell(number))?;
        views.push(kernel::view(&loaded, cow, &images[0]));
    }
    let recovered = recover(setup, images)?;
    model.origin.judge(0, &recovered.origin, moment).map_err(|fault| format!("origin: {fault}"))?;
    for (number, (shown, snap)) in recovered.snaps.iter().zip(&model.snaps).enumerate() {
        if *shown != views[number] {
            return Err(format!("snap{}: the kernel would show something else", number + 1));
        }
        if let Some(shown) = shown.as_ref().filter(|_| !snap.unmarked) {
            snap.device.judge(0, shown, moment).map_err(tell(number))?;
        }
    }
    if recovered.writes > 0 {
        let again = recover(setup, &recovered.images)?;
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
        Loaded::Invalid if !snap.may_be_invalid() => Err("is invalid and nothing has gone wrong".into()),
        Loaded::Empty | Loaded::Valid(_) if snap.dead => Err("was durably invalid (I9) and is valid again".into()),
        Loaded::Valid(store) if expect.open && store.stale_tail => {
            Err("stale bytes stand behind the terminator, where the kernel would take them for records".into())
        }
        Loaded::Valid(store) if expect.dense && !store.is_dense() => {
            Err(format!("I3: records leave holes: {:?}", store.records))
        }
        _ => Ok(()),
    }
}

/// The model of a family that starts from images: what they show by the kernel's rules is what must stay.
pub fn model_of(setup: &Setup, images: &[Image]) -> Result<Model, String> {
    let mut snaps = Vec::new();
    for (number, snap) in setup.snaps.iter().enumerate() {
        let cow = &images[number + 1];
        let loaded = kernel::load(cow, setup.origin_sectors)?;
        let view: Option<Vec<SectorData>> = kernel::view(&loaded, cow, &images[0]);
        let (chunk, records) = match &loaded {
            Loaded::Valid(store) => (store.chunk, &store.records[..]),
            _ => (snap.chunk, &[][..]),
        };
        snaps.push(Snap {
            dead: view.is_none(),
            device: Device::new(view.unwrap_or_default()),
            chunk,
            capacity: kernel::capacity(cow.size().0, chunk, records),
            touched: records.iter().map(|(old, _)| *old).collect(),
            overflows: snap.on_full == OnFull::Overflow,
            origin_wrote: false,
            failed: false,
            unmarked: false,
        });
    }
    Ok(Model::new(Device::new(images[0].sectors.clone()), snaps, setup.volatile))
}
