//! The three lines at the end, and the warnings that follow from what was pushed.

use ecr_push::events::BlobAction;
use ecr_push::push::PushReport;
use ecr_push::{Setting, Text, text};

use super::words::bytes;

/// What was pushed, its digest, what it cost.
pub fn lines(report: &PushReport) -> [String; 3] {
    let verb = match (report.dry_run, report.existed) {
        (true, _) => "would push",
        (false, true) => "already there:",
        (false, false) => "pushed",
    };
    let references = report.references().collect::<Vec<_>>().join(", ");
    let sent = if report.dry_run { BlobAction::WouldSend } else { BlobAction::Sent };
    let count = |action| report.count(action);
    let changed = if report.contents.digest_changed { " (a new digest: the source's index has others)" } else { "" };
    [
        format!("{verb} {} as {references}", what(report)),
        format!("digest {}{changed}", report.digest),
        format!(
            "{} {} in {}, saved {} in {}; {:.1} s, {}, {} of temporary files at most",
            if report.dry_run { "would send" } else { "sent" },
            bytes(report.bytes(sent)),
            text::count(count(sent), "blob", "blobs"),
            bytes(report.bytes(BlobAction::Skipped) + report.bytes(BlobAction::Mounted)),
            count(BlobAction::Skipped) + count(BlobAction::Mounted),
            report.elapsed.as_secs_f64(),
            retries(report),
            bytes(report.peak_temp_bytes),
        ),
    ]
}

/// How often something was tried again, and what the waiting cost.
pub fn retries(report: &PushReport) -> String {
    let waited = report.waited.as_secs_f64();
    let retries = text::count(report.retries, "retry", "retries");
    if waited < 0.05 { retries } else { format!("{retries}, {waited:.1} s of it waiting") }
}

/// Image or index, platforms, attestations.
fn what(report: &PushReport) -> String {
    let contents = &report.contents;
    let platforms = contents.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text = if contents.is_index { "an index".to_owned() } else { "an image".to_owned() };
    if !platforms.is_empty() {
        text.push_str(&format!(" for {platforms}"));
    }
    match contents.attestations {
        0 if contents.is_index => text.push_str(" without attestations"),
        0 => {}
        count => text.push_str(&format!(" with {}", text::count(count, "attestation", "attestations"))),
    }
    text
}

/// What the user should know of the pushed image.
pub fn warnings(report: &PushReport) -> Vec<Text> {
    let contents = &report.contents;
    if contents.is_index && contents.platforms.len() == 1 && contents.attestations > 0 {
        return vec![text![
            "an index of one platform with attestations was pushed; AWS Lambda refuses such an index. Push with ",
            Setting::Attestations.with("drop"),
            ", or build with `--provenance=false --sbom=false`",
        ]];
    }
    Vec::new()
}
