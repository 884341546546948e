//! Progress without a terminal: one line a layer, and a sign of life when nothing else is said.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ecr_push::events::{BlobAction, Event};

use super::lock;
use super::sink::Sink;
use super::words::bytes;

/// CI systems end jobs that are silent for minutes; people wonder earlier.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub struct Lines {
    state: Arc<State>,
    quiet: bool,
}

struct State {
    sink: Sink,
    started: Instant,
    last: Mutex<Instant>,
    phase: Mutex<String>,
    read: AtomicU64,
    sent: AtomicU64,
    ended: AtomicBool,
}

impl Lines {
    pub fn new(quiet: bool, sink: Sink) -> Self {
        let state = Arc::new(State {
            sink,
            started: Instant::now(),
            last: Mutex::new(Instant::now()),
            phase: Mutex::new("starting".to_owned()),
            read: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        if !quiet {
            let weak = Arc::downgrade(&state);
            // Without the thread there is no sign of life, and nothing else is lost.
            let _ = std::thread::Builder::new().name("heartbeat".into()).spawn(move || beat(&weak));
        }
        Self { state, quiet }
    }

    pub fn line(&self, line: &str) {
        self.state.print(line);
    }

    pub fn event(&self, event: &Event) {
        match event {
            Event::Phase(phase) => phase.clone_into(&mut lock(&self.state.phase)),
            Event::LayerRead { bytes, .. } => {
                self.state.read.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::Uploaded { bytes, .. } => {
                self.state.sent.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::BlobDone { digest, size, action } if !self.quiet => {
                let word = match action {
                    BlobAction::Skipped => "already there",
                    BlobAction::Mounted => "mounted",
                    BlobAction::Sent => "sent",
                    BlobAction::WouldSend => "would be sent",
                };
                self.state.print(&format!("{:<21} {:>10}  {word}", digest.short(), bytes(*size)));
            }
            _ => {}
        }
    }

    pub fn end(&self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

impl State {
    fn print(&self, line: &str) {
        *lock(&self.last) = Instant::now();
        self.sink.command(line);
    }
}

fn beat(state: &Weak<State>) {
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let Some(state) = state.upgrade() else { return };
        if state.ended.load(Ordering::Relaxed) {
            return;
        }
        if lock(&state.last).elapsed() >= HEARTBEAT {
            let (read, sent) = (state.read.load(Ordering::Relaxed), state.sent.load(Ordering::Relaxed));
            let phase = if read == 0 && sent == 0 {
                lock(&state.phase).clone()
            } else {
                format!("read {}, sent {}", bytes(read), bytes(sent))
            };
            state.sink.text(&format!("... {phase} ({} s)", state.started.elapsed().as_secs()));
            *lock(&state.last) = Instant::now();
        }
    }
}
