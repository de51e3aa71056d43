//! Who may do what: the one place where the broker decides about users.
//!
//! In this version a connection is allowed or refused as a whole, by its uid and groups as the kernel
//! vouches for them. The broker's own uid and root are always allowed; `allow.users` and `allow.groups` add
//! others. Every later decision (publish, subscribe, gate) passes through here as well, so that rules
//! per operation have one door to come in by. This module holds no session and counts nothing; use of
//! limits is counted in `quota`.

use super::Peer;
use tramline_wire::{Code, Filter, GatedBy, Geometry, Mode, Topic};

/// The uid that the kernel shows for users it cannot name in this namespace: nobody's own.
const OVERFLOW_UID: u32 = 65_534;

/// What an operator sets for the topics of one filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicSettings {
    /// The filter, checked when the configuration was read.
    pub filter: String,
    /// Size of a ring on these topics unless the publisher asks for another.
    pub ring: Option<Geometry>,
    /// Messages that a publisher keeps for late readers unless it asks for another number.
    pub history: Option<u32>,
    /// Who may hold publishers up, whatever they say themselves.
    pub gated_by: Option<GatedBy>,
    /// Messages that stay readable after their publisher has gone.
    pub retain: u32,
}

/// Users, groups and topics as the configuration has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The broker's own uid.
    pub own_uid: u32,
    /// The broker's own process id, shown as the sender of what it publishes.
    pub own_pid: u32,
    /// Uids allowed besides the broker's own and root (`allow.users`).
    pub users: Vec<u32>,
    /// Gids whose members are allowed (`allow.groups`).
    pub groups: Vec<u32>,
    /// Who may declare queues besides the broker's own uid and root (`allow.declare_queues`).
    pub declare_queues: super::Who,
    /// Who may provide services that the configuration does not name, besides the broker's own uid and root
    /// (`allow.provide_services`).
    pub provide_services: super::Who,
    /// Who may declare queues on disk besides the broker's own uid and root (`allow.declare_durable_queues`).
    pub declare_durable_queues: super::Who,
    /// Who may see what routes do besides the broker's own uid and root (`allow.tap`).
    pub tap: super::Who,
    /// Settings by filter; the first that matches a topic counts.
    pub topics: Vec<TopicSettings>,
}

/// Whether this peer is the broker's own user, or root: both may do everything.
pub(super) fn is_owner(peer: &Peer, own_uid: u32) -> bool {
    peer.uid == 0 || (peer.uid == own_uid && peer.uid != OVERFLOW_UID)
}

impl Access {
    /// Whether this peer may connect.
    ///
    /// # Errors
    /// [`Code::Denied`] and a sentence naming the peer and the key that would let it in.
    pub fn connect(&self, peer: &Peer) -> Result<(), (Code, String)> {
        let allowed = is_owner(peer, self.own_uid)
            || self.users.contains(&peer.uid)
            || self.groups.iter().any(|gid| *gid == peer.gid || peer.groups.contains(gid));
        if allowed {
            return Ok(());
        }
        let Peer { pid, uid, .. } = peer;
        let sentence = format!(
            "process {pid} of uid {uid} may not connect: this broker serves uid {} and root; allow.users or \
             allow.groups lets others in",
            self.own_uid
        );
        Err((Code::Denied, sentence))
    }

    /// Whether this peer may declare queues.
    #[must_use]
    pub fn may_declare(&self, peer: &Peer) -> bool {
        is_owner(peer, self.own_uid) || self.declare_queues.names(peer)
    }

    /// Whether this peer may provide services that the configuration does not name.
    #[must_use]
    pub fn may_provide(&self, peer: &Peer) -> bool {
        is_owner(peer, self.own_uid) || self.provide_services.names(peer)
    }

    /// Whether this peer may declare queues on disk.
    #[must_use]
    pub fn may_declare_durable(&self, peer: &Peer) -> bool {
        is_owner(peer, self.own_uid) || self.declare_durable_queues.names(peer)
    }

