//! Tables of several lines: where the lines must begin, what they can be, and their status.

use super::*;

#[test]
fn the_lines_of_a_table_are_side_by_side() {
    for (text, why) in [
        ("0 8 linear a 0\n9 8 linear b 0", "line 2: start 9: leaves a gap; it must be 8"),
        (
            "0 8 linear a 0\n\n#\n7 8 zero",
            "line 4: start 7: overlaps the lines before; it must be 8",
        ),
        ("8 8 linear a 0\n16 8 zero", "line 1: start 8: leaves a gap; it must be 0"),
        ("0 8 zero\n8 8 linear a", "line 2: linear: offset is missing"),
        ("0 8 zero\n8 0 zero", "line 2: length 0: must be 1 to 18014398509481983 sectors"),
        (
            "0 8 zero\n8 18014398509481983 zero",
            "line 2: length 18014398509481983: the table would end",
        ),
        ("0 8 zero\n8 8 mirror core 1 8 2 a 0 b 0", "line 2: target mirror: must be the only line"),
        (
            "0 8 snapshot-origin a\n8 8 zero",
            "line 1: target snapshot-origin: must be the only line",
        ),
        ("0 8 zero\n8 8 striped 2 8 a 0 b 0", "line 2: target \"striped\": unknown"),
        ("0 8 zero\nnothing", "line 2: start \"nothing\": not a decimal number"),
        ("8 8 zero", "start 8: a table starts at sector 0"),
    ] {
        let error = Table::parse_table(text).expect_err(text).to_string();
        assert!(error.starts_with(why), "{text}: {error}");
    }
    let lines = |count: u64| (0..count).map(|at| format!("{at} 1 zero\n")).collect::<String>();
    assert!(Table::parse_table(&lines(1024)).is_ok());
    let error = Table::parse_table(&lines(1025)).expect_err("too many lines").to_string();
    assert_eq!(error, "line 1025: a table has at most 1024 lines");
}

#[test]
fn each_line_has_a_status_line() {
    let table = Table::parse_table("0 8 linear a 8\n8 8 error\n16 8 zero").unwrap();
    assert_eq!(table.plain_status(table.len, ""), "0 8 linear\n8 8 error\n16 8 zero");
    assert_eq!(
        table.plain_status(table.len, "dead"),
        "0 8 linear dead\n8 8 error dead\n16 8 zero dead"
    );
    let table = Table::parse("0 8 linear a 8").unwrap();
    assert_eq!(table.plain_status(Sectors(16), ""), "0 16 linear");
}
