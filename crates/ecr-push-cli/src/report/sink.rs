//! Where the log goes, one whole line at a time.

use std::io::Write;

use crate::ci::System;

/// The stream that carries the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard error: standard output is kept for the result.
    Error,
    /// Standard output: where two streams would be mixed in any order, as the agents of CI systems do.
    Output,
    /// Nowhere: a fuzzer's log would be all there is to see.
    #[cfg(any(test, feature = "fuzzing"))]
    Nowhere,
}

/// The log of one run, written as its CI system wants it.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    pub system: System,
    pub stream: Stream,
}

impl Sink {
    /// Writes text.
    pub fn text(&self, text: &str) {
        self.command(&self.system.text(text));
    }

    /// Writes a line as it is: a command, or text that was made harmless before. A closed stream leaves nobody to tell.
    pub fn command(&self, line: &str) {
        let line = format!("{line}\n");
        let _ = match self.stream {
            Stream::Error => std::io::stderr().lock().write_all(line.as_bytes()),
            Stream::Output => {
                let mut output = std::io::stdout().lock();
                output.write_all(line.as_bytes()).and_then(|()| output.flush())
            }
            #[cfg(any(test, feature = "fuzzing"))]
            Stream::Nowhere => Ok(()),
        };
    }
}
