//! Routes: what becomes of one message on its way from a topic or queue to its destinations.
//!
//! Here is what a route does to *one* message: whether it is for this route, whether it is valid, into how many it
//! is split, what the rules make of it, and what its destinations would get. Nothing in here performs I/O, knows the
//! broker's core or keeps anything between messages, so it can be tried without a broker. The broker carries routes out
//! in `src/core/routes`.
//!
//! # Layout
//!
//! * [`settings`]: what a configuration says, as values. [`limits`]: what routes may use, by name.
//! * [`route`]: one route and one message. [`trial`]: the examples of a route, run.
//! * [`envelope`]: the pattern's two envelopes. [`rules`]: what becomes of fields. [`path`]: how they are named.
//!   [`schema`]: JSON Schema. [`expression`]: CEL.
//! * [`value`], [`number`], [`parse`], [`times`]: JSON values that keep what they do not touch; ISO 8601.
//! * `loops`: routes that would feed each other.

pub mod settings;

pub mod limits;

pub mod route;

pub mod trial;

pub mod envelope;

pub mod rules;

pub mod path;

pub mod schema;

pub mod expression;

pub mod value;

pub mod number;

pub mod parse;

pub mod times;

mod loops;

#[cfg(test)]
mod tests;

use envelope::Native;
use expression::{Meter, Tables};
use limits::{Exceeded, Limits};
use route::{Fault, Origin, Outcome, Route};
use settings::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All routes of a configuration, compiled.
#[derive(Debug, Default)]
pub struct Routes {
    /// Those of higher priority first; of the same, in the order of the file.
    routes: Vec<Route>,
    sources: BTreeMap<String, String>,
    limits: Limits,
}

impl Routes {
    /// Compiles what a configuration says. `load` reads a file that it names, such as a schema.
    ///
    /// # Errors
    /// The first fault, with the key of the file that it is at.
    pub fn compile(
        settings: &Settings,
        load: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, Fault> {
        let limits = &settings.limits;
        if settings.routes.len() > limits.routes_max {
            let what = format!("there are {} routes", settings.routes.len());
            let message = Exceeded::new("routes_max", limits.routes_max, what).to_string();
            return Err(Fault { key: "routes".to_owned(), message });
        }
        let mut names = BTreeSet::new();
        for route in &settings.routes {
            if !names.insert(&route.name) {
                let message = format!("there is a route {:?} before this one", route.name);
                return Err(Fault { key: format!("{}.name", route.key), message });
            }
        }
        if let Some((route, message)) = loops::find(&settings.routes, &settings.bound) {
            let key = &settings.routes[route].key;
            return Err(Fault {
                key: if key.is_empty() { "pattern".to_owned() } else { key.clone() },
                message,
            });
        }
        let tables: Tables =
            settings.tables.iter().map(|(name, table)| (name.clone(), Arc::new(table.clone()))).collect();
        let compiled = settings.routes.iter().map(|route| Route::compile(route, &tables, limits, load));
        let mut routes = compiled.collect::<Result<Vec<_>, _>>()?;
        routes.sort_by_key(|route| std::cmp::Reverse(route.settings().priority));
        Ok(Self { routes, sources: settings.sources.clone(), limits: limits.clone() })
    }

    /// The routes, in the order in which they look at a message.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The limits that they keep.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What one route makes of a message.
    #[must_use]
    pub fn treat<'a>(&'a self, route: &'a Route, native: &Native<'a>, meter: &mut Meter) -> Outcome<'a> {
        route.treat(native, &self.sources, &self.limits, meter)
    }

    /// What one route makes of the payload of a reply.
    ///
    /// # Errors
    /// Why it is not valid, with the name of the route.
    pub fn treat_reply(&self, route: &Route, reply: &Native<'_>) -> Result<Vec<u8>, String> {
        route.treat_reply(reply, &self.limits, &mut Meter::new(&self.limits))
    }

    /// What becomes of a message: each route that looks at it, and its outcome, until one takes it that does not let
    /// others go on.
    #[must_use]
    pub fn process<'a>(&'a self, origin: Origin<'_>, native: &Native<'a>) -> Vec<(&'a Route, Outcome<'a>)> {
        let mut meter = Meter::new(&self.limits);
        let mut outcomes = Vec::new();
        for route in &self.routes {
            if route.declines(origin, native.message_type).is_some() {
                continue;
            }
            let outcome = self.treat(route, native, &mut meter);
            let taken = !matches!(outcome, Outcome::Passed(_));
            outcomes.push((route, outcome));
            if taken && !route.settings().goes_on {
                break;
            }
        }
        outcomes
    }
}
