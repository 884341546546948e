//! Buildkite's log: a line that starts with one of four marks starts a group.

const MARKS: [&str; 4] = ["---", "+++", "~~~", "^^^"];

/// The line with a blank in front where it would start a group.
pub fn harmless(line: &str) -> String {
    if MARKS.iter().any(|mark| line.starts_with(mark)) { format!(" {line}") } else { line.to_owned() }
}
