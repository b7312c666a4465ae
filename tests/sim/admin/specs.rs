//! The specs of a town's devices.

use dm_targets::linear::table::Linear;
use dm_targets::mirror::table::{InitialSync, Leg, Mirror, MirrorLog};
use dm_targets::snapshot::table::{Snapshot, StoreType};
use dm_targets::table::{Table, TargetParams};
use dm_targets::units::{ChunkSize, Sector, Sectors};

use super::town::{CHUNK, COWS, SECTORS, Town, What};
use crate::protocol::{DeviceOptions, DeviceSpec, OnServerDeath};

impl Town {
    /// The mirror's table as it is, or with a leg that is too short, so that it cannot be opened.
    pub(super) fn mirror_table(&self, short: bool) -> DeviceSpec {
        let mut spec = Town::spec(What::Mirror);
        if let TargetParams::Mirror(mirror) = &mut spec.table.params {
            for (leg, disk) in mirror.legs.iter_mut().zip(self.legs) {
                leg.device.clone_from(&self.site.disks[disk].path);
            }
            if short {
                mirror.legs[1].offset = Sector(1 << 30);
            }
        }
        spec
    }

    pub(super) fn spec(what: What) -> DeviceSpec {
        let leg = |device: &str| Leg { device: device.to_owned(), offset: Sector(0) };
        let params = match what {
            What::Origin => TargetParams::SnapshotOrigin { origin: "/o".to_owned() },
            What::Snap(at) => TargetParams::Snapshot(Snapshot {
                origin: "/o".to_owned(),
                cow: COWS[at].to_owned(),
                store: StoreType::Persistent { overflow: false },
                chunk_size: ChunkSize::from_sectors(CHUNK),
                discard_zeroes_cow: false,
                discard_passdown_origin: false,
            }),
            What::Lines => {
                TargetParams::Linear(Linear { device: "/a".to_owned(), offset: Sector(0) })
            }
            What::Mirror => TargetParams::Mirror(Mirror {
                log: MirrorLog::Core,
                region_size: Sectors(2),
                initial_sync: InitialSync::FromLog,
                legs: vec![leg("/a"), leg("/b")],
                handle_errors: true,
                keep_log: true,
            }),
        };
        DeviceSpec {
            table: Table { len: Sectors(SECTORS as u64), params },
            options: DeviceOptions {
                queues: 1,
                depth: 1,
                read_only: false,
                zero_copy: false,
                recovery: true,
                on_server_death: OnServerDeath::Wait,
                uuid: None,
            },
            force: false,
            unclaimed: false,
            degraded: false,
            source: None,
            lost: Vec::new(),
            continues: false,
            other_origin: false,
            allow_invalid: false,
            merge: None,
            named: Vec::new(),
        }
    }
}
