//! One push, from a request to its end, as every command runs it.

use std::future::Future;

use ecr_push::events::{Event, Events};
use ecr_push::push::{LocalImage, PushReport, PushRequest};
use ecr_push::{Error, Result, text};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::platform::{Stop, Stops};
use crate::report::Reporter;

/// How a run ended.
pub enum End<T> {
    /// By itself.
    Done(Result<T>),
    /// Others wanted it to.
    Stopped(Stop),
}

/// Runs `work` until it ends or is stopped.
pub async fn until_stopped<T>(stops: &mut Stops, work: impl Future<Output = Result<T>>) -> End<T> {
    tokio::select! {
        result = work => End::Done(result),
        stop = stops.next() => End::Stopped(stop),
    }
}

/// Pushes, and shows it.
pub async fn push(request: PushRequest, reporter: &Reporter) -> Result<PushReport> {
    let listener = reporter.clone();
    let report = ecr_push::push::push(request, Events::new(move |event: Event| listener.event(&event))).await?;
    reporter.pushed(&report);
    Ok(report)
}

/// What is done with the engine's image once it is pushed. None of it undoes a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Nothing.
    Leave,
    /// It also gets the names it was pushed under.
    Tag,
    /// It goes, with the names it was pushed under.
    Remove,
}

impl Afterwards {
    /// Does it. Whatever fails is answered.
    pub async fn run(self, report: &PushReport, reporter: &Reporter) -> Vec<Error> {
        let Some(image) = &report.local else { return Vec::new() };
        let references: Vec<String> = report.references().collect();
        match self {
            Self::Leave => Vec::new(),
            Self::Tag => tag(image, &references, reporter).await,
            Self::Remove => match image.remove(&references).await {
                Ok(removed) => {
                    removed.names.iter().for_each(|name| reporter.notice(format!("removed {name} from the engine")));
                    match removed.kept {
                        Some((name, why)) => {
                            reporter.notice(text!["the image stays in the engine as ", name, ": ", why.message()]);
                        }
                        None if removed.names.is_empty() => reporter.notice(
                            "nothing was removed from the engine: the names are gone, or mean another image now",
                        ),
                        None => {}
                    }
                    Vec::new()
                }
                Err(error) => vec![error.prefixed("the image was pushed, and is not all removed from the engine: ")],
            },
        }
    }
}

async fn tag(image: &LocalImage, references: &[String], reporter: &Reporter) -> Vec<Error> {
    let mut failed = Vec::new();
    for reference in references {
        match image.tag(reference).await {
            Ok(()) => reporter.notice(format!("the engine's image is also called {reference}")),
            Err(error) => {
                let what = format!("the image was pushed, and the engine does not call it {reference}: ");
                failed.push(error.prefixed(what));
            }
        }
    }
    failed
}

/// Has what the library notes in passing shown: warnings always, the rest to those who want details.
pub fn trace(reporter: &Reporter, targets: &str) {
    let level = if reporter.has_details() { "ecr_push=debug" } else { "ecr_push=warn" };
    let writer = reporter.clone();
    let wanted = if targets.is_empty() { level.to_owned() } else { format!("{level},{targets}") };
    // They are words of this program, which can be read.
    let wanted: Targets = wanted.parse().unwrap_or_default();
    let notes = fmt::layer().without_time().with_target(false).with_ansi(false);
    let notes = notes.with_writer(move || Notes(writer.clone())).with_filter(wanted);
    // A second one in the same process is no loss.
    let _ = tracing_subscriber::registry().with(notes).try_init();
}

/// Takes the notes, each in one piece.
struct Notes(Reporter);

impl std::io::Write for Notes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim();
        match text.strip_prefix("WARN") {
            Some(warning) => self.0.warning(warning.trim()),
            None => self.0.detail(text),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
