//! The `ecr-push` command: reads flags and environment, runs the push, reports.
#![deny(unsafe_code)]

mod args;
mod ci;
mod demo;
mod environment;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod platform;
mod report;
mod request;
mod run;
mod slips;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ecr_push::Error;
use ecr_push::push::PushReport;

use args::{Cli, Command, OutputArg, PushArgs};
use ci::System;
use environment::Environment;
use platform::Stops;
use report::{OutputFile, Reporter};
use run::{Afterwards, End, until_stopped};

/// How many files the program needs at least, beside the standard ones: the runtime's, a connection, an image.
const FILES: usize = 16;

/// The stack of the thread that runs the command, in bytes: what the main thread has on most Linux systems. On Windows that has 1 MiB,
/// elsewhere what `ulimit -s` says, and a debug build needs more than 1 MiB to ask for instance metadata.
const STACK: usize = 8 << 20;

/// Pushed, but something that follows a push failed.
const UNFINISHED: u8 = 3;
/// Pushed.
const PUSHED: u8 = 0;
/// Not pushed.
const FAILED: u8 = 1;
/// Refused before any network call.
const REFUSED: u8 = 2;

/// What a command knows of secrets before it begins; those that come later are told by the library.
pub const SECRETS: [&str; 3] = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"];

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        Reporter::panicked(System::detect(&Environment::of_process()).unwrap_or(System::Plain), panic.location());
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(misused(error)),
    };
    // Before the first thread: what no program that is started should have is taken out of the environment.
    let environment = match &cli.command {
        Command::AzureTask(_) | Command::GithubAction => Environment::taken_from_process(true, &[]),
        Command::Push(args) => Environment::taken_from_process(false, &args.network.pass_env),
        Command::Demo(_) => Environment::taken_from_process(false, &[]),
    };
    if let Err(error) = may_open_files() {
        eprintln!("error: this program may open too few files: {error}\nhint: allow more (`ulimit -n`)");
        return ExitCode::from(FAILED);
    }
    let work = move || carry_out(cli.command, environment);
    match std::thread::Builder::new().name("ecr-push".to_owned()).stack_size(STACK).spawn(work) {
        Ok(thread) => match thread.join() {
            Ok(Ok(status)) => return ExitCode::from(status),
            Ok(Err(error)) => no_threads(&error),
            // The hook has reported it.
            Err(panic) => std::panic::resume_unwind(panic),
        },
        Err(error) => no_threads(&error),
    }
    ExitCode::from(FAILED)
}

fn no_threads(error: &std::io::Error) {
    eprintln!("error: the system refused to start the program's threads: {error}");
}

/// Runs the command to its end. Answers the exit status; an error if no threads can be had for it.
fn carry_out(command: Command, environment: Environment) -> std::io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        match command {
            Command::Push(args) => push(&args, &environment).await,
            Command::Demo(args) => demo::run(&args, environment).await,
            Command::AzureTask(args) => ci::azure::task(&args, &environment).await,
            Command::GithubAction => ci::github::action(&environment).await,
        }
    });
    // A thread may still be waiting for bytes that nobody needs any more.
    runtime.shutdown_background();
    Ok(status)
}

/// Whether a few files more can be opened. The runtime panics where it finds no room for its own.
fn may_open_files() -> std::io::Result<()> {
    let null = if cfg!(windows) { "NUL" } else { "/dev/null" };
    let open: std::io::Result<Vec<_>> = (0..FILES).map(|_| std::fs::File::open(null)).collect();
    open.map(drop)
}

/// Answers what is no command: a mistake, or a question for help.
fn misused(error: clap::Error) -> u8 {
    // The answer repeats what was typed, which may come from elsewhere: a terminal obeys it, and a line break makes lines of its own.
    let words = std::env::args_os().map(|word| ci::printable(&word.to_string_lossy()));
    let error = Cli::try_parse_from(words).err().unwrap_or(error);
    let system = System::detect(&Environment::of_process());
    let typed: Vec<String> = std::env::args_os().skip(1).map(|word| ci::printable(&word.to_string_lossy())).collect();
    if error.use_stderr()
        && let Some(meant) = slips::meant(&typed, &error)
    {
        Reporter::misused(system.unwrap_or(System::Plain), &report::lines(&meant).join("\n"));
        return REFUSED;
    }
    match system {
        Some(system) if error.use_stderr() => Reporter::misused(system, &error.render().to_string()),
        // A closed pipe is no error.
        _ => drop(error.print()),
    }
    if error.use_stderr() { REFUSED } else { PUSHED }
}

async fn push(args: &PushArgs, environment: &Environment) -> u8 {
    let mut stops = Stops::listen();
    let reporter = Reporter::new(&args.report, environment);
    run::trace(&reporter, "");
    environment.secrets(&SECRETS).iter().for_each(|secret| reporter.secret(secret));
    let work = async {
        let request = request::request(args, environment)?;
        request.files.iter().try_for_each(OutputFile::prepare)?;
        reporter.section(&format!("Pushing image '{}'", args.image));
        request.notices.iter().for_each(|notice| reporter.notice(notice));
        let report = run::push(request.push, &reporter).await?;
        Ok((report, request.files))
    };
    let (report, files) = match until_stopped(&mut stops, work).await {
        End::Done(Ok(done)) => done,
        End::Done(Err(error)) => {
            reporter.failed(&error);
            return status(&error);
        }
        End::Stopped(stop) => {
            reporter.stopped();
            return stop.status();
        }
    };
    let told = tell(&report, args.report.output, &files, &reporter);
    let afterwards = if args.engine.tag_local { Afterwards::Tag } else { Afterwards::Leave };
    let failed = match until_stopped(&mut stops, async { Ok(afterwards.run(&report, &reporter).await) }).await {
        End::Done(failed) => failed.unwrap_or_default(),
        End::Stopped(stop) => {
            reporter.stopped();
            return stop.status();
        }
    };
    failed.iter().for_each(|error| reporter.warning(report::sentence(error)));
    if told { PUSHED } else { UNFINISHED }
}

/// Hands the result on: standard output, files. False if one of them did not take it.
fn tell(report: &PushReport, output: OutputArg, files: &[OutputFile], reporter: &Reporter) -> bool {
    let done = if report.dry_run { "nothing was to be pushed" } else { "the image was pushed" };
    let lost = |what: &str, error: &std::io::Error| {
        let message = format!("{done}, but {what} cannot be written: {}", report::bare(error));
        reporter.failed(&Error::new(ecr_push::error::Side::Local, "write the result", message));
    };
    let mut told = true;
    for file in files {
        if let Err(error) = file.write(report) {
            lost(&format!("`{}`", file.path().display()), &error);
            told = false;
        }
    }
    let text = match output {
        OutputArg::Json => report::json(report),
        // Nothing was pushed, so there is no reference that a pipeline could take for one.
        OutputArg::Text if report.dry_run => return told,
        OutputArg::Text => report.references().collect::<Vec<_>>().join("\n"),
    };
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // Who closes the pipe does not want it; that is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            lost("the result", &error);
            false
        }
        _ => told,
    }
}

/// The exit status for an error.
fn status(error: &Error) -> u8 {
    if error.is_refused() { REFUSED } else { FAILED }
}
