//! `tramline store`: looks at the file of durable queues, without a broker.

use super::output::Output;
use super::table::Table;
use super::{Failure, size};
use crate::store::{Check, Found, OpenError, check};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Looks at the file of durable queues
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tramline store check /var/lib/tramline/queues.db\n  \
        tramline store check queues.db --salvage saved.db")]
pub(super) struct Stores {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Verifies every page and every message of a file without changing it; the broker must not have it open
    Check {
        /// The file
        file: PathBuf,
        /// Copy everything that is as it was written to this new file
        #[arg(long, value_name = "NEW")]
        salvage: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Stores {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Check { file, salvage, json } = self.command;
        // Reading what is broken may panic inside; it is caught, and is what the report is about.
        std::panic::set_hook(Box::new(|_| {}));
        let checked = check(&file, salvage.as_deref());
        let _ = std::panic::take_hook();
        let checked = checked.map_err(failure)?;
        let mut output = Output::new();
        if json {
            output.line(as_json(&checked, salvage.as_deref()))?;
        } else {
            output.write(page(&checked, salvage.as_deref()).as_bytes())?;
        }
        output.flush()?;
        if checked.is_whole() {
            return Ok(());
        }
        Err(Failure::input(format!("{} is not as it was written", file.display())))
    }
}

fn failure(error: OpenError) -> Failure {
    match &error {
        OpenError::Taken { .. } => Failure::try_again(error),
        OpenError::Place { .. } | OpenError::NoFolder { .. } => Failure::cannot_create(error),
        OpenError::Refused { error: cause, .. } => match cause.kind() {
            std::io::ErrorKind::NotFound => Failure::no_input(error),
            std::io::ErrorKind::PermissionDenied => Failure::denied(error),
            _ => Failure::io(error),
        },
        OpenError::Format { .. } | OpenError::Damaged { .. } => Failure::input(error),
    }
}

fn page(check: &Check, saved: Option<&std::path::Path>) -> String {
    use std::fmt::Write as _;
    let mut page = format!("store    {}\n", check.path.display());
    let how = match (check.found, &check.broken) {
        (_, None) => "every page is as it was written".to_owned(),
        (Found::Search, Some(why)) => format!(
            "its trees cannot be opened ({why}); searched for messages, of which some may have been done already"
        ),
        (_, Some(why)) => format!("its trees are broken ({why}); read as far as they go"),
    };
    let _ = writeln!(page, "pages    {how}");
    let messages: u64 = check.queues.values().map(|queue| queue.waiting + queue.dead).sum();
    let bytes: u64 = check.queues.values().map(|queue| queue.bytes).sum();
    let _ = writeln!(
        page,
        "good     {} queues, {messages} messages ({}), {} ids, {} positions",
        check.queues.len(),
        size::readable(bytes),
        check.seen,
        check.positions
    );
    let _ = writeln!(
        page,
        "damaged  {} entries; {} tables have places that cannot be read",
        check.damages, check.gaps
    );
    let mut table = Table::new(&[">number", "queue", ">waiting", ">dead", ">size"]);
    for (number, queue) in &check.queues {
        let name = if queue.name.is_empty() { "(its name is damaged)" } else { &queue.name };
        table.row([
            number.to_string(),
            name.to_owned(),
            queue.waiting.to_string(),
            queue.dead.to_string(),
            size::readable(queue.bytes),
        ]);
    }
    if !table.is_empty() {
        let _ = write!(page, "\n{table}");
    }
    if !check.damaged.is_empty() {
        page.push_str("\ndamaged\n");
        for damage in &check.damaged {
            let _ = writeln!(page, "  {damage}");
        }
        let unnamed = check.damages - check.damaged.len() as u64;
        if unnamed > 0 {
            let _ = writeln!(page, "  and {unnamed} more");
        }
    }
    match saved {
        Some(new) => {
            let _ = writeln!(page, "\nsaved    {} entries in {}", check.saved, new.display());
        }
        None if !check.is_whole() => {
            let path = check.path.display();
            let _ = writeln!(page, "\nCopy what is good: tramline store check {path} --salvage NEW");
        }
        None => {}
    }
    page
}

fn as_json(check: &Check, saved: Option<&std::path::Path>) -> Value {
    let queues: Vec<Value> = check
        .queues
        .iter()
        .map(|(number, queue)| {
            json!({
                "number": number, "name": &*queue.name, "waiting": queue.waiting, "dead": queue.dead,
                "bytes": queue.bytes,
            })
        })
        .collect();
    let found = match check.found {
        Found::Trees => "trees",
        Found::BrokenTrees => "broken_trees",
        Found::Search => "search",
    };
    json!({
        "path": check.path.to_string_lossy(), "whole": check.is_whole(), "format": check.format, "found": found,
        "broken": check.broken, "queues": queues, "ids": check.seen, "positions": check.positions,
        "damages": check.damages,
        "damaged": check.damaged.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "unreadable_tables": check.gaps,
        "saved_to": saved.map(|path| path.to_string_lossy()), "saved": saved.map(|_| check.saved),
    })
}
