//! Services: a request goes to one of several instances, and every request has one outcome.
//!
//! The broker keeps a *call* for each request from when it is taken until its outcome is told: an answer, or a code that says
//! why there is none. A `service::Service` decides who gets the next one and knows neither frames nor callers; around it
//! stand the parts that do.
//!
//! # Layout
//!
//! * `settings`: what an operator says about services.
//! * `service`, `ejection`: one service; its instances, which of them are left out for a while, how long answers
//!   took.
//! * `call`: a request and where it is.
//! * `asking`: requests taken in, given to instances, and what time and callers do to them.
//! * `instances`: who provides, and what becomes of what somebody had who does not any more.
//! * `answering`: an outcome on its way to its caller.
//! * `frames`, `lines`: what frames and JSON lines do with services.
//! * `routed`: what routes ask of services, and what they answer.
//! * `report`: for the status.

mod settings;

mod service;

mod ejection;

mod call;

mod asking;

mod instances;

mod answering;

mod frames;

mod lines;

mod routed;

mod report;

pub use settings::{RETRIES_CEILING, ServiceRight, ServiceSettings};

pub(super) use answering::Held;
pub(super) use call::Giving;

use super::strategy::Seat;
use super::table::{Key, Table};
use call::Call;
use service::Service;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Nanoseconds in a millisecond.
const MILLI: u64 = super::timers::MILLI;

/// What a request without an outcome is counted for besides its bytes.
pub const REQUEST_OVERHEAD_BYTES: u64 = 512;

/// What a request of this length is counted for.
fn cost(bytes: usize) -> u64 {
    bytes as u64 + REQUEST_OVERHEAD_BYTES
}

/// An instance as its session knows it.
pub(in crate::core) type Place = (Key, Seat);

/// All services, and what they share.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// By name, or by filter: the first that matches counts.
    pub(super) settings: Vec<Arc<ServiceSettings>>,
    table: Table<Service>,
    pub(super) by_name: BTreeMap<Arc<str>, Key>,
    calls: Table<Call>,
    /// Services that have something to give out.
    pub(super) busy: VecDeque<Key>,
    /// Instances whose sessions have ended.
    pub(super) leaving: Vec<Place>,
    /// Requests whose sessions have ended.
    pub(super) given_up: Vec<Key>,
}
