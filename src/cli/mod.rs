//! The command line: what may be written there, and how the program ends.
//!
//! Each command has a file of its own that parses nothing and exits nowhere: it gets its arguments
//! checked, and returns a [`Failure`] if it fails. This file turns that into one line on stderr and an
//! exit code. It knows nothing of brokers and clients.

mod failure;

mod serve;

mod publish;

mod subscribe;

mod tap;

mod queue;

mod store;

mod req;

mod reply;

mod route;

mod check;

mod samples;

mod status;

mod bench;

mod demo;

mod generate;

mod configuration;

mod connect;

mod input;

mod output;

mod table;

mod histogram;

mod size;

mod clock;

mod scene;

mod private_broker;

mod role;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
pub use failure::Failure;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// A message broker for one Linux host.
#[derive(Debug, Parser)]
#[command(
    name = "tramline",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  tramline demo                          the whole system, in half a minute\n  \
                  tramline serve                         a broker, in this terminal\n  \
                  tramline sub '>'                       everything, in a second one\n  \
                  tramline pub gps.fix '{\"lat\":48.1}'    a message, in a third"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(name = "pub")]
    Publish(publish::Publish),
    #[command(name = "sub")]
    Subscribe(subscribe::Subscribe),
    Tap(tap::Tap),
    #[command(name = "queue")]
    Queues(queue::Queues),
    #[command(name = "store")]
    Stores(store::Stores),
    Req(req::Req),
    Reply(reply::Reply),
    #[command(name = "route")]
    Routes(route::RouteArguments),
    Check(check::Check),
    #[command(name = "gen")]
    Generate(samples::Gen),
    Status(status::Status),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Completions(generate::Completions),
    Man(generate::Man),
    #[command(hide = true)]
    Role(role::Role),
}

/// Runs the program with these arguments (the first is its name) and says how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command_line().try_get_matches_from(arguments);
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors. If even stderr is closed, only the exit code can tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
        Command::Serve(serve) => serve.run(),
        Command::Publish(publish) => publish.run(),
        Command::Subscribe(subscribe) => subscribe.run(),
        Command::Tap(tap) => tap.run(),
        Command::Queues(queues) => queues.run(),
        Command::Stores(stores) => stores.run(),
        Command::Req(req) => req.run(),
        Command::Reply(reply) => reply.run(),
        Command::Routes(routes) => routes.run(),
        Command::Check(check) => check.run(),
        Command::Generate(generate) => generate.run(),
        Command::Status(status) => status.run(),
        Command::Bench(bench) => bench.run(),
        Command::Demo(demo) => demo.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
        Command::Role(role) => role.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.sentence.is_empty() {
                // If standard error is closed, the exit code has to say it alone.
                let _ = writeln!(std::io::stderr(), "tramline: {}", failure.sentence);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The command line as it is described in the code, with the exit statuses behind each command's `--help`.
fn command_line() -> clap::Command {
    let with_statuses = |command: clap::Command| {
        let before = command.get_after_help().map(|help| format!("{help}\n\n")).unwrap_or_default();
        command.after_long_help(format!("{before}{}", failure::exit_statuses()))
    };
    let mut full = with_statuses(Arguments::command());
    let shown = full.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<String> = shown.map(|command| command.get_name().to_owned()).collect();
    for name in names {
        full = full.mut_subcommand(name, with_statuses);
    }
    full
}
