//! The summary that a CI system shows on the page of a run.

use ecr_push::events::BlobAction;
use ecr_push::push::PushReport;
use ecr_push::text;

use super::files::values;
use super::words::bytes;
use crate::ci::printable;

/// A table of what was pushed. Nothing in it comes from the image itself but digests and platform names.
pub fn summary(report: &PushReport, source: &str) -> String {
    let [_, (_, digest), (_, uri), ..] = values(report);
    let references: Vec<String> = report.references().map(|reference| code(&reference)).collect();
    let platforms: Vec<String> = report.contents.platforms.iter().map(|platform| code(&platform.to_string())).collect();
    let count = |action| report.count(action);
    let sent = format!(
        "{} in {}; {} in {} were there already",
        bytes(report.bytes(BlobAction::Sent)),
        text::count(count(BlobAction::Sent), "blob", "blobs"),
        bytes(report.bytes(BlobAction::Skipped) + report.bytes(BlobAction::Mounted)),
        count(BlobAction::Skipped) + count(BlobAction::Mounted),
    );
    let mut rows = vec![("Image", code(source)), ("Pushed as", references.join("<br>"))];
    if !platforms.is_empty() {
        rows.push(("Platforms", platforms.join(", ")));
    }
    rows.extend([("Digest", code(&digest)), ("By digest", code(&uri)), ("Sent", sent)]);
    rows.push(("Time", format!("{:.1} s, {}", report.elapsed.as_secs_f64(), super::summary::retries(report))));
    let rows: String = rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    format!("### Pushed to Amazon ECR\n\n| | |\n| --- | --- |\n{rows}")
}

/// Text that Markdown shows as it is, inside a table.
fn code(text: &str) -> String {
    let plain = printable(text).replace('`', "'").replace('|', "¦");
    format!("`{plain}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_cell() {
        assert_eq!(code("a|b`c\nd"), "`a¦b'c d`");
    }
}
