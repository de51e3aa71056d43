//! Tramline's broker and the commands of the `tramline` program.
//!
//! # Layout
//!
//! * [`cli`]: the command line. The only place besides the tests that uses the client.
//! * [`config`]: file, environment and flags to one checked configuration.
//! * [`shell`]: sockets, descriptors, timers, signals and files around the core.
//! * [`http`]: health, status and metrics, on a thread of its own.
//! * [`json`]: JSON lines to requests, and answers to JSON lines: bytes in, bytes out.
//! * [`store`]: durable queues on disk.
//! * [`routes`]: what a route does to one message; no I/O, no core.
//! * [`core`]: the broker's state and rules, without I/O, clocks or threads.

pub mod cli;

pub mod config;

pub mod shell;

pub mod http;

pub mod json;

pub mod store;

pub mod routes;

pub mod core;
