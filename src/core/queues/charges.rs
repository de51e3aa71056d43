//! What messages in queues and dead letters, and requests without an answer, cost, by the user who sent them and in all.
//!
//! A message in several queues is charged once for each. What is charged is given back exactly when the message is
//! freed; a test holds both sides together.

use crate::core::Limits;
use crate::core::quota::{Checked, Refused};
use foldhash::fast::FixedState;
use std::collections::HashMap;
use tramline_wire::Code;

/// Bytes that wait, by uid and in all.
#[derive(Debug, Default)]
pub(in crate::core) struct Charges {
    /// Uids are the kernel's, so nobody can choose colliding ones.
    by_uid: HashMap<u32, u64, FixedState>,
    pub(in crate::core) bytes: u64,
}

impl Charges {
    pub(in crate::core) fn add(&mut self, uid: u32, cost: u64) {
        self.bytes += cost;
        *self.by_uid.entry(uid).or_default() += cost;
    }

    pub(in crate::core) fn release(&mut self, uid: u32, cost: u64) {
        self.bytes -= cost;
        if let Some(used) = self.by_uid.get_mut(&uid) {
            *used -= cost;
            if *used == 0 {
                self.by_uid.remove(&uid);
            }
        }
    }

    /// Whether this user may have so many more bytes in queues.
    pub(in crate::core) fn fit(&self, uid: u32, cost: u64, limits: &Limits) -> Checked<()> {
        let used = self.by_uid.get(&uid).copied().unwrap_or(0);
        let own =
            (limits.user_queued_bytes_max, used + cost, "user_queued_bytes_max", "this user's messages");
        let all = (limits.queued_bytes_max, self.bytes + cost, "queued_bytes_max", "all messages");
        for (value, total, name, what) in [own, all] {
            if total > value {
                let message = format!(
                    "{what} in queues and dead letters, and requests, would take {total} bytes; limits.{name} is {value}"
                );
                let limit = Some((name, value, total));
                return Err(Refused { code: Code::LimitReached, message, limit });
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(in crate::core) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.by_uid.is_empty()
    }
}
