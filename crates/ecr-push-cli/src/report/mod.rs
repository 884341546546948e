//! What the user sees: progress and errors on standard error, the result on standard output.

mod bars;
mod json;
mod lines;
mod summary;
mod words;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::Mutex;

use ecr_push::Error;
use ecr_push::events::Event;
use ecr_push::push::PushReport;

use crate::args::{OutputArg, ProgressArg, ReportArgs};
use crate::signals::Stop;
use bars::Bars;
use lines::Lines;
pub use words::bytes;

/// Shows one run. Clones show the same run.
#[derive(Clone)]
pub struct Reporter(Arc<Inner>);

struct Inner {
    view: View,
    output: OutputArg,
    quiet: bool,
    verbose: bool,
    tagged: Mutex<Vec<String>>,
}

enum View {
    Bars(Bars),
    Lines(Lines),
}

impl Reporter {
    /// Chooses bars or lines.
    pub fn new(args: &ReportArgs) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars = match args.progress {
            ProgressArg::Auto => terminal,
            ProgressArg::Bars => true,
            ProgressArg::Lines => false,
        };
        let view = if bars && !args.quiet { View::Bars(Bars::new()) } else { View::Lines(Lines::new(args.quiet)) };
        Self(Arc::new(Inner {
            view,
            output: args.output,
            quiet: args.quiet,
            verbose: args.verbose,
            tagged: Mutex::default(),
        }))
    }

    /// A line for the log.
    pub fn notice(&self, text: &str) {
        if !self.0.quiet {
            self.line(text);
        }
    }

    /// Shows what happened.
    pub fn event(&self, event: &Event) {
        match event {
            Event::Notice(text) => return self.notice(text),
            Event::Warning(text) => return self.line(&format!("warning: {text}")),
            Event::Detail(text) => {
                if self.0.verbose {
                    self.line(text);
                }
                return;
            }
            Event::Retrying { what, why, wait } => {
                return self.notice(&format!("{what} failed: {why}; trying again in {:.1} s", wait.as_secs_f64()));
            }
            Event::Published { digest, tag, existed } => {
                if let Some(tag) = tag {
                    self.0.tagged.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(tag.clone());
                }
                let done = if *existed { "already there" } else { "pushed" };
                let what =
                    tag.as_ref().map_or_else(|| format!("manifest {}", digest.short()), |tag| format!("tag {tag}"));
                return self.notice(&format!("{what:<21} {:>10}  {done}", ""));
            }
            _ => {}
        }
        match &self.0.view {
            View::Bars(bars) => bars.event(event),
            View::Lines(lines) => lines.event(event),
        }
    }

    /// Ends the bars, so that what follows is not painted over.
    pub fn settle(&self) {
        if let View::Bars(bars) = &self.0.view {
            bars.end();
        }
    }

    /// Shows the result.
    ///
    /// # Errors
    /// If the result cannot be written. Who closes the pipe does not want it; that is no error.
    pub fn pushed(&self, report: &PushReport) -> std::io::Result<()> {
        self.end();
        if !self.0.quiet {
            summary::lines(report).iter().for_each(|line| self.line(line));
        }
        for warning in summary::warnings(report) {
            self.line(&format!("warning: {warning}"));
        }
        let text = match self.0.output {
            OutputArg::Json => json::object(report),
            // Nothing was pushed, so there is no reference that a pipeline could take for one.
            OutputArg::Text if report.dry_run => return Ok(()),
            OutputArg::Text => report.references().collect::<Vec<_>>().join("\n"),
        };
        let mut output = std::io::stdout().lock();
        match writeln!(output, "{text}").and_then(|()| output.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                self.line(&format!("error: the image was pushed, but the result cannot be written: {error}"));
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Shows why there is no result.
    pub fn failed(&self, error: &Error) {
        self.end();
        words::error(error, self.0.verbose).iter().for_each(|line| self.line(line));
    }

    /// Says what a stopped run leaves. Answers the exit status.
    pub fn stopped(&self, stop: Stop) -> u8 {
        self.end();
        let tagged = self.0.tagged.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if tagged.is_empty() {
            self.line("stopped: nothing was tagged");
        } else {
            self.line(&format!("stopped: these tags were pushed already: {}", tagged.join(", ")));
        }
        stop.status()
    }

    fn line(&self, text: &str) {
        match &self.0.view {
            View::Bars(bars) => bars.line(text),
            View::Lines(lines) => lines.line(text),
        }
    }

    /// Ends bars and signs of life.
    pub fn end(&self) {
        match &self.0.view {
            View::Bars(bars) => bars.end(),
            View::Lines(lines) => lines.end(),
        }
    }
}
