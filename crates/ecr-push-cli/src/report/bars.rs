//! Progress on a terminal: a bar for each layer that is read or sent.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use ecr_push::events::{BlobAction, Event};
use ecr_push::image::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::sink::Sink;
use super::words::bytes;

pub struct Bars {
    all: MultiProgress,
    state: Mutex<State>,
    sink: Sink,
}

#[derive(Default)]
struct State {
    phase: Option<ProgressBar>,
    reading: HashMap<usize, ProgressBar>,
    sending: HashMap<Digest, ProgressBar>,
}

impl State {
    fn end_phase(&mut self) {
        if let Some(phase) = self.phase.take() {
            phase.finish_and_clear();
        }
    }
}

impl Bars {
    pub fn new(sink: Sink) -> Self {
        Self { all: MultiProgress::new(), state: Mutex::default(), sink }
    }

    /// Writes a line above the bars.
    pub fn line(&self, line: &str) {
        if self.all.println(line).is_err() || self.all.is_hidden() {
            self.sink.command(line);
        }
    }

    pub fn event(&self, event: &Event) {
        let mut state = self.lock();
        match event {
            Event::Phase(phase) => {
                let bar = state.phase.get_or_insert_with(|| {
                    let bar = self.all.add(ProgressBar::new_spinner());
                    bar.enable_steady_tick(Duration::from_millis(250));
                    bar
                });
                bar.set_message(phase.clone());
            }
            Event::LayerStarted { number, size } => {
                state.end_phase();
                let bar = self.bar(*size, format!("reading layer {number}"));
                state.reading.insert(*number, bar);
            }
            Event::LayerRead { number, bytes } => {
                if let Some(bar) = state.reading.get(number) {
                    bar.inc(*bytes);
                }
            }
            Event::LayerFinished { number, .. } => {
                if let Some(bar) = state.reading.remove(number) {
                    bar.finish_and_clear();
                }
            }
            Event::UploadStarted { digest, size } => {
                state.end_phase();
                let bar = self.bar(*size, digest.short());
                state.sending.insert(*digest, bar);
            }
            Event::Uploaded { digest, bytes } => {
                if let Some(bar) = state.sending.get(digest) {
                    bar.inc(*bytes);
                }
            }
            Event::UploadRestarted { digest } => {
                if let Some(bar) = state.sending.get(digest) {
                    bar.set_position(0);
                }
            }
            Event::BlobDone { digest, size, action } => {
                if let Some(bar) = state.sending.remove(digest) {
                    bar.finish_and_clear();
                }
                let word = match action {
                    BlobAction::Skipped => "already there",
                    BlobAction::Mounted => "mounted",
                    BlobAction::Sent => "sent",
                    BlobAction::WouldSend => "would be sent",
                };
                self.line(&format!("{:<21} {:>10}  {word}", digest.short(), bytes(*size)));
            }
            _ => {}
        }
    }

    pub fn end(&self) {
        let mut state = self.lock();
        state.end_phase();
        state.reading.clear();
        state.sending.clear();
        // A terminal that is gone shows nothing anyway.
        let _ = self.all.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn bar(&self, size: u64, name: String) -> ProgressBar {
        let bar = self.all.add(ProgressBar::new(size));
        // The template is a constant; if it were wrong, the plain bar does as well.
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:21} {decimal_bytes:>10} / {decimal_total_bytes:10} {wide_bar} {decimal_bytes_per_sec}",
        ) {
            bar.set_style(style);
        }
        bar.set_message(name);
        bar
    }
}
