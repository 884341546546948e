//! GitLab's log: sections that fold. It has no annotations, and values cannot be hidden while a job runs.

use std::time::{SystemTime, UNIX_EPOCH};

const NAME: &str = "ecr_push";

pub fn start(title: &str) -> String {
    format!("\u{1b}[0Ksection_start:{}:{NAME}\r\u{1b}[0K{title}", now())
}

pub fn end() -> String {
    format!("\u{1b}[0Ksection_end:{}:{NAME}\r\u{1b}[0K", now())
}

/// GitLab shows how long a section took.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
