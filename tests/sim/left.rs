//! What a crash leaves of a family.

use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::image::Image;
use dm_targets::sim::world::World;
use dm_targets::snapshot::format::Record;
use dm_targets::snapshot::journal::Journaled;
use dm_targets::snapshot::losses::Loss;

/// What a crash leaves: the content of the disks, and the journal of each snapshot's server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Left {
    /// The origin and the COWs.
    pub images: Vec<Image>,
    /// None, or one list for each snapshot.
    pub journals: Vec<Journaled>,
    /// None, or for each snapshot whether its store is recorded as lost.
    pub lost: Vec<Option<Loss>>,
}

impl Left {
    /// Disks with empty journals.
    pub fn images(images: &[Image]) -> Left {
        Left { images: images.to_vec(), ..Left::default() }
    }

    /// What a world leaves behind after a crash.
    pub fn of(world: &World, images: Vec<Image>, kind: CrashKind) -> Left {
        Left { images, journals: world.journals_left(kind), lost: world.lost() }
    }

    /// Whether the store of a snapshot is recorded as lost.
    pub fn is_lost(&self, snap: usize) -> bool {
        self.lost.get(snap).is_some_and(Option::is_some)
    }

    /// Whether a journal holds records.
    pub fn is_journaled(&self) -> bool {
        self.journals.iter().any(|journaled| !journaled.records.is_empty())
    }

    /// The journal of a snapshot.
    pub fn journal_of(&self, snap: usize) -> &[Record] {
        self.journals.get(snap).map_or(&[], |journaled| &journaled.records)
    }
}
