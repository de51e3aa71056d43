//! Looks at a store's file without changing a byte of it: every page, every entry, what can be saved, and, if asked, saves it
//! into a new file.
//!
//! Three ways lead to an entry. If redb vouches for the trees, they are read. If not, they are read all the same as far as
//! they go, around what cannot be read. If redb cannot open the file at all, its bytes are searched for messages, which their
//! own checksums vouch for; what had been removed, but not yet written over, is found then, too.

mod salvage;

mod search;

mod walk;

use super::failure::guarded;
use super::open::{FORMAT, looked_at};
use super::scan::{DAMAGES_MAX, Damage, Kept};
use super::{OpenError, place, record};
use crate::core::durable::{Change, QueueNumber};
use salvage::Salvage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the entries of a file were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Found {
    /// By its trees, each page of which is as it was written.
    #[default]
    Trees,
    /// By its trees, as far as they can be read.
    BrokenTrees,
    /// By searching its bytes.
    Search,
}

/// What is in a file.
#[derive(Debug, Clone, Default)]
pub struct Check {
    /// The file.
    pub path: PathBuf,
    /// How its entries were found.
    pub found: Found,
    /// What redb says of it, unless it vouches for it.
    pub broken: Option<String>,
    /// The format that it says to have, if it says so.
    pub format: Option<u64>,
    /// Queues by their number: name, messages, their bytes.
    pub queues: BTreeMap<QueueNumber, Holding>,
    /// Ids seen.
    pub seen: u64,
    /// Positions in streams.
    pub positions: u64,
    /// What is damaged, at most [`DAMAGES_MAX`].
    pub damaged: Vec<Damage>,
    /// How much is damaged.
    pub damages: u64,
    /// How many places of the trees could not be read; what was there is not known.
    pub gaps: u64,
    /// How many entries were written to the new file.
    pub saved: u64,
}

/// What a queue holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Its name; empty if it is damaged.
    pub name: Arc<str>,
    /// Messages that wait, also those that are not due yet.
    pub waiting: u64,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Check {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.broken.is_none() && self.damages == 0 && self.gaps == 0 && self.format == Some(FORMAT)
    }

    fn damage(&mut self, what: Kept, wrong: record::Wrong) {
        self.damages += 1;
        if self.damaged.len() < DAMAGES_MAX {
            self.damaged.push(Damage { what, wrong });
        }
    }

    /// Counts a good entry.
    fn count(&mut self, change: &Change) {
        use crate::core::durable::Shelf;
        match change {
            Change::Queue { queue, name, .. } => self.queues.entry(*queue).or_default().name = name.clone(),
            Change::Put { queue, shelf, record, .. } => {
                let holding = self.queues.entry(*queue).or_default();
                let messages = if *shelf == Shelf::Dead { &mut holding.dead } else { &mut holding.waiting };
                *messages += 1;
                holding.bytes += record.bytes.len() as u64;
            }
            Change::Seen { .. } => self.seen += 1,
            Change::Position { .. } => self.positions += 1,
            _ => {}
        }
    }
}

/// Checks a file, and copies every entry that is as it was written to a new one, if asked. The file is not changed.
///
/// # Errors
/// When the file cannot be read, when a broker has it, or when the new one cannot be written.
pub fn check(path: &Path, salvage_to: Option<&Path>) -> Result<Check, OpenError> {
    let place::Held { file, .. } = place::open(path, place::Way::Read)?;
    let mut salvage = salvage_to.map(Salvage::begin).transpose()?;
    let mut check = Check { path: path.to_owned(), ..Check::default() };
    let again = || file.try_clone().map_err(|error| place::refused("open again", path, error));
    let (first, second) = (again()?, again()?);
    let empty = file.metadata().is_ok_and(|stat| stat.len() == 0);
    let verified = guarded(|| Ok(looked_at(first, true)?));
    let database = match verified {
        _ if empty => Err(redb::Error::Corrupted("it is empty".to_owned())),
        Ok(database) => Ok(database),
        Err(error) => {
            check.found = Found::BrokenTrees;
            check.broken = Some(error.to_string());
            guarded(|| Ok(looked_at(second, false)?))
        }
    };
    match database {
        Ok(database) => {
            walk::walk(&database, &mut check, &mut salvage)?;
            // What is left in memory is thrown away; nothing can go wrong with it that would matter.
            let _ = guarded(move || {
                drop(database);
                Ok(())
            });
        }
        Err(error) => {
            check.found = Found::Search;
            check.broken.get_or_insert_with(|| error.to_string());
            if !empty {
                search::search(&file, path, &mut check, &mut salvage)?;
            }
        }
    }
    if let Some(salvage) = salvage {
        check.saved = salvage.end()?;
    }
    Ok(check)
}

/// Counts what is not as it was written.
fn bad(check: &mut Check, what: Kept, wrong: record::Wrong) -> Result<(), OpenError> {
    check.damage(what, wrong);
    Ok(())
}

/// Counts a good entry and saves it, if that was asked for.
fn good(check: &mut Check, salvage: &mut Option<Salvage>, change: Change) -> Result<(), OpenError> {
    check.count(&change);
    match salvage {
        Some(salvage) => salvage.add(change),
        None => Ok(()),
    }
}
