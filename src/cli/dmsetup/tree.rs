//! `ls --tree`: which device stands on which, as device-mapper's users know the picture.

use super::devices::{All, Number, One, block_name, shown};
use super::select::Selection;
use crate::failure::{Failure, wrong_usage};

/// The lines of a tree.
struct Symbols {
    child: &'static str,
    last: &'static str,
    beside: &'static str,
}

const UTF: Symbols = Symbols { child: " ├─", last: " └─", beside: " │ " };
const ASCII: Symbols = Symbols { child: " |-", last: " `-", beside: " | " };

/// What `-o` asks for.
pub(super) struct Options {
    symbols: Symbols,
    has_numbers: bool,
    has_block_names: bool,
    is_inverted: bool,
    active: bool,
    open: bool,
    rw: bool,
    uuid: bool,
}

impl Options {
    /// Reads the words; without one for the lines, the locale decides.
    pub fn of(words: Option<&str>, is_utf: bool) -> Result<Options, Failure> {
        let mut options = Options {
            symbols: if is_utf { UTF } else { ASCII },
            has_numbers: true,
            has_block_names: false,
            is_inverted: false,
            active: false,
            open: false,
            rw: false,
            uuid: false,
        };
        for word in words.unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
            match word {
                "ascii" => options.symbols = ASCII,
                "utf" => options.symbols = UTF,
                "device" => options.has_numbers = true,
                "nodevice" => options.has_numbers = false,
                "blkdevname" => options.has_block_names = true,
                "inverted" => options.is_inverted = true,
                "active" => options.active = true,
                "open" => options.open = true,
                "rw" => options.rw = true,
                "uuid" => options.uuid = true,
                "notrunc" => {}
                "compact" | "vt100" => {
                    return Err(wrong_usage(format!("--tree -o {word}: not supported")));
                }
                _ => return Err(wrong_usage(format!("Option not recognised: {word}."))),
            }
        }
        Ok(options)
    }

    /// What stands in brackets behind a device.
    fn state(&self, all: &All, one: &One) -> String {
        let word = |is: bool, words: [&str; 2]| words[usize::from(is)].to_owned();
        let parts = [
            self.active.then(|| word(one.is_suspended, ["ACTIVE", "SUSPENDED"])),
            self.rw.then(|| word(one.is_read_only, ["RW", "RO"])),
            self.open.then(|| all.opens(one).to_string()),
            self.uuid.then(|| one.uuid.clone().unwrap_or_default()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { String::new() } else { format!(" [{}]", parts.join(", ")) }
    }
}

/// A disk in the tree: a device, or what has no tree below it.
#[derive(Clone, Copy)]
enum Node<'a> {
    Device(&'a One),
    Disk(Number),
}

struct Picture<'a> {
    all: &'a All,
    options: &'a Options,
    lines: Vec<String>,
}

impl<'a> Picture<'a> {
    fn text(&self, node: Node<'_>) -> String {
        let (name, number, block) = match node {
            Node::Device(one) => (one.name.as_str(), one.devno(), one.block_name()),
            Node::Disk(number) => ("", shown(number), Some(block_name(number))),
        };
        let mut text = name.to_owned();
        if self.options.has_block_names {
            text.extend(block.map(|block| format!(" <{block}>")));
        }
        if self.options.has_numbers {
            text.push_str(&format!(" ({number})"));
        }
        if let Node::Device(one) = node {
            text.push_str(&self.options.state(self.all, one));
        }
        text
    }

    fn children(&self, node: Node<'a>) -> Vec<Node<'a>> {
        let all = self.all;
        if self.options.is_inverted {
            let stands = |it: Number| move |one: &&One| one.disks(false).contains(&it);
            let number = match node {
                Node::Device(one) => one.number,
                Node::Disk(number) => Some(number),
            };
            let above = number.into_iter().flat_map(|it| all.ones.iter().filter(stands(it)));
            return above.map(Node::Device).collect();
        }
        let Node::Device(one) = node else { return Vec::new() };
        let below = one.disks(false).into_iter();
        let node = |it| all.numbered(it).map_or(Node::Disk(it), Node::Device);
        below.map(node).filter(|child| self.is_shown(*child)).collect()
    }

    /// A disk without its number and its name would be an empty line.
    fn is_shown(&self, node: Node<'_>) -> bool {
        let Options { has_numbers, has_block_names, .. } = *self.options;
        has_numbers || has_block_names || matches!(node, Node::Device(_))
    }

    fn draw(&mut self, node: Node<'a>, stem: &str, branch: &str) {
        let line = format!("{stem}{branch}{}", self.text(node));
        self.lines.push(line);
        let Symbols { child, last, beside } = self.options.symbols;
        let below = match branch {
            "" => stem.to_owned(),
            branch if branch == last => format!("{stem}   "),
            _ => format!("{stem}{beside}"),
        };
        let children = self.children(node);
        for (at, one) in children.iter().enumerate() {
            self.draw(*one, &below, if at + 1 == children.len() { last } else { child });
        }
    }
}

/// The lines of the tree.
pub(super) fn tree(
    all: &All,
    options: &Options,
    selection: &Selection,
) -> Result<Vec<String>, Failure> {
    let mut roots = Vec::new();
    if options.is_inverted {
        roots.extend(all.leaves().into_iter().map(Node::Disk));
        let has_none = |one: &&One| one.disks(false).is_empty();
        roots.extend(all.ones.iter().filter(has_none).map(Node::Device));
    } else {
        for one in all.ones.iter().filter(|one| all.above(one).next().is_none()) {
            if selection.has(all, one)? {
                roots.push(Node::Device(one));
            }
        }
    }
    let mut picture = Picture { all, options, lines: Vec::new() };
    let shown: Vec<Node<'_>> = roots.into_iter().filter(|root| picture.is_shown(*root)).collect();
    shown.into_iter().for_each(|root| picture.draw(root, "", ""));
    Ok(picture.lines)
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::stack;
    use super::*;

    fn drawn(words: &str, is_utf: bool) -> Vec<String> {
        let options = Options::of(Some(words), is_utf).unwrap();
        tree(&stack(), &options, &Selection::default()).unwrap()
    }

    #[test]
    fn a_stack_is_drawn_as_device_mapper_draws_it() {
        let expected = [
            "orig (259:13)",
            " └─base (259:10)",
            "    └─ (8:0)",
            "snap (259:12)",
            " ├─cow (259:11)",
            " │  └─ (8:16)",
            " └─base (259:10)",
            "    └─ (8:0)",
        ];
        assert_eq!(drawn("", true), expected);
        let ascii: Vec<String> = expected
            .iter()
            .map(|line| line.replace("├─", "|-").replace("└─", "`-").replace('│', "|"))
            .collect();
        assert_eq!(drawn("", false), ascii);
        assert_eq!(drawn("ascii", true), ascii);
        let names = ["orig", " └─base", "snap", " ├─cow", " └─base"];
        assert_eq!(drawn("nodevice", true), names);
        let inverted = [
            " (8:0)",
            " └─base (259:10)",
            "    ├─orig (259:13)",
            "    └─snap (259:12)",
            " (8:16)",
            " └─cow (259:11)",
            "    └─snap (259:12)",
        ];
        assert_eq!(drawn("inverted", true), inverted);
        let states = drawn("active,open,rw,uuid", true);
        assert_eq!(states[1], " └─base (259:10) [ACTIVE, RW, 2, ]");
    }

    #[test]
    fn options_that_are_not_known_are_refused() {
        for word in ["compact", "vt100", "bogus"] {
            assert!(Options::of(Some(word), true).is_err(), "{word}");
        }
    }
}
