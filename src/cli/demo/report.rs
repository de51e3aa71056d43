//! What the processes of the demonstration say about themselves, what is compared, and the table that is shown.

use super::capture::{Sums, total};
use crate::cli::histogram::{Counts, Latencies, readable};
use crate::cli::size;
use crate::cli::table::Table;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What one process sent or received.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Account {
    /// By topic.
    pub(super) sums: Sums,
    /// Messages that the broker or a ring said were lost.
    pub(super) lost: u64,
    /// Messages that were read where they were published.
    pub(super) in_place: u64,
    /// From publishing to receiving.
    pub(super) latencies: Counts,
}

/// One line of the table: an account and what it must be.
pub(super) struct Row<'a> {
    /// Which process.
    pub(super) who: &'a str,
    /// What it did.
    pub(super) what: &'a str,
    /// Its account.
    pub(super) account: &'a Account,
    /// What it must have sent or received.
    pub(super) due: &'a Sums,
}

/// What the broker cost.
pub(super) struct BrokerUse {
    /// Time on a processor.
    pub(super) processor: Duration,
    /// Most memory it had, in bytes.
    pub(super) memory_bytes: u64,
}

/// The comparison of all accounts.
pub(super) struct Report<'a> {
    /// All of them.
    pub(super) rows: Vec<Row<'a>>,
    /// How long it all took.
    pub(super) took: Duration,
    /// What the broker cost, as far as the system told.
    pub(super) broker: Option<BrokerUse>,
}

impl Row<'_> {
    /// Messages that are missing, whether or not anybody said so.
    fn lost(&self) -> u64 {
        let (got, due) = (total(&self.account.sums).0, total(self.due).0);
        due.saturating_sub(got).max(self.account.lost)
    }

    /// Whether every message is there, unchanged and in order.
    fn is_intact(&self) -> bool {
        self.account.sums == *self.due
    }
}

impl Report<'_> {
    /// Messages missing anywhere.
    pub(super) fn lost(&self) -> u64 {
        self.rows.iter().map(Row::lost).sum()
    }

    /// Whether everything arrived everywhere, unchanged and in order.
    pub(super) fn is_intact(&self) -> bool {
        self.rows.iter().all(Row::is_intact)
    }
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = [
            "process",
            "what",
            ">messages",
            ">bytes",
            ">p50",
            ">p90",
            ">p99",
            ">max",
            ">in place",
            ">lost",
            "in order, intact",
        ];
        let mut table = Table::new(&columns);
        for row in &self.rows {
            let (messages, bytes) = total(&row.account.sums);
            let mut latencies = Latencies::new();
            latencies.merge(&row.account.latencies);
            let times = latencies.percentiles();
            let shown = |nanos| if times.count == 0 { String::new() } else { readable(nanos) };
            let in_place = row.account.in_place;
            table.row([
                row.who.to_owned(),
                row.what.to_owned(),
                messages.to_string(),
                size::readable(bytes),
                shown(times.p50),
                shown(times.p90),
                shown(times.p99),
                shown(times.max),
                if in_place == 0 { String::new() } else { in_place.to_string() },
                row.lost().to_string(),
                if row.is_intact() { "yes" } else { "NO" }.to_owned(),
            ]);
        }
        write!(f, "{table}")?;
        writeln!(f)?;
        if let Some(broker) = &self.broker {
            let percent = 100.0 * broker.processor.as_secs_f64() / self.took.as_secs_f64().max(0.001);
            let (seconds, memory) = (broker.processor.as_secs_f64(), size::readable(broker.memory_bytes));
            writeln!(
                f,
                "broker: {seconds:.2} s of processor time ({percent:.1} % of a core), {memory} of memory"
            )?;
        }
        writeln!(f, "took: {:.1} s", self.took.as_secs_f64())?;
        writeln!(f, "lost: {}", self.lost())
    }
}

#[cfg(test)]
mod tests {
    use super::super::capture::Proof;
    use super::*;

    fn sums(messages: &[&[u8]]) -> Sums {
        let mut proof = Proof::default();
        messages.iter().for_each(|message| proof.add("t", message));
        proof.finish()
    }

    fn report<'a>(account: &'a Account, due: &'a Sums) -> Report<'a> {
        let rows = vec![Row { who: "reader", what: "t", account, due }];
        Report { rows, took: Duration::from_secs(1), broker: None }
    }

    #[test]
    fn a_missing_message_is_lost_even_if_nobody_says_so() {
        let due = sums(&[b"a", b"b"]);
        let account = Account { sums: sums(&[b"a"]), ..Account::default() };
        let report = report(&account, &due);
        assert_eq!(report.lost(), 1);
        assert!(!report.is_intact());
        assert!(report.to_string().ends_with("\nlost: 1\n"));
    }

    #[test]
    fn a_changed_message_is_not_intact_though_none_is_lost() {
        let due = sums(&[b"a", b"b"]);
        let account = Account { sums: sums(&[b"a", b"c"]), ..Account::default() };
        assert_eq!(report(&account, &due).lost(), 0);
        assert!(!report(&account, &due).is_intact());
        let account = Account { sums: due.clone(), ..Account::default() };
        assert!(report(&account, &due).is_intact());
        assert!(report(&account, &due).to_string().contains("\nlost: 0\n"));
    }
}
