//! `tramline route`: looks at the routes of a configuration without a broker.

mod explain;

mod running;

use super::Failure;
use super::configuration::Configuration;
use super::failure::told;
use super::output::Output;
use crate::config::Config;
use crate::routes::{Routes, trial};
use std::path::Path;

/// Look at the routes of a configuration
///
/// Needs no broker: routes are read from the file, checked whole, and tried on messages that are given here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    tramline route test config/examples/gps-to-map.yaml\n  \
    tramline route test --config config/examples/gps-to-map.yaml\n  \
    tramline route explain config/examples/gps-to-map.yaml sensors.gps.fix --type TPV '{\"mode\":3,\"lat\":46.5}'")]
pub(super) struct RouteArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Test(Test),
    Explain(explain::Explain),
    Ls(running::Ls),
    Show(running::Show),
}

/// Run the tests that stand beside the routes, and print what differs
#[derive(Debug, clap::Args)]
struct Test {
    #[command(flatten)]
    configuration: Configuration,
}

impl RouteArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Test(test) => test.run(),
            What::Explain(explain) => explain.run(),
            What::Ls(ls) => ls.run(),
            What::Show(show) => show.run(),
        }
    }
}

/// The routes in a file, or what is wrong with it, with the line that it is in.
fn read(file: &Path) -> Result<Routes, Failure> {
    Config::with_routes(file).map(|(_, routes)| routes).map_err(told)
}

impl Test {
    fn run(self) -> Result<(), Failure> {
        let file = self.configuration.path()?;
        let routes = read(&file)?;
        let trials = trial::run(&routes);
        let mut output = Output::new();
        let mut failed = 0;
        for trial in &trials {
            let verdict = if trial.differences.is_empty() { "ok" } else { "FAILED" };
            output.line(format_args!("{verdict:<6} {}: {}", trial.route, trial.test))?;
            for difference in &trial.differences {
                output.line(format_args!("       {difference}"))?;
            }
            failed += usize::from(!trial.differences.is_empty());
        }
        let untested = routes.routes().iter().filter(|route| route.settings().tests.is_empty());
        for route in untested {
            output.line(format_args!("none   {}: no tests", route.settings().name))?;
        }
        output.line(format_args!(
            "{} routes, {} tests, {failed} failed",
            routes.routes().len(),
            trials.len()
        ))?;
        output.flush()?;
        if failed > 0 {
            let file = file.display();
            return Err(Failure::input(format!("{failed} of {} tests in {file} fail", trials.len())));
        }
        Ok(())
    }
}
