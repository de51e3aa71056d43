//! The limits of routes, by name: what one message, one expression and one set of routes may use.
//!
//! Each can be set under `route_limits:`. A refusal names the limit, its value and what was asked for.

use std::fmt;

/// Declares the limits once: field, default, and what it bounds.
macro_rules! limits {
    ($($(#[$doc:meta])+ $name:ident = $default:expr, $most:expr;)+) => {
        /// What routes may use.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits { $($(#[$doc])+ pub $name: usize,)+ }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// The names of all limits with the most that each may be set to.
            pub const NAMES: &'static [(&'static str, usize)] = &[$((stringify!($name), $most),)+];

            /// The limit of this name, to set it.
            pub fn slot(&mut self, name: &str) -> Option<&mut usize> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }
        }
    };
}

limits! {
    /// Longest message that a route parses, in bytes.
    message_bytes_max = 4 << 20, 64 << 20;
    /// How deep a message may nest.
    message_depth_max = 64, 128;
    /// Most values (texts, numbers, arrays, …) in a message.
    message_values_max = 100_000, 10_000_000;
    /// Most routes.
    routes_max = 10_000, 1_000_000;
    /// Most rules of a route.
    rules_max = 256, 10_000;
    /// Most steps of a path.
    path_steps_max = 32, 128;
    /// Longest expression, in bytes.
    expression_bytes_max = 4096, 64 << 10;
    /// How deep an expression may nest.
    expression_depth_max = 64, 96;
    /// Most nodes of an expression: operators, functions, names, literals.
    expression_nodes_max = 1000, 10_000;
    /// Most steps that all expressions together may take for one message.
    steps_max = 100_000, 100_000_000;
    /// How long all expressions together may take for one message, in microseconds.
    micros_max = 50_000, 10_000_000;
    /// Largest value that an expression or a rule may make, in bytes.
    result_bytes_max = 4 << 20, 64 << 20;
    /// Most messages that one is split into.
    split_messages_max = 1000, 1_000_000;
    /// Most faults of one message that a schema's check tells.
    schema_faults_max = 8, 1000;
    /// Messages that routes have and that are not delivered yet.
    work_messages_max = 16_384, 1_000_000;
    /// Bytes of these, and of what is made of them.
    work_bytes_max = 64 << 20, 16 << 30;
    /// Threads that check and transform messages.
    worker_threads = 2, 64;
    /// Messages that such a thread has at a time, and at most so many of which are delivered together.
    batch_size = 32, 4096;
    /// Lists of routes kept ready, by topic and type; 0: none.
    cache_size = 4096, 1_000_000;
    /// Routes that a message may go through one after the other.
    hops_max = 16, 100;
}

/// A limit is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit's name.
    pub name: &'static str,
    /// Its value.
    pub most: usize,
    /// What exceeds it.
    pub what: String,
}

impl Exceeded {
    /// `what` exceeds the limit `name`, which is `most`.
    pub fn new(name: &'static str, most: usize, what: impl Into<String>) -> Self {
        Self { name, most, what: what.into() }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; at most {} (route_limits.{})", self.what, self.most, self.name)
    }
}
