//! `info -c`: devices in columns.
//!
//! Rule kept here: lines are laid out as dmsetup does, with its separators.

use super::devices::{All, One};
use super::fields::{Field, chosen, field};
use super::grammar::Asked;
use super::select::Selection;
use crate::cli::terminal::print;
use crate::cli::verdict::verdict;
use crate::failure::Failure;

/// How the columns are printed.
struct Layout<'a> {
    has_headings: bool,
    /// Each value with the name of its field.
    has_names: bool,
    is_quoted: bool,
    /// A line for each column.
    is_turned: bool,
    separator: Option<&'a str>,
}

impl<'a> Layout<'a> {
    fn of(asked: &'a Asked) -> Layout<'a> {
        Layout {
            has_headings: !asked.noheadings,
            has_names: asked.nameprefixes,
            is_quoted: !asked.unquoted,
            is_turned: asked.rows,
            separator: asked.separator.as_deref(),
        }
    }

    fn lines(&self, fields: &[Field], rows: &[Vec<String>]) -> Vec<String> {
        let between = self.separator.unwrap_or(if self.has_headings { " " } else { ":" });
        let pads =
            self.has_headings && self.separator.is_none() && !self.is_turned && !self.has_names;
        let value = |field: &Field, value: &str| match (self.has_names, self.is_quoted) {
            (false, _) => value.to_owned(),
            (true, true) => format!("DM_{}='{value}'", field.id.to_uppercase()),
            (true, false) => format!("DM_{}={value}", field.id.to_uppercase()),
        };
        let mut table: Vec<Vec<String>> = Vec::new();
        if self.has_headings {
            table.push(fields.iter().map(|field| field.heading.to_owned()).collect());
        }
        let named = |row: &Vec<String>| fields.iter().zip(row).map(|(f, v)| value(f, v)).collect();
        table.extend(rows.iter().map(named));
        if self.is_turned {
            let column = |at: usize| table.iter().map(|row| row[at].as_str()).collect::<Vec<_>>();
            return (0..fields.len()).map(|at| column(at).join(between)).collect();
        }
        let width = |at: usize| {
            let longest = table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
            fields[at].width.max(longest)
        };
        let widths: Vec<usize> = (0..fields.len()).map(width).collect();
        let padded = |(at, row): (usize, &Vec<String>)| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let (width, is_heading) = (widths[column], at == 0);
                match (pads, fields[column].is_number && !is_heading) {
                    (false, _) => cell.clone(),
                    (true, true) => format!("{cell:>width$}"),
                    (true, false) => format!("{cell:<width$}"),
                }
            });
            cells.collect::<Vec<_>>().join(between)
        };
        table.iter().enumerate().map(padded).collect()
    }
}

/// Sorts rows by `[-+]FIELD,...`.
fn sort(rows: &mut [(&One, Vec<String>)], keys: &str, all: &All) -> Result<(), Failure> {
    let mut fields = Vec::new();
    for key in keys.split(',').filter(|key| !key.is_empty()) {
        fields.push((field(key.trim_start_matches(['+', '-']))?, key.starts_with('-')));
    }
    for (field, is_reverse) in fields.into_iter().rev() {
        let key = |one: &One| {
            let word = field.of(all, one);
            (word.parse::<u64>().ok().filter(|_| field.is_number), word)
        };
        rows.sort_by(|(one, _), (other, _)| {
            let order = key(one).cmp(&key(other));
            if is_reverse { order.reverse() } else { order }
        });
    }
    Ok(())
}

/// Prints the columns of the devices that are asked for.
pub(super) fn report(all: &All, asked: &Asked) -> Result<(), Failure> {
    let fields = chosen(asked.options.as_deref())?;
    let mut rows = Vec::new();
    let selection = Selection::of(asked.select.as_deref())?;
    let mut add = |one: &One| {
        let wanted = selection.has(all, one)?;
        // The same device lives in `all`, for as long as the rows do.
        let found = all.ones.iter().find(|it| wanted && it.name == one.name);
        rows.extend(
            found.map(|one| (one, fields.iter().map(|field| field.of(all, one)).collect())),
        );
        Ok(())
    };
    let found = if asked.words.is_empty() && !asked.names_one() {
        if all.ones.is_empty() && all.problems.is_empty() {
            return print("No devices found");
        }
        all.ones.iter().try_for_each(&mut add)
    } else {
        all.each(asked, None, |one, _| add(one))
    };
    sort(&mut rows, asked.sort.as_deref().unwrap_or_default(), all)?;
    if !rows.is_empty() {
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
        Layout::of(asked).lines(&fields, &rows).iter().try_for_each(|line| print(line))?;
    }
    // What was found before a word that names nothing is printed.
    found?;
    if asked.words.is_empty() { verdict(all.problems.clone()) } else { Ok(()) }
}
