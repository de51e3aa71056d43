//! The atomics that the ring's algorithm uses: the standard ones, or loom's when a model is checked.
//!
//! Only [`protocol`](crate::protocol) and [`layout`](crate::layout) are compiled under loom; they hold every
//! atomic access that two processes share, so that what is model-checked is what runs.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
