//! Windows: Control-C and Control-Break of the console group. The agent sends the first, then the second.

use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};

use super::Stop;

/// Without a handler (the system refused it) an event ends the process by itself.
pub struct Signals {
    interrupt: Option<CtrlC>,
    terminate: Option<CtrlBreak>,
}

impl Signals {
    pub fn listen() -> Self {
        Self { interrupt: ctrl_c().ok(), terminate: ctrl_break().ok() }
    }

    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            () = interrupted(&mut self.interrupt) => Stop::Interrupt,
            () = terminated(&mut self.terminate) => Stop::Terminate,
        }
    }
}

async fn interrupted(event: &mut Option<CtrlC>) {
    match event {
        Some(event) => {
            event.recv().await;
        }
        None => std::future::pending().await,
    }
}

async fn terminated(event: &mut Option<CtrlBreak>) {
    match event {
        Some(event) => {
            event.recv().await;
        }
        None => std::future::pending().await,
    }
}
