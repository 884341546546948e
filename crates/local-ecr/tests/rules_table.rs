//! The table of rules and the code name the same rules.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_rule_in_the_code_is_in_the_table_and_the_other_way_round() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/rules.md")).unwrap();
    let rows: BTreeSet<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .flat_map(|row| ids(&row[..row.len().min(5)]))
        .collect();
    let mut used = BTreeSet::new();
    read(&root.join("src"), &mut used);
    assert_eq!(used.difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the table");
    assert_eq!(rows.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the code");
    assert!(rows.len() > 50, "the table was not read");
}

fn read(directory: &Path, used: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, used);
        } else {
            used.extend(ids(&std::fs::read_to_string(path).unwrap()));
        }
    }
}

fn ids(text: &str) -> Vec<String> {
    text.match_indices("R-")
        .filter_map(|(at, _)| text.get(at..at + 4))
        .filter(|id| id[2..].bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}
