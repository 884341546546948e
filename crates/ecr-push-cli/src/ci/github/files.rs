//! File commands: values for later steps are appended to a file that the runner reads when the step has ended.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Adds values, each between two lines that nothing in it can be.
pub fn add_values(path: &Path, values: &[(&str, &str)]) -> std::io::Result<()> {
    let mut text = String::new();
    for (name, value) in values {
        let delimiter = delimiter()?;
        // A random line that is also in the value: somebody is able to guess, and may not be served.
        if name.contains(&delimiter) || value.contains(&delimiter) {
            return Err(std::io::Error::other("a value holds the line that would end it"));
        }
        text.push_str(&format!("{name}<<{delimiter}\n{value}\n{delimiter}\n"));
    }
    add(path, &text)
}

/// Adds text, in one piece: a step may have others that write.
pub fn add(path: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

/// As the runner's own library writes it: a fixed word and a random UUID.
fn delimiter() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("ghadelimiter_{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_appended_between_lines_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        std::fs::write(&path, "before=1\n").unwrap();
        add_values(&path, &[("a", "x\nghadelimiter_\ny"), ("b", "")]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 9);
        let delimiter = lines[1].strip_prefix("a<<").unwrap();
        assert_eq!(lines[1..6], [lines[1], "x", "ghadelimiter_", "y", delimiter]);
        assert_eq!(lines[6].strip_prefix("b<<"), Some(lines[8]));
        assert_ne!(lines[8], delimiter);
        assert_eq!(delimiter.len(), "ghadelimiter_".len() + 36);
    }
}
