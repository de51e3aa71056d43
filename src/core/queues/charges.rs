//! What messages in queues and dead letters, and requests without an answer, cost, by the user who sent them and in all.
//!
//! A message in several queues is charged once for each. What is charged is given back exactly when the message is
//! freed; a test holds both sides together.

use crate::core::Limits;
use crate::core::quota::{Checked, Refused};
use foldhash::fast::FixedState;
use std::collections::HashMap;
use tramline_wire::Code;

/// What a message takes: queues on disk have an account of their own, since little of them is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Account {
    Memory,
    Disk,
}

/// Bytes that wait, by uid and in all.
#[derive(Debug, Default)]
struct Sums {
    /// Uids are the kernel's, so nobody can choose colliding ones.
    by_uid: HashMap<u32, u64, FixedState>,
    bytes: u64,
}

/// Both accounts.
#[derive(Debug, Default)]
pub(in crate::core) struct Charges {
    memory: Sums,
    disk: Sums,
}

impl Charges {
    fn sums(&mut self, account: Account) -> &mut Sums {
        match account {
            Account::Memory => &mut self.memory,
            Account::Disk => &mut self.disk,
        }
    }

    /// What all messages in queues in memory, or on disk, are charged for.
    pub(in crate::core) fn bytes(&self, account: Account) -> u64 {
        match account {
            Account::Memory => self.memory.bytes,
            Account::Disk => self.disk.bytes,
        }
    }

    pub(in crate::core) fn add(&mut self, account: Account, uid: u32, cost: u64) {
        let sums = self.sums(account);
        sums.bytes += cost;
        *sums.by_uid.entry(uid).or_default() += cost;
    }

    pub(in crate::core) fn release(&mut self, account: Account, uid: u32, cost: u64) {
        let sums = self.sums(account);
        sums.bytes -= cost;
        if let Some(used) = sums.by_uid.get_mut(&uid) {
            *used -= cost;
            if *used == 0 {
                sums.by_uid.remove(&uid);
            }
        }
    }

    /// Whether this user may have so many more bytes in queues.
    pub(in crate::core) fn fit(&self, account: Account, uid: u32, cost: u64, limits: &Limits) -> Checked<()> {
        let (sums, own, all, place) = match account {
            Account::Memory => {
                let own = ("user_queued_bytes_max", limits.user_queued_bytes_max);
                (&self.memory, own, ("queued_bytes_max", limits.queued_bytes_max), "")
            }
            Account::Disk => {
                let own = ("user_stored_bytes_max", limits.user_stored_bytes_max);
                (&self.disk, own, ("stored_bytes_max", limits.stored_bytes_max), " on disk")
            }
        };
        let used = sums.by_uid.get(&uid).copied().unwrap_or(0);
        let own = (own, used + cost, "this user's messages");
        let all = (all, sums.bytes + cost, "all messages");
        for ((name, value), total, what) in [own, all] {
            if total > value {
                let message = format!(
                    "{what} in queues and dead letters{place}, and requests, would take {total} bytes; limits.{name} is {value}"
                );
                let limit = Some((name, value, total));
                return Err(Refused { code: Code::LimitReached, message, limit });
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(in crate::core) fn is_empty(&self) -> bool {
        [&self.memory, &self.disk].into_iter().all(|sums| sums.bytes == 0 && sums.by_uid.is_empty())
    }
}
