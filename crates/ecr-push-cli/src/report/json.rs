//! The result as one JSON object.

use std::time::Duration;

use ecr_push::events::BlobAction;
use ecr_push::push::PushReport;
use serde::Serialize;

use crate::ci::is_plain;

#[derive(Serialize)]
struct Object {
    image: String,
    digest: String,
    uri: String,
    tags: Vec<String>,
    registry_id: Option<String>,
    region: Option<String>,
    kind: &'static str,
    platforms: Vec<String>,
    attestations: usize,
    existed: bool,
    dry_run: bool,
    layers: Vec<Blob>,
    bytes_sent: u64,
    bytes_skipped: u64,
    bytes_mounted: u64,
    seconds: f64,
    retries: u64,
    seconds_waited: f64,
    peak_temp_bytes: u64,
}

#[derive(Serialize)]
struct Blob {
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_id: Option<String>,
    size: u64,
    action: &'static str,
    /// Whose word was taken that this blob holds the layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    reused_from: Option<String>,
}

/// The object, on one line, in which nothing is a command of a CI system's or of a terminal's: agents look into standard output too.
pub fn object(report: &PushReport) -> String {
    let object = Object {
        image: report.references().next().unwrap_or_else(|| report.uri()),
        digest: report.digest.to_string(),
        uri: report.uri(),
        tags: report.tags.iter().map(ToString::to_string).collect(),
        registry_id: report.registry_id.clone(),
        region: report.region.clone(),
        kind: if report.contents.is_index { "index" } else { "image" },
        platforms: report.contents.platforms.iter().map(ToString::to_string).collect(),
        attestations: report.contents.attestations,
        existed: report.existed,
        dry_run: report.dry_run,
        layers: report
            .blobs
            .iter()
            .map(|blob| Blob {
                digest: blob.digest.to_string(),
                diff_id: blob.diff_id.map(|diff_id| diff_id.to_string()),
                size: blob.size,
                action: word(blob.action),
                reused_from: blob.reused_from.as_ref().map(ToString::to_string),
            })
            .collect(),
        bytes_sent: report.bytes(BlobAction::Sent),
        bytes_skipped: report.bytes(BlobAction::Skipped),
        bytes_mounted: report.bytes(BlobAction::Mounted),
        seconds: seconds(report.elapsed),
        retries: report.retries,
        seconds_waited: seconds(report.waited),
        peak_temp_bytes: report.peak_temp_bytes,
    };
    // Strings and numbers always make JSON.
    escaped(&serde_json::to_string(&object).unwrap_or_default())
}

/// The same JSON with the letters escaped that a log might act upon. They are in strings only.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.replace('#', "\\u0023").chars() {
        if is_plain(c) {
            text.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

/// To a thousandth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

fn word(action: BlobAction) -> &'static str {
    match action {
        BlobAction::Skipped => "skipped",
        BlobAction::Mounted => "mounted",
        BlobAction::Sent => "sent",
        BlobAction::WouldSend => "would-send",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_might_act_upon_is_escaped_and_means_the_same() {
        let text = "###vso[x]##[y] \u{9b}2J\u{202e}\u{2028}\u{7f}\u{e0041} größe # \u{1b}\n";
        let json = escaped(&serde_json::to_string(text).unwrap());
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        assert!(!json.contains('#') && json.chars().all(is_plain) && json.contains("größe"), "{json}");
    }
}
