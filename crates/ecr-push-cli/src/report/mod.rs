//! What the user sees of a run: log, progress, result.

mod bars;
mod files;
mod json;
mod lines;
mod markdown;
mod names;
mod progress;
mod repeats;
mod sink;
mod summary;
mod veil;
mod words;

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ecr_push::events::Event;
use ecr_push::push::PushReport;
use ecr_push::{Error, Text, text};
use secrecy::{ExposeSecret, SecretString};

use crate::args::{CiArg, ProgressArg, ReportArgs};
use crate::ci::{self, System};
use crate::environment::Environment;
use bars::Bars;
pub use files::{OutputFile, bare, values};
pub use json::object as json;
use lines::Lines;
pub use markdown::summary as markdown;
pub use names::{Name, Names};
use progress::Progress;
use repeats::Repeats;
use sink::Sink;
pub use sink::Stream;
pub use words::{bytes, sentence};

/// An error as the command line shows it.
pub fn lines(error: &Error) -> Vec<String> {
    words::error(error, false, names::flags)
}

/// Shows one run. Clones show the same run.
#[derive(Clone)]
pub struct Reporter(Arc<Inner>);

struct Inner {
    view: View,
    sink: Sink,
    names: Names,
    quiet: bool,
    verbose: bool,
    progress: Progress,
    section: Mutex<bool>,
    tagged: Mutex<Vec<String>>,
    /// The tag that the registry is being asked to put.
    tagging: Mutex<Option<String>>,
    secrets: Mutex<Vec<SecretString>>,
    repeats: Mutex<Repeats>,
}

enum View {
    Bars(Bars),
    Lines(Lines),
}

impl Reporter {
    /// The reporter of a command: its log on standard error, shaped for the CI system that it runs in.
    pub fn new(args: &ReportArgs, environment: &Environment) -> Self {
        let system = match args.ci {
            CiArg::Auto => System::detect(environment),
            CiArg::None => None,
            CiArg::Azure => Some(System::Azure),
            CiArg::Github => Some(System::GitHub),
            CiArg::Gitlab => Some(System::GitLab),
            CiArg::Buildkite => Some(System::Buildkite),
            CiArg::Circleci | CiArg::Jenkins => Some(System::Plain),
        };
        let bars = match args.progress {
            ProgressArg::Auto => system.is_none() && std::io::stderr().is_terminal(),
            ProgressArg::Bars => true,
            ProgressArg::Lines => false,
        };
        let sink = Sink { system: system.unwrap_or(System::Plain), stream: Stream::Error };
        let view =
            if bars && !args.quiet { View::Bars(Bars::new(sink)) } else { View::Lines(Lines::new(args.quiet, sink)) };
        Self::of(view, sink, names::flags, args.quiet, args.verbose)
    }

    /// The reporter of a task of `system`, which has one stream. Settings have other `names` there than on the command line.
    pub fn of_task(system: System, names: Names) -> Self {
        let sink = Sink { system, stream: Stream::Output };
        Self::of(View::Lines(Lines::new(false, sink)), sink, names, false, false)
    }

