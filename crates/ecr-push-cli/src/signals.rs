//! The two ways a user or a CI system stops a run. Platform code of the command line lives here alone.

/// A signal that ended the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Control-C.
    Interrupt,
    /// A request to end.
    Terminate,
}

impl Stop {
    /// The exit status by the shells' convention: 128 and the signal's number.
    pub fn status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Waits for signals. They are heard from [`Signals::listen`] on, not from the first wait.
pub struct Signals(imp::Signals);

impl Signals {
    /// Starts to listen. Must be called within a runtime.
    pub fn listen() -> Self {
        Self(imp::Signals::listen())
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Stop {
        self.0.next().await
    }
}

#[cfg(unix)]
mod imp {
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
}

#[cfg(windows)]
mod imp {
    use tokio::signal::windows::{CtrlC, ctrl_c};

    use super::Stop;

    pub struct Signals(Option<CtrlC>);

    impl Signals {
        pub fn listen() -> Self {
            Self(ctrl_c().ok())
        }

        pub async fn next(&mut self) -> Stop {
            match &mut self.0 {
                Some(signal) => {
                    signal.recv().await;
                }
                None => std::future::pending().await,
            }
            Stop::Interrupt
        }
    }
}
