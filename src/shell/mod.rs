//! The broker's outside: sockets, descriptors, timers, signals and files around the core.
//!
//! The shell turns what the kernel reports into events for the core, carries out the core's actions, and
//! decides nothing that a client could notice as a rule.
