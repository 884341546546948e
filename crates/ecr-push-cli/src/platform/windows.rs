//! Windows: Control-C and Control-Break of the console group (the agent sends the first, then the second), and the end of the console, of
//! the user's session and of the system. The system ends the process five seconds after one of the last three.

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown,
};

use super::Stop;

/// Without a handler (the system refused it) an event ends the process by itself.
pub struct Signals {
    interrupt: Option<CtrlC>,
    terminate: Option<CtrlBreak>,
    close: Option<CtrlClose>,
    logoff: Option<CtrlLogoff>,
    shutdown: Option<CtrlShutdown>,
}

impl Signals {
    pub fn listen() -> Self {
        Self {
            interrupt: ctrl_c().ok(),
            terminate: ctrl_break().ok(),
            close: ctrl_close().ok(),
            logoff: ctrl_logoff().ok(),
            shutdown: ctrl_shutdown().ok(),
        }
    }

    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            () = heard(self.interrupt.as_mut().map(CtrlC::recv)) => Stop::Interrupt,
            () = heard(self.terminate.as_mut().map(CtrlBreak::recv)) => Stop::Terminate,
            () = heard(self.close.as_mut().map(CtrlClose::recv)) => Stop::Terminate,
            () = heard(self.logoff.as_mut().map(CtrlLogoff::recv)) => Stop::Terminate,
            () = heard(self.shutdown.as_mut().map(CtrlShutdown::recv)) => Stop::Terminate,
        }
    }
}

async fn heard(event: Option<impl Future<Output = Option<()>>>) {
    match event {
        Some(event) => {
            event.await;
        }
        None => std::future::pending().await,
    }
}