    /// Whether this peer may see what routes do.
    #[must_use]
    pub fn may_tap(&self, peer: &Peer) -> bool {
        is_owner(peer, self.own_uid) || self.tap.names(peer)
    }

    /// How a subscriber that asks for `wanted` may read the stream of a publisher that says `gated_by`.
    #[must_use]
    pub fn mode(&self, wanted: Mode, gated_by: GatedBy, publisher_uid: u32, subscriber_uid: u32) -> Mode {
        let may_gate = match gated_by {
            GatedBy::Anyone => true,
            GatedBy::OwnUid => {
                subscriber_uid == 0 || (subscriber_uid == publisher_uid && subscriber_uid != OVERFLOW_UID)
            }
            GatedBy::Nobody => false,
        };
        if may_gate { wanted } else { Mode::Lossy }
    }

    /// Whether a subscriber need not fear that the publisher changes bytes after publishing.
    #[must_use]
    pub fn in_place(&self, publisher_uid: u32, subscriber_uid: u32) -> bool {
        publisher_uid == 0
            || (publisher_uid != OVERFLOW_UID
                && (publisher_uid == subscriber_uid || publisher_uid == self.own_uid))
    }

    /// What the operator set for this topic.
    #[must_use]
    pub fn settings(&self, topic: Topic<'_>) -> Option<&TopicSettings> {
        self.topics
            .iter()
            .find(|settings| Filter::parse(&settings.filter).is_ok_and(|filter| filter.matches(topic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { pid: 4321, uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn own_uid_root_and_the_allowed_may_connect_and_others_are_told_why_not() {
        let access = Access { own_uid: 1000, users: vec![7], groups: vec![44], ..Access::default() };
        assert!(access.connect(&peer(1000, 1, &[])).is_ok());
        assert!(access.connect(&peer(0, 0, &[])).is_ok());
        assert!(access.connect(&peer(7, 1, &[])).is_ok());
        assert!(access.connect(&peer(8, 44, &[])).is_ok());
        assert!(access.connect(&peer(8, 1, &[3, 44])).is_ok());
        let (code, sentence) = access.connect(&peer(8, 1, &[3])).unwrap_err();
        assert_eq!(code, Code::Denied);
        assert!(sentence.contains("4321") && sentence.contains("uid 8") && sentence.contains("allow.users"));
    }

    #[test]
    fn the_overflow_uid_is_nobodys_own() {
        let access = Access { own_uid: OVERFLOW_UID, ..Access::default() };
        assert!(access.connect(&peer(OVERFLOW_UID, 1, &[])).is_err());
        assert!(!access.in_place(OVERFLOW_UID, OVERFLOW_UID));
        assert_eq!(access.mode(Mode::Gated, GatedBy::OwnUid, OVERFLOW_UID, OVERFLOW_UID), Mode::Lossy);
    }

    #[test]
    fn gating_is_granted_as_the_publisher_says() {
        let access = Access { own_uid: 1000, ..Access::default() };
        assert_eq!(access.mode(Mode::Gated, GatedBy::OwnUid, 5, 5), Mode::Gated);
        assert_eq!(access.mode(Mode::Gated, GatedBy::OwnUid, 5, 0), Mode::Gated);
        assert_eq!(access.mode(Mode::Gated, GatedBy::OwnUid, 5, 6), Mode::Lossy);
        assert_eq!(access.mode(Mode::Gated, GatedBy::Anyone, 5, 6), Mode::Gated);
        assert_eq!(access.mode(Mode::Gated, GatedBy::Nobody, 5, 5), Mode::Lossy);
        assert_eq!(access.mode(Mode::Lossy, GatedBy::Anyone, 5, 5), Mode::Lossy);
    }

    #[test]
    fn reading_in_place_needs_a_trusted_publisher() {
        let access = Access { own_uid: 1000, ..Access::default() };
        assert!(access.in_place(5, 5) && access.in_place(0, 5) && access.in_place(1000, 5));
        assert!(!access.in_place(6, 5) && !access.in_place(6, 0));
    }
}
