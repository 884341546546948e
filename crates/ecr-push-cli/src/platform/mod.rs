//! How a user or a CI system stops a run: what differs from system to system, one file for each.

#[cfg(unix)]
#[path = "unix.rs"]
mod imp;
#[cfg(windows)]
#[path = "windows.rs"]
mod imp;

use std::io::Read;

use tokio::task::JoinHandle;

/// What ended the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Control-C.
    Interrupt,
    /// A request to end.
    Terminate,
    /// The program that started this one is gone.
    ParentGone,
}

impl Stop {
    /// The exit status by the shells' convention: 128 and the signal's number.
    pub fn status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate | Self::ParentGone => 143,
        }
    }
}

/// Waits for the end that others want. Signals are heard from [`Stops::listen`] on, not from the first wait.
pub struct Stops {
    signals: imp::Signals,
    parent: Option<JoinHandle<()>>,
}

impl Stops {
    /// Starts to listen. Must be called within a runtime.
    pub fn listen() -> Self {
        Self { signals: imp::Signals::listen(), parent: None }
    }

    /// Takes the end of standard input for the end of the parent: a killed one cannot pass its signal on.
    pub fn with_parent_pipe(mut self, parent_pipe: bool) -> Self {
        self.parent = parent_pipe.then(|| tokio::task::spawn_blocking(read_to_the_end));
        self
    }

    /// Waits for the next stop.
    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            stop = self.signals.next() => stop,
            () = ended(&mut self.parent) => Stop::ParentGone,
        }
    }
}

async fn ended(parent: &mut Option<JoinHandle<()>>) {
    match parent {
        Some(reading) => {
            // Reading cannot fail in a way that is not an end.
            let _ = reading.await;
            *parent = None;
        }
        None => std::future::pending().await,
    }
}

/// Returns at the end of standard input. Whatever comes before it means nothing.
fn read_to_the_end() {
    let mut input = std::io::stdin().lock();
    let mut unread = [0; 64];
    loop {
        match input.read(&mut unread) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
