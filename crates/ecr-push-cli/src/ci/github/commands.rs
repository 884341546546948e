//! Workflow commands of GitHub Actions: `::name key=value,key=value::data`, at the start of a line.

/// A command.
pub fn command(name: &str, properties: &[(&str, &str)], data: &str) -> String {
    let list: Vec<String> = properties.iter().map(|(key, value)| format!("{key}={}", property(value))).collect();
    let list = if list.is_empty() { String::new() } else { format!(" {}", list.join(",")) };
    format!("::{name}{list}::{}", escape(data))
}

/// An annotation of the run.
pub fn annotation(kind: &str, text: &str) -> String {
    command(kind, &[("title", "ecr-push")], text)
}

/// A line in which the runner finds no command: neither of today's form, nor of the old one, which it still reads
/// anywhere in a line.
pub fn harmless(text: &str) -> String {
    let text = text.replace("##[", "**[");
    match text.trim_start().strip_prefix("::") {
        Some(rest) => format!(": :{rest}"),
        None => text,
    }
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    escape(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_end_a_command() {
        assert_eq!(command("add-mask", &[], "a%\nb"), "::add-mask::a%25%0Ab");
        assert_eq!(annotation("warning", "a::b"), "::warning title=ecr-push::a::b");
        assert_eq!(command("error", &[("title", "a:b,c")], ""), "::error title=a%3Ab%2Cc::");
    }
}
