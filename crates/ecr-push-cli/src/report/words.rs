//! How sizes, times and errors are written.

use ecr_push::text::Text;
use ecr_push::{Error, text};

use super::names::{Names, written};
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

/// An error: the sentence, what the service said of it, the causes, what else is known, what to do.
pub fn error(error: &Error, verbose: bool, names: Names) -> Vec<String> {
    let mut lines = vec![format!("error: {}", printable(&written(error.message(), names)))];
    let mut facts = vec![format!("{} ({})", error.operation(), error.side())];
    facts.extend(error.code().map(|code| format!("code {code}")));
    facts.extend(error.status().map(|status| format!("status {status}")));
    facts.extend(error.request_id().map(|id| format!("request id {id}")));
    lines.push(format!("  while: {}", printable(&facts.join(", "))));
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = match inner.downcast_ref::<Error>() {
            Some(error) => written(error.message(), names),
            None => inner.to_string(),
        };
        let text = printable(&text);
        // Many causes only say again what the sentence says.
        if verbose || !lines.iter().any(|line| line.contains(&text)) {
            lines.push(format!("  cause: {text}"));
        }
        cause = inner.source();
    }
    let notes = error.notes().iter().map(|note| ("note", note));
    for (kind, text) in notes.chain(error.hints().iter().map(|hint| ("hint", hint))) {
        let text = written(text, names);
        let mut parts = text.lines();
        lines.push(format!("  {kind}: {}", printable(parts.next().unwrap_or_default())));
        lines.extend(parts.map(|part| format!("    {}", printable(part))));
    }
    lines
}

/// An error in one line: what is wrong, and the first thing to do about it.
pub fn sentence(error: &Error) -> Text {
    // A policy to paste starts with a line that ends in a colon; without the rest that line says nothing.
    let is_shown = |hint: &&Text| !hint.contains('\n') && !hint.trim_end().ends_with(':');
    let (hint, note) = (error.hints().first().filter(is_shown), error.notes().first().filter(is_shown));
    match (hint, note) {
        (Some(hint), _) => text![error.message(), " (hint: ", hint, ")"],
        (None, Some(note)) => text![error.message(), " (note: ", note, ")"],
        (None, None) => error.message().clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::names::flags;
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
    fn an_error_says_what_where_why_and_what_to_do() {
        let cause = std::io::Error::other("broken \x1b[31mpipe");
        let shown = Error::new(Side::Destination, "put manifest", "the registry refused")
            .with_code("X")
            .with_status(400)
            .with_source(cause)
            .with_hint("do this:\n{\n}")
            .with_note("that was seen");
        let expected = [
            "error: the registry refused",
            "  while: put manifest (destination), code X, status 400",
            "  cause: broken  [31mpipe",
            "  note: that was seen",
            "  hint: do this:",
            "    {",
            "    }",
        ];
        assert_eq!(error(&shown, false, flags), expected);
    }
}
