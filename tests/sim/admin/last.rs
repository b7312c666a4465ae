//! A snapshot whose device is deleted as the last one of its family: its origin, which is changed
//! under a later server, makes it wrong, and adding it again is refused.

use super::Step::{self, *};
use super::town::What::{Origin, Snap};
use super::town::{Town, What};

/// The stories of such ends.
pub(super) fn stories() -> Vec<Vec<Step>> {
    vec![
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Snap(0), 3),
            Del(Origin, false),
            Del(Snap(0), false),
            Add(Origin),
            Write(Origin, 2),
            Del(Origin, false),
            Add(Snap(0)),
        ],
        vec![
            Add(Snap(0)),
            Write(Snap(0), 3),
            Terminate("o"),
            Add(Origin),
            Write(Origin, 2),
            Add(Snap(0)),
        ],
        vec![Add(Snap(0)), Kill("o"), Del(Snap(0), true), Add(Origin), Write(Origin, 2)],
        vec![Add(Snap(0)), Steal(Snap(0), false), Add(Origin), Write(Origin, 2)],
        vec![Add(Snap(0)), Kill("o"), Steal(Snap(0), false), Add(Origin), Write(Origin, 2)],
    ]
}

/// Ends the only device of a family, the snapshot, in one of the ways that there are.
type End = fn(&mut Town);

const ENDS: [(&str, End); 6] = [
    ("del", |town| town.del(What::Snap(0), false).unwrap()),
    ("SIGTERM", |town| town.terminate("o").unwrap()),
    ("another program", |town| town.steal(What::Snap(0), false)),
    ("del of a dead server's", |town| {
        town.kill("o");
        town.del(What::Snap(0), true).unwrap();
    }),
    ("another program, without a server", |town| {
        town.kill("o");
        town.steal(What::Snap(0), false);
    }),
    ("del of a dead server's whose origin is not there", |town| {
        town.kill("o");
        town.attach(0, false);
        // Its journal stays, because it cannot be opened without its origin.
        drop(town.del(What::Snap(0), true));
        town.attach(0, true);
    }),
];

#[test]
fn the_last_snapshot_of_a_family_is_lost_when_its_origin_is_changed_later() {
    // The origin of the second town has no lasting name.
    for (seed, (way, end)) in [1, 3].into_iter().flat_map(|seed| ENDS.map(|end| (seed, end))) {
        let mut town = Town::new(seed, true);
        town.add(What::Snap(0)).unwrap();
        end(&mut town);
        assert!(!town.has(What::Snap(0)), "{way}: {:?}", town.log);
        town.add(What::Origin).unwrap();
        town.write(What::Origin, 2);
        town.del(What::Origin, false).unwrap();
        let why = town.add(What::Snap(0)).expect_err(way);
        assert!(why.contains("/c0: the snapshot on it is lost"), "{way}: {why}");
        assert_eq!(town.end(), Ok(()), "{way}");
    }
}

#[test]
fn it_is_as_it_was_while_the_origin_is_unchanged() {
    for (way, end) in ENDS {
        let mut town = Town::new(1, true);
        town.add(What::Snap(0)).unwrap();
        town.write(What::Snap(0), 3);
        end(&mut town);
        town.add(What::Snap(0)).expect(way);
        town.add(What::Origin).expect(way);
        town.write(What::Origin, 2);
        assert_eq!(town.judge(What::Snap(0)), Ok(()), "{way}");
        assert!(town.site.files(|files| files.tells_of_no_cow()), "{way}: it is here again");
        assert_eq!(town.end(), Ok(()), "{way}");
    }
}
