//! Steps at which processes are killed: who goes through each, and at which of its times.

/// Steps of a process that opens a ring, admits two readers, sends small and large messages and ends.
pub(crate) const OF_A_PUBLISHER: &[(&str, u32)] = &[
    ("open: memory made", 1),
    ("open: announced", 1),
    ("admit: asked", 1),
    ("admit: asked", 2),
    ("admit: page mapped", 1),
    ("admit: admitted", 1),
    ("admit: admitted", 2),
    ("admit: answered", 1),
    ("admit: answered", 2),
    ("open: opened", 1),
    ("publish: room taken", 1),
    ("publish: room taken", 30),
    ("publish: bytes written", 1),
    ("publish: bytes written", 31),
    ("publish: fields written", 1),
    ("publish: fields written", 40),
    ("publish: stamped", 1),
    ("publish: stamped", 41),
    ("publish: counted", 1),
    ("publish: counted", 42),
    ("publish: about to wake", 1),
    ("publish: about to wake", 20),
    ("publish: one woken", 1),
    ("publish: loaned", 1),
    ("publish: loaned", 17),
    ("publish: loan filled", 1),
    ("publish: loan filled", 18),
    ("publish: waits", 1),
    ("retire: stamped", 1),
    ("retire: stamped", 9),
    ("retire: fenced", 1),
    ("retire: taken back", 1),
    ("close: end written", 1),
    ("close: ended", 1),
    ("close: not told", 1),
    ("close: told", 1),
];

/// Steps of a process that subscribes, reads, holds messages, lets go and unsubscribes.
pub(crate) const OF_A_SUBSCRIBER: &[(&str, u32)] = &[
    ("attach: slot taken", 1),
    ("attach: accepted", 1),
    ("attach: memory came", 1),
    ("attach: bells set", 1),
    ("attach: mapped", 1),
    ("attach: cursor set", 1),
    ("attach: confirmed", 1),
    ("read: found", 1),
    ("read: found", 20),
    ("read: copied", 1),
    ("read: pin stored", 1),
    ("read: pin stored", 5),
    ("read: pinned", 1),
    ("read: pinned", 4),
    ("read: taken", 1),
    ("read: taken", 21),
    ("read: cursor moved", 1),
    ("read: cursor moved", 4),
    ("release: asked", 1),
    ("release: unpinned", 1),
    ("sleep: armed", 1),
    ("sleep: about to park", 1),
    ("detach: reader dropped", 1),
    ("detach: left", 1),
    ("detach: told", 1),
    ("detach: unsubscribed", 1),
];

/// Steps that a publisher goes through when a reader leaves it.
pub(crate) const OF_WHO_IS_LEFT: &[(&str, u32)] = &[("dismiss: asked", 1), ("dismiss: done", 1)];

/// Steps of a process whose ring grows three times while it is read.
pub(crate) const OF_A_GROWING_PUBLISHER: &[(&str, u32)] = &[
    ("grow: wanted", 1),
    ("grow: wanted", 3),
    ("grow: memory made", 1),
    ("grow: memory made", 2),
    ("grow: announced", 1),
    ("grow: announced", 3),
    ("grow: granted", 1),
    ("grow: granted", 2),
    ("grow: begun", 1),
    ("grow: begun", 3),
    ("grow: successor named", 1),
    ("grow: successor named", 2),
    // An end is written the same way, whether something follows or not.
    ("close: end written", 1),
    ("close: end written", 3),
    ("grow: old one ended", 1),
    ("grow: old one ended", 2),
    ("grow: gone on", 1),
    ("grow: gone on", 3),
    ("grow: told that it was left", 1),
];

/// Steps of a process that reads a ring which grows three times.
pub(crate) const OF_A_FOLLOWER: &[(&str, u32)] = &[
    ("succeed: asked", 1),
    ("succeed: asked", 2),
    ("succeed: mapped", 1),
    ("succeed: mapped", 3),
    ("succeed: confirmed", 1),
    ("succeed: confirmed", 2),
    ("succeed: end seen", 1),
    ("succeed: end seen", 3),
    ("succeed: gone on", 1),
    ("succeed: gone on", 2),
    ("succeed: told that it was let go", 1),
];

/// Steps of a broker with one ring of two readers, from when that ring is to grow: before that, it has checked one memory,
/// and passed a page, memory and bells for each reader.
pub(crate) const OF_A_BROKER: &[(&str, u32)] = &[
    ("check: asked", 2),
    ("check: done", 2),
    ("pass: about to be written", 5),
    ("pass: written", 5),
    ("pass: about to be written", 6),
    ("pass: written", 6),
];

/// Steps of a process that sends large messages to a queue and to services, and is answered.
pub(crate) const OF_A_LARGE_SENDER: &[(&str, u32)] = &[
    ("bulk: written", 1),
    ("bulk: written", 3),
    ("bulk: given back", 1),
    ("bulk: given back", 2),
    ("bulk: mapped", 1),
    ("bulk: told where", 1),
    ("bulk: let go", 1),
];

/// Steps of a process that takes large messages from a queue or answers large requests.
pub(crate) const OF_A_LARGE_RECEIVER: &[(&str, u32)] =
    &[("bulk: mapped", 1), ("bulk: told where", 1), ("bulk: told where", 3), ("bulk: let go", 1)];

/// Steps of a broker that passes large messages on.
pub(crate) const OF_A_CARRYING_BROKER: &[(&str, u32)] =
    &[("bulk: fetched", 1), ("bulk: fetched", 3), ("bulk: placed", 1), ("bulk: placed", 3)];

/// All of them.
pub(crate) const TABLES: &[&[(&str, u32)]] = &[
    OF_A_PUBLISHER,
    OF_A_SUBSCRIBER,
    OF_WHO_IS_LEFT,
    OF_A_GROWING_PUBLISHER,
    OF_A_FOLLOWER,
    OF_A_BROKER,
    OF_A_LARGE_SENDER,
    OF_A_LARGE_RECEIVER,
    OF_A_CARRYING_BROKER,
];
