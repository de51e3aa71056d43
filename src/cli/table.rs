//! Tables for people: columns as wide as they must be, numbers to the right.

use super::size;
use serde_json::Value;

/// Rows of cells under a heading.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The heading first.
    rows: Vec<Vec<String>>,
    /// Columns aligned to the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these column names. A name that begins with `>` has its column aligned to the right.
    pub(super) fn new(columns: &[&str]) -> Self {
        let name = |column: &&str| column.strip_prefix('>').unwrap_or(column).to_owned();
        Self {
            rows: vec![columns.iter().map(name).collect()],
            right: columns.iter().map(|column| column.starts_with('>')).collect(),
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is nothing under the heading.
    pub(super) const fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.right.len()).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                let padded = if self.right.get(column) == Some(&true) {
                    format!("{cell:>width$}  ")
                } else {
                    format!("{cell:<width$}  ")
                };
                line.push_str(&padded);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What a row of JSON says under this key, as people read it; nothing where it says nothing.
pub(super) fn text(row: &Value, key: &str) -> String {
    match &row[key] {
        Value::String(text) => {
            text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
        }
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        _ => String::new(),
    }
}

/// The same of a number of bytes.
pub(super) fn bytes(row: &Value, key: &str) -> String {
    row[key].as_u64().map(size::readable).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">messages", "x"]);
        assert!(table.is_empty());
        table.row(["gps".into(), "7".into(), "é".into()]);
        table.row(["camera".into(), "12345".into(), ">".into()]);
        assert_eq!(table.to_string(), "name    messages  x\ngps            7  é\ncamera     12345  >\n");
    }
}
