//! Linux and macOS: SIGINT and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Stop;

/// Without a handler (the system refused it) a signal ends the process by itself.
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    pub fn listen() -> Self {
        Self { interrupt: signal(SignalKind::interrupt()).ok(), terminate: signal(SignalKind::terminate()).ok() }
    }

    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            () = wait(&mut self.interrupt) => Stop::Interrupt,
            () = wait(&mut self.terminate) => Stop::Terminate,
        }
    }
}

async fn wait(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
