//! The table of the matrix, as `docs/reliability.md` has it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::faults::Row;
use crate::steps::Step;

/// What came of one push.
#[derive(Debug)]
pub struct Cell {
    pub elapsed: Duration,
    /// Bytes sent beyond those of a push without a fault.
    pub resent: u64,
    pub survived: bool,
    /// What it should not have been like.
    pub wrong: Option<String>,
}

type Cells = BTreeMap<(usize, usize, usize), Cell>;

/// The table. `whole` if every source met every cell.
///
/// Panics where a cell is empty that should not be.
pub fn of(rows: &[Row], sources: &[&str], cells: &Cells, whole: bool) -> String {
    let mut text = head(sources, cells, whole);
    let mut line = "| fault |".to_owned();
    Step::ALL.iter().for_each(|step| write!(line, " {} |", step.name()).unwrap());
    writeln!(text, "{line} most sent again | longest |\n|---|{}---:|---:|", "---|".repeat(Step::ALL.len())).unwrap();
    for (number, row) in rows.iter().enumerate() {
        if row.slow && !whole {
            continue;
        }
        let mut line = format!("| {} |", row.name);
        for column in 0..Step::ALL.len() {
            let met: Vec<&Cell> =
                (0..sources.len()).filter_map(|source| cells.get(&(number, column, source))).collect();
            let least = if whole { sources.len() } else { 1 };
            assert!(met.len() >= least, "the cell {} / {} is empty", row.name, Step::ALL[column].name());
            let survived = met.iter().filter(|cell| cell.survived).count();
            let words = match (survived, met.len() - survived) {
                (survived, 0) => format!("survived {survived}"),
                (0, refused) => format!("refused {refused}"),
                (survived, refused) => format!("survived {survived}, refused {refused}"),
            };
            write!(line, " {words} |").unwrap();
        }
        let of_row = || cells.iter().filter(|((row, _, _), _)| *row == number).map(|(_, cell)| cell);
        let resent = of_row().map(|cell| cell.resent).max().unwrap_or_default();
        let longest = of_row().map(|cell| cell.elapsed).max().unwrap_or_default();
        writeln!(text, "{line} {:.1} kB | {:.1} s |", resent as f64 / 1e3, longest.as_secs_f64()).unwrap();
    }
    text
}

fn head(sources: &[&str], cells: &Cells, whole: bool) -> String {
    let survived = cells.values().filter(|cell| cell.survived).count();
    let wrong = cells.values().filter(|cell| cell.wrong.is_some()).count();
    let sample = if whole { "every source in every cell" } else { "one source a cell, in turn" };
    format!(
        "{} pushes ({sample}): **{survived} survived, {} were correctly refused, {wrong} went wrong.** Sources: {}.\n\n",
        cells.len(),
        cells.len() - survived - wrong,
        sources.join("; "),
    )
}
