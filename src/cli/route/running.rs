//! `tramline route ls` and `route show`: the routes of a running broker, what became of messages, and how their
//! destinations do.

use super::super::Failure;
use super::super::connect::Socket;
use super::super::output::Output;
use super::super::status;
use super::super::table::{Table, text};
use serde_json::Value;
use std::fmt::Write as _;

/// What messages of a route have become, in the order in which they are shown.
const COUNTS: [&str; 16] = [
    "received",
    "passed",
    "passed_missing",
    "passed_trouble",
    "dropped",
    "invalid",
    "delivered",
    "dead",
    "retries",
    "retries_refused",
    "too_late",
    "parts",
    "parts_invalid",
    "replies",
    "replies_invalid",
    "lost",
];

/// List the routes of a running broker
#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    #[command(flatten)]
    socket: Socket,
    /// Print the broker's JSON
    #[arg(long)]
    json: bool,
}

/// Show all about one route of a running broker
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    socket: Socket,
    /// The route's name
    route: String,
    /// Print the broker's JSON
    #[arg(long)]
    json: bool,
}

fn routes(socket: &Socket) -> Result<Vec<Value>, Failure> {
    let mut status = status::ask(socket)?;
    Ok(match status["routes"].take() {
        Value::Array(routes) => routes,
        _ => Vec::new(),
    })
}

impl Ls {
    pub(super) fn run(self) -> Result<(), Failure> {
        let routes = routes(&self.socket)?;
        let mut output = Output::new();
        if self.json {
            output.line(Value::Array(routes))?;
        } else {
            output.write(list(&routes).to_string().as_bytes())?;
        }
        output.flush()
    }
}

impl Show {
    pub(super) fn run(self) -> Result<(), Failure> {
        let routes = routes(&self.socket)?;
        let Some(route) = routes.iter().find(|route| route["route"] == *self.route) else {
            let names: Vec<String> = routes.iter().map(|route| text(route, "route")).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Failure::input(format!(
                "the broker has no route {:?}; there are {there}",
                self.route
            )));
        };
        let mut output = Output::new();
        if self.json {
            output.line(route)?;
        } else {
            output.write(page(route).as_bytes())?;
        }
        output.flush()
    }
}

fn destinations(route: &Value) -> &[Value] {
    route["destinations"].as_array().map_or(&[], Vec::as_slice)
}

fn from(route: &Value) -> String {
    let from = route["from"].as_array().into_iter().flatten().filter_map(Value::as_str);
    from.collect::<Vec<_>>().join(", ")
}

/// One line for each route.
pub(in crate::cli) fn list(routes: &[Value]) -> Table {
    let columns = [
        "route",
        "from",
        ">received",
        ">delivered",
        ">dead",
        ">invalid",
        ">dropped",
        ">passed",
        ">in flight",
        "destinations",
    ];
    let mut table = Table::new(&columns);
    for route in routes {
        let [name, received, delivered, dead, invalid, dropped, passed, in_flight] =
            ["route", "received", "delivered", "dead", "invalid", "dropped", "passed", "in_flight"]
                .map(|key| text(route, key));
        let there = destinations(route);
        let out = there.iter().filter(|place| place["state"] == "ejected").count();
        let places = match (there.len(), out) {
            (all, 0) => all.to_string(),
            (all, out) => format!("{all}, {out} ejected"),
        };
        table.row([
            name,
            from(route),
            received,
            delivered,
            dead,
            invalid,
            dropped,
            passed,
            in_flight,
            places,
        ]);
    }
    table
}

/// Why a destination failed, and how often.
fn reasons(place: &Value) -> String {
    let by = place["failures_by"].as_object().into_iter().flatten();
    let some = by.filter(|(_, count)| count.as_u64() > Some(0));
    some.map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

/// All about one route.
fn page(route: &Value) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(page, "{name:<13}{value}");
    };
    line("route", text(route, "route"));
    line("from", from(route));
    line("priority", text(route, "priority"));
    line("strategy", text(route, "strategy"));
    line("in flight", format!("{}, and {} wait for room", text(route, "in_flight"), text(route, "waiting")));
    let counts: Vec<String> = COUNTS
        .iter()
        .filter(|key| **key == "received" || route[**key].as_u64() > Some(0))
        .map(|key| format!("{} {}", text(route, key), key.replace('_', " ")))
        .collect();
    line("since start", counts.join(", "));
    let latency = &route["latency"];
    let took: u64 = latency["steps"].as_array().into_iter().flatten().filter_map(Value::as_u64).sum();
    if let (Some(nanos), 1..) = (latency["sum_nanos"].as_u64(), took) {
        line("on average", format!("{:.3} ms to deliver", nanos as f64 / took as f64 / 1e6));
    }
    let columns =
        ["destination", "state", ">failing", ">tries", ">delivered", ">ejections", ">failures", "by reason"];
    let mut table = Table::new(&columns);
    for place in destinations(route) {
        let [name, state, failing, tries, delivered, ejections, failures] =
            ["destination", "state", "consecutive_failures", "tries", "delivered", "ejections", "failures"]
                .map(|key| text(place, key));
        table.row([name, state, failing, tries, delivered, ejections, failures, reasons(place)]);
    }
    if !table.is_empty() {
        let _ = write!(page, "\n{table}");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_show_what_there_is() {
        let fixes = json!({
            "route": "fixes", "from": ["sensors.gps.*", "queue:late"], "priority": 2, "strategy": "failover",
            "received": 9, "passed": 0, "delivered": 7, "dead": 1, "in_flight": 1, "waiting": 0,
            "latency": {"steps": [3, 4], "sum_nanos": 7_000_000},
            "destinations": [
                {"destination": "service:map.primary", "state": "ejected", "consecutive_failures": 5, "tries": 9, "failures": 6,
                 "failures_by": {"error_reply": 1, "other": 0, "timed_out": 5}},
                {"destination": "service:map.backup", "state": "healthy", "tries": 3},
            ],
        });
        let shown = list(std::slice::from_ref(&fixes)).to_string();
        assert!(shown.contains("sensors.gps.*, queue:late") && shown.ends_with("2, 1 ejected\n"), "{shown}");
        let shown = page(&fixes);
        assert!(shown.contains("since start  9 received, 7 delivered, 1 dead\n"), "{shown}");
        assert!(shown.contains("on average   1.000 ms to deliver"), "{shown}");
        assert!(shown.contains("service:map.primary  ejected        5"), "{shown}");
        assert!(shown.contains("1 error_reply, 5 timed_out\n"), "{shown}");
    }
}
