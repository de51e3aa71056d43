//! Routes: messages taken from topics, queues and requests, treated on workers, and brought to their destinations.
//!
//! What a route makes of one message is in `src/routes`; here is what the broker does around it. A message that a route
//! takes is an *item* until nothing of it is under way any more. Each route that takes it, and is to deliver it, has a
//! *taking*; each of a taking's ways to a destination is a *leg*, which is tried until it arrives or is given up. Every
//! item, taking and leg is counted once when it begins and once when it ends, so received is always what was passed,
//! dropped, invalid, delivered, dead and in flight together.
//!
//! A message that is only forwarded to a topic is none of that: it is published there at once.
//!
//! # Layout
//!
//! * `set`: the routes of a configuration, and which of them a message is for.
//! * `intake`: messages from topics and queues; what is held up when too much is under way.
//! * `task`, `hands`: what workers are to do, and who of them does it.
//! * `item`: a message that routes have, from when it is taken until it is settled.
//! * `leg`, `trying`, `group`: a way to a destination; a try, and what comes of it; who of several is tried.
//! * `letters`: what goes to invalid channels and to dead letters.
//! * `replies`: what a service answered, on its way back to who asked.
//! * `tap`: what is shown live to who looks. `reload`: another configuration; `report`: for the status.

mod set;

mod intake;

mod task;

mod hands;

mod item;

mod leg;

mod trying;

mod group;

mod letters;

mod replies;

mod reload;

mod report;

mod tap;

pub(super) use leg::Told;
pub(super) use tap::is_tap;
pub use tap::{TAPPED_PER_SECOND_MAX, tap_topic};
pub use task::{Done, Task};

use super::queues::Place;
use super::session::Identity;
use super::snapshot::RoutingCounts;
use super::table::{Key, Table};
use crate::routes::limits::Limits;
use group::RouteState;
use hands::Hands;
use item::Item;
use leg::Leg;
use report::Account;
use set::{Cache, Set};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tap::Watched;

/// Nanoseconds in a millisecond.
const MILLI: u64 = super::timers::MILLI;

/// What a message that routes have is counted for besides its bytes.
pub const ITEM_OVERHEAD_BYTES: u64 = 512;

/// What a message of this length is counted for.
fn cost(bytes: usize) -> u64 {
    bytes as u64 + ITEM_OVERHEAD_BYTES
}

/// All routes, and what they have.
#[derive(Debug)]
pub(super) struct Routing {
    /// The configuration's.
    set: Arc<Set>,
    limits: Limits,
    cache: Cache,
    /// Every route of the set, and those of sets before it that still have something.
    table: Table<RouteState>,
    /// The keys of those before.
    retired: Vec<Arc<[Key]>>,
    /// What is counted, by the names of routes.
    accounts: BTreeMap<Arc<str>, Key>,
    books: Table<Account>,
    /// Subscriptions by which published messages come in, by filter.
    subscriptions: BTreeMap<Box<str>, Key>,
    items: Table<Item>,
    legs: Table<Leg>,
    hands: Hands,
    /// Replies that workers have, as they were answered, while somebody looks.
    watched: Table<Watched>,
    /// What items are counted for; and what was made of them, which is part of it.
    bytes: u64,
    made_bytes: u64,
    /// What services and the store have said of legs.
    outcomes: VecDeque<(Key, Told)>,
    /// Legs for which there is room in their group now.
    ready: VecDeque<Key>,
    /// Subscriptions for which rings are not read on; and queues that give nothing out.
    held: Vec<Key>,
    blocked: Vec<Place>,
    /// Whether it was said that there is too much, since there was room.
    told_full: bool,
    /// Services that are given no requests.
    blocked_calls: Vec<Place>,
    /// What it provides, by the names of services.
    provided: BTreeMap<Arc<str>, Place>,
    /// What it takes from queues, by their names.
    consumers: BTreeMap<Arc<str>, Place>,
    /// Whether a message is being published on behalf of a route.
    publishing: bool,
    /// The broker as routes publish, by how many of them a message has been through.
    identities: Vec<Arc<Identity>>,
    /// The last number of a request or push.
    last_number: u64,
    scratch: Vec<u8>,
    counts: RoutingCounts,
}

impl Routing {
    pub(super) fn new(own: &Arc<Identity>) -> Self {
        Self {
            set: Arc::default(),
            limits: Limits::default(),
            cache: Cache::default(),
            table: Table::default(),
            retired: Vec::new(),
            accounts: BTreeMap::new(),
            books: Table::default(),
            subscriptions: BTreeMap::new(),
            items: Table::default(),
            legs: Table::default(),
            hands: Hands::default(),
            watched: Table::default(),
            bytes: 0,
            made_bytes: 0,
            outcomes: VecDeque::new(),
            ready: VecDeque::new(),
            held: Vec::new(),
            blocked: Vec::new(),
            blocked_calls: Vec::new(),
            provided: BTreeMap::new(),
            told_full: false,
            consumers: BTreeMap::new(),
            publishing: false,
            identities: vec![own.clone()],
            last_number: 0,
            scratch: Vec::new(),
            counts: RoutingCounts::default(),
        }
    }

    /// Whether something is to be settled.
    pub(super) fn is_pressing(&self) -> bool {
        !(self.outcomes.is_empty() && self.ready.is_empty())
    }

    /// The broker, as the sender of what has been through so many routes.
    fn sender(&mut self, hops: u8) -> Arc<Identity> {
        while self.identities.len() <= usize::from(hops) {
            let own = &self.identities[0];
            let hops = u8::try_from(self.identities.len()).unwrap_or(u8::MAX);
            self.identities.push(Arc::new(Identity {
                session: own.session,
                name: own.name.clone(),
                uid: own.uid,
                pid: own.pid,
                client: own.client,
                hops,
            }));
        }
        self.identities[usize::from(hops)].clone()
    }
}
