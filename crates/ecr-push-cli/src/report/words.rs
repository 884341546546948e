//! How sizes, times and errors are written.

use ecr_push::Error;

use crate::ci::printable;

/// Bytes for people, in powers of ten as docker and the AWS console have them.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// An error: the sentence, what the service said of it, the causes, what to do.
pub fn error(error: &Error, verbose: bool) -> Vec<String> {
    let mut lines = vec![format!("error: {}", printable(error.message()))];
    let mut facts = vec![format!("{} ({})", error.operation(), error.side())];
    facts.extend(error.code().map(|code| format!("code {code}")));
    facts.extend(error.status().map(|status| format!("status {status}")));
    facts.extend(error.request_id().map(|id| format!("request id {id}")));
    lines.push(format!("  while: {}", printable(&facts.join(", "))));
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = printable(&inner.to_string());
        // Many causes only say again what the sentence says.
        if verbose || !lines.iter().any(|line| line.contains(&text)) {
            lines.push(format!("  cause: {text}"));
        }
        cause = inner.source();
    }
    for hint in error.hints() {
        let mut parts = hint.lines();
        lines.push(format!("  hint: {}", printable(parts.next().unwrap_or_default())));
        lines.extend(parts.map(|part| format!("    {}", printable(part))));
    }
    lines
}

/// An error in one line: what is wrong, and the first thing to do about it.
pub fn sentence(error: &Error) -> String {
    let hint = error.hints().first().and_then(|hint| hint.lines().next());
    // A policy to paste starts with a line that ends in a colon; without the rest that line says nothing.
    match hint.filter(|hint| !hint.trim_end().ends_with(':')) {
        Some(hint) => format!("{} (hint: {hint})", error.message()),
        None => error.message().to_owned(),
    }
}

/// More than this nobody reads, and GitHub cuts annotations at 4096 characters.
const LONGEST: usize = 3000;

/// `text`, or its beginning if a service has sent a whole page.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ... ({} more bytes)", &text[..end], text.len() - end),
        None => text.to_owned(),
    }
}

/// What a task calls the flags of the command line, each flag without a value.
pub type Words = &'static [(&'static str, &'static str)];

/// `text` with each flag in it replaced by the task's own word for it.
pub fn translated(text: &str, words: Words) -> String {
    if words.is_empty() {
        return text.to_owned();
    }
    // A command to paste has flags of its own.
    let (mut rest, command) = text.split_at(text.find(COMMAND).unwrap_or(text.len()));
    let mut result = String::with_capacity(text.len());
    while let Some(at) = rest.find("--") {
        let (before, from) = rest.split_at(at);
        result.push_str(before);
        let is_inside = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '-' || c == '_');
        let end = 2 + from[2..].find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(from.len() - 2);
        let flag = from[..end].trim_end_matches('-');
        let flag = if flag.is_empty() { &from[..2] } else { flag };
        match words.iter().find(|(known, _)| *known == flag) {
            Some((_, word)) if !is_inside => result.push_str(word),
            _ => result.push_str(flag),
        }
        rest = &from[flag.len()..];
    }
    result.push_str(rest);
    result.push_str(command);
    result
}

/// How the commands begin that hints give.
const COMMAND: &str = "aws ecr ";

#[cfg(test)]
mod tests {
    use super::*;
    use ecr_push::error::Side;

    #[test]
    fn sizes_are_written_for_people() {
        for (count, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5_000_000_000, "5.0 GB")]
        {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn nothing_is_endless() {
        assert_eq!(shortened("größe"), "größe");
        let long = shortened(&"ö".repeat(LONGEST + 2));
        assert!(long.ends_with("ö ... (4 more bytes)") && long.chars().count() < LONGEST + 30);
    }

    #[test]
    fn flags_are_called_what_the_task_calls_them() {
        const WORDS: Words = &[("--tag", "pushTag"), ("--create-repository", "autoCreateRepository: true")];
        for (text, expected) in [
            ("add `--create-repository`.", "add `autoCreateRepository: true`."),
            ("--tag v1, --tags, a--tag, ---tag, --", "pushTag v1, --tags, a--tag, ---tag, --"),
            ("größe --tag", "größe pushTag"),
            ("--", "--"),
            ("-- --tag--", "-- pushTag--"),
            ("--tag, or: aws ecr x --tag y", "pushTag, or: aws ecr x --tag y"),
        ] {
            assert_eq!(translated(text, WORDS), expected);
            assert_eq!(translated(text, &[]), text);
        }
    }

    #[test]
    fn an_error_says_what_where_why_and_what_to_do() {
        let cause = std::io::Error::other("broken \x1b[31mpipe");
        let shown = Error::new(Side::Destination, "put manifest", "the registry refused")
            .with_code("X")
            .with_status(400)
            .with_source(cause)
            .with_hint("do this:\n{\n}");
        let expected = [
            "error: the registry refused",
            "  while: put manifest (destination), code X, status 400",
            "  cause: broken  [31mpipe",
            "  hint: do this:",
            "    {",
            "    }",
        ];
        assert_eq!(error(&shown, false), expected);
    }
}
