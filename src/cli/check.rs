//! `tramline check`: a configuration, looked through before a broker is started with it.

use super::Failure;
use super::configuration::Configuration;
use super::failure::told;
use super::output::Output;
use crate::config::{Config, ConfigError, place, snippet};
use crate::routes::{Routes, trial};
use serde_json::json;
use std::path::Path;

/// Check a configuration whole, and run the tests beside its routes
///
/// Reads the file as a broker would: limits, queues, services, access, routes with their expressions, and the schemas that they
/// name. Tells all that is wrong, each with its place. Needs no broker, and starts none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tramline check /etc/tramline/tramline.yaml\n  \
                        tramline check --config tramline.yaml\n  \
                        tramline check --json config/examples/gps-to-map.yaml")]
pub(super) struct Check {
    #[command(flatten)]
    configuration: Configuration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Something wrong, and where.
struct Fault {
    line: usize,
    column: usize,
    message: String,
    /// What differs, of a test.
    details: Vec<String>,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let file = self.configuration.path()?;
        let (checked, faults) = match Config::examine(&file) {
            Ok((config, routes)) => {
                let faults = failed(&file, &routes);
                (Some((config, routes)), faults)
            }
            Err(errors) => (None, of_reading(errors)?),
        };
        let mut output = Output::new();
        let summary = checked.as_ref().map(|(config, routes)| summary(config, routes));
        if self.json {
            output.line(as_json(&file, &faults, checked.as_ref()))?;
        } else if faults.is_empty() {
            output.line(format_args!("{}: good: {}", file.display(), summary.unwrap_or_default()))?;
        }
        output.flush()?;
        if faults.is_empty() {
            return Ok(());
        }
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let mut sentence = match (faults.len(), checked.is_some()) {
            (1, false) => "this is wrong:".to_owned(),
            (number, false) => format!("{number} things are wrong:"),
            (1, true) => "a test fails:".to_owned(),
            (number, true) => format!("{number} tests fail:"),
        };
        for fault in &faults {
            let Fault { line, column, message, details } = fault;
            sentence += &format!("\n{}:{line}:{column}: {message}\n", file.display());
            sentence += &snippet(&text, *line, *column);
            for detail in details {
                sentence += &format!("\n   {detail}");
            }
        }
        Err(if checked.is_some() { Failure::input(sentence) } else { Failure::config(sentence) })
    }
}

/// What is wrong with a file that could be read at all.
fn of_reading(errors: Vec<ConfigError>) -> Result<Vec<Fault>, Failure> {
    let mut faults = Vec::with_capacity(errors.len());
    for error in errors {
        match error {
            ConfigError::Faulty { line, column, message, .. } => {
                faults.push(Fault { line, column, message, details: Vec::new() });
            }
            error => return Err(told(error)),
        }
    }
    Ok(faults)
}

/// The tests beside routes that fail.
fn failed(file: &Path, routes: &Routes) -> Vec<Fault> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let failed = trial::run(routes).into_iter().filter(|trial| !trial.differences.is_empty());
    let mut faults: Vec<Fault> = failed
        .map(|trial| {
            let (line, column) = place(&text, &trial.key);
            let message = format!("the test {:?} of route {} fails", trial.test, trial.route);
            Fault { line, column, message, details: trial.differences }
        })
        .collect();
    faults.sort_by_key(|fault| (fault.line, fault.column));
    faults
}

fn counts(config: &Config, routes: &Routes) -> [(&'static str, usize); 5] {
    let tests = routes.routes().iter().map(|route| route.settings().tests.len()).sum();
    [
        ("topics", config.topics.len()),
        ("queues", config.queues.len()),
        ("services", config.services.len()),
        ("routes", routes.routes().len()),
        ("tests", tests),
    ]
}

fn summary(config: &Config, routes: &Routes) -> String {
    let counts = counts(config, routes).map(|(what, number)| match (what, number) {
        ("topics", number) => format!("settings for {number} filters of topics"),
        ("tests", number) => format!("{number} tests passed"),
        (what, number) => format!("{number} {what}"),
    });
    counts.join(", ")
}

fn as_json(file: &Path, faults: &[Fault], checked: Option<&(Config, Routes)>) -> serde_json::Value {
    let faults: Vec<_> = faults
        .iter()
        .map(|fault| {
            json!({
                "line": fault.line, "column": fault.column, "message": fault.message, "details": fault.details,
            })
        })
        .collect();
    let counts: Option<serde_json::Map<_, _>> = checked.map(|(config, routes)| {
        counts(config, routes).into_iter().map(|(what, number)| (what.to_owned(), number.into())).collect()
    });
    json!({
        "file": file.to_string_lossy(), "good": faults.is_empty(), "readable": checked.is_some(), "faults": faults,
        "counts": counts,
    })
}
