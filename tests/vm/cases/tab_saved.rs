//! `save` of devices that were renamed, and of devices that were put into the server of others.

use std::fs;

use super::tab::{LEN, Tab};
use crate::disk::slice;
use crate::sh::{binary, run_args, ublk_dm};
use crate::{Case, server};

pub fn cases() -> Vec<Case> {
    let disks = &["n0", "n1"];
    vec![
        Case { name: "tab-renamed", bound_s: 180, disks, run: |_| renamed() },
        Case { name: "tab-beside", bound_s: 120, disks, run: |_| beside() },
    ]
}

/// Runs `save`, which is to say so many lines.
fn save(tab: &Tab, words: &str, lines: usize) -> String {
    let said = tab.run(&format!("save {words}")).ok().stderr;
    assert_eq!(said.lines().count(), lines, "{said}");
    said
}

/// A device that was renamed keeps its line, and what stands on it names it by the new name: the
/// next start brings up the same devices, and no device twice.
fn renamed() {
    let (origin, cow) = (slice("o", "n0", 0, LEN), slice("c", "n1", 0, 2 * LEN));
    let (one, two) = (slice("one", "n0", LEN, LEN), slice("two", "n1", 2 * LEN, LEN));
    let tab = Tab::of(&format!(
        "# mine\nmon \"0 {LEN} snapshot {origin} {cow} PO 16\" nofail\nsrv  \"0 {LEN} \
         snapshot-origin {origin}\"\nl  \"0 {LEN} linear {one} 0\"  uuid=U,id=7\nupon  \"0 8 \
         linear l 8\"\nlater \"0 8 linear /dev/ublk-dm/l 16\" noauto,x-y\n"
    ));
    tab.up("--all");
    for names in ["mon monday", "l lower", "upon above"] {
        ublk_dm(&format!("rename {names}")).ok();
    }
    let said = save(&tab, "", 3);
    assert!(said.contains("x.tab:2: the line of mon, as it was called, is renamed"), "{said}");
    let text = format!(
        "# mine\nmonday  \"0 {LEN} snapshot {origin} {cow} PO 16\"  nofail\nsrv  \"0 {LEN} \
         snapshot-origin {origin}\"\nlower  \"0 {LEN} linear {one} 0\"  uuid=U,id=7\nabove  \"0 8 \
         linear lower 8\"\nlater  \"0 8 linear /dev/ublk-dm/lower 16\"  noauto,x-y\n"
    );
    assert_eq!(tab.text(), text);
    save(&tab, "", 0);
    assert_eq!(tab.text(), text, "nothing is new");
    tab.restart();
    let up = tab.up("--all");
    let names: Vec<&str> = up.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["monday", "srv", "lower", "above"]);
    assert_eq!(server::device("lower")["uuid"], "U");
    assert_eq!(tab.up("later").len(), 2);
    tab.restart();
    exchanged(&tab, [&one, &two]);
}

/// Two devices that have exchanged their names; and one whose line is in a file beside the file.
fn exchanged(tab: &Tab, [one, two]: [&str; 2]) {
    let text = |names: [&str; 2]| {
        format!(
            "{}  \"0 {LEN} linear {one} 0\"  id=4\n{}  \"0 {LEN} linear {two} 0\"\n",
            names[0], names[1]
        )
    };
    tab.write(&text(["a", "b"]));
    tab.up("--all");
    for names in ["a c", "b a", "c b"] {
        ublk_dm(&format!("rename {names}")).ok();
    }
    let said = tab.run("save a").refused().stderr;
    assert!(said.contains("is that of b, which was renamed: run `ublk-dm save a b`"), "{said}");
    assert_eq!(tab.text(), text(["a", "b"]));
    save(tab, "a b", 2);
    assert_eq!(tab.text(), text(["b", "a"]));
    // A number that another line has is not written twice.
    ublk_dm("del b").ok();
    run_args(&binary(), &["create", "z", "--id", "4", "--table", "0 8 zero"]).ok();
    let said = save(tab, "z", 1);
    assert!(said.contains("z: saved without its number") && said.contains("b has id=4"), "{said}");
    assert!(tab.text().ends_with("\nz  \"0 8 zero\"\n"), "{}", tab.text());
    tab.restart();
    fs::create_dir_all(format!("{}.d", tab.0)).expect("a directory");
    fs::write(format!("{}.d/more.tab", tab.0), text(["d", "e"])).expect("a file");
    tab.write("");
    tab.up("d");
    ublk_dm("rename d f").ok();
    let said = tab.run("save").refused().stderr;
    assert!(said.contains("f: ") && said.contains("more.tab:1 has it as d: change it there"));
    assert_eq!(tab.text(), "", "it has a line");
    ublk_dm("del f").ok();
    fs::remove_dir_all(format!("{}.d", tab.0)).expect("removable");
    server::assert_nothing_left("del");
}

/// Devices that were put into the server of others are there again after the next start.
fn beside() {
    let [one, two, third] = [0, 1, 2].map(|at| slice(&format!("d{at}"), "n0", at * LEN, LEN));
    let fourth = slice("d3", "n1", 0, LEN);
    let create = |name: &str, table: &str, beside: &str| {
        let words = ["create", name, "--table", table, "--beside", beside];
        run_args(&binary(), &words).ok();
    };
    let table = format!("0 {LEN} linear {one} 0");
    run_args(&binary(), &["create", "l", "--table", &table]).ok();
    create("p", &format!("0 {LEN} linear {two} 0"), "l");
    create("z", "0 8 zero", "p");
    server::add(&format!("origin --origin {fourth} --name o"));
    create("e", "0 8 error", "o");
    create("w", &format!("0 {LEN} linear {third} 0"), "e");
    let tab = Tab::of("e \"0 8 error\" nofail\n");
    save(&tab, "", 0);
    let text = tab.text();
    let options = |name: &str| {
        let begin = format!("{name}  ");
        let line = text.lines().find(|line| line.starts_with(&begin));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
    };
    let expected = ["id=0", "id=1,beside=l", "id=2,beside=l", "nofail,beside=o", "id=5,beside=o"];
    assert_eq!(["l", "p", "z", "e", "w"].map(options), expected, "{text}");
    tab.restart();
    assert_eq!(tab.up("--all").len(), 6);
    let pid = |name: &str| server::number(name, "/server_pid");
    assert_eq!([pid("p"), pid("z")], [pid("l"); 2]);
    assert_eq!([pid("e"), pid("w")], [pid("o"); 2]);
    assert_ne!(pid("l"), pid("o"));
    save(&tab, "", 0);
    assert_eq!(tab.text(), text, "nothing is new");
    tab.restart();
}
