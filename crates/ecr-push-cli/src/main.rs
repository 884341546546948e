//! The `ecr-push` command: reads flags and environment, runs the push, reports.
#![forbid(unsafe_code)]

mod args;
mod demo;
mod environment;
mod report;
mod request;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use ecr_push::events::Events;
use ecr_push::{Error, Result};

use args::{Cli, Command, PushArgs};
use environment::Environment;
use report::Reporter;
use signals::Signals;

/// Pushed, but something that follows a push failed.
const UNFINISHED: u8 = 3;
/// Pushed.
const PUSHED: u8 = 0;
/// Not pushed.
const FAILED: u8 = 1;
/// Refused before any network call.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a closed pipe is none either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { REFUSED } else { PUSHED });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the system refused to start the program's threads: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let status = runtime.block_on(async {
        match cli.command {
            Command::Push(args) => push(&args).await,
            Command::Demo(args) => demo::run(&args, Environment::of_process()).await,
        }
    });
    // A thread may still be waiting for bytes that nobody needs any more.
    runtime.shutdown_background();
    ExitCode::from(status)
}

async fn push(args: &PushArgs) -> u8 {
    let mut signals = Signals::listen();
    trace(args.report.verbose);
    let reporter = Reporter::new(&args.report);
    let work = async {
        let request = request::request(args, &Environment::of_process())?;
        request.notices.iter().for_each(|notice| reporter.notice(notice));
        let listener = reporter.clone();
        ecr_push::push::push(request.push, Events::new(move |event| listener.event(&event))).await
    };
    let result: Result<_> = tokio::select! {
        result = work => result,
        signal = signals.next() => return reporter.stopped(signal),
    };
    match result {
        Ok(report) => match reporter.pushed(&report) {
            Ok(()) => PUSHED,
            Err(_) => UNFINISHED,
        },
        Err(error) => {
            reporter.failed(&error);
            status(&error)
        }
    }
}

/// What the library notes in passing goes to standard error: warnings always, the rest with `--verbose`.
fn trace(verbose: bool) {
    let level = if verbose { "ecr_push=debug" } else { "ecr_push=warn" };
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_target(false);
    // A second one in the same process is no loss.
    let _ = subscriber.with_ansi(false).with_env_filter(level).try_init();
}

/// The exit status for an error.
fn status(error: &Error) -> u8 {
    if error.is_refused() { REFUSED } else { FAILED }
}