    /// A task's reporter that nobody hears.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn silent(system: System, names: Names) -> Self {
        let sink = Sink { system, stream: Stream::Nowhere };
        Self::of(View::Lines(Lines::new(true, sink)), sink, names, true, false)
    }

    fn of(view: View, sink: Sink, names: Names, quiet: bool, verbose: bool) -> Self {
        Self(Arc::new(Inner {
            view,
            sink,
            names,
            quiet,
            verbose,
            progress: Progress::default(),
            section: Mutex::default(),
            tagged: Mutex::default(),
            tagging: Mutex::default(),
            secrets: Mutex::default(),
            repeats: Mutex::default(),
        }))
    }

    /// A line for the log.
    pub fn notice(&self, text: impl Into<Text>) {
        if !self.0.quiet {
            self.line(&self.text(text));
        }
    }

    /// A warning.
    pub fn warning(&self, text: impl Into<Text>) {
        self.line(&self.0.sink.system.warning(&self.said(text)));
    }

    /// Something that few want to know.
    pub fn detail(&self, text: &str) {
        if self.0.verbose {
            return self.line(&self.text(text));
        }
        if !self.0.quiet
            && let Some(line) = self.0.sink.system.debug(&self.said(text))
        {
            self.line(&line);
        }
    }

    /// True if [`Reporter::detail`] leads anywhere.
    pub fn has_details(&self) -> bool {
        self.0.verbose || !self.0.quiet && self.0.sink.system.debug("").is_some()
    }

    /// Keeps `secret` out of the log: services repeat what they are sent. A task also has its CI system hide it. A command does
    /// not, since its log may go to a file that no system reads, where that line would be the leak.
    pub fn secret(&self, secret: &str) {
        let Some(secret) = ci::worth_hiding(secret) else { return };
        let mut secrets = lock(&self.0.secrets);
        if !secrets.iter().any(|known| known.expose_secret() == secret) {
            secrets.push(secret.into());
        }
        drop(secrets);
        if self.0.sink.stream == Stream::Output
            && let Some(line) = self.0.sink.system.secret(secret)
        {
            self.line(&line);
        }
    }

    /// `text` as it may be seen: with the names that this front end has for settings, without the secrets that are known and those
    /// that look like one, and not endless.
    pub fn said(&self, text: impl Into<Text>) -> String {
        let secrets = lock(&self.0.secrets);
        let text = names::written(&text.into(), self.0.names);
        let hidden = secrets.iter().fold(text, |text, secret| text.replace(secret.expose_secret(), "***"));
        words::shortened(&veil::veiled(&hidden))
    }

    /// Starts a part of the log.
    pub fn section(&self, title: &str) {
        self.end_section();
        if !self.0.quiet
            && let Some(line) = self.0.sink.system.section(&self.said(title))
        {
            *lock(&self.0.section) = true;
            self.line(&line);
        }
    }

    /// Ends it.
    pub fn end_section(&self) {
        if std::mem::take(&mut *lock(&self.0.section))
            && let Some(line) = self.0.sink.system.section_end()
        {
            self.line(&line);
        }
    }

    /// Writes a command of the CI system.
    pub fn command(&self, command: &str) {
        self.line(command);
    }

    /// Shows what happened.
    pub fn event(&self, event: &Event) {
        self.0.progress.after(event, |percent| {
            if !self.0.quiet
                && let Some(line) = self.0.sink.system.progress(percent, "pushing")
            {
                self.line(&line);
            }
        });
        match event {
            Event::Notice(text) => return self.notice(text),
            Event::Warning(text) => return self.warning(text),
            Event::Detail(text) => return self.detail(text),
            Event::Phase(phase) => {
                let phase = Event::Phase(self.text(phase));
                return match &self.0.view {
                    View::Bars(bars) => bars.event(&phase),
                    View::Lines(lines) => lines.event(&phase),
                };
            }
            Event::Secret(secret) => return self.secret(secret.expose_secret()),
            Event::Retrying { what, why, wait } => {
                let failed = text![format!("{what} failed: "), why];
                let again = format!("; trying again in {:.1} s", wait.as_secs_f64());
                if !self.0.quiet && self.is_new(&self.text(&failed)) {
                    self.notice(failed.and(again));
                }
                return;
            }
            Event::Publishing { tag } => {
                lock(&self.0.tagging).replace(tag.clone());
                return;
            }
            Event::Published { digest, tag, existed } => {
                if let Some(tag) = tag {
                    lock(&self.0.tagging).take();
                    lock(&self.0.tagged).push(tag.clone());
                }
                let done = if *existed { "already there" } else { "pushed" };
                let what =
                    tag.as_ref().map_or_else(|| format!("manifest {}", digest.short()), |tag| format!("tag {tag}"));
                return self.notice(format!("{what:<21} {:>10}  {done}", ""));
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

    /// Sums up what was pushed.
    pub fn pushed(&self, report: &PushReport) {
        self.end();
        summary::lines(report).iter().for_each(|line| self.notice(line));
        summary::warnings(report).iter().for_each(|warning| self.warning(warning));
    }

    /// Shows why there is no result.
    pub fn failed(&self, error: &Error) {
        self.end();
        if let Some(line) = self.0.sink.system.unfold() {
            self.line(&line);
        }
        words::error(error, self.0.verbose, self.0.names).iter().for_each(|line| self.line(&self.text(line)));
        if let Some(line) = self.0.sink.system.error(&self.said(sentence(error))) {
            self.line(&line);
        }
    }

    /// Shows why the command line cannot be understood, where a CI system reads the log: it is full of text from outside.
    pub fn misused(system: System, text: &str) {
        let sink = Sink { system, stream: Stream::Error };
        text.lines().for_each(|line| sink.text(line));
        let sentence = text.lines().next().unwrap_or_default();
        if let Some(line) = system.error(sentence.trim_start_matches("error: ")) {
            sink.command(&line);
        }
    }

    /// Says that the program itself is at fault. What a panic says is left out: it may hold anything.
    pub fn panicked(system: System, place: Option<&std::panic::Location<'_>>) {
        let place = place.map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let text = format!("this is a fault of ecr-push itself, at {place}: please report it");
        let sink = Sink { system, stream: Stream::Error };
        sink.text(&format!("error: {text}"));
        if let Some(line) = system.error(&text) {
            sink.command(&line);
        }
    }

    /// Says what a stopped run leaves. Answers the sentence.
    pub fn stopped(&self) -> String {
        self.end();
        let tagged = lock(&self.0.tagged);
        let done = match tagged.as_slice() {
            [] => "nothing was tagged".to_owned(),
            tags => format!("these tags were pushed already: {}", tags.join(", ")),
        };
        let text = match lock(&self.0.tagging).as_deref() {
            None => format!("stopped: {done}"),
            Some(tag) => format!("stopped: {done}; the tag {tag} was under way, and may be there"),
        };
        self.line(&self.text(&text));
        text
    }

    /// `text` with the names of this front end, in which the CI system finds no command.
    fn text(&self, text: impl Into<Text>) -> String {
        self.0.sink.system.text(&self.said(text))
    }

    /// True if `text` was not shown a moment ago. If it was, it is counted.
    fn is_new(&self, text: &str) -> bool {
        let now = Instant::now();
        let mut repeats = lock(&self.0.repeats);
        let over = repeats.over(Some(now));
        let is_new = repeats.is_new(text, now);
        drop(repeats);
        over.iter().for_each(|line| self.show(line));
        is_new
    }

    fn line(&self, line: &str) {
        let over = lock(&self.0.repeats).over(Some(Instant::now()));
        over.iter().for_each(|line| self.show(line));
        self.show(line);
    }

    fn show(&self, line: &str) {
        match &self.0.view {
            View::Bars(bars) => bars.line(line),
            View::Lines(lines) => lines.line(line),
        }
    }

    /// Ends sections, bars and signs of life.
    pub fn end(&self) {
        let left = lock(&self.0.repeats).over(None);
        left.iter().for_each(|line| self.show(line));
        self.end_section();
        match &self.0.view {
            View::Bars(bars) => bars.end(),
            View::Lines(lines) => lines.end(),
        }
    }
}

/// A lock that outlives a panic elsewhere: what it guards is only shown.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
