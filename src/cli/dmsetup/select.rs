//! `-S`: which devices a command is about, by what is in their columns.
//!
//! Rule kept here: what dmsetup's criteria can say and these cannot (regular expressions, brackets,
//! lists) is refused, so that no command is carried out on a device that was not meant.

use super::devices::{All, One};
use super::fields::{Field, field};
use crate::failure::{Failure, wrong_usage};

/// How a column and a value compare. The longer words first: `<=` begins with `<`.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::Differs),
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("=", Operator::Is),
    (">", Operator::Above),
    ("<", Operator::Below),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Is,
    Differs,
    AtLeast,
    AtMost,
    Above,
    Below,
}

/// One comparison.
#[derive(Debug, PartialEq, Eq)]
struct Criterion {
    field: Field,
    operator: Operator,
    value: String,
}

/// Sets of comparisons, of one of which all must hold; empty: everything is meant.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection(Vec<Vec<Criterion>>);

impl Selection {
    /// Reads `FIELD OPERATOR VALUE`, several with `&&` (or a comma) and `||` (or `#`) between them.
    pub fn of(text: Option<&str>) -> Result<Selection, Failure> {
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            return Ok(Selection::default());
        };
        if text.contains(['(', ')', '[', ']', '{', '}', '~']) {
            return Err(wrong_usage(format!(
                "--select {text}: brackets and regular expressions are not supported"
            )));
        }
        let either = text.replace("||", "#");
        let sets = either.split('#').map(|set| {
            set.replace("&&", ",").split(',').map(Criterion::of).collect::<Result<Vec<_>, _>>()
        });
        Ok(Selection(sets.collect::<Result<_, _>>()?))
    }

    /// Whether a device is meant.
    pub fn has(&self, all: &All, one: &One) -> Result<bool, Failure> {
        let holds = |set: &Vec<Criterion>| {
            set.iter().try_fold(true, |so_far, criterion| {
                Ok::<_, Failure>(so_far && criterion.holds(&criterion.field.of(all, one))?)
            })
        };
        let any =
            self.0.iter().try_fold(false, |so_far, set| Ok::<_, Failure>(so_far || holds(set)?));
        Ok(self.0.is_empty() || any?)
    }
}

impl Criterion {
    fn of(text: &str) -> Result<Criterion, Failure> {
        let place = text.find(['!', '<', '>', '=']);
        let (name, rest) = text.split_at(place.unwrap_or(text.len()));
        let found = OPERATORS.iter().find_map(|(word, operator)| {
            rest.strip_prefix(word).map(|value| (*operator, value.trim()))
        });
        let Some((operator, value)) = found else {
            let text = text.trim();
            return Err(wrong_usage(format!("--select: {text}: FIELD=VALUE is wanted")));
        };
        let value = value.trim_matches(['"', '\'']).to_owned();
        Ok(Criterion { field: field(name.trim())?, operator, value })
    }

    fn holds(&self, shown: &str) -> Result<bool, Failure> {
        let order = if self.field.is_number {
            let wanted: u64 = self.value.parse().map_err(|_| {
                wrong_usage(format!("--select: {}={}: not a number", self.field.id, self.value))
            })?;
            // What has no number is equal to none.
            let Ok(number) = shown.parse::<u64>() else {
                return Ok(self.operator == Operator::Differs);
            };
            number.cmp(&wanted)
        } else {
            shown.to_lowercase().cmp(&self.value.to_lowercase())
        };
        let is_equal = order.is_eq();
        let of_words = matches!(self.operator, Operator::Is | Operator::Differs);
        if !self.field.is_number && of_words {
            // Names differ by their case; words like Suspended do not.
            let is_name = self.field.id.contains("name") || self.field.id.contains("uuid");
            let is_equal = if is_name { shown == self.value } else { is_equal };
            return Ok(is_equal == (self.operator == Operator::Is));
        }
        Ok(match self.operator {
            Operator::Is => is_equal,
            Operator::Differs => !is_equal,
            Operator::AtLeast => order.is_ge(),
            Operator::AtMost => order.is_le(),
            Operator::Above => order.is_gt(),
            Operator::Below => order.is_lt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::stack;
    use super::*;

    fn meant(text: &str) -> Vec<String> {
        let (all, selection) = (stack(), Selection::of(Some(text)).unwrap());
        let is_meant = |one: &&One| selection.has(&all, one).unwrap();
        all.ones.iter().filter(is_meant).map(|one| one.name.clone()).collect()
    }

    #[test]
    fn criteria_are_of_columns() {
        let everything = ["base", "cow", "orig", "snap"];
        assert_eq!(meant(""), everything);
        for (text, names) in [
            ("name=cow", &["cow"][..]),
            ("name=COW", &[]),
            ("name != 'cow'", &["base", "orig", "snap"]),
            ("events>=12", &["orig", "snap"]),
            ("open>0 && segments=1", &["base", "cow"]),
            ("open>1,name=cow", &[]),
            ("name=cow || minor = 13", &["cow", "orig"]),
            ("suspended=active", &everything),
            ("devs_used=\"cow,base\"", &[]),
        ] {
            if text.contains("cow,base") {
                assert!(Selection::of(Some(text)).is_err(), "a list is no value");
                continue;
            }
            assert_eq!(meant(text), names, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["name", "bogus=1", "name=~^a", "(name=a)", "name=a||", "=a"] {
            assert!(Selection::of(Some(text)).is_err(), "{text}");
        }
        let all = stack();
        let not_a_number = Selection::of(Some("open=x")).unwrap();
        assert!(not_a_number.has(&all, &all.ones[0]).is_err());
    }
}
