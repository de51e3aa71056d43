//! What an operator, or a client that may, says about one queue. Checked where it comes in; every value has a default.

use crate::core::strategy::Strategy;
use crate::core::{Peer, access};

/// What happens to a message for a queue that is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Its producer is told that it was not taken.
    #[default]
    Refuse,
    /// The oldest of the lowest priority that waits is dropped, and counted.
    DropOldest,
    /// The oldest of the lowest priority that waits goes to the dead letters.
    DeadLetter,
}

impl WhenFull {
    /// As configurations and people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::DropOldest => "drop_oldest",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// What is left of a queue when its broker has died.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: it is in memory.
    #[default]
    None,
    /// Everything that was confirmed: it is on disk.
    Disk,
}

impl Durability {
    /// As configurations and people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Disk => "disk",
        }
    }
}

/// The most that [`QueueSettings::attempts_max`] may be.
pub const ATTEMPTS_CEILING: u16 = 254;

/// Users and groups that may do something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Uids.
    pub users: Vec<u32>,
    /// Gids whose members may.
    pub groups: Vec<u32>,
}

impl Who {
    pub(in crate::core) fn names(&self, peer: &Peer) -> bool {
        self.users.contains(&peer.uid)
            || self.groups.iter().any(|gid| *gid == peer.gid || peer.groups.contains(gid))
    }
}

/// What somebody wants to do with a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Push messages to it.
    Push,
    /// Take messages from it.
    Consume,
    /// Look into it, pause it, purge it, and deal with its dead letters.
    Administer,
}

impl Right {
    /// The key under `queues[]` that grants it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Consume => "consume",
            Self::Administer => "administer",
        }
    }
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// Its name, a topic without `$`.
    pub name: String,
    /// Messages published on topics that one of these filters matches land in it.
    pub bind: Vec<String>,
    /// What is left of it when its broker has died.
    pub durability: Durability,
    /// Who of its consumers gets the next message.
    pub strategy: Strategy,
    /// Messages it may hold, waiting and given out.
    pub messages_max: u64,
    /// Bytes they may have, each counted with 150 more.
    pub bytes_max: u64,
    /// What happens when either is reached.
    pub when_full: WhenFull,
    /// How long a consumer may keep a message before it is given to another, in milliseconds.
    pub ack_timeout_millis: u32,
    /// How often a message is given out before it becomes a dead letter; at most [`ATTEMPTS_CEILING`].
    pub attempts_max: u16,
    /// Wait before the second attempt, in milliseconds; it doubles with each further one.
    pub backoff_millis: u32,
    /// The longest of these waits, in milliseconds.
    pub backoff_millis_max: u32,
    /// How long a message may wait unless its producer says less, in milliseconds; 0: for ever.
    pub ttl_millis: u32,
    /// Dead letters that are kept; 0 keeps none.
    pub dead_messages_max: u32,
    /// Bytes of dead letters that are kept.
    pub dead_bytes_max: u64,
    /// How long ids of messages are remembered, in milliseconds.
    pub id_window_millis: u32,
    /// How many ids are remembered.
    pub ids_max: u32,
    /// Who may push; none: whoever may connect.
    pub push: Option<Who>,
    /// Who may consume; none: whoever may connect.
    pub consume: Option<Who>,
    /// Who may administer it besides the broker's own user and root.
    pub administer: Who,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            bind: Vec::new(),
            durability: Durability::default(),
            strategy: Strategy::default(),
            messages_max: 1_000_000,
            bytes_max: 256 * 1024 * 1024,
            when_full: WhenFull::default(),
            ack_timeout_millis: 30_000,
            attempts_max: 5,
            backoff_millis: 100,
            backoff_millis_max: 30_000,
            ttl_millis: 0,
            dead_messages_max: 10_000,
            dead_bytes_max: 64 * 1024 * 1024,
            id_window_millis: 60_000,
            ids_max: 100_000,
            push: None,
            consume: None,
            administer: Who::default(),
        }
    }
}

impl QueueSettings {
    /// Whether this peer has this right, if the broker's own user is `own_uid`.
    #[must_use]
    pub fn allows(&self, right: Right, peer: &Peer, own_uid: u32) -> bool {
        let who = match right {
            Right::Push => self.push.as_ref(),
            Right::Consume => self.consume.as_ref(),
            Right::Administer => Some(&self.administer),
        };
        access::is_owner(peer, own_uid) || who.is_none_or(|who| who.names(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_open_until_named_except_to_administer() {
        let peer = |uid| Peer { pid: 1, uid, gid: uid, groups: vec![500] };
        let mut settings = QueueSettings::default();
        assert!(
            settings.allows(Right::Push, &peer(7), 1000) && settings.allows(Right::Consume, &peer(7), 1000)
        );
        assert!(!settings.allows(Right::Administer, &peer(7), 1000));
        assert!(settings.allows(Right::Administer, &peer(1000), 1000));
        assert!(settings.allows(Right::Administer, &peer(0), 1000));
        settings.push = Some(Who { users: vec![8], groups: Vec::new() });
        settings.consume = Some(Who { users: Vec::new(), groups: vec![500] });
        assert!(
            !settings.allows(Right::Push, &peer(7), 1000) && settings.allows(Right::Push, &peer(8), 1000)
        );
        assert!(settings.allows(Right::Consume, &peer(7), 1000));
    }
}
